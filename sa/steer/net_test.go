package steer

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/sa"
)

var deliveries = []Delivery{DeliverPeer, DeliverNeigh, DeliverMark}

func ipAddr(a netip.Addr) *net.IPAddr { return &net.IPAddr{IP: a.AsSlice()} }

func natPort(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 4500) }

func count(t testing.TB, s *Steer, r Reason) uint64 {
	t.Helper()
	c, err := s.Counters()
	if err != nil {
		t.Fatal(err)
	}
	return c[r]
}

func TestDelivery(t *testing.T) {
	w := newWorld(t)
	s := w.steer(w.desired(DeliverPeer))
	for _, v := range []struct{ vip, client netip.Addr }{{vip4, clientAddr4}, {vip6, clientAddr6}} {
		in1, in2 := w.listen(w.slots[1], natPort(v.vip)), w.listen(w.slots[2], natPort(v.vip))
		out := w.dial(w.client, netip.AddrPortFrom(v.client, 40001), natPort(v.vip))
		send := func(b []byte) {
			t.Helper()
			if _, err := out.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		for _, d := range deliveries {
			t.Logf("delivery %s to %s", d, v.vip)
			w.check(s.Set(w.desired(d)))
			before, err := s.SlotHits(2)
			w.check(err)
			send(esp(2, 200))
			if n := receive(t, in2); n != 200 {
				t.Errorf("slot 2 received %d octets", n)
			}
			silent(t, in1)
			send(esp(1, 100))
			if n := receive(t, in1); n != 100 {
				t.Errorf("slot 1 received %d octets", n)
			}
			for range 10 { // three fragments each
				send(esp(2, 4000))
				if n := receive(t, in2); n != 4000 {
					t.Errorf("slot 2 received %d octets of 4000", n)
				}
			}
			if after, err := s.SlotHits(2); err != nil || after.LocalUplink-before.LocalUplink != 31 {
				t.Errorf("slot 2: hits %+v, %+v before, %v", after, before, err)
			}
			dropped := count(t, s, ReasonNoSlot)
			send(esp(3, 200))
			send(esp(77, 200))
			w.check(s.SetSlot(2, SlotSteer{}))
			send(esp(2, 200))
			eventually(t, "packets dropped for want of a slot", func() uint64 { return count(t, s, ReasonNoSlot) - dropped }, 3)
			silent(t, in1)
			silent(t, in2)
			w.check(s.SetSlot(2, SlotSteer{Uplink: w.local[2]}))
			send(esp(2, 300))
			if n := receive(t, in2); n != 300 {
				t.Errorf("slot 2 received %d octets after it came back", n)
			}
		}
		in1.Close()
		in2.Close()
	}
}

func TestBareESP(t *testing.T) {
	w := newWorld(t)
	w.steer(w.desired(DeliverPeer))
	for _, v := range []struct {
		vip, client netip.Addr
		net         string
		header      int
	}{{vip4, clientAddr4, "ip4:50", 20}, {vip6, clientAddr6, "ip6:50", 0}} {
		in, out := w.raw(w.slots[2], v.net, v.vip), w.raw(w.client, v.net, v.client)
		for _, n := range []int{64, 4000} {
			if _, err := out.WriteTo(esp(2, n), ipAddr(v.vip)); err != nil {
				t.Fatal(err)
			}
			if got := receive(t, in); got != n+v.header && got != n {
				t.Errorf("%s: %d octets arrived, sent %d", v.net, got, n)
			}
		}
	}
}

func TestEvents(t *testing.T) {
	w := newWorld(t)
	s := w.steer(w.desired(DeliverPeer))
	evs := gather(t, s)
	for _, v := range []struct{ vip, client netip.Addr }{{vip4, clientAddr4}, {vip6, clientAddr6}} {
		// Without them the slots would answer port unreachable.
		w.listen(w.slots[1], natPort(v.vip))
		w.listen(w.slots[2], natPort(v.vip))
		from := netip.AddrPortFrom(v.client, 40001)
		out := w.dial(w.client, from, natPort(v.vip))
		out.Write(marked(ike(9, label(2), 8)))
		e := next(t, evs)
		if e.At == 0 {
			t.Error("event without time")
		}
		e.At = 0
		want := Event{Kind: EventIKE, Slot: 2, Src: from, IKE: sa.IKEID{Initiator: 9, Responder: sa.IKESPI(label(2))},
			MessageID: 5, Exchange: 37, Flags: 8, Length: 40}
		if e != want {
			t.Errorf("event %+v, want %+v", e, want)
		}
		out.Write(marked(ike(9, 0, 8))) // a new client, home slot 2
		if e := next(t, evs); e.Slot != 2 || e.IKE.Responder != 0 {
			t.Errorf("event %+v of a new client", e)
		}
		spi := sa.SPI(2<<20 | 0xabcd)
		w.check(s.Watch(spi, 1<<20|0xabcd))
		w.check(s.Unwatch(1<<20|0xabcd, 1<<20|1))
		for range 3 {
			out.Write(esp(1, 100)) // taken back
			out.Write(esp(2, 100)) // watched: one event
		}
		out.Write(marked(ike(8, label(1), 8)))
		if e := next(t, evs); e.Kind != EventESP || e.SPI != spi || e.Slot != 2 || e.Src != from {
			t.Errorf("event %+v of a watched SPI", e)
		}
		if e := next(t, evs); e.Kind != EventIKE || e.Slot != 1 {
			t.Errorf("event %+v, want the IKE message after it", e)
		}
	}
}

func TestEventRingFull(t *testing.T) {
	b := newBench(t)
	raw := eth(to4(17, natt(marked(ike(1, label(2), 8)))).bytes())
	const n = 80_000
	b.in(func() {
		if _, _, err := b.objs.ScSteerUplink.Benchmark(raw, n, nil); err != nil {
			t.Error(err)
		}
	})
	lost := b.counters()[ReasonRingFull]
	if got := uint64(len(b.events())); lost == 0 || got+lost < n {
		t.Errorf("%d events and %d lost of %d packets", got, lost, n)
	}
	// A watched SPI that found no room fires later.
	b.in(func() { b.objs.ScSteerUplink.Benchmark(raw, n, nil) })
	spi := sa.SPI(2<<20 | 0xabcd)
	b.watch(spi)
	b.in(func() { b.objs.ScSteerUplink.Test(eth(to4(50, esp(2, 64)).bytes())) })
	b.events()
	b.in(func() { b.objs.ScSteerUplink.Test(eth(to4(50, esp(2, 64)).bytes())) })
	if evs := b.events(); len(evs) != 1 || evs[0].SPI != spi {
		t.Errorf("events %+v after the ring had room again", evs)
	}
}

func TestRates(t *testing.T) {
	b := newBench(t)
	d := benchDesired(b.desired.Slots[1].Uplink.Ifindex)
	d.RemotePPS = 1
	w := b.counters()
	if err := b.fill(&d, 1, 1); err != nil {
		t.Fatal(err)
	}
	send := func(p ip) (ret uint32) {
		b.in(func() { ret, _, _ = b.objs.ScSteerUplink.Test(eth(p.bytes())) })
		return ret
	}
	if ret := send(to4(50, esp(3, 64))); ret != actRedirect {
		t.Errorf("first packet to a peer: %d", ret)
	}
	if ret := send(to4(50, esp(3, 64))); ret != actShot || b.counters()[ReasonRate]-w[ReasonRate] != 1 {
		t.Errorf("second packet within a second: %d", ret)
	}
	if ret := send(to4(50, esp(4, 64))); ret != actRedirect {
		t.Errorf("first packet of another slot: %d", ret)
	}
	quote := to4(1, icmp(3, 4, quote4(to4(50, esp(9, 8)))))
	// In one system call: a slow machine needs longer for one than the limit is apart.
	var err error
	b.in(func() { _, _, err = b.objs.ScSteerUplink.Benchmark(eth(quote.bytes()), 10*icmpPPS, nil) })
	if err != nil {
		t.Fatal(err)
	}
	if b.counters()[ReasonICMPRate] == 0 {
		t.Error("ICMP errors have no rate limit")
	}
}

func TestICMPErrorReachesActiveSlots(t *testing.T) {
	w := newWorld(t)
	s := w.steer(w.desired(DeliverPeer))
	for _, v := range []struct {
		vip, client netip.Addr
		net         string
		body        []byte
		header      int
	}{
		{vip4, clientAddr4, "ip4:1", icmp(3, 4, quote4(to4(17, udp(4500, 40001, nil)))), 20},
		{vip6, clientAddr6, "ip6:58", icmp(2, 0, quote6(to6(50, esp(9, 8)))), 0},
	} {
		in1, in2 := w.raw(w.slots[1], v.net, v.vip), w.raw(w.slots[2], v.net, v.vip)
		out := w.raw(w.client, v.net, v.client)
		be.PutUint16(v.body[2:], checksum(v.body)) // ICMPv6: the kernel fills it in
		if _, err := out.WriteTo(v.body, ipAddr(v.vip)); err != nil {
			t.Fatal(err)
		}
		for i, in := range []net.Conn{in1, in2} {
			if n := receive(t, in); n != len(v.body)+v.header && n != len(v.body) {
				t.Errorf("slot %d received %d octets of an ICMP error of %d", i+1, n, len(v.body))
			}
		}
	}
	eventually(t, "ICMP errors cloned", func() uint64 { return count(t, s, ReasonICMPCloned) }, 2)
	if n := count(t, s, ReasonHelper); n != 0 {
		t.Errorf("%d helpers failed", n)
	}
}

func TestBFDGuard(t *testing.T) {
	w := newWorld(t)
	s := w.steer(w.desired(DeliverPeer))
	for _, v := range []struct {
		host, client netip.Addr
		level, opt   int
	}{{hostAddr4, clientAddr4, unix.IPPROTO_IP, unix.IP_TTL}, {hostAddr6, clientAddr6, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS}} {
		in := w.listen(w.host, netip.AddrPortFrom(v.host, 3784))
		out := w.dial(w.client, netip.AddrPortFrom(v.client, 49152), netip.AddrPortFrom(v.host, 3784))
		rc, err := out.SyscallConn()
		w.check(err)
		for _, ttl := range []int{254, 1, 255} {
			rc.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), v.level, v.opt, ttl) })
			w.check(err)
			before := count(t, s, ReasonBFDTTL)
			out.Write(make([]byte, 24))
			if ttl == 255 {
				receive(t, in)
				continue
			}
			eventually(t, "BFD packets dropped", func() uint64 { return count(t, s, ReasonBFDTTL) - before }, 1)
			silent(t, in)
		}
	}
}

