package steer

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/tests/uml"
)

// fleet is three appliances behind a router, slot n on appliance n. Clients
// enter at appliance 1.
//
//	client c0 -- rc router r1 -- n0 appliance 1 scv1 -- slot 1
//	                       r2 -- n0 appliance 2 scv2 -- slot 2
//	                       r3 -- n0 appliance 3 scv3 -- slot 3
type fleet struct {
	*world // the router's namespace is its host
	apps   [4]*appliance
}

type appliance struct {
	*world
	steer *Steer
}

func appAddr(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(n), 2}) }

// newFleet needs devices that load as modules; a probe tells.
func newFleet(t testing.TB) *fleet {
	inNetns(t)
	for _, l := range []netlink.Link{
		&netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: "probe4"}, FlowBased: true},
		&netlink.Gretun{LinkAttrs: netlink.LinkAttrs{Name: "probe6"}, FlowBased: true, Local: net.IPv4zero},
	} {
		if err := netlink.LinkAdd(l); err != nil {
			if uml.InGuest() {
				t.Fatal(err)
			}
			t.Skipf("missing capability device type %s: %v", l.Type(), err)
		}
		if err := netlink.LinkDel(l); err != nil {
			t.Fatal(err)
		}
	}
	f := &fleet{world: &world{t: t}}
	f.host = f.must(netns.Get())
	f.sysctls()
	f.client = f.namespace()
	f.veth(f.client, "c0", "rc", netip.PrefixFrom(clientAddr4, 24), netip.PrefixFrom(hostAddr4, 24), netip.PrefixFrom(clientAddr6, 64), netip.PrefixFrom(hostAddr6, 64))
	f.route(f.client, vip4, hostAddr4, "c0")
	f.route(f.client, vip6, hostAddr6, "c0")
	for n := 1; n <= 3; n++ {
		a := &appliance{world: &world{t: t, host: f.namespace(), slots: map[sa.Slot]netns.NsHandle{}, local: map[sa.Slot]Action{}, pins: pinDir(t)}}
		f.apps[n] = a
		near4, near := netip.AddrFrom4([4]byte{10, 1, byte(n), 1}), fmt.Sprintf("r%d", n)
		far6, near6 := netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::2", n)), netip.MustParseAddr(fmt.Sprintf("2001:db8:%d::1", n))
		f.veth(a.host, "n0", near, netip.PrefixFrom(appAddr(n), 24), netip.PrefixFrom(near4, 24), netip.PrefixFrom(far6, 64), netip.PrefixFrom(near6, 64))
		all4 := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
		f.routeNet(a.host, all4, near4, "n0")
		f.routeNet(a.host, &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}, near6, "n0")
		if n == 1 {
			f.route(f.host, vip4, appAddr(1), near)
			f.route(f.host, vip6, far6, near)
		}
		f.at(a.host, func() {
			a.slot(sa.Slot(n))
			var err error
			a.steer, err = New(Config{PinDir: a.pins})
			f.check(err)
			t.Cleanup(func() { a.steer.Close() })
		})
	}
	return f
}

// set steers every slot to its appliance, from uplinks and from peers.
func (f *fleet) set(n int, change func(*Desired)) {
	f.t.Helper()
	a := f.apps[n]
	d := Desired{
		VIPs: []netip.Addr{vip4, vip6}, Uplinks: []string{"n0"}, Tunnel: "sctun",
		Slots:       map[sa.Slot]SlotSteer{},
		LocalActive: []sa.Slot{sa.Slot(n)},
		Peers:       []netip.Addr{appAddr(1), appAddr(2), appAddr(3)},
	}
	for s := 1; s <= 3; s++ {
		if s == n {
			d.Slots[sa.Slot(s)] = SlotSteer{a.local[sa.Slot(s)], a.local[sa.Slot(s)]}
		} else {
			d.Slots[sa.Slot(s)] = SlotSteer{Uplink: Action{Kind: Remote, Peer: appAddr(s)}}
		}
	}
	if change != nil {
		change(&d)
	}
	f.at(a.host, func() { f.check(a.steer.Set(d)) })
}

func (a *appliance) reason(r Reason) func() uint64 {
	return func() uint64 { return count(a.t, a.steer, r) }
}

func (f *fleet) sizes(v netip.Addr) []int {
	full := 1500 - 20 - 8 // a packet of exactly the uplink's MTU, with DF
	if v.Is6() {
		full -= 20
	}
	return []int{200, full, 4000}
}

