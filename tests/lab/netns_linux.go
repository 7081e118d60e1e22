package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// netnsDir is where `ip netns` looks for namespaces.
const netnsDir = "/run/netns"

// Netns is a named network namespace with a netlink handle inside it.
type Netns struct {
	Name string
	h    netns.NsHandle
	nl   *netlink.Handle
}

func newNetns(name string) (*Netns, error) {
	type result struct {
		h   netns.NsHandle
		err error
	}
	ch := make(chan result)
	go func() {
		// Never unlocked: the thread stays in the new namespace and dies.
		runtime.LockOSThread()
		h, err := netns.NewNamed(name)
		ch <- result{h, err}
	}()
	r := <-ch
	if r.err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", name, r.err)
	}
	nl, err := netlink.NewHandleAt(r.h, unix.NETLINK_ROUTE)
	if err != nil {
		r.h.Close()
		return nil, errors.Join(fmt.Errorf("open netlink in %s: %w", name, err), netns.DeleteNamed(name))
	}
	return &Netns{Name: name, h: r.h, nl: nl}, nil
}

func (n *Netns) close() error {
	n.nl.Close()
	n.h.Close()
	if err := netns.DeleteNamed(n.Name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete namespace %s: %w", n.Name, err)
	}
	return nil
}

// Do runs f on a thread inside the namespace. Sockets that f opens stay there.
func (n *Netns) Do(f func() error) error {
	ch := make(chan error)
	go func() {
		// Never unlocked: a thread that changed namespace is not used again.
		runtime.LockOSThread()
		if err := netns.Set(n.h); err != nil {
			ch <- fmt.Errorf("enter namespace %s: %w", n.Name, err)
			return
		}
		ch <- f()
	}()
	return <-ch
}

func (n *Netns) link(dev string) (netlink.Link, error) {
	l, err := n.nl.LinkByName(dev)
	if err != nil {
		return nil, fmt.Errorf("find link %s in %s: %w", dev, n.Name, err)
	}
	return l, nil
}

// deleteLink removes a device.
func (n *Netns) deleteLink(dev string) error {
	l, err := n.link(dev)
	if err == nil {
		err = n.nl.LinkDel(l)
	}
	if err != nil {
		return fmt.Errorf("delete %s in %s: %w", dev, n.Name, err)
	}
	return nil
}

func (n *Netns) setUp(dev string, up bool) error {
	l, err := n.link(dev)
	if err != nil {
		return err
	}
	set := n.nl.LinkSetDown
	if up {
		set = n.nl.LinkSetUp
	}
	if err := set(l); err != nil {
		return fmt.Errorf("set link %s in %s up=%t: %w", dev, n.Name, up, err)
	}
	return nil
}

func (n *Netns) addAddr(dev string, p netip.Prefix) error {
	l, err := n.link(dev)
	if err == nil {
		a := &netlink.Addr{IPNet: ipNet(p)}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		err = n.nl.AddrAdd(l, a)
	}
	if err != nil {
		return fmt.Errorf("add address %s to %s in %s: %w", p, dev, n.Name, err)
	}
	return nil
}

// route replaces the route to dst (the zero Prefix is the default route) by one
// over the gateways via, several sharing the traffic; src may be the zero Addr.
func (n *Netns) route(dst netip.Prefix, src netip.Addr, via ...netip.Addr) error {
	return n.routeMetric(dst, src, 0, via...)
}

func (n *Netns) routeMetric(dst netip.Prefix, src netip.Addr, metric int, via ...netip.Addr) error {
	r := netlink.Route{Protocol: unix.RTPROT_STATIC, Priority: metric}
	if dst.IsValid() {
		r.Dst = ipNet(dst)
	}
	if src.IsValid() {
		r.Src = src.AsSlice()
	}
	if len(via) == 1 {
		r.Gw = via[0].AsSlice()
	} else {
		for _, v := range via {
			r.MultiPath = append(r.MultiPath, &netlink.NexthopInfo{Gw: v.AsSlice()})
		}
	}
	if err := n.nl.RouteReplace(&r); err != nil {
		return fmt.Errorf("set route to %s via %v in %s: %w", dst, via, n.Name, err)
	}
	return nil
}

// unroute removes the route to dst over via that route has made.
func (n *Netns) unroute(dst netip.Prefix, via netip.Addr) error {
	if err := n.nl.RouteDel(&netlink.Route{Protocol: unix.RTPROT_STATIC, Dst: ipNet(dst), Gw: via.AsSlice()}); err != nil {
		return fmt.Errorf("remove route to %s via %s in %s: %w", dst, via, n.Name, err)
	}
	return nil
}

// nextHop is where packets for dst go from here; the zero Addr where there is no way.
func (n *Netns) nextHop(dst netip.Addr) (netip.Addr, error) {
	rs, err := n.nl.RouteGet(dst.AsSlice())
	switch {
	case errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.EHOSTUNREACH):
		return netip.Addr{}, nil
	case err != nil:
		return netip.Addr{}, fmt.Errorf("look up the way to %s in %s: %w", dst, n.Name, err)
	}
	for _, r := range rs {
		if a, ok := netip.AddrFromSlice(r.Gw); ok {
			return a.Unmap(), nil
		}
	}
	return netip.Addr{}, nil
}

