package ssm

import (
	"fmt"
	"slices"
	"time"
)

// An appliance may be heard although it hears nothing of us: what fails one way only.
// Every report says whom its sender hears, so that this is known where it matters:
// packets for its slots that are forwarded from here are lost. They go through an
// appliance that it hears, or, where it hears nobody at all, a shadow takes the slot
// over by the same evidence as for a silent owner. It serves meanwhile whoever enters
// at it; its ticket is the lower one.

// noteHears takes what p said in a report: whom it hears. An appliance that has just
// come back needs time to hear us, too.
func (c *Core) noteHears(p *peer, hears []Node) {
	p.hears = hears
	switch {
	case slices.Contains(hears, c.cfg.Self):
		p.deaf = time.Time{}
	case p.deaf.IsZero() || p.back == c.now:
		p.deaf = c.now
	}
}

// deaf reports whether n is heard and has not heard us for long. It says so when it
// has missed as many of our probes as we would suspect it after; for as long again
// and twice, a start or a busy processor explains it.
func (c *Core) deaf(n Node) bool {
	p := c.peers[n]
	return p != nil && c.alive(n) && !p.deaf.IsZero() && c.now.Sub(p.deaf) > 2*c.bound()
}

// unreached reports whether packets for n that are forwarded straight from here are
// lost.
func (c *Core) unreached(n Node) bool { return c.suspected(n) || c.deaf(n) }

// relay returns an appliance through which packets reach n, "" if there is none: for a
// silent one who says that it hears n; for a deaf one whom n hears and who hears us.
func (c *Core) relay(n Node) Node {
	if !c.deaf(n) {
		return c.hearer(n)
	}
	for _, q := range c.peers[n].hears {
		if c.alive(q) && !c.deaf(q) && !c.peers[q].tunnelDown {
			return q
		}
	}
	return ""
}

// ownerDeaf returns why the owner of s cannot serve it although it is heard, "" if it
// can, and since when. A takeover is harder to take back than a detour, hence the
// third bound.
func (c *Core) ownerDeaf(s *slot) (string, time.Time) {
	p := c.peers[s.owner]
	if !c.deaf(s.owner) || len(p.hears) > 0 || c.now.Sub(p.deaf) <= 3*c.bound() {
		return "", time.Time{}
	}
	why := fmt.Sprintf("%s is heard and has heard nobody for %s", s.owner, c.now.Sub(p.deaf).Round(time.Millisecond))
	switch {
	case p.routeLost:
		return why + ", its liveness route withdrawn", p.deaf
	case s.unheard:
		return why + ", packets of the slot cannot be delivered", p.deaf
	}
	return "", time.Time{}
}

// tellDeaf reports a change once.
func (c *Core) tellDeaf(n Node) {
	p := c.peers[n]
	if p == nil || c.deaf(n) == p.deafTold || p.suspect {
		return
	}
	p.deafTold = !p.deafTold
	if !p.deafTold {
		c.report(ActReport{Kind: "deaf", Text: "appliance " + string(n) + " hears this one again"})
		return
	}
	way := "nothing goes through anybody else"
	if q := c.relay(n); q != "" {
		way = "packets for its slots go through " + string(q)
	}
	c.report(ActReport{Kind: "deaf", Warn: true, Text: "appliance " + string(n) + " is heard and does not hear this one", Reason: way})
}
