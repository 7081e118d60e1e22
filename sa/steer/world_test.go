package steer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/sa"
)

// world is a client, an appliance (the test's own namespace) and two slots:
//
//	client c0 -- u0 appliance scv1 -- uplink slot 1
//	                          scv2 -- uplink slot 2
type world struct {
	t      testing.TB
	host   netns.NsHandle
	client netns.NsHandle
	slots  map[sa.Slot]netns.NsHandle
	local  map[sa.Slot]Action
	pins   string
}

var (
	clientAddr4, hostAddr4 = netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.1")
	clientAddr6, hostAddr6 = netip.MustParseAddr("2001:db8:c::2"), netip.MustParseAddr("2001:db8:c::1")
)

func newWorld(t testing.TB) *world {
	inNetns(t)
	w := &world{t: t, slots: map[sa.Slot]netns.NsHandle{}, local: map[sa.Slot]Action{}, pins: pinDir(t)}
	w.host = w.must(netns.Get())
	w.sysctls()
	w.client = w.namespace()
	w.veth(w.client, "c0", "u0", netip.PrefixFrom(clientAddr4, 24), netip.PrefixFrom(hostAddr4, 24), netip.PrefixFrom(clientAddr6, 64), netip.PrefixFrom(hostAddr6, 64))
	w.route(w.client, vip4, hostAddr4, "c0")
	w.route(w.client, vip6, hostAddr6, "c0")
	for n := sa.Slot(1); n <= 2; n++ {
		w.slot(n)
	}
	return w
}

// slot adds slot n to the appliance in which the test's thread is.
func (w *world) slot(n sa.Slot) {
	w.t.Helper()
	ns := w.namespace()
	w.slots[n] = ns
	far4, near4 := netip.AddrFrom4([4]byte{10, 9, byte(n), 2}), netip.AddrFrom4([4]byte{10, 9, byte(n), 1})
	far6, near6 := netip.MustParseAddr(fmt.Sprintf("fd00:%d::2", n)), netip.MustParseAddr(fmt.Sprintf("fd00:%d::1", n))
	dev := fmt.Sprintf("scv%d", n)
	slotMAC, hostMAC, index := w.veth(ns, "uplink", dev, netip.PrefixFrom(far4, 24), netip.PrefixFrom(near4, 24), netip.PrefixFrom(far6, 64), netip.PrefixFrom(near6, 64))
	for _, v := range []netip.Addr{vip4, vip6} {
		w.addr(ns, "lo", netip.PrefixFrom(v, v.BitLen()))
	}
	w.route(ns, clientAddr4, near4, "uplink")
	w.route(ns, clientAddr6, near6, "uplink")
	w.local[n] = Action{Kind: Local, Ifindex: index, SlotMAC: slotMAC, HostMAC: hostMAC, NextHop4: far4, NextHop6: far6}
}

func (w *world) must(ns netns.NsHandle, err error) netns.NsHandle {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { ns.Close() })
	return ns
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// at runs fn in ns on the test's thread.
func (w *world) at(ns netns.NsHandle, fn func()) {
	w.t.Helper()
	w.check(netns.Set(ns))
	defer func() { w.check(netns.Set(w.host)) }()
	fn()
}

func (w *world) namespace() netns.NsHandle {
	w.t.Helper()
	ns := w.must(netns.New()) // switches to it
	w.check(netlink.LinkSetUp(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: 1}}))
	w.sysctls()
	w.check(netns.Set(w.host))
	return ns
}

func (w *world) sysctls() {
	for _, f := range []string{"ipv4/conf/all/rp_filter=0", "ipv4/conf/default/rp_filter=0", "ipv4/ip_forward=1", "ipv6/conf/all/forwarding=1", "ipv6/conf/default/accept_dad=0", "ipv6/conf/default/disable_ipv6=0", "ipv6/conf/all/disable_ipv6=0"} {
		name, value, _ := strings.Cut(f, "=")
		if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644); err != nil && !os.IsNotExist(err) {
			w.t.Fatal(err)
		}
	}
}

// veth joins dev in ns with near in the appliance, with addresses and permanent
// neighbours, and returns both MAC addresses and the appliance's ifindex.
func (w *world) veth(ns netns.NsHandle, dev, near string, far4, near4, far6, near6 netip.Prefix) (far, host [6]byte, index int) {
	w.t.Helper()
	w.check(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: near}, PeerName: dev, PeerNamespace: netlink.NsFd(ns)}))
	mac := func(name string) (m [6]byte, i int) {
		l, err := netlink.LinkByName(name)
		w.check(err)
		w.check(netlink.LinkSetUp(l))
		return [6]byte(l.Attrs().HardwareAddr), l.Attrs().Index
	}
	host, index = mac(near)
	w.at(ns, func() { far, _ = mac(dev) })
	w.addr(w.host, near, near4)
	w.addr(w.host, near, near6)
	w.addr(ns, dev, far4)
	w.addr(ns, dev, far6)
	for _, p := range []struct {
		ns   netns.NsHandle
		dev  string
		addr netip.Addr
		mac  [6]byte
	}{{w.host, near, far4.Addr(), far}, {w.host, near, far6.Addr(), far}, {ns, dev, near4.Addr(), host}, {ns, dev, near6.Addr(), host}} {
		w.at(p.ns, func() {
			l, err := netlink.LinkByName(p.dev)
			w.check(err)
			w.check(netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: p.addr.AsSlice(), HardwareAddr: p.mac[:], State: netlink.NUD_PERMANENT}))
		})
	}
	return far, host, index
}

