package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"
)

// Routers of these tests are GoBGPs in this process, on loopback addresses of their
// own; what a real router makes of it is for the tests with BIRD and FRR. These tests
// do not run side by side: GoBGP's StartBgp writes variables of its package.

func loop(net, host int) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, byte(net), byte(host)}) }

func needPort179(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs CAP_NET_BIND_SERVICE (root) for TCP port 179")
	}
}

// goRouter is a GoBGP that peers with the speaker.
type goRouter struct {
	srv     *server.BgpServer
	addr    netip.Addr
	speaker netip.Addr
	mu      sync.Mutex
	got     map[netip.Prefix]*apiutil.Path
}

// newGoRouter is 127.0.<net>.<n> and peers with the speaker at 127.0.<net>.1.
func newGoRouter(t *testing.T, net, n int, asn uint32) *goRouter {
	t.Helper()
	r := startGoRouter(t, asn, loop(net, n))
	r.speaker = loop(net, 1)
	r.peer(t, r.addr, r.speaker, nil)
	return r
}

func startGoRouter(t *testing.T, asn uint32, addrs ...netip.Addr) *goRouter {
	t.Helper()
	r := &goRouter{addr: addrs[0], got: map[netip.Prefix]*apiutil.Path{}}
	r.srv = server.NewBgpServer(server.LoggerOption(slog.New(slog.DiscardHandler), &slog.LevelVar{}))
	go r.srv.Serve()
	t.Cleanup(r.srv.Stop)
	g := &api.Global{Asn: asn, RouterId: r.addr.String(), ListenPort: 179}
	for _, a := range addrs {
		g.ListenAddresses = append(g.ListenAddresses, a.String())
	}
	ctx := context.Background()
	if err := r.srv.StartBgp(ctx, &api.StartBgpRequest{Global: g}); err != nil {
		t.Fatal(err)
	}
	if err := r.srv.WatchEvent(ctx, server.WatchEventMessageCallbacks{OnPathUpdate: func(ps []*apiutil.Path, _ time.Time) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, p := range ps {
			if n, ok := p.Nlri.(*gobgp.IPAddrPrefix); ok {
				if r.got[n.Prefix] = p; p.Withdrawal {
					delete(r.got, n.Prefix)
				}
			}
		}
	}}, server.WatchPostUpdate(false, "", "")); err != nil {
		t.Fatal(err)
	}
	return r
}

// peer adds the session with the speaker at neighbor, passive unless mod says otherwise.
func (r *goRouter) peer(t *testing.T, local, neighbor netip.Addr, mod func(*api.Peer)) {
	t.Helper()
	p := &api.Peer{
		Conf:      &api.PeerConf{NeighborAddress: neighbor.String(), PeerAsn: asAppliance},
		Transport: &api.Transport{LocalAddress: local.String(), PassiveMode: true},
		Timers:    &api.Timers{Config: &api.TimersConfig{ConnectRetry: 1, IdleHoldTimeAfterReset: 1}},
		AfiSafis:  []*api.AfiSafi{{Config: &api.AfiSafiConfig{Family: &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}, Enabled: true}}},
	}
	if mod != nil {
		mod(p)
	}
	if err := r.srv.AddPeer(context.Background(), &api.AddPeerRequest{Peer: p}); err != nil {
		t.Fatal(err)
	}
}

// route renders what the router has of a prefix: "" for nothing.
func (r *goRouter) route(p netip.Prefix) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.got[p]
	if x == nil {
		return ""
	}
	var path, med, comm, large string
	for _, a := range x.Attrs {
		switch a := a.(type) {
		case *gobgp.PathAttributeAsPath:
			path = fmt.Sprint(a)
		case *gobgp.PathAttributeMultiExitDisc:
			med = fmt.Sprint(a.Value)
		case *gobgp.PathAttributeCommunities:
			for _, c := range a.Value {
				comm += Community(c).String() + " "
			}
		case *gobgp.PathAttributeLargeCommunities:
			for _, c := range a.Values {
				large += fmt.Sprintf("%d:%d:%d ", c.ASN, c.LocalData1, c.LocalData2)
			}
		}
	}
	return fmt.Sprintf("%d hops, med %s, [%s] [%s]", strings.Count(path, fmt.Sprint(asAppliance)), med, strings.TrimSpace(comm), strings.TrimSpace(large))
}

func peerOf(r *goRouter, name string, asn uint32) Peer {
	return Peer{Name: name, Address: r.addr, LocalAddress: r.speaker, ASN: asn, Role: Outside, HoldTime: 9 * time.Second}
}

