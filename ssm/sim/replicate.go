package sim

import (
	"maps"
	"time"

	"github.com/shadowcast/shadowcast/ssm"
)

// stream carries the documents of one tenure to one shadow: the newest state of
// each, never a history, in order, resumed after every cut.
type stream struct {
	to    *node
	acked int
	told  bool // readiness, as last told to the core
	// arrives is when the last message that was sent arrives.
	arrives time.Duration
}

const streamEvery = 45 * time.Millisecond

func (s *shell) stream(to ssm.Node) {
	st := &stream{to: s.n.w.byName[to], acked: -1}
	s.streams[to] = st
	build := s.build
	var turn func()
	turn = func() {
		if s.build != build || s.mode != owning || s.streams[to] != st {
			return
		}
		s.deliver(st, build)
		s.n.do(streamEvery, turn)
	}
	s.n.do(s.rnd(1, int(streamEvery/time.Millisecond)), turn)
}

// deliver sends what the shadow lacks.
func (s *shell) deliver(st *stream, build uint64) {
	w := s.n.w
	ready := st.acked == s.version
	if ready != st.told {
		st.told = ready
		s.n.post(ssm.EvReplica{Slot: s.slot, Shadow: st.to.name, Ready: ready})
	}
	if ready && s.n.w.byName[st.to.name].shells[s.slot].settled(s) {
		return
	}
	if !w.connected(s.n, st.to) || !w.connected(st.to, s.n) {
		st.acked = min(st.acked, s.version-1)
		return
	}
	docs, version, ticket := maps.Clone(s.docs), s.version, s.ticket
	var ended []*session // which these documents tell of; not one that is yet to come
	for _, x := range w.slots[s.slot].sessions {
		if _, held := docs[x]; x.deleted && !held {
			ended = append(ended, x)
		}
	}
	trip := w.latency() + w.slow[st.to.index]
	to := st.to
	st.arrives = max(st.arrives, w.now+trip) // TCP keeps the order
	w.after(st.arrives-w.now, func() {
		if !to.ready() || !w.connected(s.n, to) {
			return
		}
		t := to.shells[s.slot]
		if !t.takes(s.n.name, uint64(ticket)) || ticket < t.hello {
			return // a stream of a higher ticket has cut this one
		}
		t.hello = ticket
		t.apply(docs, build)
		to.post(ssm.EvSeen{Slot: s.slot, Ticket: ticket, Seen: uint64(version)})
		h := t.holder()
		w.after(trip, func() {
			if s.build != build || !s.n.ready() || !w.connected(to, s.n) {
				return
			}
			st.acked = max(st.acked, version)
			for x := range docs {
				w.since(x.acked, h)
			}
			for _, x := range ended {
				w.since(x.buried, h)
			}
		})
	})
}

// since notes that h knows something from now on.
func (w *World) since(known map[holder]time.Duration, h holder) {
	if _, ok := known[h]; !ok {
		known[h] = w.now
	}
}

// settled reports whether the twin s still is what owner o has acknowledged.
func (s *shell) settled(o *shell) bool {
	return s != nil && s.mode == twin && s.whole && s.master == o.n.name && s.fed == o.build
}

func (s *shell) holder() holder { return holder{s.n.name, s.n.inc, s.build} }

// takes is rule 1 of the charon link: only the current owner's documents count.
func (s *shell) takes(from ssm.Node, ticket uint64) bool {
	return s.mode == twin && s.charon && from == s.master && ticket >= uint64(s.under)
}

// apply makes the twin what the owner's documents are.
func (s *shell) apply(docs map[*session]revision, build uint64) {
	was := s.docs
	for _, x := range s.sorted() {
		if _, ok := docs[x]; !ok {
			s.n.w.logf("%s slot %d: session %d ends here, says %s", s.n.name, s.slot, x.id, s.master)
		}
	}
	s.docs = maps.Clone(docs)
	for _, x := range s.sorted() {
		if _, ok := was[x]; !ok {
			s.n.w.logf("%s slot %d: session %d comes, says %s", s.n.name, s.slot, x.id, s.master)
		}
	}
	for x := range docs {
		s.had[x] = true
	}
	s.install()
	s.whole, s.fed = true, build
	s.judge()
}

// flush answers when to has acknowledged everything.
func (s *shell) flush(x ssm.ActFlush) {
	build, tries := s.build, 0
	var look func()
	look = func() {
		st := s.streams[x.To]
		switch {
		case s.build != build || s.mode != owning || st == nil:
			s.n.post(ssm.EvFlushed{Slot: s.slot, Move: x.Move, Err: "the slot is not owned here any more"})
		case st.acked == s.version:
			s.n.post(ssm.EvFlushed{Slot: s.slot, Move: x.Move})
		case tries > 60:
			s.n.post(ssm.EvFlushed{Slot: s.slot, Move: x.Move, Err: "not acknowledged in time"})
		default:
			tries++
			s.n.do(40*time.Millisecond, look)
		}
	}
	s.n.do(10*time.Millisecond, look)
}
