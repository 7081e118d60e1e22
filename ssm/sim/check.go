package sim

import (
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm"
)

// claimed checks that a ticket is used once, and that nothing the new tenure sends
// in lies below what was sent under a lower ticket.
func (w *World) claimed(s *shell, x ssm.ActOwn) {
	t := w.slots[s.slot]
	who := s.tenure(x.Ticket)
	if x.Takeover && x.Ticket <= s.under {
		w.fail("I1: %s claims slot %d by ticket %d from an owner that holds ticket %d", s.n.name, s.slot, x.Ticket, s.under)
	}
	if was, ok := t.tickets[x.Ticket]; ok && was != who {
		w.fail("I1: ticket %d of slot %d is used by %s (incarnation %d) and %s (incarnation %d)", x.Ticket, s.slot, was.node, was.inc, who.node, who.inc)
	}
	t.tickets[x.Ticket] = who
	t.highest = max(t.highest, x.Ticket)
	if n := len(t.owners); n == 0 || t.owners[n-1] != s.n.name {
		t.owners = append(t.owners, s.n.name)
	}
	switch {
	case x.Takeover:
		t.heirs[x.Ticket] = s.under
	case s.mode == owning && x.Ticket > s.ticket:
		t.renewed[x.Ticket], t.heirs[x.Ticket] = s.ticket, s.ticket
	}
	for c, k := range s.kernel {
		if !k.placed {
			if x.Takeover && s.ready && w.now-k.since > armedAnew && w.lost(s.master, armedAnew) {
				w.fail("I8: %s takes slot %d over by ticket %d with a complete twin and cannot send in an SA born under ticket %d with base %d", s.n.name, s.slot, x.Ticket, c.birth.Tenure, c.birth.Base)
			}
			continue
		}
		if x.Takeover && k.by != who {
			w.fail("I1: %s claims slot %d by ticket %d with an SA in the block of ticket %d", s.n.name, s.slot, x.Ticket, k.by.ticket)
		}
		for b, by := range c.blocks {
			if by.ticket < x.Ticket && b > k.block {
				w.fail("I1: %s goes on in block %d of an SA of slot %d that ticket %d has sent in block %d of", s.n.name, k.block, s.slot, by.ticket, b)
			}
			if by.ticket > x.Ticket && b > k.block && x.Takeover && follows(t.renewed, by.ticket, s.under) {
				w.fail("I1: %s takes slot %d over from %s by ticket %d, in block %d of an SA that %s, under ticket %d by then, has sent in block %d of", s.n.name, s.slot, s.master, x.Ticket, k.block, s.master, by.ticket, b)
			}
		}
	}
}

// armedAnew is how long a shadow may take to get a ticket with which it can send in
// an SA that was born when its owner did not know its ticket.
const armedAnew = 1500 * time.Millisecond

// sent checks that a block belongs to one tenure.
func (w *World) sent(s *shell, c *child, k *sadb) {
	was, ok := c.blocks[k.block]
	if !ok {
		c.blocks[k.block] = k.by
		return
	}
	if was != k.by {
		w.fail("I1: block %d of an SA of slot %d (born under ticket %d, base %d) is sent in by %s/%d under ticket %d and by %s/%d under ticket %d", k.block, s.slot,
			c.birth.Tenure, c.birth.Base, was.node, was.inc, was.ticket, k.by.node, k.by.inc, k.by.ticket)
	}
}

// checkFences: after every step.
func (n *node) checkFences() {
	for _, c := range n.w.cfg.Slots {
		s := n.shells[c.Slot]
		if !s.isOpen() || s.adopting {
			continue
		}
		switch r := n.core.Role(c.Slot); r {
		case ssm.RoleOwner, ssm.RoleTaking, ssm.RoleDraining, ssm.RoleResuming:
		default:
			n.w.fail("I2: the fence of slot %d on %s is open in role %s", c.Slot, n.name, r)
		}
	}
}

