package sim

import (
	"fmt"
	"math/rand"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm"
)

// World is one run.
type World struct {
	plan  Plan
	rng   *rand.Rand
	now   time.Duration
	seq   uint64
	steps int

	agenda  agenda
	nodes   []*node
	byName  map[ssm.Node]*node
	cfg     ssm.Config
	cut     []bool // from*n+to
	loss    float64
	slow    map[int]time.Duration
	slowest time.Duration // that replication ever was

	// truth about sessions, and about everything that was ever sent
	slots    map[sa.Slot]*truth
	wants    map[sa.Slot][]ssm.Node // shadow sets, as asked for
	lastID   int
	troubled time.Duration // when something last went wrong or was asked for
	shaken   time.Duration // the same without moves and standings

	tracing   bool
	trace     []string
	violation string
}

// Result is what a run came to.
type Result struct {
	Plan      Plan
	Steps     int    // events that cores have taken
	Violation string // "" if none
	Trace     []string
	Owners    map[sa.Slot][]ssm.Node // who claimed each slot from whom, in order
}

// settleTime is how long the healed fleet may take until everything is in order:
// the longest wait is that of an incomplete twin, plus a rebuild.
const settleTime = 6 * time.Second

// MinEvents is what every run comes to at least: a small fleet that was down for
// long is left to run on.
const MinEvents = 1000

const tickInterval = 60 * time.Millisecond

// Run plays a plan. With trace it also tells what happened.
func Run(p Plan, trace bool) Result {
	w := newWorld(p, trace)
	for _, n := range w.nodes {
		w.after(time.Duration(w.rng.Intn(300))*time.Millisecond, func() { n.boot() })
	}
	for _, f := range p.Faults {
		w.after(f.At, func() { w.fault(f) })
	}
	w.after(clientEvery, w.clients)
	w.after(reshapeEvery, w.reshapes)
	w.after(p.Span, w.healAll)
	w.until(p.Span + settleTime)
	// A slot may be on its way home just now, or a shadow set change after it.
	for i := 0; i < 8 && w.violation == "" && (w.moving() || w.wrongSet() != "") || w.violation == "" && w.steps < MinEvents; i++ {
		w.until(w.now + time.Second)
	}
	if w.violation == "" {
		w.checkSettled()
	}
	owners := map[sa.Slot][]ssm.Node{}
	for n, t := range w.slots {
		owners[n] = t.owners
	}
	return Result{Plan: p, Steps: w.steps, Violation: w.violation, Trace: w.trace, Owners: owners}
}

func (w *World) until(end time.Duration) {
	for w.violation == "" && len(w.agenda) > 0 && w.agenda[0].at <= end {
		t := w.agenda.pop()
		w.now = t.at
		t.do()
	}
}

// moving reports whether a planned move is under way.
func (w *World) moving() bool {
	for _, n := range w.nodes {
		for _, c := range w.cfg.Slots {
			switch n.core.Role(c.Slot) {
			case ssm.RoleTaking, ssm.RoleDraining:
				return true
			}
			if n.core.MovePhase(c.Slot) != "" {
				return true
			}
		}
	}
	return false
}

func newWorld(p Plan, trace bool) *World {
	w := &World{plan: p, rng: rand.New(rand.NewSource(p.Seed ^ 0x5ca57)), byName: map[ssm.Node]*node{}, slots: map[sa.Slot]*truth{}, wants: map[sa.Slot][]ssm.Node{},
		cut: make([]bool, p.Nodes*p.Nodes), slow: map[int]time.Duration{}, tracing: trace}
	var names []ssm.Node
	for i := range p.Nodes {
		names = append(names, ssm.Node(fmt.Sprintf("n%d", i)))
	}
	w.cfg = ssm.Config{Appliances: names, Registrar: names[w.rng.Intn(p.Nodes)], Shadowing: true, ProbeInterval: 100 * time.Millisecond,
		DrainTime: 300 * time.Millisecond, DrainRate: 600}
	if w.rng.Intn(2) == 0 {
		w.cfg.HoldDown = time.Duration(500+w.rng.Intn(3000)) * time.Millisecond
	}
	for i := range p.Slots {
		s := ssm.SlotConfig{Slot: sa.Slot(i + 1), Home: names[i%p.Nodes]}
		for j := 1; j <= 1+w.rng.Intn(min(3, p.Nodes-1)); j++ {
			s.Shadows = append(s.Shadows, names[(i+j)%p.Nodes])
		}
		s.Dynamic = p.Dynamic
		w.cfg.Slots = append(w.cfg.Slots, s)
		w.slots[s.Slot] = &truth{slot: s.Slot, tickets: map[sa.Ticket]tenure{}, voided: map[tenure]bool{}, renewed: map[sa.Ticket]sa.Ticket{}, heirs: map[sa.Ticket]sa.Ticket{}}
	}
	for i, name := range names {
		n := &node{w: w, index: i, name: name, skew: time.Duration(w.rng.Intn(2000)) * time.Hour, drift: float64(w.rng.Intn(2001)-1000) / 1e6,
			routes: make([]bool, p.Nodes), log: map[sa.Slot]sa.Ticket{}}
		w.nodes = append(w.nodes, n)
		w.byName[name] = n
	}
	return w
}

