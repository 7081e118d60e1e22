package session

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// Reasons for which Refill leaves a document alone; match with errors.Is.
var (
	// ErrEnded: the session has ended here.
	ErrEnded = errors.New("it has ended")
	// ErrNoNews: this version, or a later one, is here.
	ErrNoNews = errors.New("it is no newer")
	// ErrMovedOn: the session has changed here since Await: what others know of it
	// is of the time before.
	ErrMovedOn = errors.New("it has changed here meanwhile")
)

// Await begins a time in which a new owner may get sessions that others hold (Refill).
// What ends or changes here from now on is not taken from them; nor are the sessions in
// ended. Settle ends that time.
func (l *Ledger) Await(ended ...string) {
	l.since = make(map[string]uint64, len(l.sessions))
	for id, s := range l.sessions {
		l.since[id] = s.doc.Rev
	}
	for _, id := range ended {
		if l.sessions[id] == nil {
			l.since[id] = 0
		}
	}
}

// Settle ends what Await began.
func (l *Ledger) Settle() { l.since = nil }

// Fill is what Refill led to.
type Fill struct {
	Output         // one Put
	New    []Child // that charon is told to install
}

// Lacks returns nil where d is of a session that is missing here or newer than what is
// here, else why Refill would not take it.
func (l *Ledger) Lacks(d *Document) error {
	was, known := l.since[d.SessionID]
	s := l.sessions[d.SessionID]
	switch {
	case l.since == nil:
		return errors.New("nothing is awaited")
	case s == nil && known:
		return ErrEnded
	case s != nil && d.Rev <= was:
		return ErrNoNews
	case s != nil && s.doc.Rev != was:
		return ErrMovedOn
	}
	if err := l.admissible(d); err != nil {
		return err
	}
	for _, a := range d.Live().Update.inner() {
		for _, other := range l.vips[a] {
			if other != d.SessionID {
				return fmt.Errorf("its inner address belongs to session %s now", other)
			}
		}
	}
	return nil
}

// Refill takes d, which another holder of the slot's sessions has, after a takeover at
// an active charon. Fill.Feed is what that charon must be told; the IKE_SA is passive in
// it until the segment is activated once more, if Reactivate says so. A document that
// could only be taken by installing an SA anew that is here already is refused: its
// sequence numbers would begin again.
func (l *Ledger) Refill(d *Document, now time.Time) (Fill, error) {
	var x Fill
	if err := l.Lacks(d); err != nil {
		return x, fmt.Errorf("take session %s: %w", d.SessionID, err)
	}
	f := NewFeeder()
	s := l.sessions[d.SessionID]
	had := map[sa.SPI]uint64{}
	if s != nil {
		f.Adopted(s.doc)
		for _, c := range s.doc.Children {
			had[c.In] = c.InSeq
		}
	}
	ms, err := f.Diff(d)
	if err != nil {
		return x, err
	}
	for _, m := range ms {
		switch m.Type {
		case charon.IKEAdd, charon.IKEUpdate:
			x.Reactivate = true
		case charon.IKEDelete:
			return Fill{}, fmt.Errorf("take session %s: its IKE_SA would be replaced", d.SessionID)
		case charon.ChildAdd:
			in, _ := Attrs(m.Attrs).spi(charon.InSPI)
			if _, twice := had[in]; twice {
				return Fill{}, fmt.Errorf("take session %s: child %s would be installed twice", d.SessionID, in)
			}
		}
	}
	for _, c := range d.Children {
		if _, ok := had[c.In]; !ok {
			x.New = append(x.New, c)
		}
	}
	if s != nil {
		l.forget(s)
	}
	if err := l.adopt(d, &x.Output); err != nil {
		return Fill{}, fmt.Errorf("take session %s: %w", d.SessionID, err)
	}
	s = l.sessions[d.SessionID]
	for i := range s.doc.Children {
		c := &s.doc.Children[i]
		c.InSeq = max(c.InSeq, had[c.In])
	}
	s.inherit(now)
	l.since[d.SessionID] = d.Rev
	x.Feed = ms
	x.Changes = append(x.Changes, Change{ID: d.SessionID, Kind: Put, Doc: s.snapshot(l)})
	return x, nil
}

// Missed reports whether a header shows a message ID that charon has not announced, or
// whose announcement was lost.
func (l *Ledger) Missed(h Header) bool {
	s := l.byIKE[h.ID]
	if s == nil || h.Exchange == exchangeInit {
		return false
	}
	if g := s.doc.generation(h.ID); g == nil || g.Initiator == h.FromInitiator {
		return false // replaced, or one of our own, thrown back at us
	}
	tr := s.tracks[h.ID]
	if h.Response {
		return h.MsgID >= tr.midI
	}
	return h.MsgID >= tr.midR
}

// Newest keeps of several holders' documents the one with the highest Rev of each
// session, sorted by session.
func Newest(docs []*Document) []*Document {
	best := map[string]*Document{}
	for _, d := range docs {
		if b := best[d.SessionID]; b == nil || b.Rev < d.Rev {
			best[d.SessionID] = d
		}
	}
	out := make([]*Document, 0, len(best))
	for _, d := range best {
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b *Document) int {
		if a.SessionID < b.SessionID {
			return -1
		}
		return 1
	})
	return out
}
