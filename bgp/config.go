package bgp

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// Role says which side of the appliance a router is on, and so which prefixes
// it is told.
type Role string

const (
	// Outside routers carry clients: they get VIPs and the liveness route, and
	// tell us the liveness routes of the fleet.
	Outside Role = "outside"
	// Inside routers lead to the protected network: they get inner prefixes.
	Inside Role = "inside"
)

// Password is a TCP MD5 key (RFC 2385). It renders as "[redacted]".
type Password string

const redacted = "[redacted]"

// String never shows the password.
func (Password) String() string { return redacted }

// GoString never shows the password.
func (Password) GoString() string { return redacted }

// Format covers every verb, those of an enclosing struct included.
func (Password) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// LogValue never shows the password.
func (Password) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText never shows the password.
func (Password) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// BFD is single-hop BFD (RFC 5881) with one router. Zero values select 100 ms x 3.
type BFD struct {
	Enabled    bool
	Interval   time.Duration // both minimum transmit and receive interval
	Multiplier uint8
}

// Peer is one eBGP session. Its family is that of Address: IPv4 prefixes travel
// over IPv4 sessions and IPv6 prefixes over IPv6 sessions, each with the
// session's local address as next hop.
type Peer struct {
	Name    string
	Address netip.Addr
	// LocalAddress is our end, the source of BGP and BFD.
	LocalAddress netip.Addr
	ASN          uint32
	Role         Role
	BFD          BFD
	Password     Password // empty: no MD5
	TTLSecurity  bool     // RFC 5082: send and require TTL 255
	HoldTime     time.Duration
	Keepalive    time.Duration
	// MEDAdd is added to the MED of VIPs sent to this peer, except while
	// draining: a backup uplink.
	MEDAdd uint32
	// Prepend is how many extra times our ASN is prepended to a VIP: across
	// upstream ASes, which do not compare each other's MED (RFC 4271 section
	// 9.1.2.2). DrainPrepend replaces it while draining.
	Prepend      uint8
	DrainPrepend uint8
	// Communities are added to VIPs sent to this peer, DrainCommunities besides
	// while draining: what its AS understands, such as a lower local preference.
	Communities      []Community
	DrainCommunities []Community
	// MaxPrefixes closes the session when the router sends more; it is opened
	// again after a minute.
	MaxPrefixes uint32
}

// Config is the speaker's static configuration.
type Config struct {
	ASN         uint32 // shared by all appliances
	RouterID    netip.Addr
	ListenPort  int          // 0: 179
	ListenAddrs []netip.Addr // empty: all addresses of the families in use
	Node        string       // appliance name, for the shutdown message
	Peers       []Peer
	// FleetLiveness covers the liveness routes of all appliances. A host route
	// inside it is accepted from outside peers; nothing else is.
	FleetLiveness []netip.Prefix
	// ChangeWindow and MaxChanges bound attribute changes per prefix, against
	// route flap damping upstream. Zero: 2 in 15 minutes.
	ChangeWindow time.Duration
	MaxChanges   int
	// Dwell is how long after a change none for the better is made. Zero: 1 minute.
	Dwell time.Duration
	// RetireFor is how long a VIP that is no longer wanted, while others are, stays
	// announced as draining before it is withdrawn. Zero: 10 s.
	RetireFor time.Duration
	// OnEvent gets every Event, in order, from one goroutine that Run owns. It
	// may call the Speaker. nil: events are dropped.
	OnEvent func(Event)
}

// Defaults of fields left zero.
const (
	DefaultPort          = 179
	DefaultBFDInterval   = 100 * time.Millisecond
	DefaultBFDMultiplier = 3
	DefaultHoldTime      = 9 * time.Second
	DefaultMaxPrefixes   = 1000
	DefaultChangeWindow  = 15 * time.Minute
	DefaultMaxChanges    = 2
	DefaultDwell         = time.Minute
	DefaultRetireFor     = 10 * time.Second
	maxPrepend           = 10
	maxNodeName          = 63
)

// withDefaults returns a copy of c with zero values replaced.
func (c Config) withDefaults() Config {
	if c.ListenPort == 0 {
		c.ListenPort = DefaultPort
	}
	if c.ChangeWindow == 0 {
		c.ChangeWindow = DefaultChangeWindow
	}
	if c.MaxChanges == 0 {
		c.MaxChanges = DefaultMaxChanges
	}
	if c.Dwell == 0 {
		c.Dwell = DefaultDwell
	}
	if c.RetireFor == 0 {
		c.RetireFor = DefaultRetireFor
	}
	c.Peers = append([]Peer(nil), c.Peers...)
	for i := range c.Peers {
		p := &c.Peers[i]
		if p.BFD.Interval == 0 {
			p.BFD.Interval = DefaultBFDInterval
		}
		if p.BFD.Multiplier == 0 {
			p.BFD.Multiplier = DefaultBFDMultiplier
		}
		if p.HoldTime == 0 {
			p.HoldTime = DefaultHoldTime
		}
		if p.Keepalive == 0 {
			p.Keepalive = (p.HoldTime / 3).Truncate(time.Second)
		}
		if p.MaxPrefixes == 0 {
			p.MaxPrefixes = DefaultMaxPrefixes
		}
	}
	if len(c.ListenAddrs) == 0 {
		for _, v6 := range []bool{false, true} {
			for _, p := range c.Peers {
				if p.Address.Is6() == v6 {
					any := netip.IPv4Unspecified()
					if v6 {
						any = netip.IPv6Unspecified()
					}
					c.ListenAddrs = append(c.ListenAddrs, any)
					break
				}
			}
		}
	}
	return c
}

