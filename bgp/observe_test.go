package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/shadowcast/shadowcast/bgp/bfd"
)

var (
	addr1 = netip.MustParseAddr("10.0.0.1")
	addr2 = netip.MustParseAddr("10.0.1.1")
)

func testObserver() (*observer, *[]string) {
	var got []string
	o := newObserver([]Peer{{Name: "r1", Address: addr1}, {Name: "r2", Address: addr2}},
		newDiagnosis(), slog.New(slog.DiscardHandler), func(evs []Event) {
			for _, e := range evs {
				s := e.Kind.String()
				if e.Prefix.IsValid() {
					s += " " + e.Prefix.String()
					for _, v := range e.Via {
						s += fmt.Sprintf(" %s/%v/%v", v.Peer, v.Gone.IsZero(), v.Withdrawn)
					}
				}
				if e.Kind == LivenessDown {
					s += fmt.Sprintf(" withdrawn=%v", e.Withdrawn)
				}
				if e.Peer != "" {
					s += " " + e.Peer + " " + e.Reason
				}
				got = append(got, strings.TrimSpace(s))
			}
		})
	return o, &got
}

// routePath is what GoBGP hands to the callback.
func routePath(t *testing.T, peer netip.Addr, p netip.Prefix, gone, attrs bool) *apiutil.Path {
	t.Helper()
	n, err := gobgp.NewIPAddrPrefix(p)
	if err != nil {
		t.Fatal(err)
	}
	out := &apiutil.Path{Family: gobgp.RF_IPv4_UC, Nlri: n, Withdrawal: gone, PeerAddress: peer}
	if attrs {
		out.Attrs = []gobgp.PathAttributeInterface{gobgp.NewPathAttributeOrigin(0)}
	}
	return out
}

func TestSightings(t *testing.T) {
	const up, wire, lost = "up", "wire", "lost" // appears, withdrawn by the router, lost with our session
	type ev struct {
		peer netip.Addr
		p    netip.Prefix
		what string
	}
	for name, tc := range map[string]struct {
		evs  []ev
		want []string
	}{
		"one router": {
			[]ev{{addr1, live2, up}, {addr1, live2, up}, {addr1, live2, wire}, {addr1, live2, wire}},
			[]string{"liveness-up 192.0.2.2/32 r1/true/false", "liveness-down 192.0.2.2/32 r1/false/true withdrawn=true"},
		},
		"two routers, down with the last": {
			[]ev{{addr1, live2, up}, {addr2, live2, up}, {addr1, live2, wire}, {addr2, live2, wire}},
			[]string{"liveness-up 192.0.2.2/32 r1/true/false", "liveness-down 192.0.2.2/32 r1/false/true r2/false/true withdrawn=true"},
		},
		"own sessions lost is no evidence": {
			[]ev{{addr1, live2, up}, {addr2, live2, up}, {addr2, live2, wire}, {addr1, live2, lost}},
			[]string{"liveness-up 192.0.2.2/32 r1/true/false", "liveness-down 192.0.2.2/32 r1/false/false r2/false/true withdrawn=false"},
		},
		"comes back at the other before the last goes": {
			[]ev{{addr1, live2, up}, {addr2, live2, up}, {addr1, live2, lost}, {addr1, live2, up}, {addr2, live2, wire}},
			[]string{"liveness-up 192.0.2.2/32 r1/true/false"},
		},
		"history does not outlive a down": {
			[]ev{{addr1, live2, up}, {addr1, live2, wire}, {addr2, live2, up}, {addr2, live2, wire}},
			[]string{
				"liveness-up 192.0.2.2/32 r1/true/false", "liveness-down 192.0.2.2/32 r1/false/true withdrawn=true",
				"liveness-up 192.0.2.2/32 r2/true/false", "liveness-down 192.0.2.2/32 r2/false/true withdrawn=true",
			},
		},
		"our own echo and strangers": {
			[]ev{{addr1, live1, up}, {addr1, live1, wire}, {netip.MustParseAddr("10.9.9.9"), live2, up}, {addr1, live2, wire}}, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			o, got := testObserver()
			o.setOwn([]netip.Prefix{live1})
			for _, e := range tc.evs {
				o.onPaths([]*apiutil.Path{routePath(t, e.peer, e.p, e.what != up, e.what != wire)}, time.Time{})
			}
			if fmt.Sprint(*got) != fmt.Sprint(tc.want) {
				t.Errorf("got  %q\nwant %q", *got, tc.want)
			}
		})
	}
}

