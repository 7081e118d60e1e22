package ssm

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// What makes a successor worse, in units of one more slot that it owns.
const (
	costWatch    = 1.0
	costDegraded = 10.0
	costRisk     = 10.0 // of certain failure within an hour
	costLoad     = 4.0  // of its whole capacity
	costPart     = 0.5  // holds but a part of the sessions: it gets the rest first
	costAway     = 1.0  // not the home: the slot moves once more to return
	costRTT      = 20 * time.Millisecond
)

// Candidate is one shadow of a slot as a successor of its owner.
type Candidate struct {
	Node Node
	// Problem is why it cannot take the slot now, "" if it can.
	Problem  string
	Cost     float64 // lower is better; in units of one slot
	Standing Standing
	Risk     float64
	Load     float64
	Slots    int           // it owns, with those that are on their way to it
	RTT      time.Duration // from it to the clients of the slot, 0 unknown
}

// candidates returns the shadows of s, best first: those that can take it
// before those that cannot, then by cost. extra are slots that are on their way
// to an appliance.
func (c *Core) candidates(s *slot, extra map[Node]int) []Candidate {
	var out []Candidate
	for _, n := range c.shadowsOf(s) {
		p := c.peers[n]
		if p == nil {
			continue
		}
		x := Candidate{Node: n, Standing: p.standing, Risk: p.risk, Load: p.load, Slots: c.owned(n) + extra[n], RTT: p.slots[s.cfg.Slot].RTT}
		x.Problem = c.unfit(s, n)
		x.Cost = costRisk*x.Risk + costLoad*x.Load + float64(x.Slots) + x.RTT.Seconds()/costRTT.Seconds()
		switch x.Standing {
		case StandingWatch:
			x.Cost += costWatch
		case StandingDegraded:
			x.Cost += costDegraded
		}
		if n != s.cfg.Home {
			x.Cost += costAway
		}
		if !s.whole(n) {
			x.Cost += costPart
		}
		out = append(out, x)
	}
	slices.SortStableFunc(out, func(a, b Candidate) int {
		if (a.Problem == "") != (b.Problem == "") {
			if a.Problem == "" {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.Cost, b.Cost), cmp.Compare(a.Node, b.Node))
	})
	return out
}

// owned returns how many slots n owns as far as this appliance knows.
func (c *Core) owned(n Node) int {
	k := 0
	for _, s := range c.slots {
		if s.owner == n {
			k++
		}
	}
	return k
}

// unfit returns why n cannot take s over in a planned move, "" if it can. A
// ticket it lacks is not a reason for good: it gets one while it waits.
func (c *Core) unfit(s *slot, n Node) string {
	p := c.peers[n]
	switch {
	case p == nil || !c.alive(n):
		return string(n) + " is not heard"
	case c.deaf(n):
		return string(n) + " does not hear this appliance"
	case p.standing >= StandingDraining:
		return string(n) + " is " + p.standing.String()
	case p.tunnelDown:
		return "the tunnel to " + string(n) + " is down"
	}
	r := p.slots[s.cfg.Slot]
	switch {
	case !r.Ready:
		return string(n) + " has no complete twin"
	case r.Armed <= s.ticket:
		return string(n) + " holds no ticket"
	case !s.replicas[n]:
		return string(n) + " has not acknowledged everything"
	}
	return ""
}

// problems sums up why no shadow of s can take it.
func problems(cs []Candidate) string {
	if len(cs) == 0 {
		return "it has no shadow"
	}
	out := ""
	for i, x := range cs {
		if i > 0 {
			out += "; "
		}
		out += x.Problem
	}
	return out
}

// rank orders the shadows of a dead owner's slot: the fit before the degraded
// before those that are leaving. Among equals the lowest ticket claims first.
func (c *Core) rank(n Node) int {
	switch c.standing(n) {
	case StandingNormal, StandingWatch:
		return 0
	case StandingDegraded:
		return 1
	}
	return 2
}

func (x Candidate) String() string {
	if x.Problem != "" {
		return x.Problem
	}
	return fmt.Sprintf("%s (cost %.1f: %s, risk %.1f%%, load %.0f%%, %d slots)", x.Node, x.Cost, x.Standing, 100*x.Risk, 100*x.Load, x.Slots)
}
