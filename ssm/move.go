package ssm

import (
	"fmt"
	"slices"
	"time"
)

// phase is a step of a planned move, at the old owner.
type phase string

const (
	phasePrepare phase = "prepare" // target complete and armed, others re-armed above it
	phaseQuiesce phase = "quiesce" // no exchange half done, new clients elsewhere
	phaseFlush   phase = "flush"   // replay samples fresh, everything acknowledged
	phaseTake    phase = "take"    // target opens its fence and holds
	phaseFlip    phase = "flip"    // our uplink and inside lead to the target; it claims
	phaseDrain   phase = "drain"   // late packets through the tunnel are still delivered
	phaseClose   phase = "close"   // fence closed, charon passivated
)

// patience bounds each phase. Before the flip the move is aborted and nothing
// has happened; after it the highest claim decides.
var patience = map[phase]time.Duration{
	phasePrepare: 5 * time.Second,
	phaseQuiesce: 8 * time.Second,
	phaseFlush:   3 * time.Second,
	phaseTake:    time.Second,
	phaseFlip:    2 * time.Second,
	phaseDrain:   3 * time.Second,
	phaseClose:   5 * time.Second,
}

// rearmPatience is how long prepare waits for the other shadows' new tickets;
// without a registrar the move goes on and they are armed later.
const rearmPatience = time.Second

// poolOverlap is how long both owners announce the pools of a moved slot: the
// inside routers' BGP must have converged before the old one withdraws.
const poolOverlap = 2 * time.Second

// activatePatience is how long a new owner waits for the old one's word that
// its charon is passive.
const activatePatience = 1500 * time.Millisecond

type move struct {
	id     uint64
	to     Node
	reason string
	phase  phase
	since  time.Time
	began  time.Time
	hold   time.Duration
	// Of the drain that the move is part of, 0 if none, and what it counts.
	drain    uint64
	sessions int
}

func (c *Core) moveReport(s *slot, m *move, text, reason string, warn bool) {
	c.report(ActReport{Slot: s.cfg.Slot, Kind: "move", Move: m.id, Drain: m.drain, Phase: string(m.phase), Warn: warn, Text: text, Reason: reason})
}

// moveAsked starts a planned move, or says why not.
func (c *Core) moveAsked(s *slot, e EvMove) {
	refuse := func(why string) {
		c.report(ActReport{Slot: s.cfg.Slot, Kind: "move", Move: e.ID, Phase: "refused", Warn: true, Text: "move to " + string(e.To) + " refused", Reason: why})
	}
	switch {
	case s.role != RoleOwner:
		refuse(fmt.Sprintf("this appliance does not own the slot; %s does", s.owner))
	case s.move != nil:
		refuse(fmt.Sprintf("a move to %s is under way", s.move.to))
	case e.To == c.cfg.Self:
		refuse("the slot is here already")
	case !slices.Contains(c.shadowsOf(s), e.To):
		refuse(fmt.Sprintf("%s does not shadow the slot; %v do", e.To, c.shadowsOf(s)))
	case c.alive(e.To) && c.leaving(e.To):
		refuse(fmt.Sprintf("%s is %s", e.To, c.standing(e.To)))
	case s.refeeding || s.yieldTo != "" || !s.up:
		refuse("charon of the slot is not running")
	default:
		id := e.ID
		if id == 0 {
			id = uint64(c.now.UnixNano())
		}
		s.move = &move{id: id, to: e.To, reason: e.Reason, began: c.now, drain: e.Drain, sessions: c.fit.bySlot[s.cfg.Slot]}
		c.coverMove(s)
		c.enter(s, phasePrepare, e.Reason)
	}
}

func (c *Core) enter(s *slot, p phase, reason string) {
	s.move.phase, s.move.since = p, c.now
	c.moveReport(s, s.move, "move to "+string(s.move.to), reason, false)
	switch p {
	case phaseQuiesce:
		c.emit(ActQuiesce{Slot: s.cfg.Slot, Move: s.move.id})
	case phaseFlush:
		c.emit(ActFlush{Slot: s.cfg.Slot, Move: s.move.id, To: s.move.to})
	}
	c.tickMove(s)
}