// TestVLAN: a tagged frame is its VLAN device's, a priority tag is nothing.
func TestVLAN(t *testing.T) {
	w := newWorld(t)
	addVLAN := func(parent string) {
		l, err := netlink.LinkByName(parent)
		w.check(err)
		v := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: parent + ".7", ParentIndex: l.Attrs().Index}, VlanId: 7}
		if err := netlink.LinkAdd(v); err != nil {
			t.Skipf("missing capability VLAN devices: %v", err)
		}
		w.check(netlink.LinkSetUp(v))
	}
	addVLAN("u0")
	w.at(w.client, func() { addVLAN("c0") })
	s := w.steer(w.desired(DeliverPeer))
	in := w.listen(w.slots[2], natPort(vip4))
	u0, err := netlink.LinkByName("u0")
	w.check(err)
	send := func(tci uint16) {
		t.Helper()
		p := ip{src: clientAddr4, dst: vip4, proto: 17, body: natt(esp(2, 100))}.bytes()
		frame := append(append([]byte{}, u0.Attrs().HardwareAddr...), slotMAC[:]...)
		frame = be.AppendUint16(be.AppendUint16(be.AppendUint16(frame, 0x8100), tci), 0x0800)
		w.at(w.client, func() {
			c0, err := netlink.LinkByName("c0")
			w.check(err)
			fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
			w.check(err)
			defer unix.Close(fd)
			w.check(unix.Sendto(fd, append(frame, p...), 0, &unix.SockaddrLinklayer{Ifindex: c0.Attrs().Index}))
		})
	}
	hits := func() uint64 {
		h, err := s.SlotHits(2)
		w.check(err)
		return h.LocalUplink
	}
	send(5 << 13)
	if n := receive(t, in); n != 100 || hits() != 1 {
		t.Errorf("priority-tagged: %d octets, %d hits", n, hits())
	}
	send(7)
	silent(t, in)
	if hits() != 1 {
		t.Error("a frame of VLAN 7 was steered on its parent")
	}
	d := w.desired(DeliverPeer)
	d.Uplinks = append(d.Uplinks, "u0.7")
	w.check(s.Set(d))
	send(7)
	if n := receive(t, in); n != 100 || hits() != 2 {
		t.Errorf("VLAN uplink: %d octets, %d hits", n, hits())
	}
}

