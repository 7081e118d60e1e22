package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// EventKind says what happened.
type EventKind int

const (
	// PeerUp: the session with Peer is established.
	PeerUp EventKind = iota + 1
	// PeerDown: it was, and is no more; Reason says why.
	PeerDown
	// LivenessUp: the first path to the liveness route Prefix appeared.
	LivenessUp
	// LivenessDown: the last path to it vanished.
	LivenessDown
	// PeerRefused: the session with Peer does not come up; Reason says why, as far
	// as our side can know. Told again only when the reason changes.
	PeerRefused
	// PeerFlapping: the session with Peer was lost so often that the next one waits;
	// Reason says how often and how long.
	PeerFlapping
	// BFDRefused: a BFD packet of Peer had crossed a router.
	BFDRefused
	// VIPRetired: a VIP that was announced is no longer wanted.
	VIPRetired
)

var eventNames = map[EventKind]string{
	PeerUp: "peer-up", PeerDown: "peer-down", LivenessUp: "liveness-up", LivenessDown: "liveness-down",
	PeerRefused: "peer-refused", PeerFlapping: "peer-flapping", BFDRefused: "bfd-refused", VIPRetired: "vip-retired",
}

func (k EventKind) String() string { return eventNames[k] }

// MarshalText renders the name.
func (k EventKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads a name.
func (k *EventKind) UnmarshalText(b []byte) error {
	for kind, name := range eventNames {
		if name == string(b) {
			*k = kind
			return nil
		}
	}
	return fmt.Errorf("parse event kind: %.32q is none", b)
}

// Event is something the speaker saw.
type Event struct {
	Kind   EventKind
	At     time.Time
	Peer   string // PeerUp, PeerDown, PeerRefused, PeerFlapping, BFDRefused
	Reason string // of these but PeerUp, and of VIPRetired
	Prefix netip.Prefix
	// Via lists the routers that told of Prefix, sorted: for LivenessUp the one
	// that tells now, for LivenessDown all that told since it came up.
	Via []Sighting
	// Withdrawn, for LivenessDown: the last path was withdrawn by a router whose
	// session with us is up. If false we only lost our own session, which says
	// nothing about the other appliance.
	Withdrawn bool
}

// Sighting is what one router told about a liveness route.
type Sighting struct {
	Peer  string
	Since time.Time
	// Gone is when the path vanished; zero while it is there.
	Gone time.Time
	// Withdrawn: it vanished by a withdrawal, not with our session.
	Withdrawn bool
}

// queue hands events to the callback in order from one goroutine, so that a slow
// callback never holds up GoBGP and may itself call the Speaker.
type queue struct {
	mu   sync.Mutex
	list []Event
	wake chan struct{}
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

func (q *queue) push(evs []Event) {
	if len(evs) == 0 {
		return
	}
	q.mu.Lock()
	q.list = append(q.list, evs...)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// run delivers until ctx ends, then what is left.
func (q *queue) run(ctx context.Context, fn func(Event)) {
	drain := func() {
		q.mu.Lock()
		list := q.list
		q.list = nil
		q.mu.Unlock()
		for _, ev := range list {
			if fn != nil {
				fn(ev)
			}
		}
	}
	for {
		select {
		case <-q.wake:
			drain()
		case <-ctx.Done():
			drain()
			return
		}
	}
}