// staticRoutes returns the routes over dev that the lab made.
func (n *Netns) staticRoutes(dev string) ([]netlink.Route, error) {
	l, err := n.link(dev)
	if err != nil {
		return nil, err
	}
	rs, err := n.nl.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: l.Attrs().Index, Protocol: unix.RTPROT_STATIC},
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("list routes over %s in %s: %w", dev, n.Name, err)
	}
	return rs, nil
}

// reset deletes every interface but keep and every rule and route that is not the
// kernel's or on an interface kept: what a reboot would leave behind.
func (n *Netns) reset(keep []string) error {
	ls, err := n.nl.LinkList()
	if err != nil {
		return fmt.Errorf("list links in %s: %w", n.Name, err)
	}
	for _, l := range ls {
		// Devices that modules put into every namespace (tunl0, sit0) stay.
		if slices.Contains(keep, l.Attrs().Name) {
			continue
		}
		if err := n.nl.LinkDel(l); err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("delete link %s in %s: %w", l.Attrs().Name, n.Name, err)
		}
	}
	rs, err := n.nl.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list rules in %s: %w", n.Name, err)
	}
	for _, r := range rs {
		// The kernel's own: local at 0, main at 32766, default at 32767.
		if r.Priority <= 0 || r.Priority >= 32766 {
			continue
		}
		if err := n.nl.RuleDel(&r); err != nil {
			return fmt.Errorf("delete rule %d in %s: %w", r.Priority, n.Name, err)
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := n.nl.RouteListFiltered(family, &netlink.Route{}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return fmt.Errorf("list routes in %s: %w", n.Name, err)
		}
		for _, r := range routes {
			if r.Protocol == unix.RTPROT_KERNEL || r.Protocol == unix.RTPROT_STATIC && r.Table == unix.RT_TABLE_MAIN {
				continue
			}
			if err := n.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("delete route to %v in %s: %w", r.Dst, n.Name, err)
			}
		}
	}
	return nil
}

// flushXFRM removes every SA and policy; a kernel without XFRM has none.
func (n *Netns) flushXFRM() error {
	h, err := netlink.NewHandleAt(n.h, unix.NETLINK_XFRM)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil
	}
	if err == nil {
		defer h.Close()
		err = errors.Join(h.XfrmStateFlush(0), h.XfrmPolicyFlush())
	}
	// ESRCH: there was none.
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("flush SAs in %s: %w", n.Name, err)
	}
	return nil
}

// clearFilters removes the clsact qdisc of dev with all filters.
func (n *Netns) clearFilters(dev string) error {
	l, err := n.link(dev)
	if err != nil {
		return err
	}
	q := &netlink.GenericQdisc{QdiscType: "clsact", QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := n.nl.QdiscDel(q); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove filters of %s in %s: %w", dev, n.Name, err)
	}
	return nil
}

// nodeSysctls make a namespace forward like a router whose paths are asymmetric.
var nodeSysctls = [][2]string{
	{"net/ipv4/ip_forward", "1"},
	{"net/ipv4/conf/all/rp_filter", "0"},
	{"net/ipv4/conf/default/rp_filter", "0"},
	{"net/ipv4/conf/all/send_redirects", "0"},
	{"net/ipv4/conf/default/send_redirects", "0"},
	{"net/ipv4/conf/all/accept_redirects", "0"},
	{"net/ipv4/conf/default/accept_redirects", "0"},
	{"net/ipv4/conf/all/ignore_routes_with_linkdown", "1"},
	{"net/ipv4/conf/default/ignore_routes_with_linkdown", "1"},
	{"net/ipv4/icmp_ratelimit", "0"},
	{"net/ipv6/conf/all/forwarding", "1"},
	// A cable that was pulled comes back with its addresses, as with IPv4.
	{"net/ipv6/conf/all/keep_addr_on_down", "1"},
	{"net/ipv6/conf/default/keep_addr_on_down", "1"},
	{"net/ipv6/conf/default/accept_dad", "0"},
}

func (n *Netns) sysctl(kv ...[2]string) error {
	return n.Do(func() error {
		for _, s := range kv {
			if err := os.WriteFile(filepath.Join("/proc/sys", s[0]), []byte(s[1]), 0o644); err != nil {
				return fmt.Errorf("set sysctl %s in %s: %w", strings.ReplaceAll(s[0], "/", "."), n.Name, err)
			}
		}
		return nil
	})
}

// connect lays a veth link between two namespaces, both ends up, with addresses.
// index is the interface index at a; b's is small and so differs: the kernel reports
// the loss of a carrier at once only where the two differ, else up to a second late.
func connect(a *Netns, devA string, addrA netip.Prefix, b *Netns, devB string, addrB netip.Prefix, index int) error {
	v := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: devA, Index: index, Namespace: netlink.NsFd(a.h), TxQLen: 1000},
		PeerName:  devB, PeerNamespace: netlink.NsFd(b.h),
	}
	if err := netlink.LinkAdd(v); err != nil {
		return fmt.Errorf("lay link %s/%s to %s/%s: %w", a.Name, devA, b.Name, devB, err)
	}
	// Addresses after both ends are up: a route made on a link without carrier is
	// dead until the kernel gets round to reporting the carrier.
	if err := errors.Join(a.setUp(devA, true), b.setUp(devB, true)); err != nil {
		return err
	}
	return errors.Join(a.addAddr(devA, addrA), b.addAddr(devB, addrB))
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