// TestAdoption: a daemon ends, its successor takes over under traffic, and not
// one packet is lost. CleanUp leaves nothing.
func TestAdoption(t *testing.T) {
	w := newWorld(t)
	for _, d := range deliveries {
		t.Logf("delivery %s", d)
		first := w.steer(w.desired(d))
		in := w.listen(w.slots[2], natPort(vip4))
		rc, err := in.SyscallConn()
		w.check(err)
		rc.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20) })
		w.check(err)
		out := w.dial(w.client, netip.AddrPortFrom(clientAddr4, 40001), natPort(vip4))
		var stop atomic.Bool
		var sent, got atomic.Int64
		var wg, sender sync.WaitGroup
		wg.Add(1)
		sender.Add(1)
		go func() {
			defer sender.Done()
			for !stop.Load() {
				if _, err := out.Write(esp(2, 64)); err == nil {
					sent.Add(1)
				}
				time.Sleep(20 * time.Microsecond)
			}
		}()
		go func() {
			defer wg.Done()
			b := make([]byte, 2048)
			for {
				in.SetReadDeadline(time.Now().Add(pollEvery))
				_, err := in.Read(b)
				switch {
				case err == nil:
					got.Add(1)
				case !errors.Is(err, os.ErrDeadlineExceeded):
					return
				}
			}
		}()
		w.check(first.Watch(42))
		before, err := first.SlotHits(2)
		w.check(err)
		w.check(first.Close())
		for sent.Load() < 100 { // without a daemon
			time.Sleep(time.Millisecond)
		}
		for range 3 {
			s, err := New(Config{PinDir: w.pins})
			w.check(err)
			w.check(s.Set(w.desired(d)))
			w.check(s.Set(w.desired(d)))
			if h, err := s.SlotHits(2); err != nil || h.LocalUplink < before.LocalUplink {
				t.Errorf("hits %+v after adoption, %+v before (%v)", h, before, err)
			}
			w.check(s.Unwatch(42))
			w.check(s.Close())
		}
		stop.Store(true)
		sender.Wait() // else its last packet is sent when nobody listens any more
		for end := time.Now().Add(5 * time.Second); got.Load() < sent.Load() && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		in.Close()
		out.Close()
		wg.Wait()
		if got.Load() != sent.Load() {
			t.Errorf("%d of %d packets arrived", got.Load(), sent.Load())
		}
		w.check(CleanUp(Config{PinDir: w.pins}))
		w.check(CleanUp(Config{PinDir: w.pins}))
		w.clean()
	}
}

