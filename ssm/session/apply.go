package session

import (
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// Apply digests a datagram of the active charon. birth is called for the birth
// of a child, at most once. A message that cannot be digested changes nothing
// but the counters and returns a *RefusedError; Output is valid in any case.
//
// The ha plugin announces the client's request n by MID_RESPONDER n+1 at its
// receipt, before its effects, and our request n by MID_INITIATOR n+1 when it is
// sent. IKE_ADD and CHILD_ADD say which side began the exchange they result from.
func (l *Ledger) Apply(m charon.Message, birth func() sa.Birth, now time.Time) (Output, error) {
	var o Output
	if m.Type.Control() || m.Type == charon.IKEIV {
		l.stats.Ignored++
		return o, nil
	}
	e := Effect{Type: m.Type, Attrs: slices.Clone(Attrs(m.Attrs)), At: stamp(now)}
	id, err := e.validate()
	if err != nil {
		return o, l.refuse(&RefusedError{Type: m.Type, IKE: id, Reason: ErrMalformed, Detail: err.Error()})
	}
	if ref, _ := e.Attrs.ref(charon.IKEID); ref.Version == 1 {
		l.stats.Ignored++
		return o, nil
	}
	switch m.Type {
	case charon.IKEAdd:
		err = l.ikeAdd(id, e, m.Version)
	case charon.IKEUpdate:
		err = l.ikeUpdate(id, e, &o)
	case charon.IKEDelete:
		err = l.ikeDelete(id, e, &o)
	case charon.MIDInitiator, charon.MIDResponder:
		err = l.mid(id, e, &o)
	case charon.ChildAdd:
		err = l.childAdd(id, e, birth, &o)
	case charon.ChildDelete:
		err = l.childDelete(id, e, &o)
	}
	if err == nil {
		l.stats.Applied++
	}
	return o, err
}

func (l *Ledger) ikeAdd(id sa.IKEID, e Effect, v charon.Version) error {
	h := l.halves.byID[id]
	switch {
	case l.byIKE[id] != nil || l.sessions[id.String()] != nil:
		return l.refuse(&RefusedError{Type: e.Type, IKE: id, Reason: ErrDuplicate})
	case h == nil:
		if len(l.halves.order) >= maxHalves {
			l.halves.remove(l.halves.order[0])
			l.stats.HalfOpen++
		}
		g := newGeneration(e.Attrs)
		l.halves.add(&half{id: id, effects: []Effect{e}, adds: 1, rekeyOf: g.RekeyOf, byGateway: g.Initiator, since: e.At})
		return nil
	}
	// strongSwan 6 sends one IKE_ADD for each key exchange of an IKE_SA.
	again := slices.ContainsFunc(h.effects, func(f Effect) bool { return f.Type == charon.IKEAdd && f.Attrs.equal(e.Attrs) })
	if again || v < charon.V4 || h.adds >= maxAdds {
		return l.refuse(&RefusedError{Type: e.Type, IKE: id, Reason: ErrDuplicate, Detail: "it is half open"})
	}
	h.adds++
	h.effects = append(h.effects, e)
	return nil
}

func (l *Ledger) ikeUpdate(id sa.IKEID, e Effect, o *Output) error {
	if h := l.halves.byID[id]; h != nil {
		// The twin takes an IKE_SA to be up when it knows its connection.
		if e.Attrs.has(charon.ConfigName) {
			h.effects = append(h.effects, e)
			return l.complete(h, o)
		}
		return l.hold(h, e)
	}
	s := l.byIKE[id]
	if s == nil {
		return l.refuse(&RefusedError{Type: e.Type, IKE: id, Reason: ErrUnknownSA})
	}
	if !s.has(id) {
		return nil // replaced long ago
	}
	if s.weight()+e.Attrs.weight() > maxWeight {
		return l.refuse(&RefusedError{Type: e.Type, IKE: id, Reason: ErrLimit, Detail: "attributes"})
	}
	l.effect(s, s.owner(id), e, o)
	l.publish(s, o)
	return nil
}

// hold keeps what arrives before the IKE_SA is up.
func (l *Ledger) hold(h *half, e Effect) error {
	if len(h.effects) >= MaxEffects {
		return l.refuse(&RefusedError{Type: e.Type, IKE: h.id, Reason: ErrLimit, Detail: "messages while it is half open"})
	}
	h.effects = append(h.effects, e)
	return nil
}

func (l *Ledger) childAdd(id sa.IKEID, e Effect, birth func() sa.Birth, o *Output) error {
	in, _ := e.Attrs.spi(charon.InSPI)
	refuse := func(reason error, detail string) error {
		return l.refuse(&RefusedError{Type: e.Type, IKE: id, SPI: in, Reason: reason, Detail: detail})
	}
	if l.bySPI[in] != nil {
		return refuse(ErrDuplicate, "")
	}
	h, s := l.halves.byID[id], l.byIKE[id]
	switch {
	case h != nil:
		e.Birth = birth()
		return l.hold(h, e)
	case s == nil || !s.has(id):
		return refuse(ErrUnknownSA, "")
	case s.children() >= MaxChildren || s.weight()+e.Attrs.weight() > maxWeight:
		return refuse(ErrLimit, "children of session "+s.doc.SessionID)
	}
	e.Birth = birth()
	var x *exchange
	if ours, ok := e.Attrs.uint(charon.Initiator); ok && ours != 0 {
		l.answered(s, id, o)
	} else {
		x = s.owner(id)
	}
	l.effect(s, x, e, o)
	l.publish(s, o)
	return nil
}

// childDelete finds the child by its SPI alone: charon names the IKE_SA that
// holds it now, not the one it was derived under. The delete of a committed
// child is never held back: charon is done with it, a delete that the client
// repeats is answered all the same, and one that is emitted seconds after its
// exchange must not be lost together with an exchange it has nothing to do with.
func (l *Ledger) childDelete(id sa.IKEID, e Effect, o *Output) error {
	in, _ := e.Attrs.spi(charon.InSPI)
	s := l.bySPI[in]
	if s == nil {
		return l.refuse(&RefusedError{Type: e.Type, IKE: id, SPI: in, Reason: ErrUnknownSA})
	}
	var x *exchange
	if s.doc.child(in) == nil {
		x = s.bringer(in)
	}
	l.effect(s, x, e, o)
	l.publish(s, o)
	return nil
}

// bringer returns the pending exchange that brought the child.
func (s *session) bringer(in sa.SPI) *exchange {
	for _, e := range s.pending {
		for _, f := range e.Effects {
			if x, err := f.Attrs.spi(charon.InSPI); err == nil && x == in && f.Type == charon.ChildAdd {
				return e
			}
		}
	}
	return nil
}

// ikeDelete tells the delete of a rekeyed generation, which belongs to the
// rekeying, from the end of the session, which is told at once.
func (l *Ledger) ikeDelete(id sa.IKEID, e Effect, o *Output) error {
	if h := l.halves.byID[id]; h != nil {
		l.halves.remove(h)
		l.stats.HalfOpen++
		if !h.deletedOld.IsZero() { // it had replaced its predecessor already
			l.end(l.byIKE[*h.rekeyOf], *h.rekeyOf, e.At, o)
		}
		return nil
	}
	s := l.byIKE[id]
	if s == nil {
		return l.refuse(&RefusedError{Type: e.Type, IKE: id, Reason: ErrUnknownSA})
	}
	if x := s.successor(id); x != nil {
		l.effect(s, x, e, o)
		l.publish(s, o)
		return nil
	}
	if s.replaced(id) {
		if g := s.doc.generation(id); g != nil && !g.Deleted {
			l.effect(s, nil, e, o)
			l.publish(s, o)
		}
		return nil
	}
	if hs := l.halves.successors(id); len(hs) > 0 {
		for _, h := range hs {
			h.deletedOld = e.At // its IKE_ADD implies the rest
		}
		return nil
	}
	l.end(s, id, e.At, o)
	return nil
}

// end ends the session whose live IKE_SA was id.
func (l *Ledger) end(s *session, id sa.IKEID, now time.Time, o *Output) {
	if s == nil {
		return
	}
	c := Change{ID: s.doc.SessionID, Kind: Delete, Suspect: l.suspect(s, id, now)}
	if c.Suspect {
		l.stats.Suspects++
	}
	l.forget(s)
	o.Changes = append(o.Changes, c)
}