func TestTunnel(t *testing.T) {
	f := newFleet(t)
	f.set(1, nil)
	f.set(3, nil)
	for _, v := range []struct{ vip, client netip.Addr }{{vip4, clientAddr4}, {vip6, clientAddr6}} {
		in := f.listen(f.apps[2].slots[2], natPort(v.vip))
		out := f.dial(f.client, netip.AddrPortFrom(v.client, 40001), natPort(v.vip))
		for _, d := range deliveries {
			f.set(2, func(w *Desired) { w.Delivery = d })
			for _, n := range f.sizes(v.vip) {
				for range 3 {
					if _, err := out.Write(esp(2, n)); err != nil {
						t.Errorf("delivery %s: send %d octets: %v", d, n, err)
					}
					if got := receive(t, in); got != n {
						t.Errorf("delivery %s: %d octets of %d", d, got, n)
					}
				}
			}
		}
		in.Close()
		out.Close()
	}
	h1, err := f.apps[1].steer.SlotHits(2)
	h2, err2 := f.apps[2].steer.SlotHits(2)
	// Per family and delivery 9 datagrams, of which 3 make 3 fragments.
	if want := uint64(2 * 3 * (6 + 9)); err != nil || err2 != nil || h1.Remote != want || h2.LocalPeer != want {
		t.Errorf("hits %+v at 1, %+v at 2, want %d", h1, h2, want)
	}
	for n := 1; n <= 2; n++ {
		f.at(f.apps[n].host, func() {
			for _, name := range []string{"sctun", "sctun6"} {
				l, err := netlink.LinkByName(name)
				f.check(err)
				if l.Attrs().MTU != 1500 {
					t.Errorf("MTU of %s is %d", name, l.Attrs().MTU)
				}
			}
		})
	}
}

// TestTunnelLocalAddress: the outer source is what peers know us by.
func TestTunnelLocalAddress(t *testing.T) {
	f := newFleet(t)
	own := netip.MustParseAddr("10.255.0.1")
	f.addr(f.apps[1].host, "lo", netip.PrefixFrom(own, 32))
	f.set(1, func(d *Desired) { d.Local = own })
	f.set(2, func(d *Desired) { d.Peers = []netip.Addr{own} })
	for _, v := range []struct{ vip, client netip.Addr }{{vip4, clientAddr4}, {vip6, clientAddr6}} {
		in := f.listen(f.apps[2].slots[2], natPort(v.vip))
		out := f.dial(f.client, netip.AddrPortFrom(v.client, 40001), natPort(v.vip))
		out.Write(esp(2, 100))
		receive(t, in)
	}
}

// TestSecondHop: a slot moved from 2 to 3 while 1 still sends to 2.
func TestSecondHop(t *testing.T) {
	f := newFleet(t)
	f.set(1, func(d *Desired) { d.Slots[3] = SlotSteer{Uplink: Action{Kind: Remote, Peer: appAddr(2)}} })
	f.set(2, func(d *Desired) {
		on := Action{Kind: Remote, Peer: appAddr(3)}
		d.Slots[3] = SlotSteer{Uplink: on, Peer: on}
	})
	f.set(3, nil)
	third := f.apps[3]
	for _, v := range []struct{ vip, client netip.Addr }{{vip4, clientAddr4}, {vip6, clientAddr6}} {
		in := f.listen(third.slots[3], natPort(v.vip))
		out := f.dial(f.client, netip.AddrPortFrom(v.client, 40001), natPort(v.vip))
		for _, d := range deliveries {
			f.set(3, func(w *Desired) { w.Delivery = d })
			for _, n := range f.sizes(v.vip) {
				out.Write(esp(3, n))
				if got := receive(t, in); got != n {
					t.Errorf("delivery %s: %d octets of %d", d, got, n)
				}
			}
		}
		// Everyone says somebody else has it: the third tunnel is not taken.
		before := third.reason(ReasonHops)()
		back := Action{Kind: Remote, Peer: appAddr(2)}
		f.set(3, func(d *Desired) { d.Slots[3] = SlotSteer{Uplink: back, Peer: back} })
		for range 5 {
			out.Write(esp(3, 100))
		}
		eventually(t, "packets stopped after two tunnels", third.reason(ReasonHops), before+5)
		silent(t, in)
	}
}

// TestTunnelFromStranger: the same packets, but 2 does not know 1.
func TestTunnelFromStranger(t *testing.T) {
	f := newFleet(t)
	f.set(1, nil)
	f.set(2, func(d *Desired) { d.Peers = []netip.Addr{appAddr(3)} })
	for i, v := range []struct{ vip, client netip.Addr }{{vip4, clientAddr4}, {vip6, clientAddr6}} {
		in := f.listen(f.apps[2].slots[2], natPort(v.vip))
		out := f.dial(f.client, netip.AddrPortFrom(v.client, 40001), natPort(v.vip))
		out.Write(esp(2, 100))
		eventually(t, "packets from a stranger", f.apps[2].reason(ReasonNotPeer), uint64(i+1))
		silent(t, in)
	}
}

