package sim

import (
	"math/rand"
	"time"

	"github.com/shadowcast/shadowcast/ssm"
)

// A theme is a short story at the beginning of a third of the plans, told with
// random moments: situations that independent faults rarely meet. Each is one that
// the design speaks of; none knows what a core does in it.
func (p *Plan) theme(r *rand.Rand, at time.Duration) time.Duration {
	ms := func(lo, hi int) time.Duration { return time.Duration(lo+r.Intn(hi-lo)) * time.Millisecond }
	add := func(f Fault) { p.Faults = append(p.Faults, f) }
	slot := r.Intn(p.Slots)
	home, next := slot%p.Nodes, (slot+1)%p.Nodes // its first shadow
	other := (slot + 2) % p.Nodes
	switch r.Intn(6) {
	case 0: // replication to one shadow lags, and the owner dies
		slow := next
		if r.Intn(2) == 0 {
			slow = other
		}
		add(Fault{At: at, Kind: Slow, Node: slow, For: ms(800, 2500)})
		at += ms(600, 1800)
		add(Fault{At: at, Kind: Crash, Node: home})
		at += ms(1000, 2000)
		add(Fault{At: at, Kind: Boot, Node: home})
	case 1: // everybody is predicted to fail, in any order
		for _, n := range r.Perm(p.Nodes) {
			add(Fault{At: at, Kind: Predict, Node: n, Mask: int(ssm.StandingWithdrawn) - r.Intn(5)/4})
			at += ms(0, 400)
		}
		at += ms(800, 2500)
		for n := range p.Nodes {
			add(Fault{At: at + ms(0, 500), Kind: Predict, Node: n})
		}
	case 2: // a shadow forgets, comes back, and the owner is lost just then
		add(Fault{At: at, Kind: Crash, Node: next})
		at += ms(300, 1200)
		add(Fault{At: at, Kind: Boot, Node: next})
		at += ms(100, 1000)
		if r.Intn(2) == 0 {
			add(Fault{At: at, Kind: Crash, Node: home})
			add(Fault{At: at + ms(1000, 3000), Kind: Boot, Node: home})
		} else {
			add(Fault{At: at, Kind: Split, Mask: 1 << home})
			add(Fault{At: at + ms(600, 3000), Kind: Heal})
		}
		at += time.Second
	case 3: // a daemon restarts among appliances that know less than it did
		add(Fault{At: at, Kind: Split, Mask: 1 << other})
		add(Fault{At: at + ms(50, 400), Kind: Move, Slot: slot + 1, Other: next})
		at += ms(700, 1600)
		add(Fault{At: at, Kind: KillDaemon, Node: next})
		at += ms(50, 350)
		add(Fault{At: at - ms(0, 60), Kind: Heal})
		add(Fault{At: at, Kind: Boot, Node: next})
	case 4: // a shadow that hears nobody stands still while the owner's route returns
		add(Fault{At: at, Kind: Split, Mask: 1 << next})
		flap := at + ms(0, 600)
		add(Fault{At: flap, Kind: RouteFlap, Node: home, For: ms(150, 700)})
		add(Fault{At: flap + ms(100, 700), Kind: Freeze, Node: next, For: ms(90, 400)})
		at += ms(1200, 2500)
		add(Fault{At: at, Kind: Heal})
	case 5: // who claimed unheard loses charon, daemon or everything, and comes back
		mask := 1 << next
		if r.Intn(2) == 0 {
			mask |= 1 << r.Intn(p.Nodes) // the registrar, perhaps
			mask &^= 1 << home
		}
		add(Fault{At: at, Kind: Split, Mask: mask})
		at += ms(700, 2000)
		end := KillDaemon
		if r.Intn(2) == 0 {
			end = Crash
		}
		add(Fault{At: at, Kind: end, Node: next})
		if r.Intn(2) == 0 {
			add(Fault{At: at + ms(10, 200), Kind: CharonDies, Node: next, Slot: slot + 1})
		}
		at += ms(200, 600)
		add(Fault{At: at, Kind: Heal})
		add(Fault{At: at + ms(0, 600) - ms(0, 200), Kind: Boot, Node: next})
	}
	return at + ms(200, 1200)
}

// deafEvery is how many plans have one with a deaf owner, on top of what else happens.
const deafEvery = 11

// deaf lets an owner hear one appliance less after the other while all hear it. It
// draws from dice of its own, so that the other plans stay what they were.
func (p *Plan) deaf() {
	if p.Seed%deafEvery != 0 {
		return
	}
	r := rand.New(rand.NewSource(^p.Seed))
	ms := func(lo, hi int) time.Duration { return time.Duration(lo+r.Intn(hi-lo)) * time.Millisecond }
	home, at := r.Intn(p.Slots)%p.Nodes, 2500*time.Millisecond+ms(0, 1500)
	for _, n := range r.Perm(p.Nodes) {
		if n != home {
			p.Faults = append(p.Faults, Fault{At: at, Kind: CutOneWay, Node: n, Other: home})
			at += ms(0, 300)
		}
	}
	if r.Intn(2) == 0 {
		p.Faults = append(p.Faults, Fault{At: at + ms(0, 1000), Kind: RouteFlap, Node: home, For: ms(300, 1500)})
	}
	at += ms(800, 2500)
	p.Faults = append(p.Faults, Fault{At: at, Kind: Heal})
	p.Span = max(p.Span, at+time.Second)
}
