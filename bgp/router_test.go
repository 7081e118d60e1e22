package bgp

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/configs/routers"
)

const (
	asAppliance = 64512
	asRouter    = 64500
	asCore      = 64501
)

var fleetRange = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:1::/64")}

func ip4(n, host int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, byte(n), byte(host)}) }
func ip6(n, host int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd77:%d::%d", n, host)) }

// liveOf is the liveness route of appliance n.
func liveOf(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), 32)
}

func appliance(n int, peers ...Peer) speakerSpec {
	var s speakerSpec
	s.Config.ASN, s.Config.Node = asAppliance, fmt.Sprintf("a%d", n)
	s.Config.RouterID = liveOf(n).Addr()
	s.Config.FleetLiveness = fleetRange
	s.Config.Peers = peers
	return s
}

func outsidePeer(link int, iv time.Duration) Peer {
	return Peer{Name: "r", Address: ip4(link, 1), LocalAddress: ip4(link, 2), ASN: asRouter, Role: Outside,
		BFD: BFD{Enabled: iv > 0, Interval: iv, Multiplier: 3}}
}

func outsideRouter(iv time.Duration, sessions ...routers.Session) routers.RouterConfig {
	return routers.RouterConfig{
		Name: "r", RouterID: netip.MustParseAddr("192.0.2.201"), ASN: asRouter, Role: routers.Outside, ApplianceASN: asAppliance,
		Sessions: sessions, VIPs: []netip.Prefix{vip4, vip6}, Liveness: fleetRange, BFDInterval: iv, BFDMultiplier: 3,
	}
}

func sessionTo(n, link int) routers.Session {
	name := fmt.Sprintf("a%d", n)
	return routers.Session{Name: name, Interface: name, Address: ip4(link, 2), LocalAddress: ip4(link, 1)}
}

// pair is a router r and the appliances a1 and a2.
type pair struct {
	*lab
	a1, a2 *speaker
	// about returns what the router knows about a prefix.
	about func(p netip.Prefix) string
}

// newPair brings both appliances up, announcing their liveness routes only.
func newPair(t *testing.T, frr bool, iv time.Duration) *pair {
	programs := []string{"bird", "birdc"}
	if frr {
		programs = []string{"/usr/lib/frr/bgpd", "vtysh"}
	}
	p := &pair{lab: newLab(t, programs...)}
	p.netns("r", "a1", "a2")
	p.link("r", "a1", 1)
	p.link("r", "a2", 2)
	conf := outsideRouter(iv, sessionTo(1, 1), sessionTo(2, 2))
	if frr {
		vtysh := p.frr("r", conf)
		p.about = func(x netip.Prefix) string { return vtysh("-c", "show bgp ipv4 unicast "+x.String()) }
	} else {
		sock := p.bird("r", conf)
		p.about = func(x netip.Prefix) string { return p.birdc(sock, "show", "route", "all", "for", x.Addr().String()) }
	}
	p.a1 = p.lab.speaker("a1", appliance(1, outsidePeer(1, iv)))
	p.a2 = p.lab.speaker("a2", appliance(2, outsidePeer(2, iv)))
	p.a1.set(Desired{Liveness: []netip.Prefix{liveOf(1)}})
	p.a2.set(Desired{Liveness: []netip.Prefix{liveOf(2)}})
	p.a1.waitUp()
	p.a2.waitUp()
	p.a1.event(15*time.Second, "liveness of a2", time.Time{}, livenessOf(LivenessUp, 2))
	p.a2.event(15*time.Second, "liveness of a1", time.Time{}, livenessOf(LivenessUp, 1))
	return p
}

func desire(n int, level Level, med uint32, force bool) Desired {
	return Desired{VIPs: []netip.Prefix{vip4, vip6}, Level: level, MEDBase: med, Liveness: []netip.Prefix{liveOf(n)}, Force: force}
}

func livenessOf(k EventKind, n int) func(Event) bool {
	return func(e Event) bool { return e.Kind == k && e.Prefix == liveOf(n) }
}

