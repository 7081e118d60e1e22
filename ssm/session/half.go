package session

import (
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// half is an IKE_SA that has keys and is not up yet. A twin that is told of it
// too early keeps it half open for ever (rule 3).
type half struct {
	id         sa.IKEID
	effects    []Effect // IKE_ADDs and whatever followed, in order
	adds       int
	rekeyOf    *sa.IKEID
	byGateway  bool
	midI, midR uint32
	since      time.Time
	deletedOld time.Time // when charon deleted the predecessor, zero if not
}

// halves is an ordered list of half-open IKE_SAs.
type halves struct {
	byID  map[sa.IKEID]*half
	order []*half
}

// maxHalves bounds the memory that a flood of IKE_SA_INITs takes.
const maxHalves = 16384

func (hs *halves) add(h *half) {
	hs.byID[h.id] = h
	hs.order = append(hs.order, h)
}

func (hs *halves) remove(h *half) {
	if hs.byID[h.id] == h {
		delete(hs.byID, h.id)
		hs.order = slices.DeleteFunc(hs.order, func(x *half) bool { return x == h })
	}
}

// successors returns the half-open IKE_SAs that shall replace id.
func (hs *halves) successors(id sa.IKEID) []*half {
	var out []*half
	for _, h := range hs.order {
		if h.rekeyOf != nil && *h.rekeyOf == id {
			out = append(out, h)
		}
	}
	return out
}

// complete makes an IKE_SA out of a half-open one: the first of a session, or
// the successor of a generation.
func (l *Ledger) complete(h *half, o *Output) error {
	l.halves.remove(h)
	if l.byIKE[h.id] != nil {
		return l.refuse(&RefusedError{Type: charon.IKEAdd, IKE: h.id, Reason: ErrDuplicate, Detail: "it was rekeyed before it was up"})
	}
	l.dropTaken(h)
	var s *session
	if h.rekeyOf != nil {
		s = l.byIKE[*h.rekeyOf]
	}
	if s == nil {
		l.begin(h, o)
		return nil
	}
	for _, rival := range l.halves.successors(*h.rekeyOf) { // lost a collision of rekeyings
		l.halves.remove(rival)
		l.stats.HalfOpen++
	}
	if s.generations() >= MaxGenerations || s.weight()+weigh(h.effects) > maxWeight {
		return l.refuse(&RefusedError{Type: charon.IKEAdd, IKE: h.id, Reason: ErrLimit, Detail: "generations of session " + s.doc.SessionID})
	}
	var e *exchange
	if h.byGateway {
		// The client answered our rekeying, so it waits for nothing on the
		// old IKE_SA; what it had asked for comes before.
		for _, c := range s.find(*h.rekeyOf, Client) {
			l.commit(s, c, o)
		}
		l.answered(s, *h.rekeyOf, o)
	} else {
		e = s.owner(*h.rekeyOf)
	}
	for _, f := range h.effects {
		l.effect(s, e, f, o)
	}
	l.index(s)
	if tr := s.tracks[h.id]; tr.req >= 0 || tr.rsp >= 0 {
		if c := s.creator(h.id); c != nil {
			l.commit(s, c, o) // the client was seen on it already
		}
	}
	l.publish(s, o)
	return nil
}

// dropTaken refuses held children whose SPI another child got meanwhile.
func (l *Ledger) dropTaken(h *half) {
	held := map[sa.SPI]bool{}
	h.effects = slices.DeleteFunc(h.effects, func(e Effect) bool {
		if e.Type != charon.ChildAdd {
			return false
		}
		in, _ := e.Attrs.spi(charon.InSPI)
		taken := held[in] || l.bySPI[in] != nil
		held[in] = true
		if taken {
			l.stats.Duplicates++
		}
		return taken
	})
}

// begin starts a session. Its IKE_AUTH exchange is committed at once: there is
// nothing to lose.
func (l *Ledger) begin(h *half, o *Output) {
	s := &session{
		doc:    &Document{V: Version, SessionID: h.id.String(), Slot: l.slot},
		tracks: map[sa.IKEID]*track{},
		dirty:  true,
	}
	for _, f := range h.effects {
		s.doc.apply(f)
	}
	g := s.doc.Live()
	g.MIDInitiator, g.MIDResponder = h.midI, h.midR
	l.sessions[s.doc.SessionID] = s
	l.index(s)
	tr := s.tracks[h.id]
	tr.midI, tr.midR = h.midI, h.midR
	l.publish(s, o)
}

// maxWeight bounds the attributes of a session so that its document stays below
// MaxSize: base64 makes 4 octets of 3, names and quotes add some 40 per attribute.
const maxWeight = 600 << 10

func weigh(es []Effect) int {
	n := 0
	for _, e := range es {
		n += e.Attrs.weight()
	}
	return n
}

func (a Attrs) weight() int {
	n := 200
	for _, x := range a {
		n += len(x.Value) + 32
	}
	return n
}

func (s *session) weight() int {
	n := 0
	for _, g := range s.doc.IKE {
		n += g.Update.weight()
		for _, a := range g.Add {
			n += a.weight()
		}
	}
	for _, c := range s.doc.Children {
		n += c.Add.weight()
	}
	for _, e := range s.pending {
		n += weigh(e.Effects)
	}
	return n
}

func (s *session) count(t charon.MsgType) int {
	n := 0
	for _, e := range s.pending {
		for _, f := range e.Effects {
			if f.Type == t {
				n++
			}
		}
	}
	return n
}

func (s *session) generations() int { return len(s.doc.IKE) + s.count(charon.IKEAdd) }

func (s *session) children() int { return len(s.doc.Children) + s.count(charon.ChildAdd) }