// running is a speaker in this process and its events.
type running struct {
	*Speaker
	mu  sync.Mutex
	evs []Event
}

func runSpeaker(t *testing.T, mod func(*Config), peers ...Peer) *running {
	t.Helper()
	r := &running{}
	c := Config{ASN: asAppliance, RouterID: liveOf(1).Addr(), Node: "a1", ListenAddrs: []netip.Addr{peers[0].LocalAddress}, FleetLiveness: fleetRange, Peers: peers,
		OnEvent: func(e Event) { r.mu.Lock(); defer r.mu.Unlock(); r.evs = append(r.evs, e) }}
	if mod != nil {
		mod(&c)
	}
	var err error
	if r.Speaker, err = New(c, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("speaker: %v", err)
		}
	})
	<-r.Ready()
	return r
}

func (r *running) event(t *testing.T, what string, match func(Event) bool) (got Event) {
	t.Helper()
	eventually(t, what, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		i := slices.IndexFunc(r.evs, match)
		if i >= 0 {
			got = r.evs[i]
		}
		return i >= 0
	})
	return got
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s within 20 s", what)
		}
	}
}

// TestPerPeerPolicy: two upstream ASes, each told what it understands, at every rung
// of the ladder; two VIPs with MEDs of their own; liveness the same everywhere.
func TestPerPeerPolicy(t *testing.T) {
	needPort179(t)
	r1, r2 := newGoRouter(t, 70, 2, 64500), newGoRouter(t, 70, 3, 64600)
	p1, p2 := peerOf(r1, "r1", 64500), peerOf(r2, "r2", 64600)
	p1.MEDAdd, p1.Communities = 20, []Community{64500<<16 | 100}
	p2.Prepend, p2.DrainPrepend, p2.DrainCommunities = 1, 3, []Community{64600<<16 | 666}
	s := runSpeaker(t, nil, p1, p2)
	other := netip.MustParsePrefix("198.51.100.2/32")
	d := Desired{VIPs: []netip.Prefix{vip4, other}, MEDBase: 100, VIPMED: map[netip.Prefix]uint32{other: 400}, Liveness: []netip.Prefix{liveOf(1)},
		Inner: []netip.Prefix{inner}, InnerSlot: map[netip.Prefix]uint32{inner: 7}, Owner: LargeCommunity{asAppliance, TagOwner, 9}, Force: true}
	tag := fmt.Sprintf("[%d:1:9]", asAppliance)
	for _, tc := range []struct {
		level              Level
		at1, other1, other string
	}{
		{Normal, "1 hops, med 120, [64500:100] " + tag, "1 hops, med 420, [64500:100] " + tag, "2 hops, med 100, [] " + tag},
		{Degraded, "1 hops, med 170, [64500:100] " + tag, "1 hops, med 470, [64500:100] " + tag, "2 hops, med 150, [] " + tag},
		{Draining, "1 hops, med 4294967294, [65535:0 64500:100] " + tag, "1 hops, med 4294967294, [65535:0 64500:100] " + tag, "4 hops, med 4294967294, [65535:0 64600:666] " + tag},
		{Withdrawn, "", "", ""},
		{Normal, "1 hops, med 120, [64500:100] " + tag, "1 hops, med 420, [64500:100] " + tag, "2 hops, med 100, [] " + tag},
	} {
		d.Level = tc.level
		if err := s.Set(d); err != nil {
			t.Fatal(err)
		}
		for _, x := range []struct {
			r    *goRouter
			p    netip.Prefix
			want string
		}{{r1, vip4, tc.at1}, {r1, other, tc.other1}, {r2, vip4, tc.other}, {r1, liveOf(1), "1 hops, med , [] []"}, {r2, liveOf(1), "1 hops, med , [] []"}, {r1, inner, ""}} {
			defer func() {
				if t.Failed() {
					t.Logf("%v: %v at %v is %q, want %q", tc.level, x.p, x.r.addr, x.r.route(x.p), x.want)
				}
			}()
			eventually(t, fmt.Sprintf("%v: %v with %q at %v", tc.level, x.p, x.want, x.r.addr), func() bool { return x.r.route(x.p) == x.want })
		}
	}
}

