package ssm

import (
	"fmt"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// requestEvery paces requests for a ticket while the registrar is silent.
const requestEvery = 200 * time.Millisecond

type grantKey struct {
	slot        sa.Slot
	node        Node
	incarnation uint64
}

// registrar is the issuing side. The counter itself is durable and belongs to
// the shell; grants remembers the last answer, so that a repeated request (the
// grant was lost) does not spend another ticket.
type registrar struct {
	grants map[grantKey]sa.Ticket
}

// request asks for a ticket above s.floor.
func (c *Core) request(s *slot) {
	if c.now.Sub(s.requested) < requestEvery {
		return
	}
	s.requested = c.now
	s.floor = max(s.floor, s.ticket)
	m := Message{Kind: KindRequest, Slot: s.cfg.Slot, Ticket: s.floor, Incarnation: c.cfg.Incarnation}
	if c.cfg.Registrar == c.cfg.Self {
		c.onRequest(s, c.cfg.Self, m)
		return
	}
	c.send(c.cfg.Registrar, m)
}

func (c *Core) onRequest(s *slot, from Node, m Message) {
	if c.cfg.Registrar != c.cfg.Self {
		return
	}
	k := grantKey{s.cfg.Slot, from, m.Incarnation}
	if t := c.registrar.grants[k]; t > m.Ticket {
		c.grant(s, from, m.Incarnation, t)
		return
	}
	floor := max(m.Ticket, s.ticket, s.armed, s.granted)
	for _, h := range s.held {
		floor = max(floor, h.ticket)
	}
	c.emit(ActIssue{Slot: s.cfg.Slot, Node: from, Incarnation: m.Incarnation, Floor: floor})
}

func (c *Core) issued(e EvIssued) {
	s := c.slots[e.Slot]
	if s == nil {
		return
	}
	k := grantKey{e.Slot, e.Node, e.Incarnation}
	if e.Ticket <= c.registrar.grants[k] {
		return
	}
	c.registrar.grants[k] = e.Ticket
	c.grant(s, e.Node, e.Incarnation, e.Ticket)
}

func (c *Core) grant(s *slot, to Node, incarnation uint64, t sa.Ticket) {
	m := Message{Kind: KindGrant, Slot: s.cfg.Slot, Ticket: t, Incarnation: incarnation}
	if to == c.cfg.Self {
		c.onGrant(s, m)
		return
	}
	c.send(to, m)
}

// onGrant arms this appliance, or lets a home claim, or renews an owner.
func (c *Core) onGrant(s *slot, m Message) {
	if m.Incarnation != c.cfg.Incarnation || m.Ticket <= s.floor || m.Ticket <= s.ticket || m.Ticket <= s.granted {
		return
	}
	switch {
	case s.role == RoleShadow && s.up:
		s.granted = m.Ticket
		s.floor = m.Ticket
		c.emit(ActPreset{Slot: s.cfg.Slot, Ticket: m.Ticket})
	case s.role == RoleOwner && s.outbid >= s.ticket && s.granted == 0:
		s.granted, s.renewing = m.Ticket, c.now
		s.floor = m.Ticket
		c.tickRenew(s)
	case s.role == RoleNone && c.mayFound(s):
		s.floor = m.Ticket
		s.armed = m.Ticket
		c.claim(s, "nobody held the slot", 0, false)
	}
}

// tickRenew moves an owner above tickets that it was outbid by. Once it sends in the
// new block a shadow with a lower ticket must not claim: its numbers would lie
// behind what the client has seen. So the shadows are armed anew first; one that does
// not answer for a while cannot hold up the others' protection.
func (c *Core) tickRenew(s *slot) {
	switch {
	case s.outbid < s.ticket:
		return
	case !s.presetting() && (s.move != nil && s.move.phase != phasePrepare || !s.activateBy.IsZero()):
		return // the ticket is part of the move
	case !c.undisputed(s):
		if !s.renewing.IsZero() {
			s.renewing = c.now // the patience below is with those who hear us
		}
		return
	case s.granted == 0:
		s.floor = max(s.floor, s.outbid)
		c.request(s)
		return
	case s.presetting():
		return
	}
	if c.now.Sub(s.renewing) <= rearmPatience {
		waiting := false
		for _, n := range c.followers(s) {
			// One that is not armed, or was not up when it last spoke, may have its ticket
			// by now.
			if r := c.peers[n].slots[s.cfg.Slot]; c.alive(n) && r.Armed < s.granted {
				c.send(n, Message{Kind: KindRearm, Slot: s.cfg.Slot, Ticket: s.granted})
				waiting = true
			}
		}
		if waiting {
			return
		}
	}
	s.renewing = time.Time{}
	c.emit(ActPreset{Slot: s.cfg.Slot, Ticket: s.granted})
}

// presetting reports whether the SAs of the owner are on their way to the block of
// its next ticket.
func (s *slot) presetting() bool { return s.role == RoleOwner && s.granted != 0 && s.renewing.IsZero() }

// undisputed reports whether every other member of s is heard, hears us and, since its
// last silence, has named no higher claim: an owner that rose above a living claimant
// in a partition would take the slot from it, and with it what clients did there.
func (c *Core) undisputed(s *slot) bool {
	for _, n := range c.holders(s) {
		if n == c.cfg.Self || s.cfg.Dynamic && !c.mayOutbid(s, n) {
			continue
		}
		if p := c.peers[n]; !c.alive(n) || !p.deaf.IsZero() || p.slots[s.cfg.Slot].at.Before(p.back) {
			return false
		}
	}
	return true
}

// preset runs when the sequence numbers of ticket t are written.
func (c *Core) preset(s *slot, t sa.Ticket) {
	if t != s.granted {
		return
	}
	s.granted = 0
	switch s.role {
	case RoleShadow:
		if t > s.ticket {
			s.armed = t
			c.emit(ActRemember{Slot: s.cfg.Slot, Role: s.role, Ticket: t})
			c.probeAt = c.now
		}
	case RoleOwner:
		s.ticket, s.since = t, c.now
		c.report(ActReport{Slot: s.cfg.Slot, Kind: "renewed", Text: fmt.Sprintf("the owner goes on under ticket %d", t), Reason: "a member lost its memory: it may have claimed unheard"})
		c.own(s, false, nil)
	}
}

// voidTickets drops what a higher claim has overtaken.
func (c *Core) voidTickets(s *slot) {
	if s.armed != 0 && s.armed <= s.ticket {
		s.armed = 0
	}
	if s.granted != 0 && s.granted <= s.ticket {
		s.granted = 0
	}
	s.floor = max(s.floor, s.ticket)
}
