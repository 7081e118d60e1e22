package steer

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/sa"
)

// BenchmarkProgram is the cost of a decision, one packet of each branch. The
// remote branch is missing: repeated on one packet it would run out of hops.
func BenchmarkProgram(b *testing.B) {
	e := newBench(b)
	first := to4(17, natt(esp(2, 600)))
	first.more, first.id = true, 9
	e.in(func() { e.objs.ScSteerUplink.Test(eth(first.bytes())) })
	later := to4(17, make([]byte, 600))
	later.frag, later.id = 608, 9
	away := to4(6, make([]byte, 20))
	away.dst = other4
	ext := to6(17, natt(esp(2, 600)))
	ext.ext = []byte{0, 43, 60}
	for _, c := range []struct {
		name string
		p    ip
	}{
		{"other-destination", away},
		{"esp4", to4(50, esp(2, 600))},
		{"udp-esp4", to4(17, natt(esp(2, 600)))},
		{"esp6", to6(50, esp(2, 600))},
		{"udp-esp6", to6(17, natt(esp(2, 600)))},
		{"udp-esp6-three-extensions", ext},
		{"ike-with-event", to4(17, natt(marked(ike(1, label(2), 8))))},
		{"new-client-with-event", to4(17, natt(marked(ike(0x1111222233334444, 0, 8))))},
		{"later-fragment", later},
		{"keep-alive", to4(17, natt([]byte{0xff}))},
		{"echo", to4(1, icmp(8, 0, nil))},
		{"unknown-slot", to4(50, esp(4000, 600))},
	} {
		b.Run(c.name, func(b *testing.B) {
			raw := eth(c.p.bytes())
			var spent time.Duration
			// The event ring holds some 58,000.
			for left := b.N; left > 0; {
				n := min(left, 50_000)
				left -= n
				e.in(func() {
					_, per, err := e.objs.ScSteerUplink.Benchmark(raw, n, nil)
					if err != nil {
						b.Error(err)
					}
					spent += per * time.Duration(n)
				})
				e.events()
			}
			b.ReportMetric(float64(spent.Nanoseconds())/float64(b.N), "ns/op")
		})
	}
}

// BenchmarkDelivery sends UDP-encapsulated ESP through a client's, the
// appliance's and a slot's namespace. The sender runs the whole path, so ns/op is
// its cost; x-plain is the packet rate relative to plain forwarding.
func BenchmarkDelivery(b *testing.B) {
	w := newWorld(b)
	in := w.listen(w.slots[2], natPort(vip4))
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		buf := make([]byte, 2048)
		for {
			if _, err := in.Read(buf); err != nil {
				return
			}
		}
	}()
	defer func() { in.Close(); <-drained }()
	out := w.dial(w.client, netip.AddrPortFrom(clientAddr4, 40001), natPort(vip4))
	rc, err := out.SyscallConn()
	w.check(err)
	body := esp(2, 200)
	var plain float64
	run := func(name string) {
		b.Run(name, func(b *testing.B) {
			rc.Control(func(fd uintptr) {
				for range b.N {
					unix.Write(int(fd), body)
				}
			})
			per := float64(b.Elapsed().Nanoseconds()) / float64(b.N)
			if name == "plain" {
				plain = per
			}
			b.ReportMetric(plain/per, "x-plain")
			b.ReportMetric(1e9/per, "packets/s")
		})
	}
	l, err := netlink.LinkByName("scv2")
	w.check(err)
	route := &netlink.Route{Dst: hostPrefix(vip4), Gw: w.local[2].NextHop4.AsSlice(), LinkIndex: l.Attrs().Index}
	w.check(netlink.RouteReplace(route))
	run("plain")
	w.check(netlink.RouteDel(route))
	s, err := New(Config{PinDir: w.pins})
	w.check(err)
	defer s.Close()
	for _, d := range deliveries {
		w.check(s.Set(w.desired(d)))
		run(d.String())
	}
}

// BenchmarkSetSlot moves a slot away and back.
func BenchmarkSetSlot(b *testing.B) {
	e := newBench(b)
	e.desired.Tunnel = "sctun"
	home := e.desired.Slots[1]
	away := SlotSteer{Uplink: Action{Kind: Remote, Peer: peerA}, Peer: home.Peer}
	for i := 0; b.Loop(); i++ {
		st := home
		if i&1 == 0 {
			st = away
		}
		if err := e.SetSlot(sa.Slot(1), st); err != nil {
			b.Fatal(err)
		}
	}
}