// clean checks that nothing of steering is left.
func (w *world) clean() {
	w.t.Helper()
	links, err := netlink.LinkList()
	w.check(err)
	for _, l := range links {
		qdiscs, err := netlink.QdiscList(l)
		w.check(err)
		for _, q := range qdiscs {
			if q.Type() == "clsact" {
				w.t.Errorf("clsact left on %s", l.Attrs().Name)
			}
		}
		if l.Attrs().Alias == tunnelAlias {
			w.t.Errorf("tunnel %s left", l.Attrs().Name)
		}
	}
	for _, f := range families {
		rules, err := netlink.RuleList(f)
		w.check(err)
		for _, r := range rules {
			if r.Protocol == routeProtocol {
				w.t.Errorf("rule left: %s", r)
			}
		}
		routes, err := netlink.RouteListFiltered(f, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
		w.check(err)
		for _, r := range routes {
			w.t.Errorf("route left: %s", r)
		}
	}
	pins, err := filepath.Glob(w.pins + "/steer-*")
	w.check(err)
	if len(pins) != 0 {
		w.t.Errorf("pins left: %v", pins)
	}
}

// TestSet: stale uplinks, foreign filters, other layouts.
func TestSet(t *testing.T) {
	w := newWorld(t)
	w.check(os.Mkdir(filepath.Join(w.pins, "steer-0"), 0o700))
	d := w.desired(DeliverMark)
	d.Uplinks = []string{"u0", "scv1"}
	s := w.steer(d)
	if _, err := os.Stat(filepath.Join(w.pins, "steer-0")); !os.IsNotExist(err) {
		t.Errorf("pins of another layout: %v", err)
	}
	ids := func() map[string]int {
		m := map[string]int{}
		for _, n := range []string{"u0", "scv1"} {
			l, err := netlink.LinkByName(n)
			w.check(err)
			fs, err := filters(s.nl, l.Attrs().Index)
			w.check(err)
			for _, f := range fs {
				m[n] = f.Id
			}
		}
		return m
	}
	before := ids()
	if len(before) != 2 {
		t.Fatalf("filters %v, want them on two uplinks", before)
	}
	w.check(s.Set(d))
	if after := ids(); !reflect.DeepEqual(before, after) {
		t.Errorf("a second Set changed filters from %v to %v", before, after)
	}
	d.Uplinks = []string{"u0"}
	d.Slots = map[sa.Slot]SlotSteer{1: d.Slots[1]}
	d.VIPs = []netip.Addr{vip4}
	w.check(s.Set(d))
	if after := ids(); len(after) != 1 || after["u0"] == 0 {
		t.Errorf("filters %v, want u0 only", after)
	}
	vips, err := keys[steerAddr](s.objs.Vips)
	if err != nil || len(vips) != 1 {
		t.Errorf("VIPs %v, %v", vips, err)
	}
	for slot := range 3 {
		want := uint8(0)
		if slot == 1 {
			want = uint8(Local)
		}
		if s.uplink[slot].Kind != want {
			t.Errorf("uplink action of slot %d is %d, want %d", slot, s.uplink[slot].Kind, want)
		}
	}
	routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	if err != nil || len(routes) != 1 || routes[0].Table != markBase|1 {
		t.Errorf("routes %v, %v; want one, of slot 1", routes, err)
	}
	d.Uplinks = []string{"nosuch0"}
	if err := s.Set(d); err == nil {
		t.Error("Set took an uplink that does not exist")
	}
	d.Uplinks = []string{"lo"}
	if err := s.Set(d); err == nil {
		t.Error("Set took lo as uplink")
	}
}

// TestShare: what changes with a takeover, without a whole Set.
func TestShare(t *testing.T) {
	w := newWorld(t)
	s, err := New(Config{PinDir: w.pins})
	w.check(err)
	defer s.Close()
	if s.SetShare(Share{}) == nil || s.SetSlot(1, SlotSteer{}) == nil {
		t.Error("SetShare or SetSlot before Set")
	}
	w.check(s.Set(w.desired(DeliverPeer)))
	in1, in2 := w.listen(w.slots[1], natPort(vip4)), w.listen(w.slots[2], natPort(vip4))
	out := w.dial(w.client, netip.AddrPortFrom(clientAddr4, 40001), natPort(vip4))
	out.Write(marked(ike(9, 0, 8)))
	receive(t, in2)
	w.check(s.SetShare(Share{NewClients: []sa.Slot{1}}))
	out.Write(marked(ike(9, 0, 8)))
	receive(t, in1)
	w.check(s.SetShare(Share{}))
	out.Write(marked(ike(9, 0, 8)))
	eventually(t, "new clients refused", func() uint64 { return count(t, s, ReasonNoHome) }, 1)
	silent(t, in1)
	silent(t, in2)
	if s.SetShare(Share{NewClients: []sa.Slot{5000}}) == nil {
		t.Error("SetShare took slot 5000")
	}
}

// TestPinsOfAnotherBuild: maps that do not fit are replaced, whole.
func TestPinsOfAnotherBuild(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.pins, pinName(layout))
	w.check(os.Mkdir(dir, 0o700))
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 3})
	w.check(err)
	w.check(m.Pin(filepath.Join(dir, "uplink_actions")))
	w.check(m.Close())
	w.steer(w.desired(DeliverPeer))
	in := w.listen(w.slots[2], natPort(vip4))
	out := w.dial(w.client, netip.AddrPortFrom(clientAddr4, 40001), natPort(vip4))
	out.Write(esp(2, 100))
	receive(t, in)
}

