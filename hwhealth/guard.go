package hwhealth

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Wish is what an appliance's prediction asks for, as it travels in its probes.
// Hard limits are facts and no wishes.
type Wish struct {
	State State
	Cause Signal        // of its first cause
	For   time.Duration // for how long it has asked
	// Asks says that it wants the lease to drain, Holds that it has it.
	Asks, Holds bool
}

// Peer is one other appliance as the guard sees it.
type Peer struct {
	Name  string
	Alive bool
	Wish  Wish
}

// The guard's bounds.
const (
	drainShare    = .2 // of the appliances may drain on predictions at once
	sameCauseMany = 3  // appliances with one cause are no coincidence
	sameCauseIn   = 10 * time.Minute
)

// Guard decides how far a prediction may go in this fleet. Every appliance
// decides for itself from what it hears; a lease is taken by saying so and
// counts when everybody had the time to hear it and nobody came first.
type Guard struct {
	leased bool
	asked  time.Time // when the lease was said, zero if it was not
}

// Verdict is what the guard allows.
type Verdict struct {
	Limit       State
	Asks, Holds bool   // to be said in probes
	Alarm       string // what people should know, "" if nothing
}

// Decide is asked at every evaluation. self is this appliance's name, state the
// ladder's, wish what its prediction asks for, settle how long others need to hear
// a change. The verdict holds for the evaluation whose wish is not known yet, so
// one that has asked for nothing so far may go no further than degraded.
func (g *Guard) Decide(self string, state State, wish Wish, peers []Peer, settle time.Duration, now time.Time) Verdict {
	if wish.State < Draining {
		// Recovery may be dampened: the lease lasts as long as the drain.
		g.leased, g.asked = g.leased && state >= Draining, time.Time{}
		return Verdict{Limit: Degraded, Holds: g.leased}
	}
	most := max(1, int(drainShare*float64(len(peers)+1)))
	ahead, draining := queue(self, wish, peers)
	if state >= Draining && ahead < most {
		g.leased = true // it drained before a restart of the daemon, or by a limit
	}
	if same := sameCause(wish, peers); len(same) >= sameCauseMany-1 && !g.leased {
		g.asked = time.Time{}
		return Verdict{Limit: Degraded, Alarm: fmt.Sprintf("%s on %d appliances within %s (also on %v): a common cause is no reason to drain them all", wish.Cause, len(same)+1, sameCauseIn, same)}
	}
	if g.leased {
		return Verdict{Limit: Withdraw, Holds: true}
	}
	if ahead >= most {
		g.asked = time.Time{}
		return Verdict{Limit: Degraded, Alarm: fmt.Sprintf("%v drain on predictions already, %d may at once", draining, most)}
	}
	if g.asked.IsZero() || g.asked.After(now) {
		g.asked = now
	}
	if now.Sub(g.asked) < settle {
		return Verdict{Limit: Degraded, Asks: true}
	}
	g.leased = true
	return Verdict{Limit: Withdraw, Holds: true}
}

// queue counts the living peers that come before us, and names all that drain or ask.
func queue(self string, wish Wish, peers []Peer) (ahead int, draining []string) {
	for _, p := range peers {
		if !p.Alive || !p.Wish.Asks && !p.Wish.Holds {
			continue
		}
		draining = append(draining, p.Name)
		// Of two that ask at the same time the one that asked for longer goes
		// first, then the name decides.
		if !p.Wish.Holds && before(self, wish, p) {
			continue
		}
		ahead++
	}
	slices.Sort(draining)
	return ahead, draining
}

// before reports whether we come before p among those that are still asking.
func before(self string, wish Wish, p Peer) bool {
	const near = 2 * time.Second
	if d := wish.For - p.Wish.For; d > near || d < -near {
		return d > 0
	}
	return cmp.Compare(self, p.Name) < 0
}

// sameCause are the living peers whose prediction began with the same cause
// about when ours did.
func sameCause(wish Wish, peers []Peer) []string {
	var out []string
	for _, p := range peers {
		if p.Alive && p.Wish.State >= Degraded && p.Wish.Cause == wish.Cause && (p.Wish.For-wish.For).Abs() <= sameCauseIn {
			out = append(out, p.Name)
		}
	}
	slices.Sort(out)
	return out
}
