package ssm

import (
	"math"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// maxReported bounds the slots in one probe, so that a datagram stays below
// 1,200 octets; the others follow in the next probes.
const maxReported = 8

// peer is another appliance as this one hears it.
type peer struct {
	heard       time.Time // zero: never
	spoke       time.Time // of the last report; heard is moved forward by a thaw
	incarnation uint64
	suspect     bool
	routeLost   bool // its BGP liveness route was withdrawn
	hears       []Node
	slots       map[sa.Slot]SlotReport
	standing    Standing
	wish        *Wish
	level       Level
	risk, load  float64
	sessions    int
	tunnelDown  bool // packets cannot be forwarded to it
	flaps       flaps
}

func (c *Core) suspected(n Node) bool {
	p := c.peers[n]
	return p != nil && p.suspect
}

// alive reports whether n was heard within the suspicion bound.
func (c *Core) alive(n Node) bool {
	p := c.peers[n]
	return p != nil && !p.heard.IsZero() && !p.suspect
}

func (c *Core) bound() time.Duration {
	return c.cfg.ProbeInterval*time.Duration(c.cfg.ProbeLost) + c.cfg.ProbeInterval/2
}

// suspect updates who is silent; a change is told to everyone at once, because
// others wait for it before they claim.
func (c *Core) suspect() {
	for _, n := range c.cfg.Appliances {
		p := c.peers[n]
		if p == nil || p.heard.IsZero() || p.suspect || c.now.Sub(p.heard) <= c.bound() {
			continue
		}
		p.suspect = true
		c.probeAt = c.now
		c.report(ActReport{Kind: "suspect", Warn: true, Text: "appliance " + string(n) + " is silent",
			Reason: "no probe for " + c.now.Sub(p.heard).Round(time.Millisecond).String()})
	}
}

func (c *Core) onLiveness(e EvLiveness) {
	p := c.peers[e.Node]
	if p == nil || p.routeLost == !e.Up {
		return
	}
	p.routeLost = !e.Up
	text := "liveness route of " + string(e.Node) + " is back"
	if !e.Up {
		text = "liveness route of " + string(e.Node) + " was withdrawn"
	}
	c.report(ActReport{Kind: "liveness", Warn: !e.Up, Text: text})
	for _, n := range c.order {
		c.tickSlot(c.slots[n])
	}
}

func (c *Core) onReport(from Node, p *peer, r Report) {
	if r.Incarnation < p.incarnation {
		return // a late datagram of an earlier life
	}
	if r.Incarnation > p.incarnation {
		if p.incarnation != 0 {
			c.report(ActReport{Kind: "reboot", Warn: true, Text: "appliance " + string(from) + " lost its memory: its tickets are void"})
			c.noteFailure(from)
		}
		for _, n := range c.order {
			c.memberRebooted(c.slots[n], from)
		}
		p.incarnation = r.Incarnation
		clear(p.slots)
	}
	if p.suspect {
		c.report(ActReport{Kind: "heard", Text: "appliance " + string(from) + " is heard again"})
		c.probeAt = c.now
	}
	p.heard, p.spoke, p.suspect, p.hears = c.now, c.now, false, r.Hears
	p.standing, p.level, p.risk, p.load, p.sessions, p.wish = r.Standing, r.Level, r.Risk, r.Load, r.Sessions, r.Wish
	for _, sr := range r.Slots {
		s := c.slots[sr.Slot]
		if s == nil {
			continue
		}
		p.slots[sr.Slot] = sr
		if sr.Owner != "" {
			c.onClaim(s, sr.Owner, sr.OwnerTicket)
		} else {
			s.floor = max(s.floor, sr.OwnerTicket)
		}
		if sr.Armed != 0 {
			s.held[from] = heldTicket{r.Incarnation, sr.Armed}
		}
		c.noteOrphan(s, from, sr)
	}
}

// noteOrphan records since when the owner of s says that it is not.
func (c *Core) noteOrphan(s *slot, from Node, sr SlotReport) {
	switch {
	case from != s.owner:
	case sr.Owner == from:
		s.orphan = time.Time{}
	case s.orphan.IsZero() && sr.OwnerTicket <= s.ticket:
		s.orphan = c.now
	}
}

// memberRebooted runs at the owner: a ticket above ours that was lost may have
// been used in a partition, so ours must rise above it before that member is
// armed again.
func (c *Core) memberRebooted(s *slot, n Node) {
	h, ok := s.held[n]
	delete(s.held, n)
	delete(s.replicas, n)
	if ok && s.role == RoleOwner && h.ticket > s.ticket {
		s.renewAbove = max(s.renewAbove, h.ticket)
	}
}

// everybodySpoke reports whether every appliance that is not suspected has sent
// a report since t, and at least one has.
func (c *Core) everybodySpoke(t time.Time) bool {
	n := 0
	for _, p := range c.peers {
		if p.suspect {
			continue
		}
		if !p.spoke.After(t) {
			return false
		}
		n++
	}
	return n > 0
}

// hearer returns an appliance other than the two that says it hears n.
func (c *Core) hearer(n Node) Node {
	for _, q := range c.cfg.Appliances {
		if q != c.cfg.Self && q != n && c.alive(q) && slices.Contains(c.peers[q].hears, n) {
			return q
		}
	}
	return ""
}

// probe sends a report to everyone.
func (c *Core) probe() {
	r := Report{Incarnation: c.cfg.Incarnation, Hears: []Node{}, Standing: c.fit.worst.Standing, Risk: round3(c.fit.risk), Load: round3(c.fit.load),
		Sessions: c.fit.sessions, Wish: c.fit.wish}
	if c.announced != nil {
		r.Level = c.announced.Level
	}
	for _, n := range c.cfg.Appliances {
		if c.alive(n) {
			r.Hears = append(r.Hears, n)
		}
	}
	for i, n := 0, len(c.order); i < n && len(r.Slots) < maxReported; i++ {
		s := c.slots[c.order[(c.rotate+i)%n]]
		r.Slots = append(r.Slots, c.slotReport(s))
	}
	if n := len(c.order); n > maxReported {
		c.rotate = (c.rotate + maxReported) % n
	}
	c.broadcast(Message{Kind: KindProbe, Report: &r})
}

// round3 keeps a share short on the wire.
func round3(x float64) float64 { return math.Round(x*1000) / 1000 }

func (c *Core) slotReport(s *slot) SlotReport {
	r := SlotReport{Slot: s.cfg.Slot, Owner: s.owner, OwnerTicket: s.ticket, Armed: s.armed, Ready: s.ready && s.role == RoleShadow, Up: s.up, RTT: s.rtt}
	if s.role == RoleShadow {
		r.Seen = s.seen
	}
	if s.owner == c.cfg.Self && !c.holds(s) {
		r.Owner = "" // an earlier life held it
	}
	return r
}

// holds reports whether this appliance is the owner, not merely named so by a
// claim of an earlier life.
func (c *Core) holds(s *slot) bool {
	return s.role == RoleOwner || s.role == RoleResuming
}

// armedShadows returns the members that could take s over, lowest ticket first.
func (c *Core) armedShadows(s *slot) []Node {
	var out []Node
	for _, n := range s.cfg.members() {
		if n == c.cfg.Self || !c.alive(n) {
			continue
		}
		if r := c.peers[n].slots[s.cfg.Slot]; r.Ready && r.Armed > s.ticket {
			out = append(out, n)
		}
	}
	slices.SortFunc(out, func(a, b Node) int {
		return int(c.peers[a].slots[s.cfg.Slot].Armed) - int(c.peers[b].slots[s.cfg.Slot].Armed)
	})
	return out
}

// readyShadows returns the armed shadows that have acknowledged everything.
func (c *Core) readyShadows(s *slot) []Node {
	return slices.DeleteFunc(c.armedShadows(s), func(n Node) bool { return !s.replicas[n] })
}

func (c *Core) hasReadyShadow(s *slot) bool { return len(c.readyShadows(s)) > 0 }
