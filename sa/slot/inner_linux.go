package slot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/sa"
)

// routeProtocol marks our routes in the host namespace. Their metric is the
// slot number.
const routeProtocol = 115

// Inner says where the inner prefixes of a slot lead from the host namespace.
type Inner struct {
	kind innerKind
	peer netip.Addr
}

type innerKind uint8

const (
	innerNone innerKind = iota
	innerLocal
	innerVia
)

var (
	// InnerNone drops what is sent to the prefixes. Without a route it would
	// follow the default route, in the clear.
	InnerNone = Inner{kind: innerNone}
	// InnerLocal leads into the slot's namespace.
	InnerLocal = Inner{kind: innerLocal}
)

// InnerVia leads through the tunnel device to a peer.
func InnerVia(peer netip.Addr) Inner { return Inner{kind: innerVia, peer: peer} }

func (i Inner) String() string {
	switch i.kind {
	case innerLocal:
		return "local"
	case innerVia:
		return "via " + i.peer.String()
	}
	return "none"
}

// inner is what this process knows about a slot's prefixes.
type inner struct {
	slot  Slot
	where Inner
	told  bool // SetInner was called; before, existing routes stay
	extra []netip.Prefix
	// extraTold: SetPrefixes was called; before, routes to prefixes outside
	// the pools are an earlier daemon's sessions and stay.
	extraTold bool
}

// prefixes are the pools and the prefixes of sessions, each once.
func (i *inner) prefixes() []netip.Prefix {
	ps := slices.Concat(i.slot.Pools, i.extra)
	slices.SortFunc(ps, netip.Prefix.Compare)
	return slices.Compact(ps)
}

// SetInner leads the inner prefixes of a slot (its pools and what SetPrefixes
// added) somewhere else. Each route is replaced in one step, so that no packet
// finds none.
func (h *Host) SetInner(n sa.Slot, where Inner) error {
	h.innerMu.Lock()
	defer h.innerMu.Unlock()
	i, ok := h.inner[n]
	if !ok {
		return fmt.Errorf("route inner prefixes of slot %d: %w", n, ErrNoSlot)
	}
	if where.kind == innerLocal && i.slot.Foreign {
		return fmt.Errorf("route inner prefixes of slot %d into its namespace: it has none here", n)
	}
	i.where, i.told = where, true
	for _, p := range i.prefixes() {
		if err := h.replaceRoute(i, p); err != nil {
			return err
		}
	}
	return nil
}

// SetPrefixes makes ps the inner prefixes of a slot besides its pools: the
// site-to-site selectors of its sessions.
func (h *Host) SetPrefixes(n sa.Slot, ps []netip.Prefix) error {
	if err := checkPrefixes(ps); err != nil {
		return fmt.Errorf("set inner prefixes of slot %d: %w", n, err)
	}
	h.innerMu.Lock()
	defer h.innerMu.Unlock()
	i, ok := h.inner[n]
	if !ok {
		return fmt.Errorf("set inner prefixes of slot %d: %w", n, ErrNoSlot)
	}
	before := i.prefixes()
	first := !i.extraTold
	i.extra, i.extraTold = slices.Clone(ps), true
	after := i.prefixes()
	// The egress guard learns first and forgets last.
	guard := func(ps []netip.Prefix) error {
		if i.slot.Foreign {
			return nil
		}
		return h.with(n, "set inner prefixes", func(s *state) error { return s.fence.setInner(ps) })
	}
	if err := guard(slices.Concat(before, after)); err != nil {
		return err
	}
	for _, p := range after {
		if first || !slices.Contains(before, p) {
			if err := h.replaceRoute(i, p); err != nil {
				return err
			}
		}
	}
	if first {
		// What an earlier daemon left is known to the kernel alone.
		if err := h.pruneRoutes(i); err != nil {
			return err
		}
	}
	for _, p := range before {
		if !slices.Contains(after, p) {
			if err := h.deleteRoute(n, p); err != nil {
				return err
			}
		}
	}
	return guard(after)
}

// replaceRoute installs the route of p.
func (h *Host) replaceRoute(i *inner, p netip.Prefix) error {
	r, err := h.route(i, p)
	if err == nil {
		err = h.nl.RouteReplace(r)
	}
	if err != nil {
		return fmt.Errorf("route inner prefix %s of slot %d %s: %w", p, i.slot.Number, i.where, err)
	}
	return nil
}

func (h *Host) route(i *inner, p netip.Prefix) (*netlink.Route, error) {
	r := &netlink.Route{Dst: ipNet(p), Table: unix.RT_TABLE_MAIN, Protocol: routeProtocol, Priority: int(i.slot.Number)}
	switch i.where.kind {
	case innerLocal:
		err := h.with(i.slot.Number, "look up", func(s *state) error { r.LinkIndex = s.hostIndex; return nil })
		if err != nil {
			return nil, err
		}
		setNextHop(r, p.Addr(), slotNext4, slotNext6)
	case innerVia:
		dev := h.cfg.Tunnel
		switch {
		case dev == "":
			return nil, errors.New("no tunnel device is configured")
		case !i.where.peer.Is4():
			return nil, fmt.Errorf("peer address %s is not IPv4", i.where.peer)
		case p.Addr().Is6():
			dev += "6"
		}
		link, err := h.nl.LinkByName(dev)
		if err != nil {
			return nil, fmt.Errorf("look up tunnel device %s: %w", dev, err)
		}
		r.LinkIndex = link.Attrs().Index
		r.Encap = &ipEncap{dst: i.where.peer, src: h.cfg.TunnelLocal}
	default:
		r.Type = unix.RTN_BLACKHOLE
	}
	return r, nil
}

