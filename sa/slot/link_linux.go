package slot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// findLink returns nil where there is no such device.
func findLink(h *netlink.Handle, name string) (netlink.Link, error) {
	l, err := h.LinkByName(name)
	if _, missing := errors.AsType[netlink.LinkNotFoundError](err); missing {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look up device %s: %w", name, err)
	}
	return l, nil
}

// ensureVeth makes the pair, down, unless it is there; it returns the slot's
// end.
func (h *Host) ensureVeth(s *state) (netlink.Link, error) {
	name := vethName(s.n)
	host, err := findLink(h.nl, name)
	if err != nil {
		return nil, err
	}
	slot, err := findLink(s.nl, uplinkName)
	if err != nil {
		return nil, err
	}
	if host != nil && slot != nil && paired(host, slot) &&
		bytes.Equal(host.Attrs().HardwareAddr, mac(s.n, 0)) && bytes.Equal(slot.Attrs().HardwareAddr, mac(s.n, 1)) {
		s.hostIndex, s.slotIndex = host.Attrs().Index, slot.Attrs().Index
		return slot, nil
	}
	if host != nil {
		if err := h.nl.LinkDel(host); err != nil {
			return nil, fmt.Errorf("remove stray device %s: %w", name, err)
		}
		// Its peer went along.
		if slot, err = findLink(s.nl, uplinkName); err != nil {
			return nil, err
		}
	}
	if slot != nil {
		if err := s.nl.LinkDel(slot); err != nil {
			return nil, fmt.Errorf("remove stray device %s: %w", uplinkName, err)
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = name, mac(s.n, 0), h.cfg.MTU
	v := netlink.NewVeth(attrs)
	v.PeerName, v.PeerHardwareAddr, v.PeerNamespace, v.PeerMTU = uplinkName, mac(s.n, 1), netlink.NsFd(s.ns.Fd()), uint32(h.cfg.MTU)
	if err := h.nl.LinkAdd(v); err != nil {
		return nil, fmt.Errorf("create veth %s: %w", name, err)
	}
	if host, err = h.nl.LinkByName(name); err != nil {
		return nil, fmt.Errorf("look up device %s: %w", name, err)
	}
	if slot, err = s.nl.LinkByName(uplinkName); err != nil {
		return nil, fmt.Errorf("look up device %s: %w", uplinkName, err)
	}
	s.hostIndex, s.slotIndex = host.Attrs().Index, slot.Attrs().Index
	return slot, nil
}

// paired reports whether a and b, in different namespaces, are the two ends of
// one veth.
func paired(a, b netlink.Link) bool {
	return a.Type() == "veth" && b.Type() == "veth" &&
		a.Attrs().ParentIndex == b.Attrs().Index && b.Attrs().ParentIndex == a.Attrs().Index
}

// ensureUp sets MTU and neighbours of one end and takes it up.
func (h *Host) ensureUp(nlh *netlink.Handle, index int, peer net.HardwareAddr, next4, next6 netip.Addr) error {
	link, err := nlh.LinkByIndex(index)
	if err != nil {
		return fmt.Errorf("look up device %d: %w", index, err)
	}
	name := link.Attrs().Name
	if link.Attrs().MTU != h.cfg.MTU {
		if err := nlh.LinkSetMTU(link, h.cfg.MTU); err != nil {
			return fmt.Errorf("set MTU of %s: %w", name, err)
		}
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := nlh.LinkSetUp(link); err != nil {
			return fmt.Errorf("set %s up: %w", name, err)
		}
	}
	for _, next := range []netip.Addr{next4, next6} {
		err := nlh.NeighSet(&netlink.Neigh{LinkIndex: index, IP: next.AsSlice(), HardwareAddr: peer, State: netlink.NUD_PERMANENT})
		if errors.Is(err, unix.EAFNOSUPPORT) {
			continue // no IPv6
		}
		if err != nil {
			return fmt.Errorf("set neighbour %s of %s: %w", next, name, err)
		}
	}
	return nil
}

// readyWait bounds the wait for what the kernel does in its own time: it
// batches changes of carrier, once a second at worst, and adds the local route
// of an IPv6 address from a work queue.
const readyWait = 10 * time.Second

// awaitRunning waits until a device that is up also transmits. Until then the
// kernel drops what it is given.
func awaitRunning(ctx context.Context, nlh *netlink.Handle, index int) error {
	err := poll(ctx, func() (bool, error) {
		link, err := nlh.LinkByIndex(index)
		return err == nil && link.Attrs().Flags&net.FlagRunning != 0, err
	})
	if err != nil {
		return fmt.Errorf("wait for carrier of device %d: %w", index, err)
	}
	return nil
}

// awaitLocal waits until packets to an address of the namespace are delivered.
// Until then they are forwarded, back to where they came from.
func awaitLocal(ctx context.Context, nlh *netlink.Handle, a netip.Addr) error {
	err := poll(ctx, func() (bool, error) {
		rs, err := nlh.RouteGet(a.AsSlice())
		if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) {
			return false, nil
		}
		return len(rs) == 1 && rs[0].Type == unix.RTN_LOCAL, err
	})
	if err != nil {
		return fmt.Errorf("wait for local route of %s: %w", a, err)
	}
	return nil
}

func poll(ctx context.Context, ready func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	for {
		if ok, err := ready(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// ensureVIPs makes the VIPs the addresses of the slot's lo.
func ensureVIPs(s *state, vips []netip.Addr) error {
	lo, err := s.nl.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("look up lo: %w", err)
	}
	if lo.Attrs().Flags&net.FlagUp == 0 {
		if err := s.nl.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
	}
	have, err := whole(func() ([]netlink.Addr, error) { return s.nl.AddrList(lo, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses of lo: %w", err)
	}
	var found []netip.Addr
	for _, a := range have {
		ip, _ := netip.AddrFromSlice(a.IP)
		if ip = ip.Unmap(); ip.IsLoopback() {
			continue
		}
		if ones, bits := a.Mask.Size(); ones == bits && slices.Contains(vips, ip) {
			found = append(found, ip)
			continue
		}
		if err := s.nl.AddrDel(lo, &a); err != nil {
			return fmt.Errorf("remove address %s: %w", a.IPNet, err)
		}
	}
	for _, v := range vips {
		if slices.Contains(found, v) {
			continue
		}
		a := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(v, v.BitLen()))}
		if v.Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := s.nl.AddrAdd(lo, a); err != nil {
			return fmt.Errorf("add VIP %s: %w", v, err)
		}
	}
	return nil
}

// ensureDefaults makes the slot's default routes lead to the host namespace,
// with the first VIP of the family as the source of what the slot itself sends
// (ICMP errors).
func ensureDefaults(s *state, vips []netip.Addr) error {
	for _, d := range []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)} {
		r := &netlink.Route{Dst: ipNet(d), LinkIndex: s.slotIndex, Table: unix.RT_TABLE_MAIN, Protocol: routeProtocol}
		family := unix.AF_INET
		if d.Addr().Is6() {
			family = unix.AF_INET6
		}
		setNextHop(r, d.Addr(), hostNext4, hostNext6)
		if i := slices.IndexFunc(vips, func(v netip.Addr) bool { return v.Is6() == d.Addr().Is6() }); i >= 0 {
			r.Src = vips[i].AsSlice()
		}
		have, err := whole(func() ([]netlink.Route, error) {
			return s.nl.RouteListFiltered(family, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		if slices.ContainsFunc(have, func(x netlink.Route) bool {
			return x.LinkIndex == r.LinkIndex && x.Gw.Equal(r.Gw) && x.Src.Equal(r.Src) && (x.Dst == nil || x.Dst.IP.IsUnspecified())
		}) {
			continue
		}
		err = s.nl.RouteReplace(r)
		if family == unix.AF_INET6 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP)) {
			continue // no IPv6
		}
		if err != nil {
			return fmt.Errorf("set default route via %s: %w", r.Gw, err)
		}
	}
	return nil
}