// TestRetiredVIP: a configuration that takes away a VIP in use has it announced as
// draining first; the others are not touched. With all VIPs withdrawn nothing lingers.
func TestRetiredVIP(t *testing.T) {
	needPort179(t)
	r1 := newGoRouter(t, 71, 2, 64500)
	s := runSpeaker(t, func(c *Config) { c.RetireFor = 400 * time.Millisecond }, peerOf(r1, "r1", 64500))
	other := netip.MustParsePrefix("198.51.100.2/32")
	d := Desired{VIPs: []netip.Prefix{vip4, other}, MEDBase: 100}
	set := func() {
		t.Helper()
		if err := s.Set(d); err != nil {
			t.Fatal(err)
		}
	}
	set()
	eventually(t, "both VIPs", func() bool { return r1.route(vip4) != "" && r1.route(other) != "" })
	d.VIPs = d.VIPs[:1]
	set()
	t0 := time.Now()
	eventually(t, "draining VIP", func() bool { return r1.route(other) == "1 hops, med 4294967294, [65535:0] []" })
	eventually(t, "withdrawal of the VIP", func() bool { return r1.route(other) == "" })
	if d := time.Since(t0); d < 300*time.Millisecond {
		t.Errorf("withdrawn after %v, want it announced as draining for 400 ms", d)
	}
	if got := r1.route(vip4); got != "1 hops, med 100, [] []" {
		t.Errorf("the VIP that stays is %q", got)
	}
	if e := s.event(t, "retired VIP", func(e Event) bool { return e.Kind == VIPRetired }); e.Prefix != other || !strings.Contains(e.Reason, "no longer configured") {
		t.Errorf("event %+v", e)
	}
	d.VIPs = []netip.Prefix{vip4, other}
	set()
	eventually(t, "the VIP again", func() bool { return r1.route(other) == "1 hops, med 100, [] []" })
	d.VIPs, d.Level = d.VIPs[:1], Withdrawn
	set()
	eventually(t, "no VIP", func() bool { return r1.route(vip4) == "" && r1.route(other) == "" })
}

// TestRefusedEvents: what does not come up is told once, with the reason, and what TCP
// drops in silence is guessed from the kernel's counters. One router and one speaker
// have a link for each mistake.
func TestRefusedEvents(t *testing.T) {
	needPort179(t)
	active := func(p *api.Peer) { p.Transport.PassiveMode = false }
	cases := []struct {
		name   string
		peer   func(*Peer)
		router func(*api.Peer)
		want   string
	}{
		{"router-as", func(p *Peer) { p.ASN = 64999 }, nil, "its AS number is not the configured one"},
		{"our-as", nil, func(p *api.Peer) { p.Conf.PeerAsn = 64998 }, "check our AS number"},
		{"passwords", func(p *Peer) { p.Password = "a" }, func(p *api.Peer) { active(p); p.Conf.AuthPassword = "b" }, "the passwords differ"},
		{"no-password-there", func(p *Peer) { p.Password = "a" }, active, "the router has no password"},
		{"no-password-here", nil, func(p *api.Peer) { active(p); p.Conf.AuthPassword = "b" }, "the router has a password, we have none"},
		{"ttl", func(p *Peer) { p.TTLSecurity = true }, active, "the router does not send with TTL 255"},
	}
	var here, there []netip.Addr
	for i := range cases {
		here, there = append(here, loop(80+i, 1)), append(there, loop(80+i, 2))
	}
	r := startGoRouter(t, 64500, there...)
	var peers []Peer
	for i, tc := range cases {
		p := Peer{Name: tc.name, Address: there[i], LocalAddress: here[i], ASN: 64500, Role: Outside, HoldTime: 9 * time.Second}
		if tc.peer != nil {
			tc.peer(&p)
		}
		peers = append(peers, p)
		r.peer(t, there[i], here[i], tc.router)
	}
	s := runSpeaker(t, func(c *Config) { c.ListenAddrs = here }, peers...)
	defer func() {
		if t.Failed() {
			s.mu.Lock()
			defer s.mu.Unlock()
			t.Logf("events %+v", s.evs)
		}
	}()
	for _, tc := range cases {
		e := s.event(t, "refusal of "+tc.name, func(e Event) bool {
			return e.Kind == PeerRefused && e.Peer == tc.name && strings.Contains(e.Reason, tc.want)
		})
		t.Logf("%s: %s", e.Peer, e.Reason)
	}
	s.mu.Lock()
	evs := slices.Clone(s.evs)
	s.mu.Unlock()
	seen := map[[2]string]int{}
	for _, e := range evs {
		if e.Kind == PeerUp {
			t.Errorf("the session %s came up", e.Peer)
		}
		if seen[[2]string{e.Peer, e.Reason}]++; seen[[2]string{e.Peer, e.Reason}] > 1 {
			t.Errorf("told twice: %s: %s", e.Peer, e.Reason)
		}
	}
}
