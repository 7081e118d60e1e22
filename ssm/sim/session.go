package sim

import (
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm"
)

// session is one IKE_SA with its children, as its client knows it.
type session struct {
	id       int
	slot     sa.Slot
	began    time.Duration
	at       sa.Ticket // by which its first owner held the slot
	children []*child
	rev      int
	deleted  bool
	lost     bool // by a takeover that did not have it yet
	revived  bool // by a takeover that nobody could tell of its end
	// acked are the twins that hold it, and since when the owner knows.
	acked map[holder]time.Duration
	// buried are those that have been told of its end, and since when.
	buried map[holder]time.Duration
}

type holder struct {
	node  ssm.Node
	inc   uint64
	build uint64
}

// child is one CHILD_SA of a session, one direction of which we send in.
type child struct {
	birth  sa.Birth
	blocks map[uint64]tenure // who sent in which block
}

// revision is a session as one appliance knows it.
type revision struct {
	rev      int
	children []*child
}

// truth is everything that is known about a slot from outside.
type truth struct {
	slot     sa.Slot
	sessions []*session
	tickets  map[sa.Ticket]tenure    // who has claimed with which
	highest  sa.Ticket               // ever claimed
	owners   []ssm.Node              // who have claimed, each time it was another one
	voided   map[tenure]bool         // given up with a place in the shadow set
	renewed  map[sa.Ticket]sa.Ticket // of an owner that went on: which it had before
	heirs    map[sa.Ticket]sa.Ticket // of an owner with sessions: by which ticket they were held before
}

// follows reports whether ticket now came from was, by one or more steps of next.
func follows(next map[sa.Ticket]sa.Ticket, now, was sa.Ticket) bool {
	for now > was && now != 0 {
		now = next[now]
	}
	return now == was
}

// clientEvery is how often clients do something.
const clientEvery = 60 * time.Millisecond

// maxSessions of a slot at one time.
const maxSessions = 5

// clients connect, rekey and leave, at whoever serves their slot. Of two owners it
// is the one with the higher ticket, in whose block they have seen numbers.
func (w *World) clients() {
	w.after(clientEvery, w.clients)
	for _, n := range w.nodes {
		if !n.machine {
			continue
		}
		for _, sc := range w.cfg.Slots {
			s := n.shells[sc.Slot]
			s.sends() // also where the daemon is dead or frozen
			s.despairs()
		}
	}
	if w.now > w.plan.Span+settleTime/2 {
		return // a quiet end, for the last comparison
	}
	for _, sc := range w.cfg.Slots {
		t := w.slots[sc.Slot]
		var at *shell
		for _, n := range w.nodes {
			if n.daemon && !n.frozen {
				if s := n.shells[sc.Slot]; s.mode == owning && s.isOpen() && s.charon && (at == nil || s.ticket > at.ticket) {
					at = s
				}
			}
		}
		if at == nil || at.ticket < t.highest {
			continue
		}
		act := w.rng.Intn(12)
		if moving, here := at.moving(); moving && (!here || act != 2) {
			continue
		}
		switch act {
		case 0:
			if len(at.docs) < maxSessions {
				w.lastID++
				x := &session{id: w.lastID, slot: sc.Slot, began: w.now, at: at.ticket, acked: map[holder]time.Duration{}, buried: map[holder]time.Duration{}}
				t.sessions = append(t.sessions, x)
				at.newChild(x)
				at.publish(x)
			}
		case 1:
			if x := at.pick(); x != nil { // the old child goes with the new one's birth
				at.newChild(x)
				if len(x.children) > 2 {
					x.children = slices.Delete(x.children, 0, 1)
				}
				at.publish(x)
			}
		case 2:
			if x := at.pick(); x != nil && w.rng.Intn(3) == 0 {
				x.deleted = true
				at.forget(x)
			}
		}
	}
}

// moving reports whether a move has come so far that new clients go elsewhere, and
// whether packets still come here. A client may leave in the midst of it; other
// exchanges that begin just then are not part of the model.
func (s *shell) moving() (moving, here bool) {
	switch s.n.core.MovePhase(s.slot) {
	case "", "prepare":
		return false, true
	case "quiesce", "flush", "take":
		return true, true
	}
	return true, false
}

// despairAfter is what DPD takes to give a client up, far less than a real one's.
const despairAfter = 1500 * time.Millisecond

// despairs: an owner that was overtaken and reaches nobody hears no client either.
// Its charon deletes their sessions one by one; nobody may believe it.
func (s *shell) despairs() {
	w := s.n.w
	if s.mode != owning || !s.n.ready() || s.ticket >= w.slots[s.slot].highest || w.rng.Intn(4) != 0 {
		return
	}
	for _, o := range w.nodes {
		if o != s.n && w.connected(s.n, o) {
			s.alone = 0
			return
		}
	}
	if s.alone == 0 {
		s.alone = w.now
	}
	if w.now-s.alone < despairAfter {
		return
	}
	if x := s.pick(); x != nil && !s.n.core.Alone() {
		s.forget(x)
	}
}

func (s *shell) forget(x *session) {
	delete(s.docs, x)
	s.version++
	s.install()
}

// sorted lists what this shell holds, in an order that the run repeats.
func (s *shell) sorted() []*session {
	out := make([]*session, 0, len(s.docs))
	for x := range s.docs {
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b *session) int { return a.id - b.id })
	return out
}

// pick chooses a session that this owner serves.
func (s *shell) pick() *session {
	all := s.sorted()
	if len(all) == 0 {
		return nil
	}
	return all[s.n.w.rng.Intn(len(all))]
}

func (s *shell) newChild(x *session) {
	c := &child{birth: sa.Birth{Base: sa.BaseFor(s.ticket, s.lowest), Tenure: s.ticket}, blocks: map[uint64]tenure{}}
	x.children = append(slices.Clone(x.children), c)
	s.kernel[c] = &sadb{by: s.tenure(s.ticket), block: 0, placed: true}
	s.sent = false
}

func (s *shell) publish(x *session) {
	x.rev++
	s.docs[x] = revision{x.rev, slices.Clone(x.children)}
	s.version++
	s.install()
}