func (c *Core) tickMove(s *slot) {
	m := s.move
	if m == nil {
		return
	}
	allowed := patience[m.phase]
	if m.phase == phasePrepare && !s.whole(m.to) {
		allowed += coverPatience
	}
	late := c.now.Sub(m.since) > allowed
	switch m.phase {
	case phasePrepare:
		why := c.notPrepared(s, m)
		switch {
		case why == "":
			c.enter(s, phaseQuiesce, m.reason)
		case late:
			c.abort(s, why)
		}
	case phaseTake:
		switch {
		case late:
			c.abort(s, string(m.to)+" did not answer")
			return
		case c.vanished(m.to):
			c.abort(s, string(m.to)+" went silent")
			return
		}
		c.send(m.to, Message{Kind: KindTake, Slot: s.cfg.Slot, Move: m.id, Hold: m.hold, Owner: c.cfg.Self, Ticket: s.ticket, Reason: clip(m.reason)})
	case phaseFlip:
		switch {
		case late:
			c.abort(s, string(m.to)+" did not claim")
			return
		case c.vanished(m.to):
			// Packets lead to it: each moment of waiting costs them. If it lives and has
			// claimed behind a broken link, the higher ticket wins as after patience.
			c.abort(s, string(m.to)+" went silent before it claimed")
			return
		}
		c.send(m.to, Message{Kind: KindFlipped, Slot: s.cfg.Slot, Move: m.id, Owner: c.cfg.Self})
	case phaseQuiesce, phaseFlush:
		switch {
		case late:
			c.abort(s, "phase "+string(m.phase)+" took too long")
		case !c.alive(m.to):
			c.abort(s, string(m.to)+" went silent")
		case c.leaving(m.to):
			c.abort(s, string(m.to)+" is "+c.standing(m.to).String()+" now")
		}
	case phaseDrain:
		if late {
			c.drained(s, EvDrained{Slot: s.cfg.Slot, Move: m.id})
		}
	case phaseClose:
		c.send(m.to, Message{Kind: KindDrained, Slot: s.cfg.Slot, Move: m.id})
	}
}

// vanished reports whether nobody hears n any more.
func (c *Core) vanished(n Node) bool { return c.suspected(n) && c.hearer(n) == "" }

// notPrepared returns what is missing before slot s can go to m.to.
func (c *Core) notPrepared(s *slot, m *move) string {
	if why := c.unfit(s, m.to); why != "" {
		return why
	}
	if s.outbid >= s.ticket && (s.presetting() || c.now.Sub(m.since) <= rearmPatience) {
		return "the owner's own ticket is being renewed"
	}
	if !s.whole(m.to) {
		return string(m.to) + " does not hold every session yet"
	}
	t := c.peers[m.to].slots[s.cfg.Slot]
	// Shadows whose tickets lie below the target's would be overtaken by its
	// claim: arm them anew first, so that the slot is covered all the time.
	for _, n := range c.armedShadows(s) {
		if n == m.to {
			continue
		}
		if r := c.peers[n].slots[s.cfg.Slot]; r.Armed < t.Armed {
			if c.now.Sub(m.since) > rearmPatience {
				continue
			}
			c.send(n, Message{Kind: KindRearm, Slot: s.cfg.Slot, Ticket: t.Armed})
			return string(n) + " is not armed above " + string(m.to)
		}
	}
	return ""
}

func (c *Core) quiesced(s *slot, e EvQuiesced) {
	m := s.move
	if s.role != RoleOwner || m == nil || m.id != e.Move || m.phase != phaseQuiesce {
		return
	}
	reason := "no exchange is half done"
	if e.Detail != "" {
		reason = "still open after the wait: " + e.Detail
	}
	c.enter(s, phaseFlush, reason)
}

