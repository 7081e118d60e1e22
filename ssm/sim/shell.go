package sim

import (
	"maps"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm"
)

type mode string

const (
	idle   mode = "idle"
	twin   mode = "twin"
	owning mode = "owning"
)

// shell is one slot on one appliance: what package node, the kernel and charon do
// for the core.
type shell struct {
	n    *node
	slot sa.Slot
	mode mode

	charon   bool
	fence    time.Duration         // open until, on this machine's clock
	kernel   map[*child]*sadb      // installed outbound SAs
	docs     map[*session]revision // what the ledger or the twin holds
	had      map[*session]bool     // what this twin held once
	ticket   sa.Ticket             // as owner: the tenure
	lowest   sa.Ticket             // for births
	preset   sa.Ticket             // as shadow: whose block SAs go to
	streams  map[ssm.Node]*stream  // as owner
	version  int                   // of docs, as owner
	shadows  []ssm.Node            // as owner
	memory   remembered            // in the run directory
	master   ssm.Node              // as shadow: whose documents are taken
	under    sa.Ticket             // and by which ticket of it
	hello    sa.Ticket             // the highest ticket of a stream that came
	fed      uint64                // build of the owner whose documents these are
	whole    bool                  // a snapshot of master has been applied
	ready    bool                  // as last told to the core
	build    uint64                // of the twin; what an earlier one arranged is void
	presetAt time.Duration
	since    time.Duration // when this twin began to follow master
	adopting bool          // found active by a new daemon, the core does not know yet
	sent     bool          // everything that is installed has been noted by World.sent

	alone       time.Duration // since when this owner reaches nobody
	undelivered time.Duration // when a packet could not be delivered last
}

type remembered struct {
	role   ssm.Role
	ticket sa.Ticket
	lives  map[ssm.Node]uint64
	set    []ssm.Node
	vers   uint64 // of the set
}

// sadb is an outbound SA in the kernel.
type sadb struct {
	by     tenure // whose numbers it sends in
	block  uint64
	placed bool          // false: barred by the fence
	since  time.Duration // when it was installed
}

// tenure is one ownership: a ticket in the hands of one life of an appliance.
type tenure struct {
	node   ssm.Node
	inc    uint64
	ticket sa.Ticket
}

const open = time.Duration(1<<62 - 1)

func newShell(n *node, s sa.Slot) *shell {
	return &shell{n: n, slot: s, mode: idle, kernel: map[*child]*sadb{}, docs: map[*session]revision{}, had: map[*session]bool{}}
}

func (s *shell) isOpen() bool { return s.n.w.now < s.fence }

func (s *shell) tenure(t sa.Ticket) tenure { return tenure{s.n.name, s.n.inc, t} }

// rnd is a duration between lo and hi milliseconds.
func (s *shell) rnd(lo, hi int) time.Duration {
	return time.Duration(lo+s.n.w.rng.Intn(hi-lo)) * time.Millisecond
}

// begin is what a starting daemon does with the slot.
func (s *shell) begin() {
	if s.memory.role == ssm.RoleOwner && s.charon {
		// charon tells its sessions again.
		t, lives, set, version := s.memory.ticket, s.memory.lives, s.memory.set, s.memory.vers
		s.mode, s.ticket, s.streams, s.adopting = idle, t, nil, true
		s.n.do(s.rnd(5, 40), func() {
			s.adopting = false
			if !s.charon { // it died meanwhile
				s.afresh()
				return
			}
			s.n.post(ssm.EvAdopted{Slot: s.slot, Ticket: t, Lives: lives, Set: set, Version: version})
		})
		return
	}
	s.afresh()
}

// afresh begins where nothing is active.
func (s *shell) afresh() {
	s.fence, s.adopting = 0, false
	if s.memory.ticket != 0 {
		s.n.later(0, ssm.EvRestored{Slot: s.slot, Ticket: s.memory.ticket, Owned: s.memory.role != ssm.RoleShadow})
	}
	s.rebuild()
}

