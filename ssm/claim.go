package ssm

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// yieldPatience is how long an owner without a charon waits for a shadow's
// claim before it refeeds in place.
const yieldPatience = 300 * time.Millisecond

// buildEvery paces attempts to build a slot that cannot run.
const buildEvery = 10 * time.Second

// refeedEvery paces attempts to bring the charon of an active slot back.
const refeedEvery = 2 * time.Second

// orphanPatience is how long an owner must deny its ownership before it is
// believed; a probe may have crossed a claim.
const orphanPatience = 300 * time.Millisecond

// mayFound reports whether this appliance may claim a slot that nobody holds:
// it is the home, its charon runs, and everybody had the time to object.
func (c *Core) mayFound(s *slot) bool {
	if s.cfg.Home != c.cfg.Self || !s.up {
		return false
	}
	if s.owner != "" && s.owner != c.cfg.Self {
		return false
	}
	for _, n := range c.holders(s) {
		// It holds the sessions of our earlier life, and gets a ticket where we do.
		if c.alive(n) && c.peers[n].slots[s.cfg.Slot].Ready {
			return false
		}
	}
	return c.heardAll() || c.now.Sub(c.started) >= c.cfg.StartGrace
}

func (c *Core) heardAll() bool {
	for _, p := range c.peers {
		if p.heard.IsZero() {
			return false
		}
	}
	return true
}

func (c *Core) tickNone(s *slot) {
	switch {
	case s.rebuildAfter:
		return
	case !c.member(s):
		if s.found && s.placed && s.version > 0 {
			c.vacate(s)
		}
		return
	case !s.placed:
		s.placed = true
		c.emit(ActPlace{Slot: s.cfg.Slot})
		return
	case !s.found:
		return // a slot that may still be active must not become a shadow
	}
	c.buildAgain(s)
	if s.owner != "" && s.owner != c.cfg.Self {
		if c.cfg.Shadowing {
			c.shadow(s)
		}
		return
	}
	if c.mayFound(s) {
		c.request(s)
	}
}

// shadow makes this appliance a shadow of s, with an empty twin.
func (c *Core) shadow(s *slot) {
	s.role, s.up, s.ready, s.behind, s.reason = RoleShadow, false, false, false, "twin is being built"
	s.armed, s.granted, s.seen = 0, 0, 0
	s.evidence, s.unheard, s.orphan = time.Time{}, false, time.Time{}
	c.emit(ActRemember{Slot: s.cfg.Slot, Role: s.role, Ticket: s.floor})
	c.emit(ActShadow{Slot: s.cfg.Slot, Owner: s.owner, Ticket: s.ticket, Keep: s.keepTwin})
	s.keepTwin = false
}

func (c *Core) tickShadow(s *slot) {
	if c.heed(s); s.role != RoleShadow {
		return
	}
	c.voidTickets(s)
	c.buildAgain(s)
	if s.up && s.granted == 0 && s.armed <= max(s.floor-1, s.ticket) {
		// Unarmed, or asked to get a ticket above the one a move will use.
		c.request(s)
	}
	if !c.unreached(s.owner) {
		s.unheard = false
	}
	why, last := c.ownerGone(s)
	if why == "" {
		s.evidence = time.Time{}
		return
	}
	fresh := s.evidence.IsZero()
	if fresh {
		s.evidence = c.now
	}
	if s.armed == 0 || c.unread() {
		return
	}
	wait := time.Duration(c.before(s)) * c.cfg.Stagger
	if fresh && wait > 0 {
		c.emit(ActWake{wait})
	}
	if !s.ready {
		wait += c.cfg.RebuildWait
		why += "; the twin here is incomplete (" + s.reason + ")"
	}
	if c.now.Sub(s.evidence) >= wait {
		c.claim(s, why, c.now.Sub(last), true)
	}
}

// ownerGone returns why the owner of s is believed dead, "" if it is not, and
// its last sign of life. Lost probes alone never suffice: the owner may serve
// its clients behind a broken link, so besides, packets of the slot must be
// undeliverable or the liveness route gone, and nobody may hear the owner.
func (c *Core) ownerGone(s *slot) (string, time.Time) {
	p := c.peers[s.owner]
	if p == nil || c.now.Before(c.listenUntil) {
		return "", time.Time{}
	}
	if !s.orphan.IsZero() && !p.suspect && c.now.Sub(s.orphan) > orphanPatience {
		return fmt.Sprintf("%s lost its memory and does not hold the slot any more", s.owner), s.orphan
	}
	if !p.suspect {
		return c.ownerDeaf(s)
	}
	silent := fmt.Sprintf("%s silent for %s", s.owner, c.now.Sub(p.heard).Round(time.Millisecond))
	switch {
	case c.hearer(s.owner) != "":
		return "", time.Time{}
	case p.routeLost:
		return silent + ", its liveness route withdrawn, heard by nobody", p.heard
	case s.unheard:
		return silent + ", packets of the slot cannot be delivered, heard by nobody", p.heard
	}
	return "", time.Time{}
}

