package sim

import (
	"fmt"
	"math/rand"
	"strconv"
	"strings"
	"time"
)

// FaultKind is what goes wrong, or is asked for.
type FaultKind string

// The kinds.
const (
	Crash      FaultKind = "crash"       // Node loses power; memory is gone
	Boot       FaultKind = "boot"        // Node starts, also after KillDaemon
	KillDaemon FaultKind = "kill-daemon" // kernel and charons live on
	Freeze     FaultKind = "freeze"      // the daemon of Node stands still for For
	CutOneWay  FaultKind = "cut-one-way" // Node no longer reaches Other
	Split      FaultKind = "split"       // the nodes of Mask are alone with each other
	Shatter    FaultKind = "shatter"     // the nodes fall apart into the groups of Mask's digits, base 3
	Heal       FaultKind = "heal"        // the network is whole, Loss is 0
	Loss       FaultKind = "loss"        // share of datagrams lost, in per mille of Mask
	Slow       FaultKind = "slow"        // replication to Node takes For
	CharonDies FaultKind = "charon-dies" // on Node, slot Slot
	Move       FaultKind = "move"        // whoever owns Slot is asked to give it to Other
	Predict    FaultKind = "predict"     // Node's health says standing Mask
	Operate    FaultKind = "operate"     // Node's operator says standing Mask
	Reshape    FaultKind = "reshape"     // the shadows of Slot shall be the nodes of Mask
	RouteFlap  FaultKind = "route-flap"  // Node's liveness route goes for For
)

// Fault is one entry of a plan. Fields that Kind does not name are unused.
type Fault struct {
	At          time.Duration
	Kind        FaultKind
	Node, Other int
	Slot        int
	Mask        int
	For         time.Duration
}

func (f Fault) String() string {
	s := fmt.Sprintf("%7.3f %s", f.At.Seconds(), f.Kind)
	switch f.Kind {
	case Crash, Boot, KillDaemon:
		s += fmt.Sprintf(" n%d", f.Node)
	case Freeze, Slow, RouteFlap:
		s += fmt.Sprintf(" n%d for %s", f.Node, f.For)
	case CutOneWay:
		s += fmt.Sprintf(" n%d -> n%d", f.Node, f.Other)
	case Split:
		s += fmt.Sprintf(" %b", f.Mask)
	case Shatter:
		s += " " + strconv.FormatInt(int64(f.Mask), groups)
	case Loss:
		s += fmt.Sprintf(" %d per mille", f.Mask)
	case CharonDies:
		s += fmt.Sprintf(" n%d slot %d", f.Node, f.Slot)
	case Reshape:
		s += fmt.Sprintf(" slot %d to %b", f.Slot, f.Mask)
	case Move:
		s += fmt.Sprintf(" slot %d to n%d", f.Slot, f.Other)
	case Predict, Operate:
		s += fmt.Sprintf(" n%d standing %d", f.Node, f.Mask)
	}
	return s
}

// groups is into how many parts a Shatter breaks the fleet.
const groups = 3

// Plan is everything about a run but the dice of the network.
type Plan struct {
	Seed  int64
	Nodes int // 3 to 7
	Slots int
	// Dynamic: the owners choose the shadows of their slots.
	Dynamic bool
	Span    time.Duration // faults happen within; then everything heals
	Faults  []Fault
}

func (p Plan) String() string {
	var b strings.Builder
	sets := "fixed sets"
	if p.Dynamic {
		sets = "sets that change"
	}
	fmt.Fprintf(&b, "seed %d: %d appliances, %d slots, %s, %s\n", p.Seed, p.Nodes, p.Slots, sets, p.Span)
	for _, f := range p.Faults {
		fmt.Fprintf(&b, "  %s\n", f)
	}
	return b.String()
}

// NewPlan draws a plan from a seed.
func NewPlan(seed int64) Plan {
	r := rand.New(rand.NewSource(seed))
	p := Plan{Seed: seed, Nodes: 3 + r.Intn(5), Span: time.Duration(4000+r.Intn(5000)) * time.Millisecond}
	p.Slots = 1 + r.Intn(min(p.Nodes, 4))
	ms := func(lo, hi int) time.Duration { return time.Duration(lo+r.Intn(hi-lo)) * time.Millisecond }
	add := func(f Fault) { p.Faults = append(p.Faults, f) }
	// The fleet has come up after about two seconds.
	at := 2500 * time.Millisecond
	if r.Intn(3) == 0 {
		at = p.theme(r, at+ms(0, 800))
		p.Span = max(p.Span, at+time.Second)
	}
	for ; at < p.Span; at += ms(50, 1500) {
		n, o := r.Intn(p.Nodes), r.Intn(p.Nodes)
		f := Fault{At: at, Node: n, Other: o, Slot: 1 + r.Intn(p.Slots)}
		switch r.Intn(24) {
		case 0, 1, 2:
			f.Kind = Crash
			add(Fault{At: at + ms(300, 4000), Kind: Boot, Node: n})
		case 3, 4:
			f.Kind = KillDaemon
			add(Fault{At: at + ms(50, 3000), Kind: Boot, Node: n})
		case 5, 6:
			f.Kind, f.For = Freeze, ms(100, 3000)
		case 7:
			f.Kind = CutOneWay
			add(Fault{At: at + ms(200, 3000), Kind: Heal})
		case 8, 9, 10:
			f.Kind, f.Mask = Split, 1+r.Intn(1<<p.Nodes-2)
			if p.Nodes >= 5 && r.Intn(3) == 0 {
				f.Kind, f.Mask = Shatter, 0
				for range p.Nodes {
					f.Mask = f.Mask*groups + r.Intn(groups)
				}
			}
			add(Fault{At: at + ms(200, 4000), Kind: Heal})
		case 11:
			f.Kind, f.Mask = Loss, 50+r.Intn(400)
			add(Fault{At: at + ms(200, 3000), Kind: Heal})
		case 12:
			f.Kind, f.For = Slow, ms(200, 2000)
		case 13, 14:
			f.Kind = CharonDies
		case 15, 16, 17, 18:
			f.Kind = Move
		case 19, 20:
			f.Kind, f.Mask = Predict, r.Intn(5)
		case 21:
			f.Kind, f.Mask = Operate, []int{0, 0, 3, 4}[r.Intn(4)]
			add(Fault{At: at + ms(500, 4000), Kind: Operate, Node: n})
		default:
			f.Kind, f.For = RouteFlap, ms(100, 1500)
		}
		add(f)
	}
	p.deaf()
	if p.Dynamic = r.Intn(2) == 0; p.Dynamic {
		p.reshapes(r)
	}
	return p
}
