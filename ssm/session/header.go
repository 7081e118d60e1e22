package session

import (
	"maps"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// Header is an IKE header that a client sent to the gateway, as the steering
// ring shows it. It is not authenticated: it can only hasten a commit.
type Header struct {
	ID            sa.IKEID
	MsgID         uint32
	Exchange      uint8 // exchange type, RFC 7296 section 3.1
	Response      bool  // flag R: it answers a request of the gateway
	FromInitiator bool  // flag I: its sender initiated the IKE_SA
	At            time.Time
}

// exchangeInit is IKE_SA_INIT: it is complete before an IKE_SA is known.
const exchangeInit = 34

// Header digests a header. Headers may come before or after the HA messages
// they belong to.
func (l *Ledger) Header(h Header) Output {
	var o Output
	if h.ID.Responder == 0 || h.Exchange == exchangeInit {
		return o
	}
	s := l.byIKE[h.ID]
	if s == nil {
		l.early.note(h)
		return o
	}
	tr, mid := s.tracks[h.ID], int64(h.MsgID)
	if g := s.doc.generation(h.ID); g != nil && g.Initiator == h.FromInitiator {
		return o // one of our own, thrown back at us
	}
	if h.Response && mid >= int64(tr.midI)+maxLead || !h.Response && mid > int64(tr.midR)+maxLead {
		return o
	}
	if c := s.creator(h.ID); c != nil {
		l.commit(s, c, &o)
	}
	if h.Response {
		tr.rsp = max(tr.rsp, mid)
		l.through(s, h.ID, Gateway, uint64(h.MsgID)+1, &o)
	} else {
		tr.req = max(tr.req, mid)
		if h.At.After(tr.requestAt) {
			tr.requestAt = h.At
		}
		l.through(s, h.ID, Client, uint64(h.MsgID), &o)
		for _, e := range s.find(h.ID, Client) {
			switch {
			case e.MID != h.MsgID:
			case e.adopted:
				l.drop(s, e) // charon processes it; its own messages follow
			case h.At.After(e.SeenAt):
				e.SeenAt = stamp(h.At)
			}
		}
	}
	l.publish(s, &o)
	return o
}

// ESPSeen digests that a client sent ESP to in.
func (l *Ledger) ESPSeen(in sa.SPI) Output {
	var o Output
	s := l.bySPI[in]
	if s == nil || s.doc.child(in) != nil {
		return o
	}
	if e := s.bringer(in); e != nil {
		l.commit(s, e, &o)
		l.publish(s, &o)
	}
	return o
}

// Tick lets time pass; call it about once a second.
func (l *Ledger) Tick(now time.Time) Output {
	var o Output
	for _, id := range slices.Sorted(maps.Keys(l.busy)) {
		s := l.busy[id]
		for _, e := range slices.Clone(s.pending) {
			switch {
			case e.By == Client && now.Sub(e.SeenAt) >= QuietTime:
				l.commit(s, e, &o)
			case !e.guard.IsZero() && !now.Before(e.guard) && slices.Contains(s.pending, e):
				// No answer to the repetition either: the client has answered
				// this message ID to the former owner. Skip it.
				o.Feed = append(o.Feed, skip(s.doc.generation(e.IKE), e)...)
				l.commit(s, e, &o)
			}
		}
		l.publish(s, &o)
	}
	for _, h := range slices.Clone(l.halves.order) {
		switch {
		case !h.deletedOld.IsZero() && now.Sub(h.deletedOld) >= updateGrace:
			l.end(l.byIKE[*h.rekeyOf], *h.rekeyOf, now, &o)
		case now.Sub(h.since) < halfOpenTime:
			continue
		}
		l.halves.remove(h)
		l.stats.HalfOpen++
	}
	l.early.expire(now)
	return o
}

// skip returns the MID_INITIATOR that takes charon past the request of e.
func skip(g *Generation, e *exchange) []charon.Message {
	if g == nil {
		return nil
	}
	return []charon.Message{midMessage(charon.MIDInitiator, g, e.MID+1)}
}

// early remembers headers on IKE_SAs that no HA message announced yet.
type early struct {
	byID  map[sa.IKEID]*earlyTrack
	order []sa.IKEID
}

type earlyTrack struct {
	track
	at time.Time
}

const (
	maxEarly  = 4096
	earlyTime = 10 * time.Second
)

func (y *early) note(h Header) {
	if h.MsgID > maxLead {
		return
	}
	t := y.byID[h.ID]
	if t == nil {
		if len(y.order) >= maxEarly {
			delete(y.byID, y.order[0])
			y.order = y.order[1:]
		}
		t = &earlyTrack{track: *newTrack(), at: h.At}
		y.byID[h.ID] = t
		y.order = append(y.order, h.ID)
	}
	if h.Response {
		t.rsp = max(t.rsp, int64(h.MsgID))
	} else {
		t.req = max(t.req, int64(h.MsgID))
	}
}

// take returns what is remembered of id, and forgets it.
func (y *early) take(id sa.IKEID) *track {
	t := y.byID[id]
	if t == nil {
		return newTrack()
	}
	delete(y.byID, id)
	y.order = slices.DeleteFunc(y.order, func(x sa.IKEID) bool { return x == id })
	return &t.track
}

func (y *early) expire(now time.Time) {
	n := 0
	for _, id := range y.order {
		if now.Sub(y.byID[id].at) < earlyTime {
			break
		}
		delete(y.byID, id)
		n++
	}
	y.order = slices.Delete(y.order, 0, n)
}
