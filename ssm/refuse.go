package ssm

import (
	"fmt"

	"github.com/shadowcast/shadowcast/sa"
)

// Reasons of ActRefuse.
const (
	RefuseSlot    = "unknown slot"      // this fleet has no such slot
	RefuseOwner   = "unknown owner"     // it says that a stranger holds a slot
	RefuseHolder  = "ticket of another" // it says that X holds a ticket that Y claimed
	RefuseOurs    = "our ticket"        // it says that another holds a ticket that was issued to this appliance
	RefuseArmed   = "armed with the ticket of another"
	RefuseSet     = "unknown shadow"  // it says that a stranger shadows its slot
	RefuseUnknown = "unknown message" // of a newer protocol, or no message at all
)

// A ticket is issued once, to one appliance. Where two claim the same one, one of
// them lies or has lost its memory; which of them cannot be known here, so what
// was known first stays.

// believes reports whether the word of from, that owner holds s by ticket t, is
// possible, and refuses it otherwise.
func (c *Core) believes(from Node, s *slot, owner Node, t sa.Ticket) bool {
	reason := ""
	switch {
	case owner != c.cfg.Self && c.peers[owner] == nil:
		reason = RefuseOwner
	case t == s.ticket && s.owner != "" && owner != s.owner:
		reason = RefuseHolder
	case owner != c.cfg.Self && t > s.ticket && (t == s.armed || t == s.granted):
		// Somebody sends by our ticket, or pretends to: never use it.
		reason = RefuseOurs
		s.armed, s.granted = 0, 0
		s.floor = max(s.floor, t)
	}
	if reason != "" {
		c.refuse(from, s.cfg.Slot, reason, fmt.Sprintf("slot %d: %s says that %s holds ticket %d; known are ticket %d of %s", s.cfg.Slot, from, owner, t, s.ticket, s.owner))
	}
	return reason == ""
}

// arms reports whether from can be armed with t, and refuses it otherwise.
func (c *Core) arms(from Node, s *slot, t sa.Ticket) bool {
	if t <= s.ticket {
		return true // overtaken: it may not claim by it
	}
	holder := Node("")
	if t == s.armed || t == s.granted {
		holder = c.cfg.Self
	}
	for n, h := range s.held {
		if n != from && h.ticket == t {
			holder = n
		}
	}
	if holder != "" {
		c.refuse(from, s.cfg.Slot, RefuseArmed, fmt.Sprintf("slot %d: %s says that it is armed with ticket %d of %s", s.cfg.Slot, from, t, holder))
	}
	return holder == ""
}

func (c *Core) refuse(from Node, n sa.Slot, reason, text string) {
	c.emit(ActRefuse{From: from, Slot: n, Reason: reason, Text: text})
}