func (w *world) addr(ns netns.NsHandle, dev string, p netip.Prefix) {
	w.t.Helper()
	w.at(ns, func() {
		l, err := netlink.LinkByName(dev)
		w.check(err)
		a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
		if p.Addr().Is6() {
			a.Flags = unix.IFA_F_NODAD
		}
		w.check(netlink.AddrAdd(l, a))
	})
}

func (w *world) route(ns netns.NsHandle, dst, via netip.Addr, dev string) {
	w.t.Helper()
	w.routeNet(ns, hostPrefix(dst), via, dev)
}

func (w *world) routeNet(ns netns.NsHandle, dst *net.IPNet, via netip.Addr, dev string) {
	w.t.Helper()
	w.at(ns, func() {
		l, err := netlink.LinkByName(dev)
		w.check(err)
		w.check(netlink.RouteReplace(&netlink.Route{Dst: dst, Gw: via.AsSlice(), LinkIndex: l.Attrs().Index}))
	})
}

// desired steers both slots locally; slot 3 is known and dropped.
func (w *world) desired(d Delivery) Desired {
	return Desired{
		VIPs: []netip.Addr{vip4, vip6}, Uplinks: []string{"u0"}, Delivery: d,
		Slots:   map[sa.Slot]SlotSteer{1: {w.local[1], w.local[1]}, 2: {w.local[2], w.local[2]}, 3: {}},
		Default: 1, NewClients: []sa.Slot{2}, LocalActive: []sa.Slot{1, 2},
	}
}

func (w *world) steer(d Desired) *Steer {
	w.t.Helper()
	s, err := New(Config{PinDir: w.pins})
	w.check(err)
	w.t.Cleanup(func() { s.Close() })
	w.check(s.Set(d))
	return s
}

// listen opens a UDP socket in ns; dial one that sends from ns.
func (w *world) listen(ns netns.NsHandle, at netip.AddrPort) *net.UDPConn {
	w.t.Helper()
	var c *net.UDPConn
	w.at(ns, func() {
		var err error
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		w.check(err)
	})
	w.t.Cleanup(func() { c.Close() })
	return c
}

func (w *world) dial(ns netns.NsHandle, from, to netip.AddrPort) *net.UDPConn {
	w.t.Helper()
	var c *net.UDPConn
	w.at(ns, func() {
		var err error
		c, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(to))
		w.check(err)
	})
	w.t.Cleanup(func() { c.Close() })
	return c
}

// raw opens a raw IP socket; what it receives starts at the IPv4 header, or at
// the IPv6 payload.
func (w *world) raw(ns netns.NsHandle, network string, at netip.Addr) *net.IPConn {
	w.t.Helper()
	var c *net.IPConn
	w.at(ns, func() {
		var err error
		c, err = net.ListenIP(network, &net.IPAddr{IP: at.AsSlice()})
		w.check(err)
	})
	w.t.Cleanup(func() { c.Close() })
	return c
}

// pollEvery: user-mode Linux now and then loses the wake-up that a datagram in
// the socket's queue should cause, so readers look again.
const pollEvery = 50 * time.Millisecond

// receive waits for one datagram and returns its length.
func receive(t testing.TB, c net.Conn) int {
	t.Helper()
	buf := make([]byte, 65536)
	var n int
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		c.SetReadDeadline(time.Now().Add(pollEvery))
		if n, err = c.Read(buf); err == nil {
			return n
		}
	}
	t.Errorf("nothing arrived: %v", err)
	return n
}

// silent: nothing is in the queue. The caller has seen the counter of the drop.
func silent(t testing.TB, c syscall.Conn) {
	t.Helper()
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	rc.Control(func(fd uintptr) {
		n, _, err := unix.Recvfrom(int(fd), make([]byte, 2048), unix.MSG_DONTWAIT)
		if !errors.Is(err, unix.EAGAIN) {
			t.Errorf("received %d octets (%v), want none", n, err)
		}
	})
}

// eventually: a receiver's softirq may run a little after the send.
func eventually(t testing.TB, what string, got func() uint64, want uint64) {
	t.Helper()
	end := time.Now().Add(10 * time.Second)
	for got() != want && time.Now().Before(end) {
		time.Sleep(time.Millisecond)
	}
	if n := got(); n != want {
		t.Errorf("%s: %d, want %d", what, n, want)
	}
}

// gather runs the event task on its own and returns its events.
func gather(t testing.TB, s *Steer) <-chan Event {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	evs, ended := make(chan Event, 1024), make(chan error, 1)
	go func() { ended <- s.Run(ctx, func(e Event) { evs <- e }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("event task ended with %v", err)
		}
	})
	return evs
}

func next(t testing.TB, evs <-chan Event) Event {
	t.Helper()
	select {
	case e := <-evs:
		return e
	case <-time.After(5 * time.Second):
		t.Fatal("no event")
		return Event{}
	}
}
