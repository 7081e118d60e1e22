package bgp

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/shadowcast/shadowcast/bgp/bfd"
)

// bfdReset is how GoBGP reports a session it closed because BFD went down. The
// speaker resets no session otherwise.
var bfdReset = "notification-sent " +
	gobgp.NewNotificationErrorCode(gobgp.BGP_ERROR_CEASE, gobgp.BGP_ERROR_SUB_ADMINISTRATIVE_RESET).String()

// bfdCease is how a router says the same (RFC 9384); GoBGP has no name for it.
const bfdCease = "notification-received code 6(cease) subcode 10("

// observer keeps what the routers told us: sessions and liveness routes.
type observer struct {
	names map[netip.Addr]string
	diag  *diagnosis
	log   *slog.Logger
	emit  func([]Event)
	began time.Time

	mu    sync.Mutex
	own   map[netip.Prefix]bool
	live  map[netip.Prefix]map[netip.Addr]*Sighting
	peers map[netip.Addr]*session
}

// session is the history of one peering.
type session struct {
	state   gobgp.FSMState
	entered time.Time // when state began
	up      bool
	since   time.Time // of up or of the last loss
	flaps   uint64
	reason  string        // of the last loss
	lost    bool          // went down and was not rebuilt yet
	bfdDown string        // why BFD went down under it; empty once BGP was told
	losses  []time.Time   // within flapWindow
	hold    time.Duration // how long the next session waits
	pfxOver bool          // closed by the prefix limit
	local   uint32        // ports of the current connection
	remote  uint32
}

func newObserver(peers []Peer, diag *diagnosis, log *slog.Logger, emit func([]Event)) *observer {
	o := &observer{
		diag: diag, log: log, emit: emit, began: time.Now(),
		names: map[netip.Addr]string{},
		own:   map[netip.Prefix]bool{},
		live:  map[netip.Prefix]map[netip.Addr]*Sighting{},
		peers: map[netip.Addr]*session{},
	}
	for _, p := range peers {
		o.names[p.Address] = p.Name
		o.peers[p.Address] = &session{state: gobgp.BGP_FSM_IDLE}
	}
	return o
}

// setOwn names our own liveness routes, which routers may tell us back.
func (o *observer) setOwn(ps []netip.Prefix) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.own = map[netip.Prefix]bool{}
	for _, p := range ps {
		o.own[p] = true
		delete(o.live, p)
	}
}

// onPaths is GoBGP's callback for routes past the import policy. A route the
// policy refused arrives as a withdrawal. GoBGP withdraws the routes of a lost
// session by cloning them, attributes included; a withdrawal from the wire has
// none. That tells one from the other.
func (o *observer) onPaths(paths []*apiutil.Path, _ time.Time) {
	now := time.Now()
	var evs []Event
	o.mu.Lock()
	for _, p := range paths {
		n, ok := p.Nlri.(*gobgp.IPAddrPrefix)
		if !ok || o.peers[p.PeerAddress] == nil {
			continue
		}
		evs = append(evs, o.sight(p.PeerAddress, n.Prefix, p.Withdrawal, len(p.Attrs) == 0, now)...)
	}
	o.mu.Unlock()
	o.report(evs)
}

// sight takes in one path of a router and returns what follows from it.
func (o *observer) sight(peer netip.Addr, p netip.Prefix, gone, fromWire bool, now time.Time) []Event {
	if o.own[p] {
		return nil
	}
	via := o.live[p]
	if !gone {
		first := !anyPresent(via)
		if first {
			via = map[netip.Addr]*Sighting{}
			o.live[p] = via
		}
		if s := via[peer]; s == nil || !s.Gone.IsZero() {
			via[peer] = &Sighting{Peer: o.names[peer], Since: now}
		}
		if first {
			return []Event{{Kind: LivenessUp, At: now, Prefix: p, Via: sightings(via)}}
		}
		return nil
	}
	s := via[peer]
	if s == nil || !s.Gone.IsZero() {
		return nil
	}
	s.Gone, s.Withdrawn = now, fromWire
	if anyPresent(via) {
		return nil
	}
	delete(o.live, p)
	return []Event{{Kind: LivenessDown, At: now, Prefix: p, Via: sightings(via), Withdrawn: fromWire}}
}

func anyPresent(via map[netip.Addr]*Sighting) bool {
	for _, s := range via {
		if s.Gone.IsZero() {
			return true
		}
	}
	return false
}

func sightings(via map[netip.Addr]*Sighting) []Sighting {
	out := make([]Sighting, 0, len(via))
	for _, a := range slices.SortedFunc(maps.Keys(via), netip.Addr.Compare) {
		out = append(out, *via[a])
	}
	return out
}

