package bgp

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
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
		&diagnosis{last: map[netip.Addr]string{}}, slog.New(slog.DiscardHandler), func(evs []Event) {
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
	want := []string{"peer-up r1", "peer-down r1 bfd down", "peer-up r1", "peer-down r1 the router sent more than max_prefixes"}
	if fmt.Sprint(*got) != fmt.Sprint(want) {
		t.Errorf("got  %q\nwant %q", *got, want)
	}
	if s := o.get(addr1); s.flaps != 2 || !s.pfxOver {
		t.Errorf("session %+v", s)
	}
	now := time.Now()
	if o.takeLost(addr2, true, now) {
		t.Error("a session that never was is to be rebuilt")
	}
	if o.takeLost(addr1, true, now) || !o.takeLost(addr1, true, now.Add(reopenAfter+time.Second)) || o.takeLost(addr1, true, now.Add(time.Hour)) {
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
	if why := o.takeBFDDown(addr1); why != "" || !o.takeLost(addr1, true, time.Now()) {
		t.Errorf("a session that ended by itself is to be reset (%q), or is not to be rebuilt", why)
	}
	o.onBFD(bfd.Event{Kind: bfd.WentDown, Peer: netip.MustParseAddr("203.0.113.9")}) // no peer of ours
}

func TestLogHandler(t *testing.T) {
	var b strings.Builder
	d := &diagnosis{last: map[netip.Addr]string{}}
	h := &logHandler{next: slog.NewTextHandler(&b, nil), names: map[netip.Addr]string{addr1: "r1"}, diag: d}
	l := slog.New(h).With("Topic", "Peer", "Key", addr1.String())
	l.Info("Peer Up")
	l.Debug("failed to connect", "Error", "dial tcp: i/o timeout")
	if b.Len() != 0 {
		t.Errorf("logged %q", b.String())
	}
	if got := d.get(addr1); got != "connect: dial tcp: i/o timeout" {
		t.Errorf("diagnosis %q", got)
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
