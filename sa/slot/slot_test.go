package slot

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/sa"
)

func TestClosedFencePassesNothing(t *testing.T) {
	r := newRig(t, 7)
	open, until, err := r.h.Fence(7)
	if err != nil || open || until != 0 {
		t.Fatalf("a new fence: open %v until %d, %v", open, until, err)
	}
	for range 3 {
		r.refused(t, "closed")
	}
	must(t, r.h.OpenFence(7, NoDeadline))
	r.both(t, "open")
	r.expect(t, "open") // the first to arrive, so nothing passed before
	must(t, r.h.CloseFence(7))
	r.refused(t, "closed again")
	must(t, r.h.OpenFence(7, After(time.Hour)))
	r.both(t, "open again")
	r.expect(t, "open again")
}

func TestDeadMan(t *testing.T) {
	r := newRig(t, 7)
	must(t, r.h.OpenFence(7, After(time.Hour)))
	r.both(t, "open")
	r.expect(t, "open")
	until := After(50 * time.Millisecond)
	must(t, r.h.RefreshFence(7, until))
	// From here on nobody does anything.
	time.Sleep(until.Left() + time.Millisecond)
	r.refused(t, "late")
	if open, at, err := r.h.Fence(7); err != nil || open || at != until {
		t.Errorf("open %v until %d, %v", open, at, err)
	}
	if err := r.h.RefreshFence(7, After(time.Hour)); !errors.Is(err, ErrFenceClosed) {
		t.Errorf("a late refresh: %v", err)
	}
	if err := r.h.OpenFence(7, until); !errors.Is(err, ErrFenceClosed) {
		t.Errorf("opening until a time gone by: %v", err)
	}
	r.refused(t, "still late")
}

func TestRefreshNeverOpens(t *testing.T) {
	h, _, _ := newHost(t)
	set(t, h, slotOf(7))
	for _, d := range []Deadline{After(time.Hour), NoDeadline} {
		if err := h.RefreshFence(7, d); !errors.Is(err, ErrFenceClosed) {
			t.Fatal(err)
		}
	}
	must(t, h.OpenFence(7, NoDeadline))
	must(t, h.RefreshFence(7, After(time.Hour)))
	if _, d, err := h.Fence(7); err != nil || d == NoDeadline || d.Left() < 59*time.Minute {
		t.Errorf("%d left, %v", d.Left(), err)
	}
	// A refresher racing the close must lose for good.
	var wg sync.WaitGroup
	for range 100 {
		must(t, h.OpenFence(7, After(time.Hour)))
		wg.Go(func() { _ = h.RefreshFence(7, After(time.Hour)) })
		must(t, h.CloseFence(7))
		wg.Wait()
		if open, _, err := h.Fence(7); err != nil || open {
			t.Fatalf("open %v, %v", open, err)
		}
	}
}

func TestUnknownSlot(t *testing.T) {
	h, _, _ := newHost(t)
	set(t, h)
	_, _, err := h.Fence(3)
	_, derr := h.Drops(3)
	_, lerr := h.Links(3)
	for _, err := range []error{err, derr, lerr, h.OpenFence(3, NoDeadline), h.CloseFence(3), h.RefreshFence(3, NoDeadline), h.Hold(3), h.Release(3),
		h.SetInner(3, InnerLocal), h.SetPrefixes(3, nil)} {
		if !errors.Is(err, ErrNoSlot) {
			t.Errorf("%v", err)
		}
	}
}

// snapshot is what must not change when nothing is to be done.
func snapshot(t testing.TB, r *rig) string {
	t.Helper()
	var s string
	for _, ns := range []*os.File{r.ns, r.slot} {
		in(t, ns, func() error {
			links, err := netlink.LinkList()
			if err != nil {
				return err
			}
			for _, l := range links {
				a := l.Attrs()
				s += fmt.Sprintln(a.Name, a.Index, a.HardwareAddr, a.MTU, a.Flags)
				for _, p := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
					fs, err := netlink.FilterList(l, p)
					if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EOPNOTSUPP) {
						return err
					}
					for _, f := range fs {
						s += fmt.Sprintln(f.Attrs(), f.(*netlink.BpfFilter).Id)
					}
				}
				qs, err := netlink.QdiscList(l)
				if err != nil {
					return err
				}
				for _, q := range qs {
					s += fmt.Sprintln(q.Type(), q.Attrs().Handle, q.Attrs().Parent)
				}
				as, err := netlink.AddrList(l, netlink.FAMILY_ALL)
				if err != nil {
					return err
				}
				s += fmt.Sprintln(as)
				ns, err := netlink.NeighList(a.Index, netlink.FAMILY_ALL)
				if err != nil {
					return err
				}
				for _, n := range ns {
					if n.State == netlink.NUD_PERMANENT {
						s += fmt.Sprintln(n.IP, n.HardwareAddr)
					}
				}
			}
			for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
				rs, err := netlink.RouteList(nil, family)
				if err != nil {
					return err
				}
				for _, r := range rs {
					s += fmt.Sprintln(r)
				}
			}
			return nil
		})
	}
	return s
}