// Validate reports everything that is wrong with c, each error naming the field
// and what would be right. Zero values that have a default are right.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if c.ASN == 0 || c.ASN == 23456 {
		bad("asn: %d is reserved, want the fleet's own AS number", c.ASN)
	}
	if !c.RouterID.Is4() || c.RouterID.IsUnspecified() {
		bad("router_id: %v, want an IPv4 address unique to this appliance", c.RouterID)
	}
	if c.ListenPort < 1 || c.ListenPort > 65535 {
		bad("listen_port: %d, want 1..65535", c.ListenPort)
	}
	for i, a := range c.ListenAddrs {
		if !a.IsValid() || a.Zone() != "" {
			bad("listen_addrs[%d]: %v, want an address without a zone", i, a)
		}
	}
	if c.Node == "" || len(c.Node) > maxNodeName {
		bad("node: %q has %d bytes, want the appliance name, 1..%d", c.Node, len(c.Node), maxNodeName)
	}
	if c.ChangeWindow < time.Second {
		bad("change_window: %v, want at least 1s", c.ChangeWindow)
	}
	if c.MaxChanges < 1 {
		bad("max_changes: %d, want at least 1", c.MaxChanges)
	}
	if c.Dwell < 0 || c.Dwell > c.ChangeWindow {
		bad("dwell: %v, want 0s..%v, the change window", c.Dwell, c.ChangeWindow)
	}
	for i, p := range c.FleetLiveness {
		if !p.IsValid() || p != p.Masked() {
			bad("fleet_liveness[%d]: %v, want a prefix without host bits", i, p)
		}
	}
	names, addrs := map[string]bool{}, map[netip.Addr]bool{}
	for i, p := range c.Peers {
		at := fmt.Sprintf("peers[%d]", i)
		if p.Name != "" {
			at = fmt.Sprintf("peers[%d] (%s)", i, p.Name)
		}
		for _, err := range p.validate(c.ASN) {
			bad("%s.%w", at, err)
		}
		if names[p.Name] {
			bad("%s.name: used twice, want a unique name", at)
		}
		if addrs[p.Address] {
			bad("%s.address: %v used twice, want one session per router address", at, p.Address)
		}
		names[p.Name], addrs[p.Address] = true, true
	}
	return errors.Join(errs...)
}

func (p Peer) validate(own uint32) (errs []error) {
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if p.Name == "" {
		bad("name: empty, want the router's name")
	}
	unicast := func(a netip.Addr) bool {
		return a.IsValid() && !a.Is4In6() && !a.IsUnspecified() && !a.IsMulticast() && a.Zone() == ""
	}
	if !unicast(p.Address) {
		bad("address: %v, want the router's unicast address, no zone", p.Address)
	}
	if !unicast(p.LocalAddress) || p.LocalAddress.Is4() != p.Address.Is4() {
		bad("local_address: %v, want our address on that link, of the family of %v", p.LocalAddress, p.Address)
	} else if p.LocalAddress == p.Address {
		bad("local_address: %v is the router's own address, want ours", p.LocalAddress)
	}
	switch p.ASN {
	case 0, 23456:
		bad("asn: %d is reserved, want the router's AS number", p.ASN)
	case own:
		bad("asn: %d is our own; sessions are eBGP, want the router's AS number", p.ASN)
	}
	if p.Role != Outside && p.Role != Inside {
		bad("role: %q, want %q or %q", p.Role, Outside, Inside)
	}
	if b := p.BFD; b.Enabled {
		if b.Interval < 10*time.Millisecond || b.Interval > 10*time.Second {
			bad("bfd.interval: %v, want 10ms..10s", b.Interval)
		}
		if b.Multiplier < 2 || b.Multiplier > 50 {
			bad("bfd.multiplier: %d, want 2..50", b.Multiplier)
		}
	}
	if len(p.Password) > 80 {
		bad("password: %d bytes, want at most 80 (kernel limit of TCP MD5)", len(p.Password))
	}
	if p.HoldTime < 3*time.Second || p.HoldTime > 65535*time.Second || p.HoldTime%time.Second != 0 {
		bad("hold_time: %v, want whole seconds, 3s..65535s", p.HoldTime)
	}
	if p.Keepalive < time.Second || p.Keepalive >= p.HoldTime || p.Keepalive%time.Second != 0 {
		bad("keepalive: %v, want whole seconds below the hold time %v", p.Keepalive, p.HoldTime)
	}
	if p.MEDAdd > maxMEDBase {
		bad("med_add: %d, want at most %d", p.MEDAdd, maxMEDBase)
	}
	if p.Prepend > maxPrepend {
		bad("prepend: %d, want at most %d", p.Prepend, maxPrepend)
	}
	if p.DrainPrepend > maxPrepend {
		bad("drain_prepend: %d, want at most %d", p.DrainPrepend, maxPrepend)
	}
	for field, cs := range map[string][]Community{"communities": p.Communities, "drain_communities": p.DrainCommunities} {
		for i, c := range cs {
			if c == GracefulShutdown {
				bad("%s[%d]: %s marks a draining VIP (RFC 8326) and is set by shadowcast, want it left out", field, i, c)
			}
		}
	}
	return errs
}