// checkInherited compares what a new owner has with what it was given.
func (w *World) checkInherited(s *shell) {
	h := s.holder()
	complete := s.mode == twin && s.ready
	// What the owner had before this twin began was in its snapshot, however long
	// that took.
	t, old := w.slots[s.slot], s.since-snapshotWithin-2*w.slowest
	for _, x := range t.sessions {
		_, has := s.docs[x]
		switch {
		case complete && !has && !x.deleted && !x.lost && knows(x.acked, h):
			w.fail("I5: session %d of slot %d, acknowledged by %s, is missing when it takes over", x.id, s.slot, s.n.name)
		case complete && !has && !x.deleted && !x.lost && x.began < old && follows(t.heirs, s.under, x.at):
			w.fail("I5: session %d of slot %d is missing when %s takes over, which said that it was complete and began to follow %s long after the session", x.id, s.slot, s.n.name, s.master)
		case complete && has && x.deleted && knows(x.buried, h) && !x.revived:
			w.fail("I5: session %d of slot %d was deleted, %s was told, and it is back", x.id, s.slot, s.n.name)
		case has && x.deleted && w.better(s, func(t *shell) bool { return !t.has(x) && w.told(x.buried, t) }):
			w.fail("I5: session %d of slot %d was deleted, and %s takes over with it although an armed shadow that it hears was told", x.id, s.slot, s.n.name)
		case !has && !x.deleted && !x.lost && w.better(s, func(t *shell) bool { return t.has(x) && w.told(x.acked, t) }):
			w.fail("I5: session %d of slot %d is missing when %s takes over, although an armed shadow that it hears holds it", x.id, s.slot, s.n.name)
		case has && x.deleted:
			x.revived = true // its client is gone; DPD will end it
		case !has && !x.deleted:
			// Newer than the last round trip, or this twin was incomplete: the
			// client has to come again.
			x.lost = true
		}
	}
}

// better reports whether a shadow of the same owner that could have claimed instead
// of s, and that s hears, knows more.
func (w *World) better(s *shell, more func(*shell) bool) bool {
	for _, o := range w.nodes {
		if o == s.n || !o.ready() || !w.connected(o, s.n) || !w.lost(s.master, toldWithin) {
			continue
		}
		t := o.shells[s.slot]
		if !t.ready || t.master != s.master || t.under != s.under || !more(t) {
			continue
		}
		for _, v := range o.core.View().Slots {
			if v.Slot == s.slot && v.Role == ssm.RoleShadow && v.Armed > 0 {
				return true
			}
		}
	}
	return false
}

func knows(known map[holder]time.Duration, h holder) bool {
	_, ok := known[h]
	return ok
}

// snapshotWithin bounds how long before its arrival a snapshot was taken, where
// replication is not slowed down.
const snapshotWithin = 400 * time.Millisecond

// toldWithin is the time after which all that are connected know what one knows:
// a probe interval, a tick and the longest way, twice.
const toldWithin = 700 * time.Millisecond

// told reports whether t has known it for long enough that its probes have told.
func (w *World) told(known map[holder]time.Duration, t *shell) bool {
	at, ok := known[t.holder()]
	return ok && w.now-at > toldWithin
}

// lost reports whether it has been quiet for d but for the end of n.
func (w *World) lost(n ssm.Node, d time.Duration) bool {
	if x := w.byName[n]; x != nil && !x.machine && x.diedAt == w.shaken {
		return w.whole() && x.diedAt-x.quietAt > d
	}
	return w.quiet(d)
}

func (s *shell) has(x *session) bool {
	_, ok := s.docs[x]
	return ok
}

// quiet reports whether nothing but standings and moves has happened for d.
func (w *World) quiet(d time.Duration) bool {
	return w.now-w.shaken >= d && w.whole()
}

// whole reports whether nothing is cut, lost or frozen.
func (w *World) whole() bool {
	if w.loss > 0 {
		return false
	}
	for _, c := range w.cut {
		if c {
			return false
		}
	}
	for _, n := range w.nodes {
		if n.frozen {
			return false
		}
	}
	return true
}

// announced checks that a prediction never takes the last announcement away.
func (w *World) announced(n *node, l ssm.Level) {
	was := n.level
	n.level = l
	if l != was {
		w.logf("%s announces %q", n.name, l)
	}
	if l != ssm.LevelWithdrawn || was == l || n.operated >= ssm.StandingDraining || !w.quiet(700*time.Millisecond) {
		return
	}
	for _, o := range w.nodes {
		if o != n && o.ready() && o.level.Announced() {
			return
		}
	}
	w.fail("I6: %s withdraws the VIP on a prediction, and nobody else announces it", n.name)
}