// before counts the living shadows that may claim before this one: those that hold
// more of the sessions, then those that have more of what the owner told, then the fitter, and among equals those with a
// lower ticket. Where two disagree both may claim, and the higher ticket wins as
// always.
func (c *Core) before(s *slot) int {
	n, own := 0, c.rank(c.cfg.Self)
	for _, o := range c.armedShadows(s) {
		if o == s.owner {
			continue
		}
		t := c.peers[o].slots[s.cfg.Slot]
		seen := uint64(0)
		if t.OwnerTicket == s.ticket {
			seen = t.Seen
		}
		if cmp.Or(cmp.Compare(s.rankOf(o), s.rankOf(c.cfg.Self)), cmp.Compare(s.seen, seen), cmp.Compare(c.rank(o), own), cmp.Compare(t.Armed, s.armed)) < 0 {
			n++
		}
	}
	return n
}

// claim takes slot s with the armed ticket. The packet plane comes first: fence
// and steering, then everything else.
func (c *Core) claim(s *slot, why string, detection time.Duration, takeover bool) {
	if takeover && detection > 0 {
		c.noteFailure(s.owner)
	}
	was := s.owner
	var ask []Node
	if takeover {
		ask = c.knowMore(s)
	}
	s.ticket, s.owner, s.life, s.since = s.armed, c.cfg.Self, c.cfg.Incarnation, c.now
	s.why = why
	s.armed, s.granted = 0, 0
	s.role = RoleOwner
	s.evidence, s.unheard, s.orphan = time.Time{}, false, time.Time{}
	clear(s.replicas)
	s.cover = nil
	c.beginSet(s, was)
	c.keepOpen(s)
	c.steer(s)
	c.broadcast(Message{Kind: KindClaim, Slot: s.cfg.Slot, Ticket: s.ticket, Owner: s.owner, Incarnation: s.life, Reason: clip(why)})
	c.announce()
	c.report(ActReport{Slot: s.cfg.Slot, Kind: "claim", Warn: takeover && detection > 0, Reason: why, Detection: detection,
		Text: fmt.Sprintf("%s owns the slot by ticket %d", s.owner, s.ticket)})
	c.own(s, takeover, ask)
}

// own tells the shell that this appliance is the owner under s.ticket, and whom to ask
// for sessions that it may lack.
func (c *Core) own(s *slot, takeover bool, ask []Node) {
	c.remember(s)
	s.fed = c.followers(s)
	c.emit(ActOwn{Slot: s.cfg.Slot, Ticket: s.ticket, Shadows: s.fed, Takeover: takeover, Ask: ask})
	s.lowest = 0
	c.birth(s)
	if s.activateBy.IsZero() && s.up {
		c.emit(ActActivate{Slot: s.cfg.Slot})
	}
	c.probeAt = c.now
}

// onClaim learns that owner holds s by ticket t, first-hand or by gossip. life is
// the incarnation of owner that claimed, 0 if unknown.
func (c *Core) onClaim(s *slot, owner Node, t sa.Ticket, life uint64) {
	switch {
	case t <= s.ticket || owner == "":
		return
	case owner == c.cfg.Self:
		// A claim of an earlier life of ours, still told by others.
		if !c.holds(s) {
			s.ticket, s.owner, s.life, s.floor = t, owner, life, max(s.floor, t)
			s.why = ""
			return
		}
		c.spent(s, t)
		return
	case c.ended(owner, life) && s.owner != "" && !c.ended(s.owner, s.life):
		// Nobody holds the slot by it any more, and somebody else holds it still.
		c.spent(s, t)
		return
	}
	was, old := s.role, s.owner
	s.ticket, s.owner, s.life, s.since, s.seen = t, owner, life, c.now, 0
	s.why = ""
	s.evidence, s.unheard, s.orphan, s.yieldTo = time.Time{}, false, time.Time{}, ""
	s.inherit(old)
	c.voidTickets(s)
	c.probeAt = c.now
	switch was {
	case RoleOwner, RoleResuming:
		if m := s.move; m != nil && m.to == owner && m.phase == phaseFlip {
			c.moveClaimed(s)
			return
		}
		c.lose(s, fmt.Sprintf("%s claimed by ticket %d", owner, t))
	case RoleDraining:
		if s.move == nil || s.move.to != owner {
			c.lose(s, fmt.Sprintf("%s claimed by ticket %d during a move", owner, t))
		}
	case RoleTaking:
		c.stopTaking(s, fmt.Sprintf("%s claimed by ticket %d", owner, t))
	case RoleShadow:
		c.steer(s)
		c.report(ActReport{Slot: s.cfg.Slot, Kind: "owner", Text: fmt.Sprintf("%s owns the slot by ticket %d", owner, t), Reason: "it claimed; was " + string(old)})
		c.emit(ActFollow{Slot: s.cfg.Slot, Owner: owner, Ticket: t, Same: owner == old})
	case RoleNone:
		c.report(ActReport{Slot: s.cfg.Slot, Kind: "owner", Text: fmt.Sprintf("%s owns the slot by ticket %d", owner, t)})
	}
}

