package ssm

import (
	"fmt"
	"math/rand"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// fleet plays several cores in virtual time over a network that loses, delays,
// repeats and partitions, with a shell that answers like ssm/node does. It
// checks the safety invariants after every step.
type fleet struct {
	rng   *rand.Rand
	now   time.Time
	nodes []*fnode
	queue []delivery
	log   []string
	loss  float64
	cut   map[[2]Node]bool
	cfg   Config

	counter  map[sa.Slot]sa.Ticket // the registrar's durable log
	claimed  map[claimKey]Node
	blocks   map[blockKey]sender // who sent in a block of an SA
	sas      map[sa.Slot][]*fsa
	routeOut map[Node]bool
	bad      []string
	reports  []freport
}

type freport struct {
	node Node
	ActReport
}

type claimKey struct {
	slot sa.Slot
	t    sa.Ticket
}
type blockKey struct {
	sa    *fsa
	block uint64
}

// sender is one life of an appliance, sending under a ticket.
type sender struct {
	node   Node
	inc    uint64
	ticket sa.Ticket
}

// maxSAs is how many SAs of a slot live at a time.
const maxSAs = 64

type fsa struct {
	birth sa.Birth
	top   uint64 // the highest block the client has seen
}
type fnode struct {
	name   Node
	core   *Core
	up     bool
	inc    uint64
	later  []timed
	fence  map[sa.Slot]time.Time // deadline; far future without one
	tenure map[sa.Slot]sa.Ticket
	lowest map[sa.Slot]sa.Ticket
	role   map[sa.Slot]string
}
type timed struct {
	at time.Time
	ev Event
}
type delivery struct {
	at       time.Time
	to, from Node
	msg      Message
}

var far = time.Unix(1<<40, 0)

func newFleet(seed int64, n, slots int) *fleet {
	f := &fleet{rng: rand.New(rand.NewSource(seed)), now: time.Unix(1000, 0), cut: map[[2]Node]bool{}, counter: map[sa.Slot]sa.Ticket{},
		claimed: map[claimKey]Node{}, blocks: map[blockKey]sender{}, sas: map[sa.Slot][]*fsa{}, routeOut: map[Node]bool{}}
	var names []Node
	for i := range n {
		names = append(names, Node(fmt.Sprintf("n%d", i)))
	}
	f.cfg = Config{Appliances: names, Registrar: names[n-1], Shadowing: true}
	for i := range slots {
		s := SlotConfig{Slot: sa.Slot(i + 1), Home: names[i%n]}
		for j := 1; j < n && j <= 3; j++ {
			s.Shadows = append(s.Shadows, names[(i+j)%n])
		}
		f.cfg.Slots = append(f.cfg.Slots, s)
	}
	for _, name := range names {
		fn := &fnode{name: name}
		f.nodes = append(f.nodes, fn)
		f.boot(fn)
	}
	return f
}

func (f *fleet) node(n Node) *fnode {
	for _, x := range f.nodes {
		if x.name == n {
			return x
		}
	}
	return nil
}

func (f *fleet) boot(n *fnode) {
	cfg := f.cfg
	cfg.Self = n.name
	n.inc++
	cfg.Incarnation = n.inc
	core, err := New(cfg, f.now)
	if err != nil {
		panic(err)
	}
	n.core, n.up, n.later = core, true, nil
	n.fence, n.tenure, n.lowest, n.role = map[sa.Slot]time.Time{}, map[sa.Slot]sa.Ticket{}, map[sa.Slot]sa.Ticket{}, map[sa.Slot]string{}
	for _, s := range cfg.Slots {
		if core.member(core.slots[s.Slot]) {
			f.after(n, 50*time.Millisecond, EvSlotUp{s.Slot})
		}
	}
	f.setRoute(n.name, true)
}

func (f *fleet) crash(n *fnode) {
	n.up, n.later = false, nil
	f.setRoute(n.name, false)
}

func (f *fleet) setRoute(name Node, up bool) {
	f.routeOut[name] = !up
	for _, o := range f.nodes {
		if o.up && o.name != name {
			f.after(o, 150*time.Millisecond, EvLiveness{name, up})
		}
	}
}

func (f *fleet) after(n *fnode, d time.Duration, ev Event) {
	n.later = append(n.later, timed{f.now.Add(d), ev})
}

func (f *fleet) logf(format string, a ...any) {
	f.log = append(f.log, fmt.Sprintf("%8.3f ", f.now.Sub(time.Unix(1000, 0)).Seconds())+fmt.Sprintf(format, a...))
}

func (f *fleet) fail(format string, a ...any) {
	s := fmt.Sprintf(format, a...)
	f.logf("VIOLATION %s", s)
	f.bad = append(f.bad, s)
}

// run advances virtual time by d in steps of 5 ms.
func (f *fleet) run(d time.Duration) {
	for end := f.now.Add(d); f.now.Before(end) && len(f.bad) == 0; {
		f.now = f.now.Add(5 * time.Millisecond)
		q := f.queue
		f.queue = nil
		for _, m := range q {
			if m.at.After(f.now) {
				f.queue = append(f.queue, m)
				continue
			}
			if n := f.node(m.to); n.up && !f.cut[[2]Node{m.from, m.to}] {
				f.step(n, EvMessage{m.from, m.msg})
			}
		}
		for _, n := range f.nodes {
			if !n.up {
				continue
			}
			l := n.later
			n.later = nil
			for _, t := range l {
				if t.at.After(f.now) {
					n.later = append(n.later, t)
				} else {
					f.step(n, t.ev)
				}
			}
			if f.now.UnixMilli()%25 == 0 {
				f.step(n, EvTick{})
			}
		}
		f.traffic()
	}
}

// traffic lets every open slot send on every SA and births new ones.
func (f *fleet) traffic() {
	for _, n := range f.nodes {
		if !n.up {
			continue
		}
		for slot, until := range n.fence {
			if f.now.After(until) {
				continue
			}
			t := n.tenure[slot]
			if n.role[slot] == "taking" {
				continue // nothing is steered through it before the flip in this model
			}
			if n.role[slot] == "owner" && f.rng.Intn(400) == 0 {
				f.sas[slot] = append(f.sas[slot], &fsa{birth: sa.Birth{Base: sa.BaseFor(t, n.lowest[slot]), Tenure: t}})
				if old := f.sas[slot]; len(old) > maxSAs { // expired
					f.sas[slot] = old[1:]
				}
			}
			for _, x := range f.sas[slot] {
				b, err := x.birth.Block(t)
				if err != nil {
					continue // must not send
				}
				k := blockKey{x, b}
				who := sender{n.name, n.inc, t}
				if was, ok := f.blocks[k]; ok && was != who {
					f.fail("slot %d block %d of an SA born at %+v sent by %+v and %+v", slot, b, x.birth, was, who)
				}
				f.blocks[k] = who
				x.top = max(x.top, b)
			}
		}
	}
}

func (f *fleet) step(n *fnode, ev Event) {
	for _, a := range n.core.Step(ev, f.now) {
		f.act(n, a)
	}
	for _, s := range n.core.slots {
		if open := n.fence[s.cfg.Slot]; !open.IsZero() && f.now.Before(open) {
			switch s.role {
			case RoleOwner, RoleTaking, RoleDraining, RoleResuming:
			default:
				f.fail("I2: fence of slot %d open at %s in role %s", s.cfg.Slot, n.name, s.role)
			}
		}
	}
}

func (f *fleet) act(n *fnode, a Action) {
	switch a := a.(type) {
	case ActSend:
		if f.cut[[2]Node{n.name, a.To}] || f.rng.Float64() < f.loss {
			return
		}
		for range 1 + f.rng.Intn(100)/97 { // some are repeated
			f.queue = append(f.queue, delivery{f.now.Add(time.Duration(1+f.rng.Intn(15)) * time.Millisecond), a.To, n.name, a.Msg})
		}
	case ActFence:
		if open, ok := n.fence[a.Slot]; a.Refresh && (!ok || f.now.After(open)) {
			f.after(n, 0, EvFenceShut{a.Slot})
			return
		}
		if !a.Open {
			delete(n.fence, a.Slot)
		} else if a.Until == 0 {
			n.fence[a.Slot] = far
		} else {
			n.fence[a.Slot] = f.now.Add(a.Until)
		}
		if s := n.core.slots[a.Slot]; s.role == RoleTaking {
			n.role[a.Slot] = "taking"
		}
	case ActOwn:
		k := claimKey{a.Slot, a.Ticket}
		if who, ok := f.claimed[k]; ok && who != n.name {
			f.fail("ticket %d of slot %d used by %s and %s", a.Ticket, a.Slot, who, n.name)
		}
		f.claimed[k] = n.name
		n.tenure[a.Slot], n.role[a.Slot] = a.Ticket, "owner"
		for _, o := range a.Shadows {
			f.after(n, 80*time.Millisecond, EvReplica{a.Slot, o, true})
		}
	case ActBirth:
		n.lowest[a.Slot] = a.Lowest
	case ActWake:
		f.after(n, a.In, EvTick{})
	case ActShadow:
		n.role[a.Slot] = "shadow"
		f.after(n, 60*time.Millisecond, EvSlotUp{a.Slot})
		f.after(n, 90*time.Millisecond, EvTwin{Slot: a.Slot, Ready: true})
		f.after(n, 95*time.Millisecond, EvRTT{Slot: a.Slot, RTT: time.Duration(f.rng.Intn(30)) * time.Millisecond})
	case ActPreset:
		f.after(n, 10*time.Millisecond, EvPreset(a))
	case ActIssue:
		t := max(f.counter[a.Slot], a.Floor) + 1
		f.counter[a.Slot] = t
		f.after(n, 5*time.Millisecond, EvIssued{a.Slot, t, a.Node, a.Incarnation})
	case ActStandDown, ActPassivate:
		slot := sa.Slot(0)
		switch x := a.(type) {
		case ActStandDown:
			slot = x.Slot
		case ActPassivate:
			slot = x.Slot
		}
		f.after(n, 20*time.Millisecond, EvPassivated{slot})
	case ActRefeed:
		f.after(n, 120*time.Millisecond, EvRefed{a.Slot, ""})
	case ActQuiesce:
		f.after(n, 30*time.Millisecond, EvQuiesced{a.Slot, a.Move, ""})
	case ActFlush:
		f.after(n, 20*time.Millisecond, EvFlushed{a.Slot, a.Move, ""})
	case ActDrain:
		f.after(n, a.Min, EvDrained{a.Slot, a.Move, 0})
	case ActReport:
		f.reports = append(f.reports, freport{n.name, a})
		f.logf("%s slot %d %s %s: %s (%s)", n.name, a.Slot, a.Kind, a.Phase, a.Text, a.Reason)
	}
}

func (f *fleet) owner(slot sa.Slot) []Node {
	var out []Node
	for _, n := range f.nodes {
		if n.up && n.core.slots[slot].role == RoleOwner {
			out = append(out, n.name)
		}
	}
	return out
}

func (f *fleet) trace() string {
	return strings.Join(f.log[max(0, len(f.log)-80):], "\n")
}

func (f *fleet) partition(side []Node, on bool) {
	in := map[Node]bool{}
	for _, n := range side {
		in[n] = true
	}
	for _, a := range f.nodes {
		for _, b := range f.nodes {
			if in[a.name] != in[b.name] {
				f.cut[[2]Node{a.name, b.name}] = on
			}
		}
	}
}
