package session

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// Times of the exchange commit.
const (
	// QuietTime after the last sight of a client's request, the client is
	// taken to have its response.
	QuietTime = 10 * time.Second
	// SuspectTime after a takeover, deletes that the client did not ask for
	// are no tombstones.
	SuspectTime = 10 * time.Minute
	// halfOpenTime bounds how long an IKE_SA may stay half open. charon gives
	// up after 30 s and says so; this is for when that datagram is lost.
	halfOpenTime = 60 * time.Second
	// updateGrace is how long a deleted predecessor waits for the IKE_UPDATE
	// of its successor. charon emits both in one go.
	updateGrace = 2 * time.Second
	// defaultRetransmit is charon's retransmit_timeout; retransmitSlack is
	// how long after the retransmission the answer may take.
	defaultRetransmit = 4 * time.Second
	retransmitSlack   = time.Second
)

// Kind says what happened to a session.
type Kind uint8

// The kinds of change.
const (
	Put Kind = iota + 1
	Delete
)

func (k Kind) String() string { return map[Kind]string{Put: "put", Delete: "delete"}[k] }

// Change is to be told to the shadows of the session.
type Change struct {
	ID      string
	Kind    Kind
	Doc     *Document // in a Put; immutable
	Suspect bool      // in a Delete: leave no tombstone (rule 15)
}

// Conflict says that two live sessions hold one inner address.
type Conflict struct {
	Addr    netip.Addr
	Session string
	Other   string
}

// Output is what an input led to. Changes come in the order they happened.
type Output struct {
	Changes []Change
	// Feed goes to the local charon, after a takeover, in this order, before
	// anything else. The messages carry no version: use charon.Message.As.
	Feed []charon.Message
	// Reactivate says that Feed left an IKE_SA passive in the active charon:
	// activate the segment once more after feeding.
	Reactivate bool
	Conflicts  []Conflict
}

func (o *Output) merge(p Output) {
	o.Changes = append(o.Changes, p.Changes...)
	o.Feed = append(o.Feed, p.Feed...)
	o.Reactivate = o.Reactivate || p.Reactivate
	o.Conflicts = append(o.Conflicts, p.Conflicts...)
}

// Ledger is the owner's view of the sessions of one slot.
type Ledger struct {
	slot       sa.Slot
	tier       func(connection, identity string) string
	retransmit time.Duration

	sessions map[string]*session
	byIKE    map[sa.IKEID]*session // committed and pending generations
	bySPI    map[sa.SPI]*session   // inbound, committed and pending children
	vips     map[netip.Addr][]string
	busy     map[string]*session // sessions with pending exchanges
	halves   halves
	early    early
	taken    time.Time // of the takeover, zero without one
	// since are, from Await to Settle, the versions of the sessions that were here.
	since map[string]uint64
	stats Stats
}

// session is the mutable state behind the documents of one session. doc holds
// the committed content; its Pending is filled in when it is handed out.
type session struct {
	doc     *Document
	pending []*exchange
	tracks  map[sa.IKEID]*track
	retired []sa.IKEID // superseded IKE_SAs that are out of doc, oldest first
	spis    map[sa.SPI]bool
	vips    []netip.Addr
	dirty   bool
}

// Option configures a Ledger.
type Option func(*Ledger)

// WithTier sets the function that chooses the tier of a session from the name
// of its swanctl connection and the client's identity.
func WithTier(f func(connection, identity string) string) Option {
	return func(l *Ledger) { l.tier = f }
}

// WithRetransmit sets charon's retransmit_timeout (4 s by default).
func WithRetransmit(d time.Duration) Option { return func(l *Ledger) { l.retransmit = d } }

// New returns the ledger of a slot without sessions.
func New(slot sa.Slot, opts ...Option) *Ledger {
	l := &Ledger{
		slot: slot, retransmit: defaultRetransmit,
		sessions: map[string]*session{},
		byIKE:    map[sa.IKEID]*session{},
		bySPI:    map[sa.SPI]*session{},
		vips:     map[netip.Addr][]string{},
		busy:     map[string]*session{},
		halves:   halves{byID: map[sa.IKEID]*half{}},
		early:    early{byID: map[sa.IKEID]*earlyTrack{}},
	}
	for _, o := range opts {
		o(l)
	}
	return l
}

// Stats returns the counters.
func (l *Ledger) Stats() Stats { return l.stats }

// Len returns the number of sessions.
func (l *Ledger) Len() int { return len(l.sessions) }

// Doc returns the document of a session as last published, with fresh samples.
func (l *Ledger) Doc(id string) (*Document, bool) {
	s, ok := l.sessions[id]
	if !ok {
		return nil, false
	}
	return s.snapshot(l), true
}

// Docs returns the documents of all sessions, ordered by session ID.
func (l *Ledger) Docs() []*Document {
	out := make([]*Document, 0, len(l.sessions))
	for _, id := range slices.Sorted(maps.Keys(l.sessions)) {
		out = append(out, l.sessions[id].snapshot(l))
	}
	return out
}

// SessionOfIKE returns the session that an IKE_SA belongs to, rekeyed ancestors
// and pending successors included.
func (l *Ledger) SessionOfIKE(id sa.IKEID) (string, bool) { return idOf(l.byIKE[id]) }

// SessionOfSPI returns the session that an inbound ESP SPI belongs to.
func (l *Ledger) SessionOfSPI(in sa.SPI) (string, bool) { return idOf(l.bySPI[in]) }

func idOf(s *session) (string, bool) {
	if s == nil {
		return "", false
	}
	return s.doc.SessionID, true
}

// Watches returns, sorted, the inbound SPIs of pending children: ESP on one of
// them (ESPSeen) completes an exchange.
func (l *Ledger) Watches() []sa.SPI {
	var out []sa.SPI
	for _, s := range l.busy {
		for _, e := range s.pending {
			for _, f := range e.Effects {
				if in, err := f.Attrs.spi(charon.InSPI); err == nil && f.Type == charon.ChildAdd {
					out = append(out, in)
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// snapshot returns an immutable document of the state now.
func (s *session) snapshot(l *Ledger) *Document {
	d := s.doc.clone()
	d.Pending = nil
	for _, e := range s.pending {
		x := e.Exchange
		x.Effects = fresh(x.Effects)
		d.Pending = append(d.Pending, x)
	}
	d.summarise(l.tier)
	return d
}

// publish appends the new state of s to o, if an input changed it.
func (l *Ledger) publish(s *session, o *Output) {
	if !s.dirty || l.sessions[s.doc.SessionID] != s {
		return
	}
	s.dirty = false
	s.doc.Rev++
	if len(s.pending) > 0 {
		l.busy[s.doc.SessionID] = s
	} else {
		delete(l.busy, s.doc.SessionID)
	}
	l.holdAddrs(s, o)
	l.index(s)
	o.Changes = append(o.Changes, Change{ID: s.doc.SessionID, Kind: Put, Doc: s.snapshot(l)})
}