// TestAnnounce walks the ladder at a real router and measures to its kernel route.
func TestAnnounce(t *testing.T) {
	for name, frr := range map[string]bool{"BIRD": false, "FRR": true} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, frr, 100*time.Millisecond)
			kernel := p.watch("r", netip.PrefixFrom(vip4.Addr(), 32))
			via1, via2 := ip4(1, 2).String(), ip4(2, 2).String()

			// Nothing but liveness before the first Set says so.
			for n, s := range map[int]*speaker{1: p.a1, 2: p.a2} {
				s.event(10*time.Second, "liveness of the other", time.Time{}, livenessOf(LivenessUp, 3-n))
				if a := s.do(command{Op: "peers"}); len(a.Ann) != 1 || a.Ann[0].Prefix != liveOf(n) {
					t.Fatalf("a%d announces %+v", n, a.Ann)
				}
			}
			if kernel.len() != 0 {
				t.Fatal("VIP before the first Set")
			}

			t0 := time.Now()
			p.a1.set(desire(1, Normal, 100, false))
			t.Logf("announce to kernel route: %v", p.changed(kernel, via1, t0))
			p.a2.set(desire(2, Normal, 200, false))
			p.wait(5*time.Second, "route of a2 at the router", func() bool { return strings.Contains(p.about(vip4), via2) })

			// A received liveness route goes no further, nor does a VIP come back.
			// (FRR tells us our own liveness route back.)
			want := uint64(1)
			if frr {
				want = 2
			}
			if st := p.a1.peer("r"); st.Received != want || st.Advertised != 2 {
				t.Errorf("a1 got %d prefixes and sent %d, want %d and 2: %+v", st.Received, st.Advertised, want, st)
			}

			for range 3 {
				t0 = time.Now()
				p.a1.set(desire(1, Normal, 1000, true))
				t.Logf("MED up to kernel route: %v", p.changed(kernel, via2, t0))
				t0 = time.Now()
				p.a1.set(desire(1, Normal, 100, true))
				t.Logf("MED down to kernel route: %v", p.changed(kernel, via1, t0))
			}
			// Repeating changes nothing on the wire.
			n := kernel.len()
			for range 20 {
				p.a1.set(desire(1, Normal, 100, false))
			}
			// The budget is spent by the forced changes.
			p.a1.set(desire(1, Degraded, 100, false))
			if a := p.a1.do(command{Op: "peers"}); a.Ann[1].MED != 100 || a.Ann[1].ChangeAt.IsZero() {
				t.Errorf("over the budget: %+v", a.Ann)
			}
			if kernel.len() != n {
				t.Errorf("%d route changes by idempotent or deferred Sets", kernel.len()-n)
			}

			t0 = time.Now()
			p.a1.set(desire(1, Draining, 100, true))
			t.Logf("drain to kernel route: %v", p.changed(kernel, via2, t0))
			if got := p.about(vip4); !strings.Contains(got, "4294967294") || !strings.Contains(got, map[bool]string{false: "BGP.local_pref: 0", true: "localpref 0"}[frr]) {
				t.Errorf("draining route at the router:\n%s", got)
			}
			// With nobody else left, the draining appliance still serves.
			t0 = time.Now()
			a := p.a2.do(command{Op: "withdraw"})
			if a.Err != "" {
				t.Fatalf("withdraw: %s", a.Err)
			}
			t.Logf("orderly withdraw returned after %v; to kernel route: %v", a.Took, p.changed(kernel, via1, t0))
			p.a2.event(time.Second, "liveness stays", time.Time{}, livenessOf(LivenessUp, 1))
			if got := p.about(liveOf(2)); !strings.Contains(got, via2) {
				t.Errorf("liveness route went with the VIP:\n%s", got)
			}

			// Leaving in order: withdrawal, shutdown message, no goroutine left.
			t0 = time.Now()
			last := p.a1.stop()
			if last.Err != "" || last.Leak != "" || last.Parked && !frr {
				t.Errorf("stop: %s\n%s", last.Err, last.Leak)
			}
			t.Logf("stop to kernel route gone: %v", p.changed(kernel, "", t0))
			p.a2.event(3*time.Second, "liveness of the one that left", t0, livenessOf(LivenessDown, 1))
		})
	}
}

