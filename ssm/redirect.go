package ssm

import (
	"fmt"

	"github.com/shadowcast/shadowcast/sa"
)

// Redirect says which clients a drain tells to go to another gateway (IKEv2
// REDIRECT, RFC 5685). They begin a new session there, so it is no part of a move: it is
// for clients that nobody here will serve.
type Redirect uint8

// Whom a drain tells.
const (
	RedirectNever     Redirect = iota
	RedirectUncovered          // clients of slots without a successor
	RedirectAll                // all clients: this appliance is given up
)

// tickRedirect has the clients of slots told that are to leave, once in a drain. Slots
// without a successor have waited for one since the drain began (preparePatience).
func (c *Core) tickRedirect(left []sa.Slot) {
	d := c.drain
	if c.cfg.Redirect == RedirectNever {
		return
	}
	for _, n := range left {
		s := c.slots[n]
		if s.role != RoleOwner || s.move != nil || d.told[n] {
			continue
		}
		why := "this appliance is given up: " + d.reason
		if c.cfg.Redirect == RedirectUncovered {
			cs := c.candidates(s, nil)
			if len(cs) > 0 && cs[0].Problem == "" {
				continue
			}
			why = "nobody can take the slot over: " + problems(cs)
		}
		d.told[n] = true
		c.emit(ActRedirect{Slot: n, Drain: d.id, Reason: why})
		c.report(ActReport{Kind: "redirect", Slot: n, Drain: d.id, Phase: string(d.phase), Text: "clients are told to go to another gateway", Reason: why})
	}
}

// stayAll ends the telling: who was told already leaves.
func (c *Core) stayAll() {
	for _, s := range c.list {
		if c.drain.told[s.cfg.Slot] {
			c.emit(ActRedirect{Slot: s.cfg.Slot, Stop: true})
		}
	}
}

// onRedirected takes what became of the clients of a slot.
func (c *Core) onRedirected(e EvRedirected) {
	d := c.drain
	if d == nil || d.id != e.Drain {
		return
	}
	d.account.Redirected += e.Went
	r := ActReport{Kind: "redirect", Slot: e.Slot, Drain: d.id, Phase: string(d.phase), Text: e.String(), Warn: e.Err != "" || e.Ended+e.Stayed > 0, Reason: e.Err}
	c.report(r)
}

func (e EvRedirected) String() string {
	return fmt.Sprintf("%d clients went to the other gateway, %d did not and lost their session, %d could not be told", e.Went, e.Ended, e.Stayed)
}
