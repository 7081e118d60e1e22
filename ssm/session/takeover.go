package session

import (
	"errors"
	"fmt"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// Adopt makes sessions of documents: those that a shadow has received, when it
// becomes the owner, or those that a restarted daemon gets back from its
// shadows. The documents must come from Decode or from a Ledger. A document that
// cannot be adopted is left out and named in the error; Output has no Changes.
func (l *Ledger) Adopt(docs []*Document) (Output, error) {
	var o Output
	var errs []error
	for _, d := range docs {
		if err := l.adopt(d, &o); err != nil {
			errs = append(errs, fmt.Errorf("adopt session %s: %w", d.SessionID, err))
		}
	}
	return o, errors.Join(errs...)
}

// admissible says why d cannot be a session of the ledger beside the others.
func (l *Ledger) admissible(d *Document) error {
	switch {
	case d.External() || len(d.IKE) == 0:
		return errors.New("it holds no IKE_SA")
	case d.Slot != l.slot:
		return fmt.Errorf("it belongs to slot %d, not %d", d.Slot, l.slot)
	}
	for _, g := range d.IKE {
		if other, taken := l.SessionOfIKE(g.ID); taken && other != d.SessionID {
			return fmt.Errorf("IKE_SA %s belongs to session %s: %w", g.ID, other, ErrDuplicate)
		}
	}
	for _, c := range d.Children {
		if other, taken := l.SessionOfSPI(c.In); taken && other != d.SessionID {
			return fmt.Errorf("child %s belongs to session %s: %w", c.In, other, ErrDuplicate)
		}
	}
	return nil
}

func (l *Ledger) adopt(d *Document, o *Output) error {
	if l.sessions[d.SessionID] != nil {
		return ErrDuplicate
	}
	if err := l.admissible(d); err != nil {
		return err
	}
	s := &session{doc: d.clone(), tracks: map[sa.IKEID]*track{}}
	for _, e := range s.doc.Pending {
		s.pending = append(s.pending, &exchange{Exchange: e})
	}
	s.doc.Pending = nil
	l.sessions[d.SessionID] = s
	if len(s.pending) > 0 {
		l.busy[d.SessionID] = s
	}
	l.index(s)
	l.holdAddrs(s, o)
	for _, g := range s.doc.IKE {
		tr := s.tracks[g.ID]
		tr.midI, tr.midR = g.MIDInitiator, g.MIDResponder
	}
	for _, e := range s.pending {
		tr := s.tracks[e.IKE]
		if e.By == Client {
			tr.midR = max(tr.midR, e.MID+1)
		} else {
			tr.midI = max(tr.midI, e.MID+1)
		}
	}
	return nil
}

// Takeover says that the local charon became active at now and knows the
// committed content of the adopted documents, not their pending exchanges. What
// becomes of these is decided by what is seen from now on:
//
//   - the client repeats its request: the stored effects are dropped, charon
//     processes it;
//   - the client's next request, a header on a new IKE_SA, ESP on a new child,
//     or QuietTime: the effects are committed, and fed to the local charon;
//   - the answer to the former owner's request: its message ID is fed;
//   - charon reuses the message ID of such a request and neither that nor its
//     first retransmission is answered: the message ID is fed.
func (l *Ledger) Takeover(now time.Time) {
	l.taken = now
	for _, s := range l.sessions {
		s.inherit(now)
	}
}

// inherit makes the pending exchanges of s those of a former owner.
func (s *session) inherit(now time.Time) {
	for _, tr := range s.tracks {
		tr.req, tr.rsp, tr.requestAt = -1, -1, time.Time{}
	}
	for _, e := range s.pending {
		e.adopted, e.SeenAt, e.guard = true, stamp(now), time.Time{}
	}
}

// requestTime is how long after the last sight of a client's request a delete
// may be its effect.
const requestTime = 5 * time.Second

// suspect reports whether the delete of id may come from a false takeover: a
// retransmission timeout of our own, not a wish of the client (rule 15).
func (l *Ledger) suspect(s *session, id sa.IKEID, now time.Time) bool {
	tr := s.tracks[id]
	switch {
	case l.taken.IsZero() || now.Sub(l.taken) >= SuspectTime:
		return false
	case tr == nil:
		return true
	case !tr.requestAt.IsZero() && now.Sub(tr.requestAt) <= requestTime:
		return false
	case tr.midI > 0 && tr.rsp >= int64(tr.midI)-1:
		return false // our last request was answered, so none timed out
	}
	return true
}