// TestDeath measures how soon another appliance learns of a death through the
// router: the SSM's evidence.
func TestDeath(t *testing.T) {
	for _, tc := range []struct {
		frr bool
		iv  time.Duration
	}{{false, 50 * time.Millisecond}, {false, 100 * time.Millisecond}, {true, 50 * time.Millisecond}, {true, 100 * time.Millisecond}} {
		t.Run(fmt.Sprintf("%s/%v", map[bool]string{false: "BIRD", true: "FRR"}[tc.frr], tc.iv), func(t *testing.T) {
			p := newPair(t, tc.frr, tc.iv)
			for range 2 {
				p.a2.event(10*time.Second, "liveness", time.Time{}, livenessOf(LivenessUp, 1))
				t0 := p.a1.signal(syscall.SIGSTOP)
				e := p.a2.event(5*time.Second, "liveness down", t0, livenessOf(LivenessDown, 1))
				t.Logf("SIGSTOP with BFD %v x 3 to liveness-down at the other appliance: %v", tc.iv, e.At.Sub(t0).Round(100*time.Microsecond))
				if !e.Withdrawn || len(e.Via) != 1 || e.Via[0].Peer != "r" {
					t.Errorf("event %+v", e)
				}
				if d := e.At.Sub(t0); d > 2*time.Second {
					t.Errorf("took %v", d)
				}
				t1 := p.a1.signal(syscall.SIGCONT)
				p.a2.event(25*time.Second, "liveness up again", t1, livenessOf(LivenessUp, 1))
				p.a1.waitUp()
			}
			p.a1.event(15*time.Second, "liveness of the other", p.a1.peer("r").Since, livenessOf(LivenessUp, 2))
			t0 := p.linkState("a1", "r", "down")
			e := p.a2.event(5*time.Second, "liveness down", t0, livenessOf(LivenessDown, 1))
			t.Logf("link cut to liveness-down at the other appliance: %v", e.At.Sub(t0).Round(100*time.Microsecond))
			// The one that was cut off lost everybody's liveness, and must not
			// take that for their death.
			e = p.a1.event(15*time.Second, "liveness down", t0, livenessOf(LivenessDown, 2))
			if e.Withdrawn {
				t.Errorf("a lost session looks like a withdrawal: %+v", e)
			}
			if down := p.a1.event(time.Second, "peer down", t0, func(e Event) bool { return e.Kind == PeerDown }); down.Reason != "bfd down" {
				t.Errorf("reason %q", down.Reason)
			}
		})
	}
}

// TestNoFlapLoop: a pause of one second is one loss of the session, not the
// start of an endless flap. Without rebuilding lost peers GoBGP's leftover reset
// makes it two at least.
func TestNoFlapLoop(t *testing.T) {
	for name, frr := range map[string]bool{"BIRD": false, "FRR": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, frr, 100*time.Millisecond)
			before := p.a1.peer("r").Flaps // FRR's first session comes up twice
			t0 := p.a1.signal(syscall.SIGSTOP)
			p.a2.event(5*time.Second, "liveness down", t0, livenessOf(LivenessDown, 1))
			time.Sleep(time.Until(t0.Add(time.Second))) // the length of the fault
			p.a1.signal(syscall.SIGCONT)
			p.a2.event(20*time.Second, "liveness up again", t0, livenessOf(LivenessUp, 1))
			p.a1.waitUp()
			time.Sleep(10 * time.Second) // the time in which nothing may happen
			if n := p.a1.count(t0, PeerDown); n != 1 {
				t.Errorf("a1 lost its session %d times, want once", n)
			}
			if n := p.a2.count(t0, PeerDown); n != 0 {
				t.Errorf("a2 lost its session %d times", n)
			}
			if n := p.a2.count(t0, LivenessDown); n != 1 {
				t.Errorf("a2 saw a1 die %d times, want once", n)
			}
			if st := p.a1.peer("r"); st.Flaps != before+1 || st.BFD != "up" || st.Session != "established" {
				t.Errorf("state %+v", st)
			}
			if last := p.a1.stop(); last.Err != "" || last.Leak != "" || last.Parked && !frr {
				t.Errorf("stop: %s\n%s\nparked %v", last.Err, last.Leak, last.Parked)
			}
		})
	}
}