// TestInner: decrypted packets pass a tunnel only towards inner prefixes.
func TestInner(t *testing.T) {
	f := newFleet(t)
	f.set(1, nil)
	for _, v := range []struct {
		dev      string
		from, to netip.Addr
		prefix   string
	}{
		{"sctun", appAddr(1), netip.MustParseAddr("10.64.0.9"), "10.64.0.0/16"},
		{"sctun6", netip.MustParseAddr("2001:db8:1::2"), netip.MustParseAddr("2001:db8:64::9"), "2001:db8:64::/48"},
	} {
		f.addr(f.apps[2].host, "lo", netip.PrefixFrom(v.to, v.to.BitLen()))
		f.set(2, func(d *Desired) { d.Inner = []netip.Prefix{netip.MustParsePrefix(v.prefix)} })
		f.at(f.apps[1].host, func() {
			l, err := netlink.LinkByName(v.dev)
			f.check(err)
			f.check(netlink.RouteReplace(&netlink.Route{Dst: hostPrefix(v.to), LinkIndex: l.Attrs().Index, Encap: encap(appAddr(2))}))
		})
		in := f.listen(f.apps[2].host, netip.AddrPortFrom(v.to, 6000))
		out := f.dial(f.apps[1].host, netip.AddrPortFrom(v.from, 6000), netip.AddrPortFrom(v.to, 6000))
		out.Write(make([]byte, 100))
		if n := receive(t, in); n != 100 {
			t.Errorf("%s: %d octets arrived", v.to, n)
		}
		before := f.apps[2].reason(ReasonNotInner)()
		f.set(2, nil)
		out.Write(make([]byte, 100))
		eventually(t, "packets to no inner prefix", f.apps[2].reason(ReasonNotInner), before+1)
		silent(t, in)
	}
}

// TestTunnelDevices: renamed, removed, found by CleanUp, and not confused with
// somebody else's.
func TestTunnelDevices(t *testing.T) {
	f := newFleet(t)
	a := f.apps[1]
	exists := func(want ...string) {
		t.Helper()
		have := map[string]bool{}
		links, err := netlink.LinkList()
		f.check(err)
		for _, l := range links {
			if l.Attrs().Alias == tunnelAlias {
				have[l.Attrs().Name] = true
			}
		}
		for _, n := range want {
			if !have[n] {
				t.Errorf("tunnel %s is not there", n)
			}
			delete(have, n)
		}
		for n := range have {
			t.Errorf("tunnel %s is still there", n)
		}
	}
	at := func(fn func()) { f.at(a.host, fn) }
	f.set(1, nil)
	at(func() { exists("sctun", "sctun6") })
	f.set(1, func(d *Desired) { d.Tunnel = "scother" })
	at(func() { exists("scother", "scother6") })
	f.set(1, func(d *Desired) { d.VIPs = []netip.Addr{vip4} })
	at(func() { exists("sctun") })
	f.set(1, func(d *Desired) { d.Tunnel, d.Slots, d.Peers = "", nil, nil })
	at(func() { exists() })
	f.set(1, nil)
	at(func() {
		f.check(a.steer.Close())
		f.check(CleanUp(Config{PinDir: a.pins}))
		a.clean()
		f.check(netlink.LinkAdd(&netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: "theirs"}, FlowBased: true}))
		s, err := New(Config{PinDir: a.pins})
		f.check(err)
		t.Cleanup(func() { s.Close() })
		d := Desired{VIPs: []netip.Addr{vip4}, Uplinks: []string{"n0"}, Tunnel: "sctun"}
		err = s.Set(d)
		if err == nil {
			t.Error("two collect-metadata ipip devices in one namespace")
		}
		t.Log(err)
		d.Tunnel = "scv1"
		err = s.Set(d)
		if err == nil {
			t.Error("a veth as tunnel")
		}
		t.Log(err)
	})
}

// encap routes through a collect-metadata device to a peer (lwtunnel "ip").
type encap netip.Addr

func (e encap) Type() int                { return nl.LWTUNNEL_ENCAP_IP }
func (e encap) Decode([]byte) error      { return nil }
func (e encap) String() string           { return "ip" }
func (e encap) Equal(netlink.Encap) bool { return false }
func (e encap) Encode() ([]byte, error) {
	const lwtunnelIPDst = 2
	b := make([]byte, 8)
	binary.NativeEndian.PutUint16(b, 8)
	binary.NativeEndian.PutUint16(b[2:], lwtunnelIPDst)
	a := netip.Addr(e).As4()
	copy(b[4:], a[:])
	return b, nil
}
