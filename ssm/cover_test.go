package ssm

import (
	"slices"
	"testing"
	"time"
)

// covered is a settled fleet in which n0 owns slot 1, whose sessions the first of order
// holds whole and the others in part.
func covered(t *testing.T, seed int64, order ...Node) *fleet {
	f := newFleetWith(seed, 3, 3, patient)
	settled(t, f)
	f.step(f.node("n0"), EvCover{Slot: 1, Order: order})
	f.run(300 * time.Millisecond)
	for _, n := range order {
		if got := f.node(n).core.slots[1].cover; !slices.Equal(got, order) {
			t.Fatalf("%s knows the order %v, want %v", n, got, order)
		}
	}
	return f
}

func TestWhoHoldsMostClaimsFirst(t *testing.T) {
	for seed := range int64(6) {
		for _, order := range [][]Node{{"n1", "n2"}, {"n2", "n1"}} {
			f := covered(t, 60+seed, order...)
			f.crash(f.node("n0"))
			f.run(time.Second)
			check(t, f)
			if got := f.owner(1); !slices.Equal(got, order[:1]) {
				t.Errorf("seed %d, order %v: slot 1 is owned by %v\n%s", seed, order, got, f.trace())
			}
			if got := f.node(order[0]).core.slots[1].cover; got != nil {
				t.Errorf("the new owner goes by the order of the old one, %v", got)
			}
		}
	}
}

// Who holds a part takes over where the one that holds all is gone, too.
func TestPartIsBetterThanNothing(t *testing.T) {
	f := covered(t, 70, "n1", "n2")
	f.crash(f.node("n0"))
	f.crash(f.node("n1"))
	f.run(3 * time.Second)
	check(t, f)
	if got := f.owner(1); !slices.Equal(got, []Node{"n2"}) {
		t.Errorf("slot 1 is owned by %v\n%s", got, f.trace())
	}
}

func TestMoveWaitsUntilItsTargetHoldsAll(t *testing.T) {
	f := covered(t, 71, "n1", "n2")
	n := f.node("n0")
	var asked []Node
	for _, a := range n.core.Step(EvMove{Slot: 1, To: "n2", ID: 5, Reason: "test"}, f.now) {
		if x, ok := a.(ActCover); ok {
			asked = append(asked, x.First)
		}
		f.act(n, a)
	}
	if !slices.Equal(asked, []Node{"n2"}) {
		t.Errorf("the shell is asked to cover %v first, want n2", asked)
	}
	f.run(7 * time.Second) // beyond the patience of the phase
	if m := n.core.slots[1].move; m == nil || m.phase != phasePrepare {
		t.Fatalf("the move to a target with a part of the sessions: %+v\n%s", m, f.trace())
	}
	f.step(n, EvCover{Slot: 1, Order: []Node{"n2", "n1"}})
	f.run(4 * time.Second)
	check(t, f)
	if got := f.owner(1); !slices.Equal(got, []Node{"n2"}) {
		t.Errorf("slot 1 is owned by %v\n%s", got, f.trace())
	}
}

func TestMoveToWhoNeverHoldsAllIsGivenUp(t *testing.T) {
	f := covered(t, 72, "n1", "n2")
	n := f.node("n0")
	f.step(n, EvMove{Slot: 1, To: "n2", ID: 5, Reason: "test"})
	f.run(patience[phasePrepare] + coverPatience - time.Second)
	if n.core.slots[1].move == nil {
		t.Fatalf("given up early\n%s", f.trace())
	}
	f.run(2 * time.Second)
	check(t, f)
	if m := n.core.slots[1].move; m != nil {
		t.Errorf("the move goes on: %+v", m)
	}
	if got := f.owner(1); !slices.Equal(got, []Node{"n0"}) {
		t.Errorf("slot 1 is owned by %v\n%s", got, f.trace())
	}
}

// An owner whose charon died does not give the slot to one that would end sessions.
func TestDeadCharonYieldsToWhoHoldsAll(t *testing.T) {
	f := covered(t, 73, "n2", "n1")
	f.step(f.node("n0"), EvCharonDied{1})
	f.run(100 * time.Millisecond)
	if got := f.owner(1); !slices.Equal(got, []Node{"n2"}) {
		t.Errorf("slot 1 is owned by %v\n%s", got, f.trace())
	}
	f = covered(t, 74, "n2", "n1")
	f.crash(f.node("n2"))
	f.run(time.Second)
	f.step(f.node("n0"), EvCharonDied{1})
	f.run(2 * time.Second)
	check(t, f)
	if got := f.owner(1); !slices.Equal(got, []Node{"n0"}) {
		t.Errorf("n1 has a part: slot 1 is owned by %v, want n0 refed in place\n%s", got, f.trace())
	}
}

func TestOrderOfStrangersIsRefused(t *testing.T) {
	c := joined(t)
	as := c.tell("n0", SlotReport{Owner: "n0", OwnerTicket: 1, Set: []Node{"n1"}, Version: 3, Cover: []Node{"n1", "nowhere"}})
	if !has[ActRefuse](as) || c.slots[1].cover != nil {
		t.Errorf("the order of a stranger is taken: %v", c.slots[1].cover)
	}
}

// A new owner asks those that may hold what it lacks, and nobody else.
func TestWhoMayKnowMoreIsAsked(t *testing.T) {
	f := covered(t, 72, "n1", "n2")
	n1, n2 := f.node("n1").core, f.node("n2").core
	ask := func(what string, c *Core, want ...Node) {
		t.Helper()
		if got := c.knowMore(c.slots[1]); !slices.Equal(got, want) {
			t.Errorf("%s: %s asks %v, want %v", what, c.cfg.Self, got, want)
		}
	}
	ask("settled", n1)
	ask("holds a part", n2, "n1")
	n2.slots[1].seen++ // it has more of what the owner told, of its part
	ask("ahead, with a part", n2, "n1")
	p := n1.peers["n2"]
	r := p.slots[1]
	r.Seen = n1.slots[1].seen + 1
	p.slots[1] = r
	ask("behind", n1, "n2")
	r.OwnerTicket--
	p.slots[1] = r
	ask("behind one that follows another owner", n1)
	r.OwnerTicket, r.Seen = n1.slots[1].ticket, 0
	p.slots[1] = r
	n1.slots[1].ready = false
	ask("incomplete", n1, "n2")
	p.suspect = true
	ask("incomplete, the other one silent", n1)

	f = covered(t, 73, "n1", "n2")
	f.crash(f.node("n0"))
	f.run(100 * time.Millisecond)
	c := f.node("n2").core
	c.claim(c.slots[1], "test", 0, true)
	for _, a := range c.out {
		if x, ok := a.(ActOwn); ok && !slices.Equal(x.Ask, []Node{"n1"}) {
			t.Errorf("the claim asks %v", x.Ask)
		}
	}
}

// An owner whose daemon was restarted asks every shadow that lives.
func TestRestartedOwnerAsksItsShadows(t *testing.T) {
	c := newSetCore(t, "n0")
	c.Step(EvAdopted{Slot: 1, Ticket: 1, Set: []Node{"n1", "n2"}}, c.now)
	for range 100 {
		for _, a := range c.tell("n1", SlotReport{Owner: "n0", OwnerTicket: 1, Armed: 2, Ready: true}) {
			if x, ok := a.(ActOwn); ok {
				if x.Takeover || !slices.Equal(x.Ask, []Node{"n1"}) {
					t.Errorf("takeover %t, asks %v, want the one that is heard", x.Takeover, x.Ask)
				}
				return
			}
		}
	}
	t.Error("it never went on as owner")
}
