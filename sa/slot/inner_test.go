package slot

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/tests/uml"
)

// ours lists our routes in the host namespace, "dst kind".
func ours(t testing.TB, h *Host) []string {
	t.Helper()
	var out []string
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rs, err := h.nl.RouteListFiltered(family, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
		must(t, err)
		for _, r := range rs {
			kind := "via tunnel"
			switch {
			case r.Type == unix.RTN_BLACKHOLE:
				kind = "none"
			case r.Gw != nil:
				kind = "local"
			}
			out = append(out, fmt.Sprintf("%s %d %s", r.Dst, r.Priority, kind))
		}
	}
	slices.Sort(out)
	return out
}

func wantRoutes(t testing.TB, h *Host, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := ours(t, h); !slices.Equal(got, want) {
		t.Fatalf("routes are\n%q, want\n%q", got, want)
	}
}

func TestInnerRoutes(t *testing.T) {
	r := newRig(t, 7)
	far := netip.MustParsePrefix("10.88.0.0/24")
	foreign := Slot{Number: 8, Foreign: true, Pools: []netip.Prefix{far}}
	set(t, r.h, slotOf(7), foreign)
	all := func(kind string, extra ...string) []string {
		return append([]string{"10.77.1.0/24 7 " + kind, "2001:db8:77:1::/64 7 " + kind, "10.88.0.0/24 8 none"}, extra...)
	}
	wantRoutes(t, r.h, all("none")...)
	for range 2 {
		must(t, r.h.SetInner(7, InnerLocal))
		wantRoutes(t, r.h, all("local")...)
		must(t, r.h.SetInner(7, InnerNone))
		wantRoutes(t, r.h, all("none")...)
	}
	must(t, r.h.SetInner(7, InnerLocal))
	if err := r.h.SetInner(8, InnerLocal); err == nil {
		t.Error("a foreign slot is not local")
	}
	if err := r.h.SetInner(7, InnerVia(netip.MustParseAddr("::1"))); err == nil {
		t.Error("an IPv6 peer is not supported")
	}
	must(t, r.h.SetInner(7, InnerLocal))
	site := netip.MustParsePrefix("172.16.0.0/12")
	site6 := netip.MustParsePrefix("2001:db8:aa::/48")
	must(t, r.h.SetPrefixes(7, []netip.Prefix{site, site6, pool4}))
	wantRoutes(t, r.h, all("local", "172.16.0.0/12 7 local", "2001:db8:aa::/48 7 local")...)
	must(t, r.h.SetPrefixes(7, []netip.Prefix{site}))
	wantRoutes(t, r.h, all("local", "172.16.0.0/12 7 local")...)
	if err := r.h.SetPrefixes(7, []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}); err == nil {
		t.Error("a default route as inner prefix")
	}
	set(t, r.h, slotOf(7), foreign)
	wantRoutes(t, r.h, all("local", "172.16.0.0/12 7 local")...)

	// A restarted daemon keeps them until it is told.
	must(t, r.h.Close())
	r.h = openHost(t, r.ns, r.cfg)
	set(t, r.h, slotOf(7), foreign)
	wantRoutes(t, r.h, all("local", "172.16.0.0/12 7 local")...)
	must(t, r.h.SetInner(7, InnerLocal))
	must(t, r.h.SetPrefixes(7, []netip.Prefix{site6}))
	wantRoutes(t, r.h, all("local", "2001:db8:aa::/48 7 local")...)

	set(t, r.h, slotOf(7))
	wantRoutes(t, r.h, all("local", "2001:db8:aa::/48 7 local")[:2:2][0], all("local")[1], "2001:db8:aa::/48 7 local")
	set(t, r.h)
	wantRoutes(t, r.h)
}