func TestPeerEvents(t *testing.T) {
	o, got := testObserver()
	ev := func(s gobgp.FSMState, why api.PeerState_DisconnectReason, text string, admin api.PeerState_AdminState) {
		o.onPeer(&apiutil.WatchEventMessage_PeerEvent{Type: apiutil.PEER_EVENT_STATE, Peer: apiutil.Peer{
			State: apiutil.PeerState{NeighborAddress: addr1, SessionState: s, DisconnectReason: why, DisconnectMessage: text, AdminState: admin},
		}}, time.Time{})
	}
	ev(gobgp.BGP_FSM_IDLE, api.PeerState_DISCONNECT_REASON_BAD_PEER_AS, "bad-peer-as", 0)
	if !strings.Contains(o.diag.get(addr1), "AS number") {
		t.Errorf("diagnosis %q", o.diag.get(addr1))
	}
	ev(gobgp.BGP_FSM_ESTABLISHED, 0, "", 0)
	if o.diag.get(addr1) != "" {
		t.Errorf("diagnosis %q of a session that is up", o.diag.get(addr1))
	}
	ev(gobgp.BGP_FSM_IDLE, api.PeerState_DISCONNECT_REASON_NOTIFICATION_SENT, bfdReset, 0)
	ev(gobgp.BGP_FSM_ACTIVE, 0, "", 0)
	ev(gobgp.BGP_FSM_ESTABLISHED, 0, "", 0)
	ev(gobgp.BGP_FSM_IDLE, api.PeerState_DISCONNECT_REASON_READ_FAILED, "read-failed", api.PeerState_ADMIN_STATE_PFX_CT)
	want := []string{"peer-refused r1 we refused the router: bad peer AS: its AS number is not the configured one", "peer-up r1", "peer-down r1 bfd down", "peer-up r1", "peer-down r1 the router sent more than max_prefixes"}
	if fmt.Sprint(*got) != fmt.Sprint(want) {
		t.Errorf("got  %q\nwant %q", *got, want)
	}
	if s := o.get(addr1); s.flaps != 2 || !s.pfxOver {
		t.Errorf("session %+v", s)
	}
	now := time.Now()
	taken := func(a netip.Addr, at time.Time) bool { lost, _ := o.takeLost(a, true, at); return lost }
	if taken(addr2, now) {
		t.Error("a session that never was is to be rebuilt")
	}
	if taken(addr1, now) || !taken(addr1, now.Add(reopenAfter+time.Second)) || taken(addr1, now.Add(time.Hour)) {
		t.Error("a session closed by the prefix limit is to be rebuilt once, after a minute")
	}
}

// TestBFDDown: BGP follows BFD once, and only where it is established. A reset that
// finds no session would stay behind in GoBGP and close the next one.
func TestBFDDown(t *testing.T) {
	o, _ := testObserver()
	down := bfd.Event{Kind: bfd.WentDown, Peer: addr1, Reason: "control detection time expired"}
	up := func(s gobgp.FSMState) {
		o.onPeer(&apiutil.WatchEventMessage_PeerEvent{Type: apiutil.PEER_EVENT_STATE, Peer: apiutil.Peer{
			State: apiutil.PeerState{NeighborAddress: addr1, SessionState: s},
		}}, time.Time{})
	}
	o.onBFD(down)
	if why := o.takeBFDDown(addr1); why != "" {
		t.Errorf("a session that is not up is to be reset: %s", why)
	}
	up(gobgp.BGP_FSM_ESTABLISHED)
	if why := o.takeBFDDown(addr1); why != "" {
		t.Errorf("what happened before the session is to reset it: %s", why)
	}
	o.onBFD(down)
	if why := o.takeBFDDown(addr1); why != down.Reason {
		t.Errorf("reset for %q, want %q", why, down.Reason)
	}
	if why := o.takeBFDDown(addr1); why != "" {
		t.Errorf("reset twice: %s", why)
	}
	o.onBFD(down)
	up(gobgp.BGP_FSM_IDLE)
	lost, _ := o.takeLost(addr1, true, time.Now())
	if why := o.takeBFDDown(addr1); why != "" || !lost {
		t.Errorf("a session that ended by itself is to be reset (%q), or is not to be rebuilt", why)
	}
	o.onBFD(bfd.Event{Kind: bfd.WentDown, Peer: netip.MustParseAddr("203.0.113.9")}) // no peer of ours
}

