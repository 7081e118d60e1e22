package ssm

import (
	"fmt"
	"math"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// Load balancing. An appliance that is well and has too much to do sheds: first
// new sessions, then one slot after the other, each to somebody who is less
// loaded afterwards than this one was before. Between the load that begins it and
// the one that ends it lies hysteresis, so that nothing moves to and fro.
const (
	// shedAfter is how long the load must be high before new sessions go
	// elsewhere, shedMoveAfter before a slot moves, and at least between two.
	shedAfter     = 10 * time.Second
	shedMoveAfter = time.Minute
	// calmShare of the threshold, for calmAfter, ends it.
	calmShare = 0.7
	calmAfter = time.Minute
)

// balance is what this appliance remembers of its load.
type balance struct {
	hot, calm time.Time // since when the load is above, below; zero: it is not
	shedding  bool
	movedAt   time.Time
	helpless  bool // told that nobody can take a slot
}

// tickBalance follows the load.
func (c *Core) tickBalance() {
	b, f := &c.balance, &c.fit
	if c.cfg.ShedLoad <= 0 || !f.counted {
		return
	}
	mark := func(t *time.Time, on bool) {
		if !on {
			*t = time.Time{}
		} else if t.IsZero() {
			*t = c.now
		}
	}
	mark(&b.hot, f.load >= c.cfg.ShedLoad)
	mark(&b.calm, f.load < calmShare*c.cfg.ShedLoad)
	switch {
	case !b.shedding && !b.hot.IsZero() && c.now.Sub(b.hot) >= shedAfter:
		*b = balance{hot: b.hot, shedding: true, movedAt: c.now}
		c.onStanding(EvStanding{Source: SourceLoad, Standing: StandingDegraded, Reason: fmt.Sprintf("load of %.0f%% for %s: new sessions go elsewhere", 100*f.load, shedAfter)})
	case b.shedding && !b.calm.IsZero() && c.now.Sub(b.calm) >= calmAfter:
		b.shedding = false
		c.onStanding(EvStanding{Source: SourceLoad, Standing: StandingNormal, Reason: fmt.Sprintf("load of %.0f%%", 100*f.load)})
	case b.shedding && !b.hot.IsZero() && c.now.Sub(b.movedAt) >= shedMoveAfter && c.drain == nil:
		c.shed()
	}
}

// shed moves the slot whose move leaves the busier of both appliances least busy.
func (c *Core) shed() {
	b, f := &c.balance, &c.fit
	var slot *slot
	var to Candidate
	best := math.Inf(1)
	for _, s := range c.list {
		if s.role != RoleOwner {
			continue
		}
		if s.move != nil {
			return
		}
		share := c.share(s.cfg.Slot)
		for _, x := range c.candidates(s, nil) {
			if x.Problem != "" || x.Standing >= StandingDegraded {
				continue
			}
			after := max(f.load-share, x.Load+share)
			if x.Load+share < calmShare*c.cfg.ShedLoad && after < f.load && after < best {
				slot, to, best = s, x, after
			}
		}
	}
	b.movedAt = c.now
	if slot == nil {
		if !b.helpless {
			b.helpless = true
			c.report(ActReport{Kind: "load", Warn: true, Text: "no slot moves away though there is too much to do", Reason: "nobody who shadows one of them would be less loaded with it"})
		}
		return
	}
	b.helpless = false
	c.moveAsked(slot, EvMove{Slot: slot.cfg.Slot, To: to.Node, Reason: fmt.Sprintf("load of %.0f%% here; the best successor is %s", 100*f.load, to)})
}

// share is the part of this appliance's load that slot n makes, by its sessions.
func (c *Core) share(n sa.Slot) float64 {
	if c.fit.sessions == 0 {
		return 0
	}
	return c.fit.load * float64(c.fit.bySlot[n]) / float64(c.fit.sessions)
}

// roomFor reports whether slot s may return to its home h: one that shed it must
// not get it back at once.
func (c *Core) roomFor(s *slot, h Node) bool {
	return c.cfg.ShedLoad <= 0 || c.peers[h].load+c.share(s.cfg.Slot) < calmShare*c.cfg.ShedLoad
}

// Dampening of returns, in the form of RFC 2439: each failure of a home adds a
// penalty that halves with time; above suppressReturn its slots stay where they
// are until it has fallen below reuseReturn. One failure never suffices, and a
// drain is never dampened.
const (
	failurePenalty = 1000.0
	suppressReturn = 1500.0
	reuseReturn    = 750.0
	ceilingReturn  = 12000.0
	// sameFailure is how long what is seen of an appliance belongs to one failure:
	// every slot that is claimed from it, and its reboot.
	sameFailure = 2 * time.Second
)

// flaps is the record of one appliance's failures.
type flaps struct {
	penalty    float64
	at         time.Time // of penalty
	suppressed bool
}

// failed adds a failure at now.
func (f *flaps) failed(now time.Time, half time.Duration) {
	f.penalty = min(f.value(now, half)+failurePenalty, ceilingReturn)
	f.at = now
	if f.penalty >= suppressReturn {
		f.suppressed = true
	}
}

func (f *flaps) value(now time.Time, half time.Duration) float64 {
	if f.penalty == 0 || half <= 0 {
		return 0
	}
	return f.penalty * math.Exp2(-now.Sub(f.at).Seconds()/half.Seconds())
}

// damped reports whether slots may not return yet.
func (f *flaps) damped(now time.Time, half time.Duration) bool {
	if f.suppressed && f.value(now, half) < reuseReturn {
		f.suppressed = false
	}
	return f.suppressed
}

// noteFailure counts a failure of n against the return of its slots.
func (c *Core) noteFailure(n Node) {
	p := c.peers[n]
	if p == nil || c.cfg.DampHalfLife <= 0 || c.now.Sub(p.flaps.at) < sameFailure {
		return
	}
	was := p.flaps.suppressed
	p.flaps.failed(c.now, c.cfg.DampHalfLife)
	if p.flaps.suppressed && !was {
		wait := time.Duration(math.Log2(p.flaps.penalty/reuseReturn) * float64(c.cfg.DampHalfLife))
		c.report(ActReport{Kind: "dampened", Warn: true, Text: fmt.Sprintf("the slots of %s do not return before %s have passed", n, wait.Round(time.Second)),
			Reason: "it failed again and again"})
	}
}