func TestMissingFeatures(t *testing.T) {
	w := newWorld(t)
	var missing *FeatureError
	if _, err := New(Config{PinDir: t.TempDir()}); !errors.As(err, &missing) {
		t.Errorf("pin directory on another file system: %v", err)
	}
	if _, err := New(Config{PinDir: "/no/such"}); err == nil {
		t.Error("no pin directory, no error")
	}
	s := w.steer(w.desired(DeliverPeer))
	d := w.desired(DeliverPeer)
	d.Tunnel = "sctun"
	switch err := s.Set(d); {
	case err == nil:
		w.check(CleanUp(Config{PinDir: w.pins}))
	case !errors.As(err, &missing):
		t.Errorf("tunnel: %v, want a FeatureError or none", err)
	default:
		t.Logf("as it should: %v", err)
	}
}

func TestCheck(t *testing.T) {
	good := benchDesired(1)
	good.Tunnel = "sctun"
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	local := good.Slots[1].Uplink
	for name, spoil := range map[string]func(*Desired){
		"nine VIPs":             func(d *Desired) { d.VIPs = make([]netip.Addr, 9) },
		"mapped VIP":            func(d *Desired) { d.VIPs = []netip.Addr{netip.MustParseAddr("::ffff:192.0.2.1")} },
		"multicast VIP":         func(d *Desired) { d.VIPs = []netip.Addr{netip.MustParseAddr("224.0.0.1")} },
		"delivery":              func(d *Desired) { d.Delivery = 9 },
		"tunnel name":           func(d *Desired) { d.Tunnel = "a-name-too-long" },
		"no tunnel":             func(d *Desired) { d.Tunnel = "" },
		"local address":         func(d *Desired) { d.Local = vip6 },
		"IPv6 peer":             func(d *Desired) { d.Peers = []netip.Addr{vip6} },
		"peers":                 func(d *Desired) { d.Peers = make([]netip.Addr, 257) },
		"unmasked prefix":       func(d *Desired) { d.Inner = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")} },
		"inner prefixes":        func(d *Desired) { d.Inner = make([]netip.Prefix, maxInner+1) },
		"active slots":          func(d *Desired) { d.LocalActive = make([]sa.Slot, 65) },
		"active slot 0":         func(d *Desired) { d.LocalActive = []sa.Slot{0} },
		"new-client slot 4096":  func(d *Desired) { d.NewClients = []sa.Slot{4096} },
		"default slot":          func(d *Desired) { d.Default = 4096 },
		"slot 0":                func(d *Desired) { d.Slots[0] = SlotSteer{} },
		"unknown kind":          func(d *Desired) { d.Slots[9] = SlotSteer{Peer: Action{Kind: 9}} },
		"remote without peer":   func(d *Desired) { d.Slots[9] = SlotSteer{Uplink: Action{Kind: Remote}} },
		"remote by IPv6":        func(d *Desired) { d.Slots[9] = SlotSteer{Uplink: Action{Kind: Remote, Peer: vip6}} },
		"local without ifindex": func(d *Desired) { a := local; a.Ifindex = 0; d.Slots[9] = SlotSteer{Uplink: a} },
		"local without MAC":     func(d *Desired) { a := local; a.SlotMAC = [6]byte{}; d.Slots[9] = SlotSteer{Uplink: a} },
		"next hop family":       func(d *Desired) { a := local; a.NextHop4 = vip6; d.Slots[9] = SlotSteer{Uplink: a} },
		"neigh without next hop": func(d *Desired) {
			a := local
			a.NextHop6 = netip.Addr{}
			d.Delivery, d.Slots[9] = DeliverNeigh, SlotSteer{Uplink: a}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := benchDesired(1)
			d.Tunnel = "sctun"
			spoil(&d)
			err := d.check()
			if err == nil {
				t.Fatal("accepted")
			}
			t.Log(err)
		})
	}
}