// rebuild starts charon over an empty kernel. The twin knows nothing.
func (s *shell) rebuild() {
	s.build++
	s.mode, s.charon, s.streams, s.whole, s.ready = idle, false, nil, false, false
	s.preset = 0
	s.kernel, s.docs, s.had = map[*child]*sadb{}, map[*session]revision{}, map[*session]bool{}
	b := s.build
	s.n.do(s.rnd(20, 150), func() {
		if s.build != b {
			return
		}
		s.charon = true
		s.n.post(ssm.EvSlotUp{Slot: s.slot})
	})
}

func (n *node) act(a ssm.Action) {
	switch x := a.(type) {
	case ssm.ActSend:
		n.w.send(n, x)
	case ssm.ActReport:
		n.w.report(n, x)
	case ssm.ActFence:
		n.shells[x.Slot].setFence(x)
	case ssm.ActOwn:
		n.shells[x.Slot].own(x)
	case ssm.ActFeed:
		n.shells[x.Slot].feed(x.Shadows)
	case ssm.ActPlace:
		n.shells[x.Slot].begin()
	case ssm.ActLeave:
		n.shells[x.Slot].leave()
	case ssm.ActBirth:
		n.shells[x.Slot].lowest = x.Lowest
	case ssm.ActWake:
		n.later(x.In, ssm.EvTick{})
	case ssm.ActShadow:
		n.shells[x.Slot].shadow(x)
	case ssm.ActFollow:
		n.shells[x.Slot].follow(x)
	case ssm.ActBuild:
		n.shells[x.Slot].rebuild()
	case ssm.ActPreset:
		n.shells[x.Slot].presetAll(x.Ticket)
	case ssm.ActIssue:
		t := max(n.log[x.Slot], x.Floor) + 1
		n.log[x.Slot] = t
		n.later(time.Duration(2+n.w.rng.Intn(20))*time.Millisecond, ssm.EvIssued{Slot: x.Slot, Ticket: t, Node: x.Node, Incarnation: x.Incarnation})
	case ssm.ActStandDown:
		n.shells[x.Slot].standDown()
	case ssm.ActPassivate:
		n.shells[x.Slot].standDown()
	case ssm.ActRefeed:
		sh := n.shells[x.Slot]
		n.do(sh.rnd(60, 250), func() {
			if sh.mode != owning {
				n.post(ssm.EvRefed{Slot: x.Slot, Err: "the slot is not owned here"})
				return
			}
			sh.charon = true
			n.post(ssm.EvRefed{Slot: x.Slot})
		})
	case ssm.ActQuiesce:
		n.later(n.shells[x.Slot].rnd(10, 200), ssm.EvQuiesced{Slot: x.Slot, Move: x.Move})
	case ssm.ActFlush:
		n.shells[x.Slot].flush(x)
	case ssm.ActDrain:
		n.later(x.Min, ssm.EvDrained{Slot: x.Slot, Move: x.Move})
	case ssm.ActRemember:
		n.shells[x.Slot].memory = remembered{x.Role, x.Ticket, x.Lives, slices.Clone(x.Set), x.Version}
	case ssm.ActAnnounce:
		n.w.announced(n, x.Level)
	}
}

func (s *shell) setFence(x ssm.ActFence) {
	switch {
	case x.Refresh && !s.isOpen():
		s.n.later(0, ssm.EvFenceShut{Slot: s.slot})
		return
	case !x.Open:
		s.fence = 0
		return
	case x.Until == 0:
		s.fence = open
	default:
		s.fence = s.n.w.now + x.Until
	}
	s.sends()
}

// own makes the twin's documents the ledger, or goes on under another ticket.
func (s *shell) own(x ssm.ActOwn) {
	s.n.w.claimed(s, x)
	if x.Takeover {
		s.n.w.checkInherited(s)
	}
	s.build++
	s.mode, s.ticket, s.lowest, s.shadows = owning, x.Ticket, 0, x.Shadows
	s.version++
	s.streams = map[ssm.Node]*stream{}
	for _, o := range x.Shadows {
		s.stream(o)
	}
	s.sends()
}

