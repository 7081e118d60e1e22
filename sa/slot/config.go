package slot

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/shadowcast/shadowcast/sa"
)

// Defaults of Config.
const (
	DefaultNetnsPrefix = "sc"
	DefaultMTU         = 1500
	DefaultHoldBytes   = 16 << 20
)

const (
	netnsDir   = "/run/netns"
	vethPrefix = "scv"
	uplinkName = "uplink"
)

// Next hops of the veth, the same in every slot.
var (
	hostNext4 = netip.MustParseAddr("169.254.0.1")
	slotNext4 = netip.MustParseAddr("169.254.0.2")
	hostNext6 = netip.MustParseAddr("fe80::1")
	slotNext6 = netip.MustParseAddr("fe80::2")
)

// Config is what all slots of one appliance share.
type Config struct {
	// NetnsPrefix is followed by the slot number: two daemons on one machine
	// differ in it. It must not end in a digit. Default "sc".
	NetnsPrefix string
	// PinDir is a directory on a BPF file system, made if it does not exist,
	// that belongs to this daemon alone.
	PinDir string
	// MTU is that of the uplinks. Default 1500.
	MTU int
	// Tunnel is the ipip device towards peers and, with "6" behind it, the gre
	// device for IPv6. Empty: InnerVia fails.
	Tunnel string
	// TunnelLocal is the outer source address; unset means by route.
	TunnelLocal netip.Addr
	// HoldBytes bounds what Hold buffers per slot. Default 16 MiB.
	HoldBytes uint32
	// Log defaults to slog.Default().
	Log *slog.Logger
}

func (c *Config) defaults() {
	if c.NetnsPrefix == "" {
		c.NetnsPrefix = DefaultNetnsPrefix
	}
	if c.MTU == 0 {
		c.MTU = DefaultMTU
	}
	if c.HoldBytes == 0 {
		c.HoldBytes = DefaultHoldBytes
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
}

func (c *Config) check() error {
	switch last := c.NetnsPrefix[len(c.NetnsPrefix)-1]; {
	case strings.ContainsAny(c.NetnsPrefix, "/ \t\n") || strings.HasPrefix(c.NetnsPrefix, "."):
		return fmt.Errorf("namespace prefix %q is not a file name", c.NetnsPrefix)
	case last >= '0' && last <= '9':
		return fmt.Errorf("namespace prefix %q ends in a digit, which runs into the slot number", c.NetnsPrefix)
	case !filepath.IsAbs(c.PinDir):
		return fmt.Errorf("pin directory %q is not an absolute path", c.PinDir)
	case c.MTU < 1280 || c.MTU > 65535:
		return fmt.Errorf("MTU %d lies outside 1280..65535", c.MTU)
	case c.TunnelLocal.IsValid() && !c.TunnelLocal.Is4():
		return fmt.Errorf("tunnel source %s is not IPv4", c.TunnelLocal)
	}
	return nil
}

func (c *Config) netnsPath(n sa.Slot) string {
	return filepath.Join(netnsDir, c.NetnsPrefix+strconv.Itoa(int(n)))
}

func (c *Config) pinPath(n sa.Slot) string {
	return filepath.Join(c.PinDir, "slot"+strconv.Itoa(int(n)))
}

// numbered returns n if name is prefix and the slot number n, spelt the way
// this package spells it.
func numbered(name, prefix string) (sa.Slot, bool) {
	s, ok := strings.CutPrefix(name, prefix)
	if !ok {
		return 0, false
	}
	v, err := strconv.ParseUint(s, 10, 16)
	n := sa.Slot(v)
	return n, err == nil && n.Valid() && strconv.Itoa(int(v)) == s
}

func vethName(n sa.Slot) string { return vethPrefix + strconv.Itoa(int(n)) }

// mac returns the locally administered address of one end: side 0 is the
// host's.
func mac(n sa.Slot, side byte) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0x53, 0x43, side, byte(n >> 8), byte(n)}
}

// Desired is the whole state of an appliance.
type Desired struct{ Slots []Slot }

// Slot is one slot as it should be.
type Slot struct {
	Number sa.Slot
	// Foreign slots have no namespace here; only their pools are routed, by
	// InnerVia.
	Foreign bool
	// VIPs go onto lo in the namespace. The first of each family is the source
	// of what the slot itself sends.
	VIPs []netip.Addr
	// Pools are the inner prefixes, disjoint between slots.
	Pools []netip.Prefix
}

func (d *Desired) check() error {
	seen := map[sa.Slot]bool{}
	type owned struct {
		p netip.Prefix
		n sa.Slot
	}
	var pools []owned
	for _, s := range d.Slots {
		if !s.Number.Valid() {
			return fmt.Errorf("slot %d lies outside 1..%d", s.Number, sa.MaxSlot)
		}
		if seen[s.Number] {
			return fmt.Errorf("slot %d is named twice", s.Number)
		}
		seen[s.Number] = true
		if !s.Foreign && len(s.VIPs) == 0 {
			return fmt.Errorf("slot %d has no VIP", s.Number)
		}
		for _, v := range s.VIPs {
			if !v.IsValid() || v.Is4In6() || v.Zone() != "" || v.IsUnspecified() || v.IsMulticast() || v.IsLoopback() {
				return fmt.Errorf("VIP %s of slot %d is no plain unicast address", v, s.Number)
			}
		}
		if err := checkPrefixes(s.Pools); err != nil {
			return fmt.Errorf("pool of slot %d: %w", s.Number, err)
		}
		for _, p := range s.Pools {
			for _, o := range pools {
				if o.p.Overlaps(p) {
					return fmt.Errorf("pool %s of slot %d overlaps %s of slot %d", p, s.Number, o.p, o.n)
				}
			}
			pools = append(pools, owned{p, s.Number})
		}
	}
	return nil
}

func checkPrefixes(ps []netip.Prefix) error {
	for _, p := range ps {
		switch {
		case !p.IsValid() || p.Addr().Is4In6():
			return fmt.Errorf("%s is no prefix", p)
		case p.Masked() != p:
			return fmt.Errorf("%s has host bits set, want %s", p, p.Masked())
		case p.Bits() == 0:
			return errors.New("the default route cannot be an inner prefix")
		}
	}
	return nil
}