func TestNewClientTable(t *testing.T) {
	slots := []sa.Slot{1, 17, 400, 4095}
	full := newClientTable(slots)
	n := map[uint16]int{}
	for _, s := range full {
		n[s]++
	}
	for _, s := range slots {
		if c := n[uint16(s)]; c < 32 || c > 112 {
			t.Errorf("slot %d has %d of 256 buckets", s, c)
		}
	}
	less := newClientTable(slots[1:])
	for b := range full {
		if full[b] != 1 && full[b] != less[b] {
			t.Errorf("bucket %d moved from %d to %d though its slot stayed", b, full[b], less[b])
		}
	}
	if newClientTable(nil) != [buckets]uint16{} {
		t.Error("no slots, yet buckets are filled")
	}
}

// TestActionOrder: what decides changes only after the details are there.
func TestActionOrder(t *testing.T) {
	b := newBench(t)
	local := benchDesired(7).Slots[1].Uplink
	w := func(a Action) steerAction {
		t.Helper()
		if err := writeAction(b.objs.UplinkActions, b.uplink, 100, a); err != nil {
			t.Fatal(err)
		}
		var e steerAction
		if err := b.objs.UplinkActions.Lookup(uint32(100), &e); err != nil {
			t.Fatal(err)
		}
		if e != b.uplink[100] {
			t.Errorf("map has %+v, cache %+v", e, b.uplink[100])
		}
		return e
	}
	if e := w(local); e != local.encode() {
		t.Errorf("wrote %+v, want %+v", e, local.encode())
	}
	e := w(Action{Kind: Remote, Peer: peerA})
	if e.Kind != uint8(Remote) || e.Target != number(peerA) || e.detail() != local.encode().detail() {
		t.Errorf("remote is %+v, want the local details kept", e)
	}
	if e := w(Action{}); e.Kind != 0 || e.Target != 0 {
		t.Errorf("drop is %+v", e)
	}
	if e := w(local); e != local.encode() {
		t.Errorf("wrote %+v, want %+v", e, local.encode())
	}
}