func (c *Core) flushed(s *slot, e EvFlushed) {
	m := s.move
	if s.role != RoleOwner || m == nil || m.id != e.Move || m.phase != phaseFlush {
		return
	}
	if e.Err != "" {
		c.abort(s, e.Err)
		return
	}
	var why string
	m.hold, why = c.holdFor(s, m.to)
	c.enter(s, phaseTake, fmt.Sprintf("%s has everything; it holds for %s (%s)", m.to, m.hold.Round(100*time.Microsecond), why))
}

// holdMargin is added to a measured path difference: timers and queues.
const holdMargin = 5 * time.Millisecond

// holdFor returns how long the target must hold its outbound packets so that
// the old owner's last ones reach the clients first. RTTs bound the difference
// of the one-way times from above where the delay lies in one direction: what is
// slowest here against what is fastest there, lately.
func (c *Core) holdFor(s *slot, to Node) (time.Duration, string) {
	own, there := s.path.high(), c.peers[to].slots[s.cfg.Slot].RTT
	if own == 0 || there == 0 {
		return min(c.cfg.HoldDefault, c.cfg.HoldCap), "round-trip times to the clients unknown"
	}
	d := max(0, own-there) + holdMargin
	return min(d, c.cfg.HoldCap), fmt.Sprintf("clients are %s from here, %s from there", own.Round(100*time.Microsecond), there.Round(100*time.Microsecond))
}

func (c *Core) abort(s *slot, why string) {
	m := s.move
	c.giveUp(s, why)
	c.send(m.to, Message{Kind: KindAbort, Slot: s.cfg.Slot, Move: m.id, Reason: why})
	c.steer(s)
}

// giveUp ends the move of s, if there is one, and says so: somebody waits for it.
func (c *Core) giveUp(s *slot, why string) {
	m := s.move
	if m == nil {
		return
	}
	c.report(ActReport{Slot: s.cfg.Slot, Kind: "move", Move: m.id, Drain: m.drain, Phase: "aborted", Warn: true,
		Text: "move to " + string(m.to) + " given up in phase " + string(m.phase), Reason: why})
	c.drainFailed(m)
	s.move = nil
	c.coverMove(s)
}

// onTake runs at the target: open, take what comes, hold what goes out.
func (c *Core) onTake(s *slot, from Node, m Message) {
	if from != s.owner || m.Ticket != s.ticket {
		return
	}
	if s.role == RoleShadow {
		if s.granted != 0 {
			// Its SAs are on their way to the block of a later ticket: taking now
			// would claim by one ticket and send in the block of another.
			c.send(from, Message{Kind: KindAbort, Slot: s.cfg.Slot, Move: m.Move, Reason: "being armed anew"})
			return
		}
		if s.armed <= s.ticket || !s.ready {
			c.send(from, Message{Kind: KindAbort, Slot: s.cfg.Slot, Move: m.Move, Reason: "not ready: " + s.reason})
			return
		}
		if s.behind {
			return // asked again every tick: what was told last is on its way into the kernel
		}
		if w := c.fit.worst.Standing; w >= StandingDraining {
			c.send(from, Message{Kind: KindAbort, Slot: s.cfg.Slot, Move: m.Move, Reason: "it is " + w.String()})
			return
		}
		s.role = RoleTaking
		s.takingMove, s.takingHold, s.takingWhy = m.Move, m.Hold, clip(m.Reason)
		s.takingUntil = c.now.Add(patience[phaseTake] + patience[phaseFlip])
		s.fence = fenceState{open: true, deadline: true}
		c.emit(ActFence{Slot: s.cfg.Slot, Open: true, Until: patience[phaseTake] + patience[phaseFlip]})
		if m.Hold > 0 {
			c.emit(ActHold{Slot: s.cfg.Slot})
		}
		c.steer(s)
	}
	if s.role == RoleTaking && s.takingMove == m.Move {
		c.send(from, Message{Kind: KindTaken, Slot: s.cfg.Slot, Move: m.Move})
	}
}

func (c *Core) onTaken(s *slot, from Node, msg Message) {
	m := s.move
	if s.role != RoleOwner || m == nil || m.phase != phaseTake || m.id != msg.Move || m.to != from {
		return
	}
	m.phase, m.since = phaseFlip, c.now
	c.steer(s) // before the target hears of it
	c.moveReport(s, m, "move to "+string(m.to), string(m.to)+" is open", false)
	c.tickMove(s)
}

