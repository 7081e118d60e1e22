package session

import (
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// mid digests MID_INITIATOR and MID_RESPONDER: an exchange begins, and the one
// before it on the same side is complete, because both sides keep a window of
// one exchange.
func (l *Ledger) mid(id sa.IKEID, e Effect, o *Output) error {
	next, ok := e.Attrs.uint(charon.MID)
	if !ok || next == 0 {
		return l.refuse(&RefusedError{Type: e.Type, IKE: id, Reason: ErrMalformed, Detail: "no MID above 0"})
	}
	if h := l.halves.byID[id]; h != nil {
		if e.Type == charon.MIDInitiator {
			h.midI = max(h.midI, next)
		} else {
			h.midR = max(h.midR, next)
		}
		return nil
	}
	s := l.byIKE[id]
	if s == nil {
		return l.refuse(&RefusedError{Type: e.Type, IKE: id, Reason: ErrUnknownSA})
	}
	err := l.request(s, id, e.Type, next, e.At, o)
	l.publish(s, o)
	return err
}

func (l *Ledger) request(s *session, id sa.IKEID, t charon.MsgType, next uint32, now time.Time, o *Output) error {
	by, seen, committed := Client, &s.tracks[id].midR, uint32(0)
	if t == charon.MIDInitiator {
		by, seen = Gateway, &s.tracks[id].midI
	}
	if g := s.doc.generation(id); g != nil {
		committed = map[Party]uint32{Client: g.MIDResponder, Gateway: g.MIDInitiator}[by]
	}
	if by == Client {
		s.tracks[id].requestAt = now
	}
	x := &exchange{Exchange: Exchange{IKE: id, By: by, MID: next - 1, SeenAt: now}}
	for _, p := range s.find(id, by) {
		if !p.adopted || p.MID > x.MID {
			continue
		}
		// charon begins anew what the former owner had begun. What the client
		// asked is processed again, with effects of its own. What we ask may
		// bear a message ID that the client has used up.
		l.drop(s, p)
		if by == Gateway && p.MID == x.MID {
			x.guard = now.Add(l.retransmit + retransmitSlack)
		}
	}
	l.through(s, id, by, uint64(x.MID), o)
	if len(s.find(id, by)) > 0 || next <= committed {
		return l.refuse(&RefusedError{Type: t, IKE: id, Reason: ErrDuplicate, Detail: "message ID"})
	}
	*seen = max(*seen, next)
	if by == Client {
		if c := s.creator(id); c != nil {
			l.commit(s, c, o) // charon authenticated a request on it
		}
	}
	if s.replaced(id) {
		return nil // it only waits to be deleted
	}
	l.open(s, x, o)
	if tr := s.tracks[id]; by == Client && tr.req >= int64(next) || by == Gateway && tr.rsp >= int64(next)-1 {
		l.commit(s, x, o) // its header came first
	}
	return nil
}
