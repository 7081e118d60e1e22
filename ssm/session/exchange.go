package session

import (
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// exchange is a pending exchange of an owner.
type exchange struct {
	Exchange
	// adopted: it began under the former owner, so that the local charon
	// knows nothing of it.
	adopted bool
	// guard is when to stop waiting for the answer to a request whose message
	// ID the former owner may have used up; zero if there is no doubt.
	guard time.Time
}

// track is what is known of one IKE_SA besides its document.
type track struct {
	req, rsp  int64     // highest message IDs that headers from the client showed, -1
	midR      uint32    // highest MID_RESPONDER: the client's next message ID
	midI      uint32    // highest MID_INITIATOR: our next message ID
	requestAt time.Time // last sight of a request from the client
}

func newTrack() *track { return &track{req: -1, rsp: -1} }

// maxLead is how far headers may run ahead of HA messages. Headers are not
// authenticated; with a window of one exchange nothing honest is further ahead
// than a few datagrams in a socket.
const maxLead = 4

// creator returns the pending exchange that brought the generation id.
func (s *session) creator(id sa.IKEID) *exchange {
	for _, e := range s.pending {
		for _, f := range e.Effects {
			if f.Type != charon.IKEAdd {
				continue
			}
			if ref, ok := f.Attrs.ref(charon.IKEID); ok && ref.ID == id {
				return e
			}
		}
	}
	return nil
}

// find returns the pending exchanges of one side on one IKE_SA, oldest first.
func (s *session) find(ike sa.IKEID, by Party) []*exchange {
	var out []*exchange
	for _, e := range s.pending {
		if e.IKE == ike && e.By == by {
			out = append(out, e)
		}
	}
	return out
}

// replaced reports whether the committed content has a later generation than id.
// An IKE_SA that is in no list was replaced long ago.
func (s *session) replaced(id sa.IKEID) bool {
	return s.doc.Live().ID != id && s.creator(id) == nil
}

// successor returns the pending exchange that replaces id.
func (s *session) successor(id sa.IKEID) *exchange {
	for _, e := range s.pending {
		for _, f := range e.Effects {
			if old, ok := f.Attrs.ref(charon.RekeyID); ok && f.Type == charon.IKEAdd && old.ID == id {
				return e
			}
		}
	}
	return nil
}

// has reports whether a child can be derived under id.
func (s *session) has(id sa.IKEID) bool {
	return s.doc.generation(id) != nil || s.creator(id) != nil
}

// open begins a pending exchange.
func (l *Ledger) open(s *session, e *exchange, o *Output) {
	if len(s.pending) >= MaxPending {
		l.commit(s, s.pending[0], o)
	}
	s.pending = append(s.pending, e)
	s.dirty = true
}

// owner returns the pending exchange to which an effect on id belongs that the
// client caused, nil if the effect is to be committed at once.
func (s *session) owner(id sa.IKEID) *exchange {
	es := s.find(id, Client)
	for _, e := range slices.Backward(es) {
		if !e.adopted {
			return e
		}
	}
	if c := s.creator(id); c != nil && !c.adopted {
		return c
	}
	return nil
}

// effect records what charon emitted: with e until e is committed, else at once.
func (l *Ledger) effect(s *session, e *exchange, f Effect, o *Output) {
	s.dirty = true
	if e != nil && len(e.Effects) >= MaxEffects {
		l.commit(s, e, o)
		e = nil
	}
	if e != nil {
		e.Effects = append(e.Effects, f)
		return
	}
	s.doc.apply(f)
	s.doc.prune()
}

// answered commits what an answer to our own request proves. An effect of an
// exchange that the gateway began is such a proof: charon emits it when it has
// authenticated the answer.
func (l *Ledger) answered(s *session, id sa.IKEID, o *Output) {
	if c := s.creator(id); c != nil {
		l.commit(s, c, o)
	}
	for _, e := range s.find(id, Gateway) {
		if !e.adopted {
			l.commit(s, e, o)
		}
	}
}

// through commits the exchanges of one side on id with message IDs below mid.
func (l *Ledger) through(s *session, id sa.IKEID, by Party, mid uint64, o *Output) {
	for _, e := range s.find(id, by) {
		if uint64(e.MID) < mid {
			l.commit(s, e, o)
		}
	}
}

// commit makes the effects of e part of the content. Exchanges that e builds on
// go first. What the local charon does not know goes to it.
func (l *Ledger) commit(s *session, e *exchange, o *Output) {
	if !slices.Contains(s.pending, e) {
		return
	}
	earlier := s.find(e.IKE, e.By)
	s.pending = slices.DeleteFunc(s.pending, func(x *exchange) bool { return x == e })
	if c := s.creator(e.IKE); c != nil {
		l.commit(s, c, o)
	}
	for _, p := range earlier[:slices.Index(earlier, e)] {
		l.commit(s, p, o)
	}
	var before *Document
	if e.adopted {
		before = s.doc.clone()
	}
	if g := s.doc.generation(e.IKE); g != nil {
		switch e.By {
		case Client:
			g.MIDResponder = max(g.MIDResponder, e.MID+1)
		case Gateway:
			g.MIDInitiator = max(g.MIDInitiator, e.MID+1)
		}
	}
	for _, f := range e.Effects {
		s.doc.apply(f)
	}
	s.doc.prune()
	// What we had asked on an IKE_SA that is replaced now is of no interest.
	s.pending = slices.DeleteFunc(s.pending, func(x *exchange) bool { return x.By == Gateway && s.replaced(x.IKE) })
	s.dirty = true
	l.stats.Committed++
	if before != nil {
		l.feedLocal(before, s.doc, o)
	}
}

// drop leaves e, and what builds on it, to be processed again by charon.
func (l *Ledger) drop(s *session, e *exchange) {
	s.pending = slices.DeleteFunc(s.pending, func(x *exchange) bool { return x == e })
	s.dirty = true
	l.stats.Dropped++
	for _, f := range e.Effects {
		if ref, ok := f.Attrs.ref(charon.IKEID); ok && f.Type == charon.IKEAdd {
			for _, x := range append(s.find(ref.ID, Client), s.find(ref.ID, Gateway)...) {
				l.drop(s, x)
			}
		}
	}
}

// feedLocal appends to o what brings the local, active charon from one
// committed state to the next.
func (l *Ledger) feedLocal(before, after *Document, o *Output) {
	f := NewFeeder()
	f.Adopted(before)
	ms, err := f.Diff(after)
	if err != nil {
		return // both are states of this ledger; Diff refuses external documents only
	}
	o.Feed = append(o.Feed, ms...)
	for _, m := range ms {
		if m.Type == charon.IKEAdd || m.Type == charon.IKEUpdate {
			o.Reactivate = true
		}
	}
}