func TestLogHandler(t *testing.T) {
	var b strings.Builder
	d := newDiagnosis()
	told := 0
	refused := func(a netip.Addr, text string) {
		if d.set(a, text, time.Now()) {
			told++
		}
	}
	h := &logHandler{next: slog.NewTextHandler(&b, nil), names: map[netip.Addr]string{addr1: "r1"}, refused: refused, drops: newTCPDrops(readNetstat)}
	l := slog.New(h).With("Topic", "Peer", "Key", addr1.String())
	l.Info("Peer Up")
	l.Debug("failed to connect", "Error", "dial tcp: i/o timeout")
	if b.Len() != 0 {
		t.Errorf("logged %q", b.String())
	}
	if got := d.get(addr1); got != "connect: dial tcp: i/o timeout" {
		t.Errorf("diagnosis %q", got)
	}
	for _, port := range []string{"0", "41234"} {
		l.Debug("failed to connect", "Error", "dial tcp 10.0.0.2:"+port+"->10.0.0.1:179: i/o timeout")
	}
	if got := d.get(addr1); got != "connect: dial tcp 10.0.0.2->10.0.0.1:179: i/o timeout" || told != 2 {
		t.Errorf("diagnosis %q, told %d times, want twice: the same reason is told once", got, told)
	}
	l.Warn("Expired", "Err", "x", "Admin State", 3)
	if got := b.String(); !strings.Contains(got, `msg="gobgp: expired" peer=r1 err=x admin_state=3`) {
		t.Errorf("logged %q", got)
	}
	l.Info("sent notification", "Code", 2, "Subcode", 2)
	if got := d.get(addr1); !strings.Contains(got, "bad peer as") || !strings.Contains(got, "not the configured one") {
		t.Errorf("diagnosis %q", got)
	}
	l.Info("received notification", "Code", 6, "Subcode", 2, "Communicated-Reason", "bye")
	if got := d.get(addr1); !strings.Contains(got, `the router refused us`) || !strings.Contains(got, `("bye")`) {
		t.Errorf("diagnosis %q", got)
	}
}

// TestFlapping: from the fifth loss in five minutes the next session waits, longer
// each time, and calm forgives.
func TestFlapping(t *testing.T) {
	s := &session{}
	now := time.Unix(1000, 0)
	var got []time.Duration
	for range 10 {
		got = append(got, s.oscillates(now))
		now = now.Add(10 * time.Second)
	}
	if want := []time.Duration{0, 0, 0, 0, 2e9, 4e9, 8e9, 16e9, 30e9, 30e9}; !slices.Equal(got, want) {
		t.Errorf("waits %v, want %v", got, want)
	}
	if d := s.oscillates(now.Add(flapWindow)); d != 0 || len(s.losses) != 1 {
		t.Errorf("waits %v after calm, %d losses remembered", d, len(s.losses))
	}
}

