package lab

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/sa"
)

// Numbers of the autonomous systems.
const (
	OutsideASN   = 65000
	ApplianceASN = 65001
	InsideASN    = 65010
)

// Fixed addresses.
var (
	VIP        = netip.MustParseAddr("198.51.100.1")
	VIP6       = netip.MustParseAddr("2001:db8:ffff::1")
	ServerAddr = netip.MustParseAddr("10.99.0.1")
	// InsideNet is what clients reach through the gateways.
	InsideNet = netip.MustParsePrefix("10.99.0.0/24")
)

// GatewayID is the IKE identity of every gateway.
const GatewayID = "gw.example"

// loopback returns 192.0.2.n.
func loopback(n int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}) }

// RouterLoopback is the address of outside router r (1 or 2); the inside router
// is number 3.
func RouterLoopback(r int) netip.Addr { return loopback(r) }

// ApplianceLoopback is the address, and liveness route, of the n-th appliance,
// counted from 1.
func ApplianceLoopback(n int) netip.Addr { return loopback(10 + n) }

// linkNet is a link's prefix: net 1 and 2 are the outside routers', 8 the inside
// router's.
func linkNet(net, n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(net), byte(n), 0}), 24)
}

// linkNet6 is the IPv6 prefix of the link that has linkNet(net, n), in labs with
// IPv6: outside links only, what is inside speaks IPv4.
func linkNet6(net, n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 5: byte(net), 7: byte(n)}), 64)
}

// linkNets6 covers the IPv6 links of one net.
func linkNets6(net int) netip.Prefix { return netip.PrefixFrom(linkNet6(net, 0).Addr(), 48) }

// insideLink is the net number of the links between `in` and the appliances.
const insideLink = 8

// routerLink is the prefix of the link r1-r2: r1 has .1, r2 .2.
var routerLink = linkNet(3, 0)

// accessNet is the prefix of the n-th client's access link at outside router r.
func accessNet(r, n int) netip.Prefix { return linkNet(19+r, n) }

// accessNets covers the access links of outside router r.
func accessNets(r int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(19 + r), 0, 0}), 16)
}

// homeNet is the private prefix behind the n-th client's NAT.
func homeNet(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(n), 0}), 24)
}

// livenessNet covers the loopback addresses.
var livenessNet = netip.MustParsePrefix("192.0.2.0/24")

// poolNet covers the pools of all slots.
var poolNet = netip.MustParsePrefix("10.112.0.0/12")

// SlotPool is the IPv4 pool of slot s.
func SlotPool(s sa.Slot) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 112 + byte(s>>8), byte(s), 0}), 24)
}