// lose ends an ownership that somebody with a higher ticket has taken.
func (c *Core) lose(s *slot, why string) {
	c.closeFence(s)
	c.giveUp(s, why)
	s.role, s.refeeding, s.renewing = RoleNone, false, time.Time{}
	s.activateBy = time.Time{}
	c.release(s)
	s.rebuildAfter, s.keepTwin = true, false
	c.steer(s)
	c.emit(ActRemember{Slot: s.cfg.Slot, Role: RoleNone, Ticket: s.ticket})
	c.report(ActReport{Slot: s.cfg.Slot, Kind: "lost", Warn: true, Text: "this appliance does not own the slot any more", Reason: why})
	c.emit(ActStandDown{Slot: s.cfg.Slot})
}

func (c *Core) passivated(s *slot) {
	if !s.rebuildAfter {
		return
	}
	s.rebuildAfter = false
	s.role = RoleNone
	c.tickNone(s)
}

func (c *Core) slotDown(s *slot, why string) {
	s.up, s.ready, s.reason, s.found, s.known = false, false, why, true, true
	s.armed, s.granted = 0, 0
	s.retryAt = c.now.Add(buildEvery)
	c.report(ActReport{Slot: s.cfg.Slot, Kind: "down", Warn: true, Text: "the slot cannot run here", Reason: why})
}

// buildAgain retries a slot that could not be built.
func (c *Core) buildAgain(s *slot) {
	if s.up || s.retryAt.IsZero() || c.now.Before(s.retryAt) {
		return
	}
	s.retryAt = time.Time{}
	if s.role == RoleShadow {
		c.shadow(s)
		return
	}
	c.emit(ActBuild{Slot: s.cfg.Slot})
}

// adopted runs once after a restart of the daemon that found the slot active.
func (c *Core) adopted(s *slot, e EvAdopted) {
	t, lives := e.Ticket, e.Lives
	owner, claimed, life := s.owner, s.ticket, s.life
	s.up, s.found, s.known, s.owner, s.ticket, s.life, s.since = true, true, true, c.cfg.Self, t, c.cfg.Incarnation, c.now
	s.why = "it held the slot before its daemon restarted"
	s.set, s.version, s.leaving, s.placed = slices.Clone(e.Set), e.Version+1, map[Node]uint64{}, true
	for _, n := range c.holders(s) {
		if p := c.peers[n]; p != nil && p.incarnation == 0 {
			p.incarnation = lives[n]
		} else if p != nil && p.incarnation != lives[n] {
			s.outbid = max(s.outbid, t)
		}
	}
	s.floor = max(s.floor, t)
	s.role, s.resumeFrom, s.resumeAt = RoleResuming, c.now, c.now.Add(c.cfg.ResumeGrace)
	c.report(ActReport{Slot: s.cfg.Slot, Kind: "adopted", Text: "found the slot active, listening for a higher claim", Reason: "the daemon was restarted"})
	c.onClaim(s, owner, claimed, life) // heard before the shell knew
}

// charonDied: a dead charon is an outage for UDP-encapsulated clients, so a
// ready shadow takes over at once; without one charon is refed in place.
func (c *Core) charonDied(s *slot) {
	if s.role != RoleOwner && s.role != RoleResuming {
		if s.role == RoleTaking {
			c.stopTaking(s, "charon died")
		}
		s.up, s.ready, s.reason = false, false, "charon died"
		if s.role == RoleShadow {
			c.shadow(s)
		} else {
			s.retryAt = c.now // nobody owns the slot, or it is being left: build it again then
		}
		return
	}
	c.closeFence(s)
	s.up = false
	// One that holds but a part would end the other sessions.
	if ready := slices.DeleteFunc(c.readyShadows(s), func(n Node) bool { return !s.whole(n) }); len(ready) > 0 {
		s.yieldTo, s.yieldUntil = ready[0], c.now.Add(yieldPatience)
		c.report(ActReport{Slot: s.cfg.Slot, Kind: "charon", Warn: true, Text: "asking " + string(s.yieldTo) + " to take over", Reason: "charon of the active slot died"})
		c.steer(s)
		c.yield(s)
		return
	}
	c.refeed(s, "charon of the active slot died and no shadow is ready")
}