// onPeer is GoBGP's callback for session states.
func (o *observer) onPeer(ev *apiutil.WatchEventMessage_PeerEvent, _ time.Time) {
	if ev.Type != apiutil.PEER_EVENT_STATE {
		return
	}
	now := time.Now()
	addr, st := ev.Peer.State.NeighborAddress, ev.Peer.State
	o.mu.Lock()
	s := o.peers[addr]
	if s == nil {
		o.mu.Unlock()
		return
	}
	if s.state != st.SessionState {
		s.state, s.entered = st.SessionState, now
	}
	s.pfxOver = s.pfxOver || st.AdminState == api.PeerState_ADMIN_STATE_PFX_CT
	var evs []Event
	switch {
	case st.SessionState == gobgp.BGP_FSM_ESTABLISHED && !s.up:
		s.up, s.since, s.bfdDown = true, now, ""
		s.local, s.remote = ev.Peer.Transport.LocalPort, ev.Peer.Transport.RemotePort
		o.diag.set(addr, "", now)
		evs = append(evs, Event{Kind: PeerUp, At: now, Peer: o.names[addr]})
	case st.SessionState != gobgp.BGP_FSM_ESTABLISHED && s.up:
		s.up, s.since, s.reason = false, now, reasonOf(st)
		s.flaps++
		s.lost = true
		evs = append(evs, Event{Kind: PeerDown, At: now, Peer: o.names[addr], Reason: s.reason})
		s.hold = s.oscillates(now)
	case st.SessionState == gobgp.BGP_FSM_IDLE:
		if text := refusal(st); text != "" && o.diag.set(addr, text, now) {
			evs = append(evs, Event{Kind: PeerRefused, At: now, Peer: o.names[addr], Reason: text})
		}
	}
	o.mu.Unlock()
	o.report(evs)
}

// reasonOf says why an established session ended.
func reasonOf(st apiutil.PeerState) string {
	switch {
	case st.AdminState == api.PeerState_ADMIN_STATE_PFX_CT:
		return "the router sent more than max_prefixes"
	case st.DisconnectMessage == bfdReset:
		return "bfd down"
	case strings.HasPrefix(st.DisconnectMessage, bfdCease):
		return "bfd down, says the router"
	case st.DisconnectMessage == "":
		return "unknown"
	}
	return st.DisconnectMessage
}

// refusal explains a handshake that failed, where the state change tells.
func refusal(st apiutil.PeerState) string {
	switch st.DisconnectReason {
	case api.PeerState_DISCONNECT_REASON_BAD_PEER_AS:
		return "we refused the router: bad peer AS: its AS number is not the configured one"
	case api.PeerState_DISCONNECT_REASON_INVALID_MSG:
		return "the router ended the handshake: check our AS number, address and hold time in its configuration"
	case api.PeerState_DISCONNECT_REASON_HOLD_TIMER_EXPIRED:
		return "the router did not answer during the handshake"
	}
	return ""
}

// report logs one line per change and hands the events on.
func (o *observer) report(evs []Event) {
	for _, ev := range evs {
		switch ev.Kind {
		case PeerUp:
			o.log.Info("bgp session up", "peer", ev.Peer)
		case PeerDown:
			o.log.Warn("bgp session down", "peer", ev.Peer, "reason", ev.Reason)
		case PeerRefused:
			o.log.Warn("bgp session refused", "peer", ev.Peer, "reason", ev.Reason)
		case PeerFlapping:
			o.log.Warn("bgp session flaps", "peer", ev.Peer, "reason", ev.Reason)
		case BFDRefused:
			o.log.Warn("bfd packet refused", "peer", ev.Peer, "reason", ev.Reason)
		case VIPRetired:
			o.log.Warn("vip retired", "prefix", ev.Prefix, "reason", ev.Reason)
		case LivenessUp:
			o.log.Info("liveness route appeared", "prefix", ev.Prefix, "peer", ev.Via[0].Peer)
		case LivenessDown:
			reason := "our sessions were lost"
			if ev.Withdrawn {
				reason = "withdrawn"
			}
			o.log.Warn("liveness route vanished", "prefix", ev.Prefix, "reason", reason)
		}
	}
	o.emit(evs)
}

// liveness returns the routes present and who tells of them.
func (o *observer) liveness() map[netip.Prefix][]Sighting {
	o.mu.Lock()
	defer o.mu.Unlock()
	m := make(map[netip.Prefix][]Sighting, len(o.live))
	for p, via := range o.live {
		m[p] = sightings(via)
	}
	return m
}