// setNextHop sets the next hop of r. An IPv6 next hop of link scope needs no
// onlink flag.
func setNextHop(r *netlink.Route, dst, next4, next6 netip.Addr) {
	if dst.Is6() {
		r.Gw = next6.AsSlice()
		return
	}
	r.Gw = next4.AsSlice()
	r.Flags = unix.RTNH_F_ONLINK
}

func (h *Host) deleteRoute(n sa.Slot, p netip.Prefix) error {
	err := h.nl.RouteDel(&netlink.Route{Dst: ipNet(p), Table: unix.RT_TABLE_MAIN, Protocol: routeProtocol, Priority: int(n), Type: unix.RTN_UNSPEC})
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove route of inner prefix %s of slot %d: %w", p, n, err)
	}
	return nil
}

// ownRoute is a route of ours that the kernel has.
type ownRoute struct {
	slot sa.Slot
	dst  netip.Prefix
}

func (h *Host) ownRoutes() ([]ownRoute, error) {
	var rs []netlink.Route
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		list, err := whole(func() ([]netlink.Route, error) {
			return h.nl.RouteListFiltered(family, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		rs = append(rs, list...)
	}
	var out []ownRoute
	for _, r := range rs {
		if r.Dst == nil || r.Priority < 1 || r.Priority > int(sa.MaxSlot) {
			continue
		}
		bits, _ := r.Dst.Mask.Size()
		a, ok := netip.AddrFromSlice(r.Dst.IP)
		if !ok {
			continue
		}
		out = append(out, ownRoute{sa.Slot(r.Priority), netip.PrefixFrom(a.Unmap(), bits)})
	}
	return out, nil
}

// pruneRoutes removes the routes of a slot that lead to none of its prefixes.
func (h *Host) pruneRoutes(i *inner) error {
	own, err := h.ownRoutes()
	if err != nil {
		return err
	}
	ps := i.prefixes()
	for _, r := range own {
		if r.slot == i.slot.Number && !slices.Contains(ps, r.dst) {
			if err := h.deleteRoute(r.slot, r.dst); err != nil {
				return err
			}
		}
	}
	return nil
}

// syncInner takes over the pools of d, removes the routes of other slots and
// repairs what is missing. Routes that an earlier daemon left are kept until
// SetInner says where they lead.
func (h *Host) syncInner(d Desired) error {
	h.innerMu.Lock()
	defer h.innerMu.Unlock()
	next := make(map[sa.Slot]*inner, len(d.Slots))
	for _, s := range d.Slots {
		i := h.inner[s.Number]
		if i == nil {
			i = &inner{}
		}
		if s.Foreign && i.where.kind == innerLocal {
			i.where = InnerNone
		}
		i.slot = s
		next[s.Number] = i
	}
	h.inner = next
	own, err := h.ownRoutes()
	if err != nil {
		return err
	}
	have := map[sa.Slot][]netip.Prefix{}
	for _, r := range own {
		i, ok := next[r.slot]
		if !ok || i.extraTold && !slices.Contains(i.prefixes(), r.dst) {
			if err := h.deleteRoute(r.slot, r.dst); err != nil {
				return err
			}
			continue
		}
		have[r.slot] = append(have[r.slot], r.dst)
	}
	var errs []error
	for _, i := range next {
		ps := i.prefixes()
		for _, p := range ps {
			if i.told || !slices.Contains(have[i.slot.Number], p) {
				errs = append(errs, h.replaceRoute(i, p))
			}
		}
		if i.slot.Foreign {
			continue
		}
		guard := ps
		if !i.extraTold {
			guard = slices.Concat(ps, have[i.slot.Number])
		}
		errs = append(errs, h.with(i.slot.Number, "set inner prefixes", func(s *state) error { return s.fence.setInner(guard) }))
	}
	return errors.Join(errs...)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// whole repeats a dump that changes interrupted.
func whole[T any](dump func() ([]T, error)) (out []T, err error) {
	for range 5 {
		if out, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return out, err
}

// ipEncap is a lightweight tunnel with an outer IPv4 header: `encap ip dst
// <dst> ttl 64`. The library knows no such type.
type ipEncap struct{ dst, src netip.Addr }

// Attributes of enum lwtunnel_ip_t.
const (
	lwtunnelIPDst = 2
	lwtunnelIPSrc = 3
	lwtunnelIPTTL = 4
)

// Type is LWTUNNEL_ENCAP_IP.
func (e *ipEncap) Type() int { return 2 }

// Encode returns the nested attributes.
func (e *ipEncap) Encode() ([]byte, error) {
	attr := func(b []byte, typ uint16, v []byte) []byte {
		b = binary.NativeEndian.AppendUint16(b, uint16(4+len(v)))
		b = append(binary.NativeEndian.AppendUint16(b, typ), v...)
		return append(b, make([]byte, -len(v)&3)...)
	}
	b := attr(nil, lwtunnelIPDst, e.dst.AsSlice())
	if e.src.IsValid() {
		b = attr(b, lwtunnelIPSrc, e.src.AsSlice())
	}
	return attr(b, lwtunnelIPTTL, []byte{64}), nil
}

// Decode is part of the interface; routes read from the kernel do not use it.
func (e *ipEncap) Decode([]byte) error {
	return errors.New("decode of an IP encapsulation is not supported")
}

func (e *ipEncap) String() string { return "ip dst " + e.dst.String() }

// Equal compares two encapsulations.
func (e *ipEncap) Equal(x netlink.Encap) bool {
	o, ok := x.(*ipEncap)
	return ok && *o == *e
}