func (c *Core) onFlipped(s *slot, from Node, m Message) {
	if s.role != RoleTaking || s.takingMove != m.Move || from != s.owner {
		return
	}
	s.activateBy = c.now.Add(activatePatience)
	if s.takingHold > 0 {
		s.releaseAt = c.now.Add(s.takingHold)
		c.emit(ActWake{s.takingHold})
	}
	why := "planned move from " + string(from)
	if s.takingWhy != "" { // "" of an older release
		why += ": " + s.takingWhy
	}
	c.claim(s, why, 0, true)
}

// moveClaimed runs at the old owner when the target's claim arrives.
func (c *Core) moveClaimed(s *slot) {
	m := s.move
	s.role = RoleDraining
	m.phase, m.since = phaseDrain, c.now
	c.steer(s)
	c.announce()
	c.emit(ActRemember{Slot: s.cfg.Slot, Role: RoleNone, Ticket: s.ticket})
	c.moveReport(s, m, "move to "+string(m.to), fmt.Sprintf("%s owns the slot by ticket %d", m.to, s.ticket), false)
	c.emit(ActDrain{Slot: s.cfg.Slot, Move: m.id, Min: max(c.cfg.DrainQuiet, m.hold)})
}

func (c *Core) drained(s *slot, e EvDrained) {
	m := s.move
	if s.role != RoleDraining || m == nil || m.id != e.Move || m.phase != phaseDrain {
		return
	}
	c.closeFence(s)
	s.role, s.rebuildAfter, s.keepTwin = RoleNone, true, s.up
	s.poolUntil = c.now.Add(poolOverlap)
	m.phase, m.since = phaseClose, c.now
	c.moveReport(s, m, "move to "+string(m.to), fmt.Sprintf("%d late packets were delivered here", e.Late), false)
	c.steer(s)
	c.emit(ActPassivate{Slot: s.cfg.Slot})
	c.send(m.to, Message{Kind: KindDrained, Slot: s.cfg.Slot, Move: m.id})
	c.drainMoved(s, m, e.Late)
	c.report(ActReport{Slot: s.cfg.Slot, Kind: "move", Move: m.id, Drain: m.drain, Phase: "done", Text: "move to " + string(m.to) + " is complete",
		Reason: "it took " + c.now.Sub(m.began).Round(time.Millisecond).String(), Late: e.Late, Hold: m.hold})
	s.move = nil
}

// onDrainedMsg runs at the new owner: the old charon is behind a closed fence.
func (c *Core) onDrainedMsg(s *slot, _ Node, m Message) {
	if s.role == RoleOwner && s.takingMove == m.Move && !s.activateBy.IsZero() {
		s.activateBy = time.Time{}
		c.emit(ActActivate{Slot: s.cfg.Slot})
	}
}

func (c *Core) onAbort(s *slot, from Node, m Message) {
	switch {
	case s.role == RoleTaking && s.takingMove == m.Move && from == s.owner:
		c.stopTaking(s, m.Reason)
	case s.role == RoleOwner && s.move != nil && s.move.id == m.Move && s.move.to == from && s.move.phase == phaseTake:
		c.abort(s, string(from)+" refused: "+m.Reason)
	}
}

// stopTaking makes the target a shadow again; it never claimed.
func (c *Core) stopTaking(s *slot, why string) {
	c.closeFence(s)
	s.role = RoleShadow
	c.release(s)
	c.steer(s)
	c.report(ActReport{Slot: s.cfg.Slot, Kind: "move", Move: s.takingMove, Phase: "aborted", Warn: true, Text: "this appliance stays a shadow", Reason: why})
	c.emit(ActFollow{Slot: s.cfg.Slot, Owner: s.owner, Ticket: s.ticket, Same: true})
}

func (c *Core) release(s *slot) {
	if s.takingHold > 0 {
		c.emit(ActRelease{Slot: s.cfg.Slot})
	}
	s.takingHold, s.releaseAt = 0, time.Time{}
}