// onBFD takes note of a BFD session that went down while BGP is up: BGP is to
// follow. While BGP is down there is nothing to do: a session that comes up later is
// watched by BFD from the moment when that is up.
func (o *observer) onBFD(e bfd.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.peers[e.Peer]
	if s == nil {
		return
	}
	switch e.Kind {
	case bfd.WentDown:
		if s.up {
			s.bfdDown = e.Reason
		}
	case bfd.Refused:
		o.report([]Event{{Kind: BFDRefused, At: e.At, Peer: o.names[e.Peer], Reason: e.Reason}})
	}
}

// A session that is lost again and again does harm each time: the router withdraws
// our routes from its neighbours and announces them anew, which they count as flaps.
// From the fifth loss in flapWindow the next session waits, twice as long each time
// (DampPeerOscillations of RFC 4271 section 8.1.1). The last session of a side and
// family never waits: a flapping way is better than none.
const (
	flapWindow  = 5 * time.Minute
	flapsFree   = 4
	flapHold    = 2 * time.Second
	flapHoldMax = 30 * time.Second
)

// oscillates notes a loss and returns how long the next session is to wait.
func (s *session) oscillates(now time.Time) time.Duration {
	s.losses = append(s.losses, now)
	for now.Sub(s.losses[0]) > flapWindow {
		s.losses = s.losses[1:]
	}
	n := len(s.losses) - flapsFree
	if n <= 0 {
		return 0
	}
	return min(flapHold<<min(n-1, 10), flapHoldMax)
}

// flaps tells that the session with a was lost so often that the next one waits, or
// would if it were not the last one.
func (o *observer) flaps(a netip.Addr, hold time.Duration) {
	s := o.get(a)
	then := fmt.Sprintf("the next one waits %v", hold)
	if hold == 0 {
		then = "the next one is opened at once: no other router of its side and family has one"
	}
	o.report([]Event{{Kind: PeerFlapping, At: time.Now(), Peer: o.names[a],
		Reason: fmt.Sprintf("the session was lost %d times in %v, last by: %s; %s", len(s.losses), flapWindow, s.reason, then)}})
}

// stuckAfter is how long a handshake may go without an answer before that is told;
// GoBGP itself waits for 4 minutes (RFC 4271 section 8.2.2: "a large value").
const stuckAfter = 5 * time.Second

// unexplained is how long a session may be missing without any reason.
const unexplained = 10 * time.Second

// stuck returns what the session with a has waited for too long, "" for nothing.
func (o *observer) stuck(a netip.Addr, now time.Time) string {
	s := o.get(a)
	since := s.since
	if since.IsZero() {
		since = o.began
	}
	switch {
	case s.up:
	case (s.state == gobgp.BGP_FSM_OPENSENT || s.state == gobgp.BGP_FSM_OPENCONFIRM) && now.Sub(s.entered) >= stuckAfter:
		return "the router took the connection and does not answer"
	case now.Sub(since) >= unexplained && o.diag.get(a) == "":
		// GoBGP's outgoing connections wait for an answer without a state of their own.
		return "there is no session, and neither side says why"
	}
	return ""
}

// refused takes note of why the session with a does not come up.
func (o *observer) refused(a netip.Addr, text string) {
	o.mu.Lock()
	s := o.peers[a]
	up := s == nil || s.up
	o.mu.Unlock()
	if now := time.Now(); o.diag.set(a, text, now) && !up {
		o.report([]Event{{Kind: PeerRefused, At: now, Peer: o.names[a], Reason: text}})
	}
}

// takeBFDDown returns, once, why BFD went down under an established session with a.
func (o *observer) takeBFDDown(a netip.Addr) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.peers[a]
	why := s.bfdDown
	s.bfdDown = ""
	if !s.up {
		return ""
	}
	return why
}

// takeLost reports, once per loss, that the session with a is to be rebuilt, and
// how long the new one is to wait: at once if it has BFD or flaps, after a while if the
// prefix limit closed it.
func (o *observer) takeLost(a netip.Addr, bfd bool, now time.Time) (lost bool, hold time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.peers[a]
	if !s.lost || s.pfxOver && now.Sub(s.since) < reopenAfter || !s.pfxOver && !bfd && s.hold == 0 {
		return false, 0
	}
	hold = s.hold
	s.lost, s.pfxOver, s.hold = false, false, 0
	return true, hold
}

// get returns a copy of the history of the session with a.
func (o *observer) get(a netip.Addr) session {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s := o.peers[a]; s != nil {
		return *s
	}
	return session{}
}