func difference(a, b string) string {
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	var out []string
	for i := range max(len(la), len(lb)) {
		x, y := "", ""
		if i < len(la) {
			x = la[i]
		}
		if i < len(lb) {
			y = lb[i]
		}
		if x != y {
			out = append(out, fmt.Sprintf("%q to %q", x, y))
		}
	}
	return strings.Join(out, "\n")
}

func TestSetIsIdempotentAndAdopts(t *testing.T) {
	r := newRig(t, 7)
	must(t, r.h.OpenFence(7, NoDeadline))
	must(t, r.h.SetInner(7, InnerLocal))
	r.both(t, "x")
	r.expect(t, "x")
	before := snapshot(t, r)
	set(t, r.h, slotOf(7))
	if after := snapshot(t, r); after != before {
		t.Errorf("a second Set changed %s", difference(before, after))
	}
	drops, err := r.h.Drops(7)
	must(t, err)

	// A restarted daemon finds everything, an open fence included.
	links, err := r.h.Links(7)
	must(t, err)
	must(t, r.h.Close())
	r.both(t, "no daemon")
	r.expect(t, "no daemon")
	before = snapshot(t, r)
	r.h = openHost(t, r.ns, r.cfg)
	set(t, r.h, slotOf(7))
	if after := snapshot(t, r); after != before {
		t.Errorf("adopting changed %s", difference(before, after))
	}
	again, err := r.h.Links(7)
	if err != nil || again.HostIndex != links.HostIndex || again.SlotIndex != links.SlotIndex {
		t.Errorf("links were %+v, are %+v, %v", links, again, err)
	}
	if open, d, err := r.h.Fence(7); err != nil || !open || d != NoDeadline {
		t.Errorf("fence: open %v, %d, %v", open, d, err)
	}
	if d, err := r.h.Drops(7); err != nil || d.Ingress < drops.Ingress || d.Egress < drops.Egress {
		t.Errorf("drops %+v, were %+v, %v", d, drops, err)
	}
	must(t, r.h.CloseFence(7))
	r.refused(t, "closed")
	must(t, r.h.OpenFence(7, NoDeadline))
	r.both(t, "open")
	r.expect(t, "open")
}

func TestRepair(t *testing.T) {
	r := newRig(t, 7)
	uplink := func() (l netlink.Link, err error) { return netlink.LinkByName(uplinkName) }
	works := func(t *testing.T) {
		t.Helper()
		set(t, r.h, slotOf(7))
		routeVIP(t, r.ns, r.h, 7)
		must(t, r.h.CloseFence(7))
		r.refused(t, "closed")
		must(t, r.h.OpenFence(7, NoDeadline))
		r.both(t, "open")
		r.expect(t, "open")
	}
	for _, tt := range []struct {
		name string
		ns   *os.File
		harm func() error
	}{
		{"filters gone", r.slot, func() error {
			l, err := uplink()
			if err != nil {
				return err
			}
			return netlink.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}})
		}},
		{"veth gone", r.slot, func() error {
			l, err := uplink()
			if err != nil {
				return err
			}
			return netlink.LinkDel(l)
		}},
		{"link down", r.slot, func() error { // takes the routes along
			l, err := uplink()
			if err != nil {
				return err
			}
			return netlink.LinkSetDown(l)
		}},
		{"VIP gone and a stray one", r.slot, func() error {
			lo, err := netlink.LinkByName("lo")
			if err == nil {
				err = netlink.AddrDel(lo, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(vip4, 32))})
			}
			if err == nil {
				err = netlink.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("192.0.2.99/32"))})
			}
			return err
		}},
		{"stranger under our name", r.ns, func() error {
			l, err := netlink.LinkByName(vethName(7))
			if err == nil {
				err = netlink.LinkDel(l)
			}
			if err == nil {
				err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: vethName(7)}, PeerName: "stranger"})
			}
			return err
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in(t, tt.ns, tt.harm)
			works(t)
		})
	}
	in(t, r.slot, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		as, err := netlink.AddrList(lo, netlink.FAMILY_ALL)
		if len(as) != 4 {
			t.Errorf("addresses of lo: %v", as)
		}
		return err
	})
	t.Run("namespace gone", func(t *testing.T) {
		must(t, r.h.OpenFence(7, NoDeadline))
		must(t, removeNetns(r.h.NetnsPath(7)))
		set(t, r.h, slotOf(7))
		if open, _, err := r.h.Fence(7); err != nil || open {
			t.Errorf("a new namespace starts open (%v)", err)
		}
	})
	t.Run("half-made namespace of a crash", func(t *testing.T) {
		must(t, os.WriteFile(r.cfg.netnsPath(8), nil, 0o444))
		set(t, r.h, Slot{Number: 8, VIPs: []netip.Addr{vip4}})
		if !isNetns(r.cfg.netnsPath(8)) || isNetns(r.cfg.netnsPath(7)) {
			t.Error("slot 8 should be there, slot 7 not")
		}
	})
	t.Run("pins gone", func(t *testing.T) {
		must(t, r.h.OpenFence(8, NoDeadline))
		must(t, r.h.Close())
		must(t, os.RemoveAll(r.cfg.pinPath(8)))
		r.h = openHost(t, r.ns, r.cfg)
		set(t, r.h, Slot{Number: 8, VIPs: []netip.Addr{vip4}})
		if open, _, err := r.h.Fence(8); err != nil || open {
			t.Errorf("a fence nobody knows of stays open (%v)", err)
		}
	})
}

