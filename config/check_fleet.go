package config

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// Bounds of the design.
const (
	maxShadows   = 3
	maxHomeSlots = 16 // per appliance
	maxVIPs      = 8
	maxNetworks  = 1024
	maxClientDNS = 8
	maxDays      = 7 * 24 * time.Hour
)

func (c *collector) fleet(r *rawFleet) Fleet {
	var f Fleet
	f.Appliances = c.appliances(r.Appliances)
	f.VIPs = c.vips(r.VIPs)
	f.Registrars = c.registrars(r.Registrars, applianceNames(&f))
	f.Slots = c.slots(r.Slots, applianceNames(&f))
	f.Networks = c.networks(r.Networks)
	f.ClientDNS = c.clientDNS(r.ClientDNS)
	c.disjoint(&f)
	f.Probe = Probe{
		Interval: c.duration("fleet.probe.interval", r.Probe.Interval, 10*time.Millisecond, time.Second),
		Lost:     c.within("fleet.probe.lost", r.Probe.Lost, 2, 20),
	}
	f.Handover = Handover{
		HoldCap:       c.duration("fleet.handover.hold_cap", r.Handover.HoldCap, 0, time.Second),
		DrainTime:     c.duration("fleet.handover.drain_time", r.Handover.DrainTime, 0, maxDays),
		DrainRate:     c.within("fleet.handover.drain_rate", r.Handover.DrainRate, 1, 6000),
		StopDrain:     c.duration("fleet.handover.stop_drain", r.Handover.StopDrain, 0, time.Hour),
		AuditInterval: c.duration("fleet.handover.audit_interval", r.Handover.AuditInterval, 0, maxDays),
		RekeySpread:   c.duration("fleet.handover.rekey_spread", r.Handover.RekeySpread, 0, maxDays),
		HoldDown:      c.duration("fleet.handover.hold_down", r.Handover.HoldDown, 0, maxDays),
		ShedLoad:      c.within("fleet.handover.shed_load", r.Handover.ShedLoad, 0, 100),
		ReturnDamping: c.duration("fleet.handover.return_damping", r.Handover.ReturnDamping, 0, maxDays),
	}
	f.DeadMan = c.duration("fleet.dead_man", r.DeadMan, 200*time.Millisecond, 10*time.Second)
	if least := 4 * f.Probe.Interval; f.DeadMan < least {
		c.addf("fleet.dead_man", "%v; want at least %v, four times fleet.probe.interval, or fences close between two refreshes", f.DeadMan, least)
	}
	c.addresses(&f)
	f.ShadowSets = c.shadowSets(&r.ShadowSets)
	f.Tiers = c.tiers(&r.Tiers)
	if len(c.problems) == 0 {
		f.selectShadows()
	}
	return f
}

func (c *collector) appliances(raw []rawAppliance) []Appliance {
	const list = "fleet.appliances"
	if len(raw) == 0 {
		c.addf(list, "missing; want at least one entry")
	}
	var out []Appliance
	seen := map[string]int{}
	for i, r := range raw {
		path := at(list, i)
		a := Appliance{
			Name:            c.name(path+".name", r.Name),
			Site:            c.word(path+".site", r.Site, false),
			Location:        Location{Lat: c.degrees(path+".location.lat", r.Location.Lat, 90), Lon: c.degrees(path+".location.lon", r.Location.Lon, 180)},
			Labels:          Labels{Rack: c.word(path+".labels.rack", r.Labels.Rack, true), Power: c.word(path+".labels.power", r.Labels.Power, true)},
			Address:         c.addr4(path+".address", r.Address, "the IPv4 address on its loopback interface, such as 192.0.2.11"),
			ReplicationPort: uint16(c.within(path+".replication_port", r.ReplicationPort, 1, 65535)),
			ProbePort:       uint16(c.within(path+".probe_port", r.ProbePort, 1, 65535)),
			RegistrarPort:   uint16(c.within(path+".registrar_port", r.RegistrarPort, 1, 65535)),
			GossipPort:      uint16(c.within(path+".gossip_port", r.GossipPort, 1, 65535)),
		}
		if a.ProbePort == 500 || a.ProbePort == 4500 {
			c.addf(path+".probe_port", "%d belongs to IKE; want another, such as 4502", a.ProbePort)
		}
		if a.RegistrarPort == a.ReplicationPort && a.RegistrarPort != 0 {
			c.addf(path+".registrar_port", "%d is the replication_port already; want another, such as 4503", a.RegistrarPort)
		}
		if p := a.GossipPort; p != 0 && (p == a.ReplicationPort || p == a.RegistrarPort || p == a.ProbePort || p == 500 || p == 4500) {
			c.addf(path+".gossip_port", "%d is in use already (replication_port, registrar_port, probe_port or IKE); want another, such as 4504", p)
		}
		if j, dup := seen[a.Name]; dup && a.Name != "" {
			c.addf(path+".name", "%q is the name of %s already; want a name of its own", a.Name, at(list, j))
		}
		seen[a.Name] = i
		out = append(out, a)
	}
	return out
}

