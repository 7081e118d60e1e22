package ssm

import (
	"testing"
	"time"
)

// What another appliance tells that cannot be is refused by name and believed
// by nobody.
func TestImpossibleTicketsAreRefused(t *testing.T) {
	for _, tt := range []struct {
		reason string
		lie    func(f *fleet, n1 *Core) Message
	}{
		{RefuseSlot, func(*fleet, *Core) Message { return Message{Kind: KindClaim, Slot: 4000, Ticket: 1, Owner: "n0"} }},
		{RefuseUnknown, func(*fleet, *Core) Message { return Message{Kind: "hurrah", Slot: 1} }},
		{RefuseOwner, func(*fleet, *Core) Message {
			return Message{Kind: KindClaim, Slot: 1, Ticket: 1 << 30, Owner: "mallory"}
		}},
		{RefuseHolder, func(_ *fleet, c *Core) Message {
			return Message{Kind: KindClaim, Slot: 1, Ticket: c.slots[1].ticket, Owner: "n2"}
		}},
		{RefuseOurs, func(_ *fleet, c *Core) Message {
			return Message{Kind: KindClaim, Slot: 1, Ticket: c.slots[1].armed, Owner: "n2"}
		}},
		{RefuseArmed, func(_ *fleet, c *Core) Message {
			s := c.slots[1]
			return Message{Kind: KindProbe, Report: &Report{Incarnation: c.peers["n2"].incarnation, Slots: []SlotReport{
				{Slot: 1, Owner: s.owner, OwnerTicket: s.ticket, Armed: s.armed, Ready: true}}}}
		}},
		{RefuseHolder, func(_ *fleet, c *Core) Message {
			return Message{Kind: KindProbe, Report: &Report{Incarnation: c.peers["n2"].incarnation, Slots: []SlotReport{
				{Slot: 1, Owner: "n2", OwnerTicket: c.slots[1].ticket}}}}
		}},
	} {
		t.Run(tt.reason, func(t *testing.T) {
			f := newFleet(1, 3, 3)
			settled(t, f)
			n1 := f.node("n1").core
			if n1.slots[1].armed == 0 {
				t.Fatalf("n1 is not armed for slot 1\n%s", f.trace())
			}
			ticket := n1.slots[1].ticket
			refused := ""
			for _, a := range n1.Step(EvMessage{From: "n2", Msg: tt.lie(f, n1)}, f.now) {
				if r, ok := a.(ActRefuse); ok {
					refused = r.Reason
					if r.From != "n2" || r.Text == "" {
						t.Errorf("refusal %+v", r)
					}
				}
			}
			if refused != tt.reason {
				t.Fatalf("refused as %q, want %q", refused, tt.reason)
			}
			if s := n1.slots[1]; s.owner != "n0" || s.ticket != ticket {
				t.Fatalf("slot 1 is held by %s with ticket %d after the lie", s.owner, s.ticket)
			}
			if armed := n1.peers["n2"].slots[1].Armed; tt.reason == RefuseArmed && armed != 0 {
				t.Fatalf("n2 counts as armed with %d", armed)
			}
			f.run(2 * time.Second)
			check(t, f)
			if n1.slots[1].armed == 0 || n1.slots[1].owner != "n0" {
				t.Fatalf("n1 is not armed again\n%s", f.trace())
			}
		})
	}
}