func TestCleanUpAfterCrash(t *testing.T) {
	r := newRig(t, 7)
	set(t, r.h, slotOf(7), Slot{Number: 9, VIPs: []netip.Addr{vip4}})
	must(t, r.h.OpenFence(7, NoDeadline))
	must(t, r.h.SetInner(7, InnerLocal))
	must(t, r.h.SetPrefixes(7, []netip.Prefix{netip.MustParsePrefix("10.200.0.0/16")}))
	// The crash: r.h is never used again. A process (here: our handle) keeps
	// the namespace alive.
	var h *Host
	in(t, r.ns, func() (err error) { h, err = New(r.cfg); return err })
	must(t, h.CleanUp())
	must(t, h.CleanUp())
	must(t, h.Close())
	if names, err := r.cfg.listNetns(); err != nil || len(names) != 0 {
		t.Errorf("namespaces left: %v, %v", names, err)
	}
	if _, err := os.Stat(r.cfg.PinDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pins left: %v", err)
	}
	in(t, r.ns, func() error {
		links, err := netlink.LinkList()
		for _, l := range links {
			if l.Type() == "veth" {
				t.Errorf("device left: %s", l.Attrs().Name)
			}
		}
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			rs, e := netlink.RouteListFiltered(family, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
			if err = errors.Join(err, e); len(rs) > 0 {
				t.Errorf("routes left: %v", rs)
			}
		}
		return err
	})
	in(t, r.slot, func() error {
		if _, err := netlink.LinkByName(uplinkName); err == nil {
			t.Error("the slot's end is left")
		}
		return nil
	})
}

func TestSlotSysctls(t *testing.T) {
	h, ns, _ := newHost(t)
	in(t, ns, func() error {
		return setSysctls([]sysctl{{"net/ipv4/conf/all/rp_filter", "1"}, {"net/ipv4/conf/lo/rp_filter", "2"}, {"net/ipv4/ip_forward", "0"}})
	})
	set(t, h, slotOf(7))
	check := func(want ...sysctl) error {
		for _, s := range want {
			v, err := readSysctl(s.key)
			if err != nil {
				return err
			}
			if strconv.Itoa(v) != s.value {
				t.Errorf("%s is %d, want %s", s.key, v, s.value)
			}
		}
		return nil
	}
	// What `all` asked for stays in force on other devices.
	in(t, ns, func() error {
		return check(sysctl{"net/ipv4/conf/all/rp_filter", "0"}, sysctl{"net/ipv4/conf/default/rp_filter", "1"}, sysctl{"net/ipv4/conf/lo/rp_filter", "2"},
			sysctl{"net/ipv4/conf/scv7/rp_filter", "0"}, sysctl{"net/ipv4/ip_forward", "1"}, sysctl{"net/ipv6/conf/all/forwarding", "1"})
	})
	in(t, openPath(t, h.NetnsPath(7)), func() error { return check(append(slotSysctls, deviceSysctls(uplinkName)...)...) })
}

func TestManySlots(t *testing.T) {
	h, _, _ := newHost(t)
	var slots []Slot
	for n := range sa.Slot(16) {
		slots = append(slots, Slot{Number: n + 1, VIPs: []netip.Addr{vip4, vip6}, Pools: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, byte(n), 0}), 24)}})
	}
	for _, what := range []string{"set up", "look over", "remove"} {
		if what == "remove" {
			slots = nil
		}
		start := time.Now()
		set(t, h, slots...)
		t.Logf("%s 16 slots: %v", what, time.Since(start))
	}
	if names, err := h.cfg.listNetns(); err != nil || len(names) != 0 {
		t.Errorf("left: %v, %v", names, err)
	}
}

func TestPinDirMustBeBPF(t *testing.T) {
	h, ns, cfg := newHost(t)
	must(t, h.Close())
	cfg.PinDir = t.TempDir()
	h = openHost(t, ns, cfg)
	if err := h.Set(t.Context(), Desired{[]Slot{slotOf(7)}}); err == nil {
		t.Error("no error")
	}
}
