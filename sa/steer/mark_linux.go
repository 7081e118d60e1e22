package steer

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/sa"
)

// Policy routing for DeliverMark: per local slot one rule per family, mark to a
// table of the same number, and there a route per VIP. All carry routeProtocol,
// by which stale ones are found.
const (
	markBase      = 0x5c000000 // MARK in bpf/types.h
	routeProtocol = 92
	rulePriority  = 5092
)

var families = []int{unix.AF_INET, unix.AF_INET6}

// addMarks puts routing in place for the local slots of d, where its delivery
// needs it, and returns the tables.
func (s *Steer) addMarks(d *Desired) (map[int]bool, error) {
	tables := map[int]bool{}
	s.marked = map[sa.Slot]steerAction{}
	if d.Delivery != DeliverMark {
		return tables, nil
	}
	for slot, st := range d.Slots {
		if err := s.markSlot(d.VIPs, slot, st); err != nil {
			return nil, err
		}
		if _, ok := s.marked[slot]; ok {
			tables[markBase|int(slot)] = true
		}
	}
	return tables, nil
}

// markSlot adds the routing of one slot where it is local. It stays until the
// next Set, unused, when the slot leaves.
func (s *Steer) markSlot(vips []netip.Addr, slot sa.Slot, st SlotSteer) error {
	a := st.Uplink
	if a.Kind != Local {
		a = st.Peer
	}
	if a.Kind != Local || s.marked[slot] == a.encode() {
		return nil
	}
	table := markBase | int(slot)
	for _, f := range families {
		mask := ^uint32(0)
		r := netlink.NewRule()
		r.Family, r.Priority, r.Mark, r.Mask, r.Table, r.Protocol = f, rulePriority, uint32(table), &mask, table, routeProtocol
		if err := s.nl.RuleAdd(r); err != nil && !errors.Is(err, unix.EEXIST) {
			return featureOf("policy routing", err, "add rule of slot %d", slot)
		}
	}
	for _, v := range vips {
		hop := a.NextHop4
		if v.Is6() {
			hop = a.NextHop6
		}
		r := &netlink.Route{Dst: hostPrefix(v), Gw: hop.AsSlice(), LinkIndex: a.Ifindex, Table: table, Protocol: routeProtocol, Flags: int(netlink.FLAG_ONLINK)}
		if err := s.nl.RouteReplace(r); err != nil {
			return fmt.Errorf("add route of slot %d to %s: %w", slot, v, err)
		}
	}
	s.marked[slot] = a.encode()
	return nil
}

func hostPrefix(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

// removeMarks removes our rules and routes except those of tables and vips.
func removeMarks(h *netlink.Handle, tables map[int]bool, vips []netip.Addr) error {
	keep := map[string]bool{}
	for _, v := range vips {
		keep[hostPrefix(v).String()] = true
	}
	for _, f := range families {
		rules, err := h.RuleList(f)
		if err != nil {
			if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
				continue
			}
			return fmt.Errorf("list rules: %w", err)
		}
		for _, r := range rules {
			if r.Protocol != routeProtocol || tables[r.Table] {
				continue
			}
			r.Family = f
			if err := h.RuleDel(&r); err != nil && !gone(err) {
				return fmt.Errorf("delete rule of table %d: %w", r.Table, err)
			}
		}
		filter := &netlink.Route{Protocol: routeProtocol, Table: unix.RT_TABLE_UNSPEC}
		routes, err := h.RouteListFiltered(f, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			if tables[r.Table] && r.Dst != nil && keep[r.Dst.String()] {
				continue
			}
			if err := h.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) && !gone(err) {
				return fmt.Errorf("delete route in table %d: %w", r.Table, err)
			}
		}
	}
	return nil
}

// CleanUp removes, in the calling thread's network namespace, everything that a
// Steer with this configuration can have left: filters, tunnels, rules, routes
// and pins. After it packets for the VIP are no longer steered.
func CleanUp(cfg Config) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	var errs []error
	for _, l := range links {
		errs = append(errs, detach(h, l))
	}
	errs = append(errs, removeTunnels(h, links), removeMarks(h, nil, nil))
	pins, err := filepath.Glob(filepath.Join(cfg.PinDir, "steer-*"))
	errs = append(errs, err)
	for _, p := range pins {
		errs = append(errs, removePins(p))
	}
	return errors.Join(errs...)
}