// degrees checks a coordinate between -limit and limit.
func (c *collector) degrees(path string, v *float64, limit float64) float64 {
	switch {
	case v == nil:
		c.addf(path, "missing; want degrees from -%g to %g", limit, limit)
	case !(*v >= -limit && *v <= limit): // NaN included
		c.addf(path, "%g; want degrees from -%g to %g", *v, limit, limit)
	default:
		return *v
	}
	return 0
}

func (c *collector) vips(raw []string) []netip.Addr {
	const what = "an anycast address of the fleet, such as 198.51.100.1 or 2001:db8::1"
	if len(raw) == 0 {
		c.addf("fleet.vips", "missing; want %s", what)
	}
	if len(raw) > maxVIPs {
		c.addf("fleet.vips", "%d addresses; want at most %d", len(raw), maxVIPs)
	}
	var out []netip.Addr
	for i, s := range raw {
		if a := c.addr(at("fleet.vips", i), s, what); a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

func (c *collector) registrars(raw, appliances []string) []string {
	const list = "fleet.registrars"
	if n := len(raw); n != 1 && n != 3 && n != 5 {
		c.addf(list, "%d names; want 1, 3 or 5 appliances, so that there is a majority", n)
	}
	c.members(list, raw, appliances)
	return raw
}

// members checks that every name is an appliance and comes once.
func (c *collector) members(list string, names, appliances []string) {
	seen := map[string]int{}
	for i, n := range names {
		if !slices.Contains(appliances, n) {
			c.addf(at(list, i), "%q is not in fleet.appliances; want %s", n, oneOf(appliances))
		}
		if j, dup := seen[n]; dup {
			c.addf(at(list, i), "%s is %s already", n, at(list, j))
		}
		seen[n] = i
	}
}

func (c *collector) slots(raw []rawSlot, appliances []string) []Slot {
	const all = "fleet.slots"
	if len(raw) == 0 {
		c.addf(all, "missing; want at least one entry")
	}
	var out []Slot
	seen := map[int]int{}
	homes := map[string]int{}
	for i, r := range raw {
		path := at(all, i)
		c.within(path+".number", r.Number, 1, int(sa.MaxSlot))
		if j, dup := seen[r.Number]; dup {
			c.addf(path+".number", "%d is the number of %s already; want a number of its own", r.Number, at(all, j))
		}
		seen[r.Number] = i
		if !slices.Contains(appliances, r.Home) {
			c.addf(path+".home", "%q is not in fleet.appliances; want %s", r.Home, oneOf(appliances))
		}
		if homes[r.Home]++; homes[r.Home] == maxHomeSlots+1 {
			c.addf(path+".home", "%s is home of more than %d slots; want fewer", r.Home, maxHomeSlots)
		}
		if len(r.Shadows) > maxShadows {
			c.addf(path+".shadows", "%d shadows; want at most %d", len(r.Shadows), maxShadows)
		}
		c.members(path+".shadows", []string(r.Shadows), appliances)
		if j := slices.Index(r.Shadows, r.Home); j >= 0 {
			c.addf(at(path+".shadows", j), "%s is the home of the slot; want another appliance", r.Home)
		}
		out = append(out, Slot{
			Number:   sa.Slot(r.Number),
			Home:     r.Home,
			Shadows:  nilIfEmpty(r.Shadows),
			Selected: r.Shadows == nil,
			Pools:    c.pools(path+".pools", r.Pools),
		})
	}
	return out
}

// pools checks the prefixes of one slot. A prefix in error keeps its place as
// the zero Prefix, so that indexes stay those of the text.
func (c *collector) pools(path string, raw []string) []netip.Prefix {
	if len(raw) == 0 {
		c.addf(path, "missing; want a prefix for inner addresses, such as 10.1.0.0/16")
	}
	out := make([]netip.Prefix, len(raw))
	family := map[bool]int{}
	for i, s := range raw {
		p := c.inner(at(path, i), s, 2)
		if !p.IsValid() {
			continue
		}
		is4 := p.Addr().Is4()
		if j, dup := family[is4]; dup {
			c.addf(at(path, i), "%s is a second prefix of the family of %s; want at most one IPv4 and one IPv6 prefix", s, at(path, j))
		}
		family[is4] = i
		out[i] = p
	}
	return out
}

// networks checks what may lie behind clients.
func (c *collector) networks(raw []string) []netip.Prefix {
	const list = "fleet.networks"
	if len(raw) > maxNetworks {
		c.addf(list, "%d prefixes; want at most %d", len(raw), maxNetworks)
	}
	var out []netip.Prefix
	for i, s := range raw {
		out = append(out, c.inner(at(list, i), s, 0))
	}
	return out
}

// clientDNS checks the name servers of clients.
func (c *collector) clientDNS(raw []string) []netip.Addr {
	const list = "fleet.client_dns"
	if len(raw) > maxClientDNS {
		c.addf(list, "%d addresses; want at most %d", len(raw), maxClientDNS)
	}
	var out []netip.Addr
	for i, s := range raw {
		out = append(out, c.addr(at(list, i), s, "the address of a name server that clients reach through the tunnel"))
	}
	return out
}

// inner reads a prefix that is routed inside, with host bits at least; the zero Prefix
// where it is wrong.
func (c *collector) inner(path, s string, host int) (none netip.Prefix) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		c.addf(path, "%q is not a prefix; want one such as 10.1.0.0/16", s)
		return none
	}
	lo, hi := 8, 32-host
	if !p.Addr().Is4() {
		lo, hi = 32, 128-host
	}
	switch {
	case p != p.Masked():
		c.addf(path, "%s has bits set beyond its length; want %s", s, p.Masked())
	case p.Bits() < lo || p.Bits() > hi:
		c.addf(path, "%s; want a length of /%d to /%d", s, lo, hi)
	case p.Addr().Is4In6() || p.Addr().IsMulticast() || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() || p.Addr().IsUnspecified():
		c.addf(path, "%s cannot be routed; want a prefix such as 10.1.0.0/16 or fd00:1::/64", s)
	default:
		return p
	}
	return none
}