// TestInnerGuard: what no policy encrypts does not go back to the host.
func TestInnerGuard(t *testing.T) {
	r := newRig(t, 7)
	must(t, r.h.OpenFence(7, NoDeadline))
	must(t, r.h.SetInner(7, InnerLocal))
	in4, in6 := netip.MustParseAddr("10.77.1.5"), netip.MustParseAddr("2001:db8:77:1::5")
	site := netip.MustParseAddr("172.16.9.9")
	must(t, r.h.SetPrefixes(7, []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")}))
	for _, tt := range []struct {
		from int
		to   netip.Addr
	}{{0, in4}, {1, in6}, {0, site}} {
		before, err := r.h.Drops(7)
		must(t, err)
		if _, err := r.outer[tt.from].WriteToUDPAddrPort([]byte("clear"), netip.AddrPortFrom(tt.to, 9)); err != nil {
			t.Fatal(err)
		}
		counted(t, r, func(d Drops) bool { return d.Clear == before.Clear+1 })
	}
	before, err := r.h.Drops(7)
	must(t, err)
	// A gateway whose public address lies in an inner prefix keeps its ESP.
	ike := sock(t, r.slot, vip4, 4500)
	if _, err := ike.WriteToUDPAddrPort([]byte("esp"), netip.AddrPortFrom(site, 4500)); err != nil {
		t.Fatal(err)
	}
	must(t, r.h.SetPrefixes(7, nil))
	if _, err := r.inside[0].WriteToUDPAddrPort([]byte("clear"), netip.AddrPortFrom(site, 9)); err != nil {
		t.Fatal(err)
	}
	if after, err := r.h.Drops(7); err != nil || after.Clear != before.Clear {
		t.Errorf("drops went from %+v to %+v, %v", before, after, err)
	}
}

// counted waits until the drops are as they should be.
func counted(t testing.TB, r *rig, ok func(Drops) bool) {
	t.Helper()
	for give := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		d, err := r.h.Drops(7)
		must(t, err)
		if ok(d) {
			return
		}
		if time.Now().After(give) {
			t.Fatalf("drops are %+v", d)
		}
	}
}

func TestInnerViaNeedsTunnel(t *testing.T) {
	h, _, _ := newHost(t)
	set(t, h, slotOf(7))
	if err := h.SetInner(7, InnerVia(netip.MustParseAddr("203.0.113.2"))); err == nil {
		t.Error("no error without a tunnel device")
	}
}

// TestInnerVia sends inner packets from one appliance through the tunnels into
// the slot on another, and moves the slot back and forth.
func TestInnerVia(t *testing.T) {
	uml.Require(t, uml.IPIP)
	ha, nsa, cfg := newHost(t)
	hb, nsb, _ := newHost(t)
	peerA, peerB := netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")
	in(t, nsa, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "x"}, PeerName: "x", PeerNamespace: netlink.NsFd(nsb.Fd())})
	})
	for _, e := range []struct {
		ns   *os.File
		addr netip.Addr
	}{{nsa, peerA}, {nsb, peerB}} {
		in(t, e.ns, func() error {
			x, err := netlink.LinkByName("x")
			if err == nil {
				err = netlink.AddrAdd(x, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(e.addr, 24))})
			}
			if err == nil {
				err = netlink.LinkSetUp(x)
			}
			// As package steer makes them.
			for _, l := range []netlink.Link{
				&netlink.Iptun{LinkAttrs: netlink.LinkAttrs{Name: cfg.Tunnel}, FlowBased: true},
				&netlink.Gretun{LinkAttrs: netlink.LinkAttrs{Name: cfg.Tunnel + "6"}, FlowBased: true, Local: netip.IPv4Unspecified().AsSlice(), Remote: netip.IPv4Unspecified().AsSlice()},
			} {
				if err == nil {
					err = netlink.LinkAdd(l)
				}
				if err == nil {
					err = setSysctls([]sysctl{{"net/ipv4/conf/" + l.Attrs().Name + "/rp_filter", "0"}})
				}
				if err == nil {
					err = netlink.LinkSetUp(l)
				}
			}
			return err
		})
	}
	addAddr(t, nsa, out4, out6)
	for _, h := range []*Host{ha, hb} {
		set(t, h, slotOf(7))
		must(t, h.OpenFence(7, NoDeadline))
	}
	// Stand-ins for clients: addresses of the pools, inside both slots.
	in4, in6 := netip.MustParseAddr("10.77.1.5"), netip.MustParseAddr("2001:db8:77:1::5")
	slotA, slotB := openPath(t, ha.NetnsPath(7)), openPath(t, hb.NetnsPath(7))
	addAddr(t, slotA, in4, in6)
	addAddr(t, slotB, in4, in6)
	a4, a6, b4, b6 := sock(t, slotA, in4, 7001), sock(t, slotA, in6, 7001), sock(t, slotB, in4, 7001), sock(t, slotB, in6, 7001)
	s4, s6 := sock(t, nsa, out4, 7002), sock(t, nsa, out6, 7002)
	must(t, hb.SetInner(7, InnerLocal))
	for i := range 3 {
		must(t, ha.SetInner(7, InnerVia(peerB)))
		wantRoutes(t, ha, "10.77.1.0/24 7 via tunnel", "2001:db8:77:1::/64 7 via tunnel")
		text := fmt.Sprint("through the tunnel ", i)
		send(t, s4, b4, text)
		send(t, s6, b6, text)
		expect(t, b4, text)
		expect(t, b6, text)
		must(t, ha.SetInner(7, InnerLocal))
		wantRoutes(t, ha, "10.77.1.0/24 7 local", "2001:db8:77:1::/64 7 local")
		text = fmt.Sprint("local ", i)
		send(t, s4, a4, text)
		send(t, s6, a6, text)
		expect(t, a4, text)
		expect(t, a6, text)
		must(t, ha.SetInner(7, InnerNone))
		wantRoutes(t, ha, "10.77.1.0/24 7 none", "2001:db8:77:1::/64 7 none")
	}
	must(t, ha.SetInner(7, InnerVia(peerB)))
	set(t, ha, slotOf(7))
	wantRoutes(t, ha, "10.77.1.0/24 7 via tunnel", "2001:db8:77:1::/64 7 via tunnel")
}