// shadow makes a twin of the slot, from nothing or from what charon still holds.
func (s *shell) shadow(x ssm.ActShadow) {
	if s.isOpen() {
		s.n.w.fail("I2: %s makes a twin of slot %d, which is active there", s.n.name, s.slot)
	}
	s.master, s.under, s.since = x.Owner, x.Ticket, s.n.w.now
	if x.Keep && s.charon {
		s.build++
		s.mode, s.streams, s.whole, s.ready, s.preset = twin, nil, false, false, 0
		for _, k := range s.kernel {
			k.placed = false
		}
		s.had = map[*session]bool{}
		for d := range s.docs {
			s.had[d] = true
		}
		s.charon = false // takes nothing before
		b := s.build
		s.n.do(s.rnd(5, 30), func() {
			if s.build == b {
				s.charon = true
				s.n.post(ssm.EvSlotUp{Slot: s.slot})
			}
		})
		return
	}
	s.rebuild()
	s.mode = twin
}

// follow: the slot has another owner, the twin stays.
func (s *shell) follow(x ssm.ActFollow) {
	s.master, s.under = x.Owner, x.Ticket
	if !x.Same {
		s.whole, s.since = false, s.n.w.now
		s.judge()
	}
}

// standDown passivates charon behind the closed fence.
func (s *shell) standDown() {
	s.build++
	s.mode, s.streams = idle, nil
	s.n.later(s.rnd(5, 60), ssm.EvPassivated{Slot: s.slot})
}

// judge tells the core whether the twin is complete.
func (s *shell) judge() {
	ready := s.mode == twin && s.charon && s.whole
	if ready == s.ready {
		return
	}
	s.ready = ready
	why := ""
	if !ready {
		why = "the owner's snapshot is not complete"
	}
	s.n.later(0, ssm.EvTwin{Slot: s.slot, Ready: ready, Reason: why})
}

// presetAll moves every SA to the block of t, after the time that writing takes.
func (s *shell) presetAll(t sa.Ticket) {
	// One after the other, as a runtime works off its queue.
	s.presetAt = max(s.presetAt, s.n.w.now+s.rnd(2, 40))
	b := s.build
	s.n.do(s.presetAt-s.n.w.now, func() {
		if s.build != b {
			return
		}
		switch s.mode {
		case twin:
			if s.n.w.slots[s.slot].voided[s.tenure(t)] {
				s.n.w.fail("I1: %s is armed for slot %d with ticket %d, which it has given up", s.n.name, s.slot, t)
			}
			s.preset = t
			for c, k := range s.kernel {
				s.place(c, k, t)
			}
		case owning: // a renewed ticket
			for c, k := range s.kernel {
				s.place(c, k, t)
			}
		default:
			return
		}
		s.n.w.logf("%s slot %d preset to ticket %d, %s", s.n.name, s.slot, t, s.mode)
		s.n.post(ssm.EvPreset{Slot: s.slot, Ticket: t})
	})
}

// place puts an SA into the block of t. The kernel's number never goes back.
func (s *shell) place(c *child, k *sadb, t sa.Ticket) {
	n, err := c.birth.Block(t)
	if err != nil {
		k.placed = false
		if s.mode == twin {
			s.n.later(0, ssm.EvBarred{Slot: s.slot, Base: c.birth.Base})
		}
		return
	}
	k.by, k.block, k.placed = s.tenure(t), n, true
	s.sent = false
}

// install mirrors the children of the documents in the kernel. A new SA of a twin
// is barred until it has its block.
func (s *shell) install() {
	want := map[*child]bool{}
	for _, d := range s.sorted() {
		for _, c := range s.docs[d].children {
			want[c] = true
			if s.kernel[c] != nil {
				continue
			}
			k := &sadb{since: s.n.w.now}
			s.kernel[c] = k
			s.sent = false
			b := s.build
			s.n.do(s.rnd(1, 30), func() {
				if s.kernel[c] != k || k.placed {
					return
				}
				s.sent = false
				switch {
				case s.build == b && s.mode == twin && s.preset != 0:
					s.place(c, k, s.preset)
				case s.mode == owning: // installed after the claim
					s.place(c, k, s.ticket)
				}
			})
		}
	}
	maps.DeleteFunc(s.kernel, func(c *child, _ *sadb) bool { return !want[c] })
}

// sends notes what leaves through an open fence: every SA that is not barred.
func (s *shell) sends() {
	if s.sent || !s.isOpen() {
		return
	}
	s.sent = true
	for c, k := range s.kernel {
		if k.placed {
			s.n.w.sent(s, c, k)
		}
	}
}