// TestSides: IPv6, an inside router beside the outside one, MD5 and (BIRD only) TTL security.
func TestSides(t *testing.T) {
	for name, frr := range map[string]bool{"BIRD": false, "FRR": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			programs := []string{"bird", "birdc"}
			if frr {
				programs = []string{"/usr/lib/frr/bgpd", "vtysh"}
			}
			l := newLab(t, programs...)
			l.netns("r", "core", "a1")
			l.link("r", "a1", 1)
			l.link("core", "a1", 2)
			inner6 := netip.MustParsePrefix("2001:db8:64::/64")
			s4, s6 := sessionTo(1, 1), sessionTo(1, 1)
			s4.Password, s4.TTLSecurity = "not-so-secret", !frr
			s6.Address, s6.LocalAddress, s6.Password = ip6(1, 2), ip6(1, 1), "other-secret"
			outside := outsideRouter(100*time.Millisecond, s4, s6)
			c4, c6 := sessionTo(1, 2), sessionTo(1, 2)
			c6.Address, c6.LocalAddress = ip6(2, 2), ip6(2, 1)
			inside := routers.RouterConfig{
				Name: "core", RouterID: netip.MustParseAddr("192.0.2.202"), ASN: asCore, Role: routers.Inside, ApplianceASN: asAppliance,
				Sessions: []routers.Session{c4, c6}, Inner: []netip.Prefix{netip.MustParsePrefix("10.64.0.0/10"), netip.MustParsePrefix("2001:db8:64::/48")},
			}
			about := func() string { return "" }
			if frr {
				l.frr("r", outside)
				l.frr("core", inside)
			} else {
				sock := l.bird("r", outside)
				l.bird("core", inside)
				about = func() string { return l.birdc(sock, "show", "route", "all", "for", vip4.Addr().String()) }
			}
			r4, r6 := outsidePeer(1, 100*time.Millisecond), outsidePeer(1, 100*time.Millisecond)
			r4.TTLSecurity, r4.MEDAdd, r4.DrainPrepend = !frr, 20, 2
			r6.Name, r6.Address, r6.LocalAddress = "r6", ip6(1, 1), ip6(1, 2)
			k4 := Peer{Name: "core", Address: ip4(2, 1), LocalAddress: ip4(2, 2), ASN: asCore, Role: Inside, BFD: BFD{Enabled: true}}
			k6 := k4
			k6.Name, k6.Address, k6.LocalAddress = "core6", ip6(2, 1), ip6(2, 2)
			spec := appliance(1, r4, r6, k4, k6)
			spec.Passwords = map[string]string{"r": "not-so-secret", "r6": "other-secret"}
			seen := map[string]*routeLog{}
			for _, ns := range []string{"r", "core"} {
				for _, p := range []netip.Prefix{vip4, vip6, liveOf(1), inner, inner6} {
					seen[ns+" "+p.String()] = l.watch(ns, p)
				}
			}
			a := l.speaker("a1", spec)
			d := desire(1, Normal, 100, false)
			d.Inner = []netip.Prefix{inner, inner6}
			t0 := time.Now()
			a.set(d)
			a.waitUp()
			l.changed(seen["r "+vip4.String()], ip4(1, 2).String(), t0)
			l.changed(seen["r "+vip6.String()], ip6(1, 2).String(), t0)
			l.changed(seen["r "+liveOf(1).String()], ip4(1, 2).String(), t0)
			l.changed(seen["core "+inner.String()], ip4(2, 2).String(), t0)
			l.changed(seen["core "+inner6.String()], ip6(2, 2).String(), t0)
			for _, leak := range []string{"core " + vip4.String(), "core " + vip6.String(), "core " + liveOf(1).String(), "r " + inner.String(), "r " + inner6.String()} {
				if seen[leak].len() != 0 {
					t.Errorf("leaked to %s", leak)
				}
			}
			for name, want := range map[string]uint64{"r": 2, "r6": 1, "core": 1, "core6": 1} {
				if st := a.peer(name); st.Advertised != want {
					t.Errorf("%s was sent %d prefixes, want %d", name, st.Advertised, want)
				}
			}
			for _, secret := range spec.Passwords {
				if strings.Contains(a.log.String(), secret) {
					t.Errorf("password in the log")
				}
			}
			if !frr {
				if got := about(); !strings.Contains(got, "BGP.med: 120") || !strings.Contains(got, "BGP.as_path: 64512\n") {
					t.Errorf("MED base 100 and 20 for this router:\n%s", got)
				}
				d.Level, d.Force = Draining, true
				a.set(d)
				l.wait(5*time.Second, "draining route", func() bool {
					got := about()
					return strings.Contains(got, "BGP.med: 4294967294") && strings.Contains(got, "BGP.as_path: 64512 64512 64512")
				})
			}
			t0 = time.Now()
			w := a.do(command{Op: "withdraw"})
			if w.Err != "" {
				t.Errorf("withdraw: %s", w.Err)
			}
			l.changed(seen["r "+vip6.String()], "", t0)
			t.Logf("orderly withdraw over four sessions returned after %v", w.Took)
			if last := a.stop(); last.Err != "" || last.Leak != "" || last.Parked && !frr {
				t.Errorf("stop: %s\n%s", last.Err, last.Leak)
			}
		})
	}
}