// report notes what a core says, and what a claim rests on.
func (w *World) report(n *node, x ssm.ActReport) {
	w.logf("%s slot %d %s %s: %s (%s)", n.name, x.Slot, x.Kind, x.Phase, x.Text, x.Reason)
	if x.Kind != "claim" || x.Detection == 0 {
		return
	}
	s := n.shells[x.Slot]
	owner := w.byName[s.master]
	if owner == nil || strings.Contains(x.Reason, "lost its memory") {
		return
	}
	if n.routes[owner.index] && w.now-s.undelivered > 5*time.Second || n.routes[owner.index] && s.undelivered == 0 {
		w.fail("I7: %s claims slot %d from %s, whose liveness route it has and none of whose packets it failed to deliver", n.name, x.Slot, owner.name)
	}
}

// detectionBound is within what a slot of a dead owner must be active again: lost
// probes, the liveness route, and the turns of two other shadows.
func (w *World) detectionBound() time.Duration {
	return w.cfg.ProbeInterval*7/2 + 200*time.Millisecond + 2*400*time.Millisecond + 4*tickInterval
}

// died arranges the look at the slots of an appliance that loses its power now.
func (w *World) died(n *node) {
	if !n.ready() || !w.quiet(1500*time.Millisecond) {
		return
	}
	for _, c := range w.cfg.Slots {
		s := n.shells[c.Slot]
		if s.mode != owning || s.ticket != w.slots[c.Slot].highest || !w.covered(s) {
			continue
		}
		at := w.now
		w.after(w.detectionBound(), func() {
			if w.troubled == at && len(w.serving(c.Slot)) == 0 {
				w.fail("I3: nobody serves slot %d %s after its owner %s died, although a complete shadow was armed", c.Slot, w.detectionBound(), n.name)
			}
		})
	}
}

// covered reports whether a living shadow could take s over at once.
func (w *World) covered(s *shell) bool {
	for _, o := range w.nodes {
		if o == s.n || !o.ready() {
			continue
		}
		t := o.shells[s.slot]
		if !t.ready || t.master != s.n.name {
			continue
		}
		for _, v := range o.core.View().Slots {
			if v.Slot == s.slot && v.Role == ssm.RoleShadow && v.Ready && v.Armed > s.ticket {
				return true
			}
		}
	}
	return false
}

// serving lists the appliances on which a slot is active.
func (w *World) serving(slot sa.Slot) []*node {
	var out []*node
	for _, n := range w.nodes {
		if n.ready() && n.core.Role(slot) == ssm.RoleOwner && n.shells[slot].isOpen() && n.shells[slot].charon {
			out = append(out, n)
		}
	}
	return out
}

// checkSettled: everything has healed and had its time.
func (w *World) checkSettled() {
	if why := w.wrongSet(); why != "" {
		w.fail("I9: %s", why)
	}
	for _, c := range w.cfg.Slots {
		t := w.slots[c.Slot]
		own := w.serving(c.Slot)
		if len(own) != 1 {
			var names []string
			for _, n := range w.nodes {
				names = append(names, string(n.name)+" "+string(n.core.Role(c.Slot)))
			}
			w.fail("I4: slot %d has %d owners after everything healed: %s", c.Slot, len(own), strings.Join(names, ", "))
			continue
		}
		n := own[0]
		if s := n.shells[c.Slot]; s.ticket != t.highest {
			w.fail("I4: %s owns slot %d by ticket %d, the highest claimed one is %d", n.name, c.Slot, s.ticket, t.highest)
		}
		for _, o := range w.nodes {
			for _, v := range o.core.View().Slots {
				if v.Slot == c.Slot && v.Owner != n.name {
					w.fail("I4: %s takes %s for the owner of slot %d, which is %s", o.name, v.Owner, c.Slot, n.name)
				}
			}
			if o != n && o.shells[c.Slot].isOpen() {
				w.fail("I4: %s has an open fence of slot %d, which %s owns", o.name, c.Slot, n.name)
			}
		}
		for _, x := range t.sessions {
			if s := n.shells[c.Slot]; x.deleted && !x.revived && knows(x.buried, s.holder()) && s.has(x) {
				w.fail("I5: session %d of slot %d was deleted, and is served by %s, which was told", x.id, c.Slot, n.name)
			}
		}
	}
}