func (w *World) logf(format string, a ...any) {
	if w.tracing {
		w.trace = append(w.trace, fmt.Sprintf("%8.3f ", w.now.Seconds())+fmt.Sprintf(format, a...))
	}
}

func (w *World) fail(format string, a ...any) {
	if w.violation == "" {
		w.violation = fmt.Sprintf(format, a...)
		w.logf("VIOLATION %s", w.violation)
	}
}

// trouble notes that the fleet is not left alone: what the invariants of a quiet
// fleet promise counts from here.
func (w *World) trouble() { w.troubled, w.shaken = w.now, w.now }

func (w *World) fault(f Fault) {
	switch f.Kind {
	case Move, Predict, Operate, Reshape:
		w.troubled = w.now
	case Crash: // looks at what went before
		defer w.trouble()
		w.troubled = w.now
	default:
		w.trouble()
	}
	w.logf("---- %s", f.Kind)
	n, o := w.nodes[f.Node], w.nodes[f.Other]
	switch f.Kind {
	case Crash:
		n.crash()
	case Boot:
		n.boot()
	case KillDaemon:
		n.killDaemon()
	case Freeze:
		n.freeze(f.For)
	case CutOneWay:
		w.cutOneWay(n, o)
	case Split:
		w.split(func(n *node) int { return f.Mask >> n.index & 1 })
	case Shatter:
		w.split(func(n *node) int {
			m := f.Mask
			for range n.index {
				m /= groups
			}
			return m % groups
		})
	case Heal:
		w.heal()
	case Loss:
		w.loss = float64(f.Mask) / 1000
	case Slow:
		w.slow[n.index], w.slowest = f.For, max(w.slowest, f.For)
		w.after(2*f.For, func() { delete(w.slow, n.index) })
	case CharonDies:
		n.charonDies(sa.Slot(f.Slot))
	case Move:
		for _, x := range w.nodes {
			if sh := x.shells[sa.Slot(f.Slot)]; sh != nil && sh.mode == owning {
				x.post(ssm.EvMove{Slot: sa.Slot(f.Slot), To: o.name, Reason: "asked"})
			}
		}
	case Reshape:
		w.wants[sa.Slot(f.Slot)] = w.members(f.Mask)
		w.reshape(sa.Slot(f.Slot))
	case Predict:
		n.predicted = ssm.Standing(f.Mask)
		n.post(ssm.EvStanding{Source: ssm.SourceHealth, Standing: n.predicted, Reason: "predicted"})
	case Operate:
		n.operated = ssm.Standing(f.Mask)
		n.post(ssm.EvStanding{Source: ssm.SourceOperator, Standing: n.operated, Reason: "asked"})
	case RouteFlap:
		w.routeOf(n, false)
		w.after(f.For, func() {
			if n.daemon {
				w.routeOf(n, true)
			}
		})
	}
}

// healAll ends all trouble: what is down boots, what leaves stays.
func (w *World) healAll() {
	w.trouble()
	w.logf("---- everything heals")
	w.heal()
	clear(w.slow)
	for _, n := range w.nodes {
		n.predicted, n.operated = 0, 0
		if !n.daemon {
			n.boot()
			continue
		}
		n.thaw()
		n.post(ssm.EvStanding{Source: ssm.SourceHealth})
		n.post(ssm.EvStanding{Source: ssm.SourceOperator})
	}
}