// TestRefused: what does not come up says why.
func TestRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		mod  func(*Peer, *routers.RouterConfig, map[string]string)
		want string
	}{
		"router has another AS": {func(p *Peer, _ *routers.RouterConfig, _ map[string]string) { p.ASN = 64999 }, "AS number is not the configured one"},
		"router expects another AS of us": {func(_ *Peer, c *routers.RouterConfig, _ map[string]string) { c.ApplianceASN = 64998 },
			"check our AS number"},
		"password": {func(_ *Peer, _ *routers.RouterConfig, pw map[string]string) { pw["r"] = "wrong" }, "connect: dial tcp"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, "bird", "birdc")
			l.netns("r", "a1")
			l.link("r", "a1", 1)
			s := sessionTo(1, 1)
			s.Password = "right"
			conf, peer, pw := outsideRouter(0, s), outsidePeer(1, 0), map[string]string{"r": "right"}
			tc.mod(&peer, &conf, pw)
			l.bird("r", conf)
			spec := appliance(1, peer)
			spec.Passwords = pw
			a := l.speaker("a1", spec)
			l.wait(20*time.Second, "explanation", func() bool { return strings.Contains(a.peer("r").LastError, tc.want) })
			st := a.peer("r")
			t.Logf("session %s: %s", st.Session, st.LastError)
			if st.Up || st.Session == "established" || st.Flaps != 0 {
				t.Errorf("state %+v", st)
			}
			if last := a.stop(); last.Err != "" || last.Leak != "" || last.Parked {
				t.Errorf("stop: %s\n%s", last.Err, last.Leak)
			}
		})
	}
}

// TestPrefixLimit: a router that sends too much loses its session, for a while.
func TestPrefixLimit(t *testing.T) {
	l := newLab(t, "bird", "birdc")
	l.netns("r", "a1", "a2")
	l.link("r", "a1", 1)
	l.link("r", "a2", 2)
	l.bird("r", outsideRouter(0, sessionTo(1, 1), sessionTo(2, 2)))
	limited := outsidePeer(1, 0)
	limited.MaxPrefixes = 1
	a1 := l.speaker("a1", appliance(1, limited))
	a2 := l.speaker("a2", appliance(2, outsidePeer(2, 0)))
	a2.set(Desired{Liveness: []netip.Prefix{liveOf(2)}})
	a1.event(15*time.Second, "liveness", time.Time{}, livenessOf(LivenessUp, 2))
	t0 := time.Now()
	a2.set(Desired{Liveness: []netip.Prefix{liveOf(2), liveOf(3)}})
	e := a1.event(5*time.Second, "peer down", t0, func(e Event) bool { return e.Kind == PeerDown })
	if !strings.Contains(e.Reason, "max_prefixes") {
		t.Errorf("reason %q", e.Reason)
	}
	if e := a1.event(5*time.Second, "liveness down", t0, livenessOf(LivenessDown, 2)); e.Withdrawn {
		t.Errorf("our own refusal looks like a withdrawal: %+v", e)
	}
	if last := a1.stop(); last.Err != "" || last.Leak != "" {
		t.Errorf("stop: %s\n%s", last.Err, last.Leak)
	}
}
