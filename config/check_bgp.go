package config

import (
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

func (c *collector) bgp(r *rawBGP, f *Fleet) BGP {
	b := BGP{
		ListenPort: uint16(c.within("bgp.listen_port", r.ListenPort, 1, 65535)),
		// Above the base there must be room for the ladder up to "draining".
		MEDBase: uint32(c.within("bgp.med_base", r.MEDBase, 0, 1_000_000)),
	}
	b.ChangeWindow = c.duration("bgp.change_window", r.Window, time.Minute, 24*time.Hour)
	b.MaxChanges = c.within("bgp.max_changes", r.MaxChanges, 1, 100)
	b.Dwell = c.duration("bgp.dwell", r.Dwell, 0, b.ChangeWindow)
	if r.ASN == 0 && r.RouterID == "" && len(r.Peers) == 0 {
		return b
	}
	b.VIPMED = c.vipMEDs(r.VIPs, f)
	b.ASN = c.asn("bgp.asn", r.ASN)
	b.RouterID = c.addr4("bgp.router_id", r.RouterID, "an IPv4 address, such as the appliance's own")
	if len(r.Peers) == 0 {
		c.addf("bgp.peers", "missing; want the neighbouring routers, or no bgp section")
	}
	c.medStep("bgp.med_base", b.MEDBase)
	names, addrs := map[string]int{}, map[netip.Addr]int{}
	for i, rp := range r.Peers {
		path := at("bgp.peers", i)
		p := c.peer(path, rp)
		if p.ASN != 0 && p.ASN == b.ASN {
			c.addf(path+".asn", "%d is our own; want that of the router (the session is external BGP)", p.ASN)
		}
		if j, dup := names[p.Name]; dup && p.Name != "" {
			c.addf(path+".name", "%q is the name of %s already; want a name of its own", p.Name, at("bgp.peers", j))
		}
		if j, dup := addrs[p.Address]; dup && p.Address.IsValid() {
			c.addf(path+".address", "%s is the address of %s already; want one session with a router", p.Address, at("bgp.peers", j))
		}
		for j, vip := range f.VIPs {
			if p.Address == vip || p.LocalAddress == vip {
				c.addf(path+".address", "%s is %s; want an address of this link", vip, at("fleet.vips", j))
			}
		}
		names[p.Name], addrs[p.Address] = i, i
		b.Peers = append(b.Peers, p)
	}
	return b
}

func (c *collector) medStep(path string, med uint32) {
	if med%10 != 0 {
		c.addf(path, "%d; want a multiple of 10, so that small differences never become updates", med)
	}
}

// vipMEDs are the MEDs of VIPs that have one of their own.
func (c *collector) vipMEDs(raw []rawVIP, f *Fleet) map[netip.Addr]uint32 {
	if len(raw) == 0 {
		return nil
	}
	out := map[netip.Addr]uint32{}
	for i, r := range raw {
		path := at("bgp.vips", i)
		a := c.addr(path+".address", r.Address, "one of fleet.vips")
		med := uint32(c.within(path+".med_base", r.MEDBase, 0, 1_000_000))
		c.medStep(path+".med_base", med)
		switch _, dup := out[a]; {
		case !a.IsValid():
			continue
		case !slices.Contains(f.VIPs, a):
			c.addf(path+".address", "%s is no VIP; want one of fleet.vips", a)
		case dup:
			c.addf(path+".address", "%s is named twice; want one med_base for it", a)
		}
		out[a] = med
	}
	return out
}

// policy reads what changes the VIPs on the way to one peer.
func (c *collector) policy(path string, r rawPeer, p *BGPPeer) {
	p.MaxPrefixes = uint32(c.within(path+".max_prefixes", r.MaxPrefixes, 1, 1_000_000))
	p.MEDAdd = uint32(c.within(path+".med_add", r.MEDAdd, 0, 1_000_000))
	c.medStep(path+".med_add", p.MEDAdd)
	p.Prepend = uint8(c.within(path+".prepend", r.Prepend, 0, 10))
	p.DrainPrepend = uint8(c.within(path+".drain_prepend", r.DrainPrepend, 0, 10))
	p.Communities = c.communities(path+".communities", r.Communities)
	p.DrainCommunities = c.communities(path+".drain_communities", r.DrainCommunities)
	if p.Role == Inside && (p.MEDAdd != 0 || p.Prepend != 0 || p.DrainPrepend != 0 || len(p.Communities)+len(p.DrainCommunities) > 0) {
		c.addf(path, "med_add, prepend, drain_prepend, communities and drain_communities change VIPs, which inside peers do not hear; want them left out")
	}
}

// gracefulShutdown is RFC 8326's 65535:0.
const gracefulShutdown Community = 0xffff0000

func (c *collector) communities(path string, raw []string) (out []Community) {
	for i, s := range raw {
		hi, lo, ok := strings.Cut(s, ":")
		h, err1 := strconv.ParseUint(hi, 10, 16)
		l, err2 := strconv.ParseUint(lo, 10, 16)
		v := Community(h<<16 | l)
		switch {
		case !ok || err1 != nil || err2 != nil:
			c.addf(at(path, i), "%q; want a community in quotes, such as \"64496:100\", both numbers at most 65535", s)
			continue
		case v == gracefulShutdown:
			c.addf(at(path, i), "65535:0 marks a draining VIP (RFC 8326) and is set by itself; want it left out")
			continue
		}
		out = append(out, v)
	}
	return out
}

func (c *collector) peer(path string, r rawPeer) BGPPeer {
	p := BGPPeer{
		Name:        c.word(path+".name", r.Name, false),
		Address:     c.addr(path+".address", r.Address, "the router's address, such as 203.0.113.1"),
		ASN:         c.asn(path+".asn", r.ASN),
		Role:        Role(r.Role),
		TTLSecurity: r.TTLSecurity,
		BFD: BFD{
			Enabled:    r.BFD.Enabled,
			Interval:   c.duration(path+".bfd.interval", r.BFD.Interval, 10*time.Millisecond, 10*time.Second),
			Multiplier: c.within(path+".bfd.multiplier", r.BFD.Multiplier, 2, 50),
		},
		// RFC 4271 section 4.2: a hold time is 0 or at least 3 s. 0 would leave a
		// dead session standing.
		HoldTime: c.duration(path+".hold_time", r.HoldTime, 3*time.Second, 65535*time.Second),
	}
	c.choice(path+".role", r.Role, string(Outside), string(Inside))
	if p.HoldTime%time.Second != 0 {
		c.addf(path+".hold_time", "%v; want whole seconds", p.HoldTime)
	}
	c.policy(path, r, &p)
	if r.PasswordFile != "" {
		p.PasswordFile = c.file(path+".password_file", r.PasswordFile)
	}
	if r.LocalAddress == "" {
		c.addf(path+".local_address", "missing; want this appliance's address on the link to the router, its source and next hop")
	} else {
		p.LocalAddress = c.addr(path+".local_address", r.LocalAddress, "an address of this appliance on the link")
		if p.LocalAddress.IsValid() && p.Address.IsValid() && p.LocalAddress.Is4() != p.Address.Is4() {
			c.addf(path+".local_address", "%s is not of the family of the router's address %s; want both IPv4 or both IPv6", p.LocalAddress, p.Address)
		}
		if p.LocalAddress.IsValid() && p.LocalAddress == p.Address {
			c.addf(path+".local_address", "%s is the router's own address; want ours", p.LocalAddress)
		}
	}
	return p
}

func (c *collector) asn(path string, n int) uint32 {
	switch {
	case n == 0:
		c.addf(path, "missing; want an AS number, such as 64512")
	case n < 0 || n > math.MaxUint32:
		c.addf(path, "%d; want an AS number of 1 to %d", n, uint32(math.MaxUint32))
	case n == 23456:
		c.addf(path, "23456 stands for AS numbers that old routers cannot read (RFC 6793); want the real one")
	default:
		return uint32(n)
	}
	return 0
}
