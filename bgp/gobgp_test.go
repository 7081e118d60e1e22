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
// own; what a real router makes of it is for the tests with BIRD and FRR.

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

// newGoRouter is 127.0.<net>.<n>; the speaker is 127.0.<net>.1.
func newGoRouter(t *testing.T, net, n int, asn uint32, mod func(*api.Peer)) *goRouter {
	t.Helper()
	r := &goRouter{addr: loop(net, n), speaker: loop(net, 1), got: map[netip.Prefix]*apiutil.Path{}}
	r.srv = server.NewBgpServer(server.LoggerOption(slog.New(slog.DiscardHandler), &slog.LevelVar{}))
	go r.srv.Serve()
	t.Cleanup(r.srv.Stop)
	ctx := context.Background()
	if err := r.srv.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{Asn: asn, RouterId: r.addr.String(), ListenPort: 179, ListenAddresses: []string{r.addr.String()}}}); err != nil {
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
	p := &api.Peer{
		Conf:      &api.PeerConf{NeighborAddress: r.speaker.String(), PeerAsn: asAppliance},
		Transport: &api.Transport{LocalAddress: r.addr.String(), PassiveMode: true},
		Timers:    &api.Timers{Config: &api.TimersConfig{ConnectRetry: 1, IdleHoldTimeAfterReset: 1}},
		AfiSafis:  []*api.AfiSafi{{Config: &api.AfiSafiConfig{Family: &api.Family{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST}, Enabled: true}}},
	}
	if mod != nil {
		mod(p)
	}
	if err := r.srv.AddPeer(ctx, &api.AddPeerRequest{Peer: p}); err != nil {
		t.Fatal(err)
	}
	return r
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
	t.Parallel()
	r1, r2 := newGoRouter(t, 70, 2, 64500, nil), newGoRouter(t, 70, 3, 64600, nil)
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
	t.Parallel()
	r1 := newGoRouter(t, 71, 2, 64500, nil)
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
// drops in silence is guessed from the kernel's counters.
func TestRefusedEvents(t *testing.T) {
	needPort179(t)
	t.Parallel()
	active := func(p *api.Peer) { p.Transport.PassiveMode = false }
	net := 72
	for name, tc := range map[string]struct {
		peer   func(*Peer)
		router func(*api.Peer)
		want   string
	}{
		"AS of the router":    {peer: func(p *Peer) { p.ASN = 64999 }, want: "its AS number is not the configured one"},
		"our AS":              {router: func(p *api.Peer) { p.Conf.PeerAsn = 64998 }, want: "check our AS number"},
		"password":            {func(p *Peer) { p.Password = "a" }, func(p *api.Peer) { active(p); p.Conf.AuthPassword = "b" }, "the passwords differ"},
		"password only here":  {func(p *Peer) { p.Password = "a" }, active, "the router has no password"},
		"password only there": {router: func(p *api.Peer) { active(p); p.Conf.AuthPassword = "b" }, want: "the router has a password, we have none"},
		"ttl":                 {func(p *Peer) { p.TTLSecurity = true }, active, "the router does not send with TTL 255"},
	} {
		net++
		here := net
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newGoRouter(t, here, 2, 64500, tc.router)
			p := peerOf(r, "r1", 64500)
			if tc.peer != nil {
				tc.peer(&p)
			}
			s := runSpeaker(t, nil, p)
			e := s.event(t, "refusal", func(e Event) bool { return e.Kind == PeerRefused && strings.Contains(e.Reason, tc.want) })
			t.Logf("%s: %s", e.Peer, e.Reason)
			s.mu.Lock()
			defer s.mu.Unlock()
			seen := map[string]int{}
			for _, e := range s.evs {
				if e.Kind == PeerUp {
					t.Errorf("the session came up")
				}
				if seen[e.Reason]++; seen[e.Reason] > 1 {
					t.Errorf("told twice: %s", e.Reason)
				}
			}
		})
	}
}
