package ssm

import "github.com/shadowcast/shadowcast/sa"

// Tickets returns the highest ticket of each slot that this appliance holds or has
// heard of, whoever holds it.
func (c *Core) Tickets() map[sa.Slot]sa.Ticket {
	m := make(map[sa.Slot]sa.Ticket, len(c.slots))
	for n, s := range c.slots {
		t := max(s.ticket, s.armed, s.granted, s.floor)
		for _, h := range s.held {
			t = max(t, h.ticket)
		}
		for _, p := range c.peers {
			r := p.slots[n]
			t = max(t, r.OwnerTicket, r.Armed)
		}
		m[n] = t
	}
	return m
}