// TestFlappingEvent: the fifth loss is told with its number, and the peer is held,
// unless it is the only one of its side and family.
func TestFlappingEvent(t *testing.T) {
	o, got := testObserver()
	for range 5 {
		for _, st := range []gobgp.FSMState{gobgp.BGP_FSM_ESTABLISHED, gobgp.BGP_FSM_IDLE} {
			o.onPeer(&apiutil.WatchEventMessage_PeerEvent{Type: apiutil.PEER_EVENT_STATE, Peer: apiutil.Peer{
				State: apiutil.PeerState{NeighborAddress: addr1, SessionState: st, DisconnectMessage: "read-failed"},
			}}, time.Time{})
		}
	}
	if lost, hold := o.takeLost(addr1, false, time.Now()); !lost || hold != flapHold {
		t.Errorf("lost %t, hold %v", lost, hold)
	}
	o.flaps(addr1, flapHold)
	o.flaps(addr1, 0)
	const told = "peer-flapping r1 the session was lost 5 times in 5m0s, last by: read-failed; the next one "
	if n := len(*got); (*got)[n-2] != told+"waits 2s" || !strings.HasPrefix((*got)[n-1], told+"is opened at once") {
		t.Errorf("events %q", *got)
	}
	peer := func(name, addr string, role Role) Peer {
		a := netip.MustParseAddr(addr)
		return Peer{Name: name, Address: a, Role: role}
	}
	r1, r2, in, six := peer("r1", "10.0.0.1", Outside), peer("r2", "10.0.1.1", Outside), peer("in", "10.0.2.1", Inside), peer("r1-6", "2001:db8::1", Outside)
	s := &Speaker{cfg: Config{Peers: []Peer{r1, r2, in, six}}, obs: newObserver([]Peer{r1, r2, in, six}, newDiagnosis(), slog.New(slog.DiscardHandler), func([]Event) {})}
	for _, p := range []Peer{in, six, r1} {
		s.obs.peers[p.Address].up = true
	}
	for _, tc := range []struct {
		p    Peer
		want bool
	}{{r1, false}, {r2, true}, {in, false}, {six, false}} {
		if got := s.spare(tc.p); got != tc.want {
			t.Errorf("another session of the side and family of %s is up: %t, want %t", tc.p.Name, got, tc.want)
		}
	}
}

// TestStuck: what waits for too long is told, in a handshake sooner than elsewhere, and
// not where a reason is known already.
func TestStuck(t *testing.T) {
	o, _ := testObserver()
	at := func(d time.Duration) string { return o.stuck(addr1, o.began.Add(d)) }
	if s := at(9 * time.Second); s != "" {
		t.Errorf("after 9 s: %q", s)
	}
	if s := at(unexplained); !strings.Contains(s, "neither side says why") {
		t.Errorf("after 10 s: %q", s)
	}
	o.refused(addr1, "connect: refused")
	if s := at(time.Hour); s != "" {
		t.Errorf("with a reason: %q", s)
	}
	p := o.peers[addr1]
	p.state, p.entered = gobgp.BGP_FSM_OPENSENT, o.began
	if s := at(stuckAfter); !strings.Contains(s, "took the connection") {
		t.Errorf("in a handshake: %q", s)
	}
	p.up = true
	if s := at(time.Hour); s != "" {
		t.Errorf("of a session that is up: %q", s)
	}
}

func TestTCPDrops(t *testing.T) {
	text := "TcpExt: SyncookiesSent TCPMD5NotFound TCPMD5Failure TCPMinTTLDrop\nTcpExt: 1 %d %d %d\nIpExt: InNoRoutes\nIpExt: 4\n"
	counts := [3]int{5, 6, 7}
	d := newTCPDrops(func() ([]byte, error) { return fmt.Appendf(nil, text, counts[0], counts[1], counts[2]), nil })
	if h := d.hint(addr1); h != "" {
		t.Errorf("no change says %q", h)
	}
	counts[1], counts[2] = 8, 9
	if h := d.hint(addr1); !strings.Contains(h, "passwords differ") || !strings.Contains(h, "TTL below 255") || strings.Contains(h, "has no password") {
		t.Errorf("hint %q", h)
	}
	if h := d.hint(addr2); !strings.Contains(h, "passwords differ") {
		t.Errorf("one peer's hint was taken by another: %q", h)
	}
	counts[0]++
	if h := d.hint(addr1); !strings.Contains(h, "the router has no password") || strings.Contains(h, "differ") {
		t.Errorf("hint %q", h)
	}
	d.read = func() ([]byte, error) { return []byte("TcpExt:"), nil }
	if h := d.hint(addr1); h != "" {
		t.Errorf("a cut file says %q", h)
	}
}

// TestQueue: events arrive in order, and what is left when the context ends is
// still delivered.
func TestQueue(t *testing.T) {
	q := newQueue()
	var got []string
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range 100 {
		q.push([]Event{{Peer: fmt.Sprint(i)}})
	}
	q.run(ctx, func(e Event) { got = append(got, e.Peer) })
	if len(got) != 100 || got[99] != "99" {
		t.Errorf("got %v", got)
	}
}