func TestHold(t *testing.T) {
	r := newRig(t, 7)
	must(t, r.h.OpenFence(7, NoDeadline))
	links, err := r.h.Links(7)
	must(t, err)
	if uml.Missing(uml.Plug) != 0 {
		if err := r.h.Hold(7); !errors.Is(err, ErrNoPlug) || links.Hold {
			t.Errorf("without sch_plug: %v, Links says %v", err, links.Hold)
		}
		return
	}
	if !links.Hold {
		t.Error("Links says that there is no hold")
	}
	r.both(t, "before")
	r.expect(t, "before")
	for range 3 {
		must(t, r.h.Hold(7))
		must(t, r.h.Hold(7)) // twice is the same as once
		var want []string
		for i := range 50 {
			want = append(want, fmt.Sprint("held ", i))
			send(t, r.outer[0], r.inside[0], want[i])
		}
		nothing(t, r.inside[0])
		send(t, r.inside[0], r.outer[0], "the other way is free")
		expect(t, r.outer[0], "the other way is free")
		must(t, r.h.Release(7))
		must(t, r.h.Release(7))
		expect(t, r.inside[0], want...)
		send(t, r.outer[0], r.inside[0], "after")
		expect(t, r.inside[0], "after")
	}
	// Set while holding keeps holding; a new daemon lets go.
	must(t, r.h.Hold(7))
	set(t, r.h, slotOf(7))
	send(t, r.outer[0], r.inside[0], "held over a crash")
	nothing(t, r.inside[0])
	must(t, r.h.Close())
	r.h = openHost(t, r.ns, r.cfg)
	set(t, r.h, slotOf(7))
	expect(t, r.inside[0], "held over a crash")
}

// TestFenceStopsRedirects: packets that tc puts straight into the slot meet
// the fence too.
func TestFenceStopsRedirects(t *testing.T) {
	for _, mode := range []struct {
		name string
		call asm.BuiltinFunc
	}{{"redirect_peer", asm.FnRedirectPeer}, {"redirect", asm.FnRedirect}} {
		t.Run(mode.name, func(t *testing.T) {
			r := newRig(t, 7)
			l, err := r.h.Links(7)
			must(t, err)
			client := netnsFile(t)
			prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: asm.Instructions{
				asm.LoadImm(asm.R1, int64(l.HostIndex), asm.DWord), asm.Mov.Imm(asm.R2, 0), mode.call.Call(), asm.Return(),
			}})
			must(t, err)
			defer prog.Close()
			in(t, client, func() error {
				return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "c"}, PeerName: "u", PeerNamespace: netlink.NsFd(r.ns.Fd())})
			})
			in(t, r.ns, func() error {
				u, err := netlink.LinkByName("u")
				if err == nil {
					err = netlink.LinkSetUp(u)
				}
				if err == nil {
					err = netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: u.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}})
				}
				if err == nil {
					err = netlink.FilterAdd(&netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{LinkIndex: u.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
						Fd: prog.FD(), Name: "redirect", DirectAction: true})
				}
				return err
			})
			in(t, client, func() error {
				c, err := netlink.LinkByName("c")
				if err == nil {
					err = netlink.AddrAdd(c, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("203.0.113.9/24"))})
				}
				if err == nil {
					err = netlink.LinkSetUp(c)
				}
				if err == nil {
					err = netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.PrefixFrom(vip4, 32)), LinkIndex: c.Attrs().Index, Scope: netlink.SCOPE_LINK})
				}
				if err == nil {
					err = netlink.NeighSet(&netlink.Neigh{LinkIndex: c.Attrs().Index, IP: vip4.AsSlice(), HardwareAddr: l.SlotMAC, State: netlink.NUD_PERMANENT})
				}
				return err
			})
			from := sock(t, client, netip.MustParseAddr("203.0.113.9"), 7003)
			before, err := r.h.Drops(7)
			must(t, err)
			send(t, from, r.inside[0], "closed")
			counted(t, r, func(d Drops) bool { return d.Ingress > before.Ingress })
			must(t, r.h.OpenFence(7, NoDeadline))
			send(t, from, r.inside[0], "open")
			expect(t, r.inside[0], "open")
		})
	}
}