// place is a prefix and where it was written.
type place struct {
	prefix netip.Prefix
	path   string
}

// innerPlaces are the prefixes that lead to clients, as far as they are right.
func (f *Fleet) innerPlaces() (out []place) {
	add := func(list string, ps []netip.Prefix) {
		for j, p := range ps {
			if p.IsValid() {
				out = append(out, place{p, at(list, j)})
			}
		}
	}
	for i, s := range f.Slots {
		add(at("fleet.slots", i)+".pools", s.Pools)
	}
	add("fleet.networks", f.Networks)
	return out
}

// disjoint refuses pools and networks that share an address. Prefixes nest or are
// disjoint, so after sorting each needs comparing with one other only.
func (c *collector) disjoint(f *Fleet) {
	all := f.innerPlaces()
	order := map[string]int{}
	for i, p := range all {
		order[p.path] = i
	}
	slices.SortStableFunc(all, func(a, b place) int {
		return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()))
	})
	var outer place
	for _, p := range all {
		if !outer.prefix.IsValid() || !outer.prefix.Overlaps(p.prefix) {
			outer = p
			continue
		}
		first, later := outer, p
		if order[first.path] > order[later.path] {
			first, later = later, first
		}
		c.addf(later.path, "%s overlaps %s %s; want prefixes that share no address", later.prefix, first.path, first.prefix)
	}
}

// outside refuses an address that leads to clients.
func (c *collector) outside(f *Fleet, path string, a netip.Addr) {
	for _, p := range f.innerPlaces() {
		if p.prefix.Contains(a) {
			c.addf(path, "%s lies in %s %s; want an address outside all pools and networks", a, p.path, p.prefix)
		}
	}
}

// addresses refuses an address with two meanings.
func (c *collector) addresses(f *Fleet) {
	owner := map[netip.Addr]string{}
	claim := func(path string, a netip.Addr) {
		if !a.IsValid() {
			return
		}
		if other, dup := owner[a]; dup {
			c.addf(path, "%s is %s already; want an address of its own", a, other)
			return
		}
		owner[a] = path
		c.outside(f, path, a)
	}
	for i, a := range f.Appliances {
		claim(at("fleet.appliances", i)+".address", a.Address)
	}
	for i, a := range f.VIPs {
		claim(at("fleet.vips", i), a)
	}
}