// host returns the n-th address of p.
func host(p netip.Prefix, n int) netip.Addr {
	b := p.Addr().AsSlice()
	b[len(b)-1] += byte(n)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// on returns the n-th address of p with p's length, as an interface has it.
func on(p netip.Prefix, n int) netip.Prefix { return netip.PrefixFrom(host(p, n), p.Bits()) }

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// ClientSpec says how a client is attached and how it connects.
type ClientSpec struct {
	Name   string // netns and log name, c1 by default
	Router int    // 1 or 2; 1 if 0
	NAT    bool   // behind a port-translating NAT of its own
	IPv6   bool   // has IPv6 only, and connects to VIP6; inside its tunnel is IPv4 as ever
	Conn   ConnSpec
}

// ConnSpec is a client's IKE connection.
type ConnSpec struct {
	Cert  bool   // certificates both ways instead of a pre-shared key
	EAP   string // the client's EAP method, EAPMSCHAPv2 or EAPTLS; the gateway has a certificate
	ESP   string // one of ESPGCM, ESPCBC, or any strongSwan proposal; ESPGCM if empty
	Encap bool   // force UDP encapsulation
	DPD   string // dpd_delay, "0s" if empty
	// RekeyDH is a Diffie-Hellman group without which the client rekeys no child, while
	// gateways offer none: the first child is made without (RFC 7296 section 1.2), and
	// every rekey ends with NO_PROPOSAL_CHOSEN.
	RekeyDH string
	// Window is the client's replay window; strongSwan's default of 32 if 0.
	Window int
	// Mobike lets the client announce a changed address (RFC 4555).
	Mobike bool
	// Reconnect starts a new session when DPD finds the gateway gone. Without it a
	// lost session stays lost, so that no test takes a new one for the old.
	Reconnect bool
	// NoRedirect keeps the client from saying that it follows redirects (RFC 5685).
	NoRedirect bool
	// Site is the network behind the client, for a gateway of a site: it asks for no
	// inner address.
	Site netip.Prefix
	// As is whose identity the client has, for two that are one user; its own if empty.
	As string
	// Unique is the gateways' policy for clients such as it (swanctl.conf: unique).
	Unique string
	// Initiator rekey times; off if empty.
	ChildRekey, IKERekey string
	// Gateway rekey times; off if empty.
	GatewayChildRekey, GatewayIKERekey string
}

// ESP proposals the tests cover.
const (
	ESPGCM = "aes128gcm16-esn"
	ESPCBC = "aes256-sha256-noesn"
)

// clientESP are the client's own proposals.
func (c ConnSpec) clientESP() string {
	if c.RekeyDH == "" {
		return c.esp()
	}
	return c.esp() + "-" + c.RekeyDH
}

// String names the variant, "psk/encap/aes128gcm16-esn".
func (c ConnSpec) String() string {
	way := "esp"
	if c.Encap {
		way = "encap"
	}
	return fmt.Sprintf("%s/%s/%s", c.auth(), way, c.esp())
}

func (c ConnSpec) esp() string {
	if c.ESP == "" {
		return ESPGCM
	}
	return c.ESP
}

// Options says what New builds.
type Options struct {
	Appliances []string // ams, fra, lhr if empty
	// Sites are those of appliances that do not stand alone at one of their own name.
	Sites   map[string]string
	Clients []ClientSpec // one plain client if empty
	OutDir  string       // logs and artefacts; required
	BinDir  string       // shadowcastd and shadowctl; see BinDir()
	// Routers starts BIRD, or FRR, in r1, r2 and in. Without it routes are static,
	// and there is no BGP.
	Routers bool
	FRR     bool
	BFD     BFD // of routers and appliances
	// Probe says when appliances suspect each other; every 100 ms, 3 lost, if zero.
	Probe config.Probe
	// SlotsPerAppliance is how many home slots each has; 2 if 0.
	SlotsPerAppliance int
	// Homes are the appliances that have home slots; all if empty.
	Homes []string
	// Conn is what the gateways offer; clients take theirs from it where Options
	// leaves Clients empty.
	Conn ConnSpec
	// VIPs are further IPv4 VIPs.
	VIPs []netip.Addr
	// Networks may lie behind clients (fleet.networks).
	Networks []netip.Prefix
	// Chosen has the fleet choose the shadows of every slot, by Shadows; otherwise the
	// next three appliances in the circle shadow it. Zero Shadows are the defaults.
	Chosen  bool
	Shadows config.ShadowSets
	// PPS is the rate of a client's traffic, packets a second each way; 500 if 0.
	PPS int
	// NoShadowing switches shadows off, to compare with.
	NoShadowing bool
}

// BFD is the failure detection between routers and appliances.
//
// What a lab at rest does is mostly such heartbeats, and a guest has one processor:
// scenarios that do not measure detection take their time over it.
type BFD struct {
	Interval   time.Duration // 200 ms if 0
	Multiplier int           // 3 if 0
}

// ipv6 reports whether the outside links have IPv6 beside IPv4: for a client's sake.
func (o Options) ipv6() bool {
	return slices.ContainsFunc(o.Clients, func(c ClientSpec) bool { return c.IPv6 })
}

// EnvSlow marks the environment of a guest on a machine that is slow for guests.
const EnvSlow = "SHADOWLAB_SLOW"

// detecting makes o detect failures about as fast as a fleet does with the default
// settings: for scenarios whose figure is the outage. On a machine that is slow for guests
// o stays as it is, and the figures are those of slower timers; reports name them.
func (o Options) detecting() Options {
	if os.Getenv(EnvSlow) != "" {
		return o // whatever else the machine does would count as a failure
	}
	o.Probe = config.Probe{Interval: 50 * time.Millisecond, Lost: 4}
	o.BFD = BFD{Interval: 100 * time.Millisecond, Multiplier: 3}
	return o
}

func (o Options) withDefaults() (Options, error) {
	if o.OutDir == "" {
		return o, fmt.Errorf("build lab: no output directory given")
	}
	if len(o.Appliances) == 0 {
		o.Appliances = []string{"ams", "fra", "lhr"}
	}
	if len(o.Appliances) > 99 {
		return o, fmt.Errorf("build lab: %d appliances, at most 99 fit the addressing plan", len(o.Appliances))
	}
	if o.Shadows == (config.ShadowSets{}) {
		o.Shadows = config.DefaultShadowSets()
	}
	if len(o.Clients) == 0 {
		o.Clients = []ClientSpec{{Conn: o.Conn}}
	}
	if len(o.Clients) > 250 {
		return o, fmt.Errorf("build lab: %d clients, at most 250 fit the addressing plan", len(o.Clients))
	}
	if o.Probe.Interval == 0 {
		o.Probe = config.Probe{Interval: 100 * time.Millisecond, Lost: 3}
	}
	if o.BFD.Interval == 0 {
		o.BFD.Interval = 200 * time.Millisecond
	}
	if o.BFD.Multiplier == 0 {
		o.BFD.Multiplier = 3
	}
	if o.PPS == 0 {
		o.PPS = 500
	}
	if o.SlotsPerAppliance == 0 {
		o.SlotsPerAppliance = 2
	}
	seen := map[string]bool{"r1": true, "r2": true, "in": true, "srv": true}
	for i := range o.Clients {
		c := &o.Clients[i]
		if c.Name == "" {
			c.Name = fmt.Sprintf("c%d", i+1)
		}
		if c.Router == 0 {
			c.Router = 1
		}
		if c.Router != 1 && c.Router != 2 {
			return o, fmt.Errorf("build lab: client %s is on router %d, there are 1 and 2", c.Name, c.Router)
		}
		if c.NAT && c.IPv6 {
			return o, fmt.Errorf("build lab: client %s has IPv6 behind a NAT, which translates IPv4", c.Name)
		}
	}
	names := append([]string{}, o.Appliances...)
	for _, c := range o.Clients {
		names = append(names, c.Name)
	}
	for _, n := range names {
		if seen[n] {
			return o, fmt.Errorf("build lab: two nodes are called %s", n)
		}
		seen[n] = true
	}
	return o, nil
}