func (c *Core) yield(s *slot) {
	t := c.peers[s.yieldTo].slots[s.cfg.Slot].Armed
	c.send(s.yieldTo, Message{Kind: KindYield, Slot: s.cfg.Slot, Ticket: t, Owner: c.cfg.Self})
}

func (c *Core) onYield(s *slot, from Node, m Message) {
	if s.role == RoleShadow && from == s.owner && s.armed != 0 && s.armed == m.Ticket && s.armed > s.ticket {
		c.claim(s, string(from)+" yielded: its charon died", 0, true)
	}
}

func (c *Core) refeed(s *slot, why string) {
	c.giveUp(s, why)
	s.yieldTo, s.refeeding = "", true
	c.report(ActReport{Slot: s.cfg.Slot, Kind: "refeed", Warn: true, Text: "charon is restarted and refilled in place", Reason: why})
	c.emit(ActRefeed{Slot: s.cfg.Slot})
}

func (c *Core) refed(s *slot, problem string) {
	if !s.refeeding || !c.holds(s) {
		return
	}
	s.refeeding = false
	if problem != "" {
		c.slotDown(s, problem)
		s.retryAt = c.now.Add(refeedEvery)
		return
	}
	s.up = true
	if s.role == RoleOwner { // else it listens first, and activates when it goes on
		c.keepOpen(s)
		c.steer(s)
		c.emit(ActActivate{Slot: s.cfg.Slot})
	}
	c.report(ActReport{Slot: s.cfg.Slot, Kind: "refed", Text: "charon runs again with every session"})
}

func (c *Core) tickOwner(s *slot) {
	if s.yieldTo != "" {
		if c.now.After(s.yieldUntil) {
			c.refeed(s, string(s.yieldTo)+" did not take over in time")
			return
		}
		c.yield(s)
		return
	}
	if s.refeeding {
		return
	}
	if !s.up {
		if !c.now.Before(s.retryAt) {
			c.charonDied(s)
		}
		return
	}
	c.keepOpen(s)
	c.birth(s)
	if !s.releaseAt.IsZero() && !c.now.Before(s.releaseAt) {
		c.release(s)
	}
	if !s.activateBy.IsZero() && c.now.After(s.activateBy) {
		s.activateBy = time.Time{}
		c.report(ActReport{Slot: s.cfg.Slot, Kind: "move", Warn: true, Text: "charon is activated without word from the old owner"})
		c.emit(ActActivate{Slot: s.cfg.Slot})
	}
	c.tickRenew(s)
	if s.move != nil {
		c.tickMove(s)
		return
	}
	if s.activateBy.IsZero() {
		c.tickSet(s)
	}
	c.tickReturn(s)
}

// birth tells the shell the lowest ticket any shadow holds (sa.Birth.Base).
func (c *Core) birth(s *slot) {
	var lowest sa.Ticket
	for _, h := range s.held {
		if h.ticket > s.ticket && (lowest == 0 || h.ticket < lowest) {
			lowest = h.ticket
		}
	}
	if lowest != s.lowest {
		s.lowest = lowest
		c.emit(ActBirth{Slot: s.cfg.Slot, Lowest: lowest})
	}
}

// tickReturn brings a slot home after the hold-down.
func (c *Core) tickReturn(s *slot) {
	h := s.cfg.Home
	able := c.cfg.HoldDown > 0 && h != c.cfg.Self && c.unfit(s, h) == "" && c.peers[h].standing < StandingDegraded &&
		c.roomFor(s, h) && !c.peers[h].flaps.damped(c.now, c.cfg.DampHalfLife)
	if !able {
		s.homeReady = time.Time{}
		return
	}
	if s.homeReady.IsZero() {
		s.homeReady = c.now
	}
	if c.now.Sub(s.homeReady) >= c.cfg.HoldDown {
		s.homeReady = time.Time{}
		c.moveAsked(s, EvMove{Slot: s.cfg.Slot, To: h, Reason: "return home after the hold-down of " + c.cfg.HoldDown.String()})
	}
}
