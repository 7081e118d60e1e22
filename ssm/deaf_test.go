package ssm

import (
	"slices"
	"testing"
	"time"
)

// deafen cuts the ways from the given nodes to n, one way.
func (f *fleet) deafen(n Node, from ...Node) {
	for _, o := range from {
		f.cut[[2]Node{o, n}] = true
	}
}

// undelivered runs the fleet while clients' packets of slot 1 enter at n.
func (f *fleet) undelivered(n Node, d time.Duration) {
	x := f.node(n)
	for end := f.now.Add(d); f.now.Before(end) && len(f.bad) == 0; f.run(20 * time.Millisecond) {
		for _, s := range x.core.Unheard() {
			f.step(x, EvUndeliverable{s})
		}
	}
}

func TestPacketsForADeafOwnerGoThroughOneItHears(t *testing.T) {
	f := newFleet(60, 3, 1)
	settled(t, f)
	n2 := f.node("n2")
	f.deafen("n0", "n2")
	f.undelivered("n2", 3*time.Second)
	check(t, f)
	s := n2.core.slots[1]
	if n2.core.suspected("n0") || s.steered.Uplink.Remote != "n1" {
		t.Fatalf("n2 suspects n0: %t; packets of its slot go to %q, want no and n1\n%s", n2.core.suspected("n0"), s.steered.Uplink.Remote, f.trace())
	}
	if got := f.owner(1); !slices.Equal(got, []Node{"n0"}) {
		t.Fatalf("slot 1 is owned by %v although n1 reaches n0\n%s", got, f.trace())
	}
	// New clients that enter there are not turned away.
	if got := n2.core.clientSlots(); len(got) != 1 {
		t.Errorf("new clients at n2 get slots %v, want the one", got)
	}
	// The way through n1 fails as well: n0 says that it hears nobody.
	f.deafen("n0", "n1")
	f.undelivered("n2", 2*time.Second)
	check(t, f)
	if got := f.owner(1); !slices.Equal(got, []Node{"n0", "n2"}) && !slices.Equal(got, []Node{"n0", "n1"}) {
		t.Fatalf("slot 1 is owned by %v, want by n0, which cannot know, and by its heir\n%s", got, f.trace())
	}
	clear(f.cut)
	f.run(3 * time.Second)
	check(t, f)
	if got := f.owner(1); len(got) != 1 || got[0] == "n0" {
		t.Fatalf("slot 1 is owned by %v after everything healed, want the heir alone\n%s", got, f.trace())
	}
	if n2.core.deaf("n0") {
		t.Error("n0 is still taken for deaf")
	}
}

func TestADeafOwnerIsNotOvertakenWithoutEvidence(t *testing.T) {
	f := newFleet(61, 3, 1)
	settled(t, f)
	f.deafen("n0", "n1", "n2")
	f.run(5 * time.Second)
	check(t, f)
	if got := f.owner(1); !slices.Equal(got, []Node{"n0"}) {
		t.Fatalf("slot 1 is owned by %v: n0 serves those who enter at it\n%s", got, f.trace())
	}
	for _, n := range []Node{"n1", "n2"} {
		v := f.node(n).core.View()
		if i := slices.IndexFunc(v.Peers, func(p PeerView) bool { return p.Node == "n0" }); !v.Peers[i].Deaf || v.Peers[i].Suspect {
			t.Errorf("%s does not show that n0 is deaf: %+v", n, v.Peers[i])
		}
	}
}

// Somebody else may reach the owner although we do not hear them.
func TestADeafOwnerThatHearsSomebodyKeepsItsSlot(t *testing.T) {
	f := newFleet(62, 3, 1)
	settled(t, f)
	f.partition([]Node{"n2"}, true)
	delete(f.cut, [2]Node{"n0", "n2"}) // n2 hears n0 alone
	f.undelivered("n2", 4*time.Second)
	check(t, f)
	if got := f.owner(1); !slices.Equal(got, []Node{"n0"}) {
		t.Fatalf("slot 1 is owned by %v, want n0, which n1 reaches\n%s", got, f.trace())
	}
}

// Who comes back has not heard us yet.
func TestAnOwnerThatComesBackIsNotDeaf(t *testing.T) {
	f := newFleet(63, 3, 1)
	settled(t, f)
	f.partition([]Node{"n2"}, true)
	f.run(3 * time.Second)
	f.partition([]Node{"n2"}, false)
	n2 := f.node("n2")
	for range 100 {
		f.run(20 * time.Millisecond)
		if n2.core.deaf("n0") {
			t.Fatalf("n0 is taken for deaf\n%s", f.trace())
		}
	}
	check(t, f)
}

// A planned move would hang at a target that hears nothing.
func TestNoMoveToADeafShadow(t *testing.T) {
	f := newFleet(64, 3, 1)
	settled(t, f)
	f.deafen("n1", "n0")
	f.run(time.Second)
	n0 := f.node("n0")
	if why := n0.core.unfit(n0.core.slots[1], "n1"); why != "n1 does not hear this appliance" {
		t.Errorf("n1 is unfit because %q", why)
	}
	if why := n0.core.unfit(n0.core.slots[1], "n2"); why != "" {
		t.Errorf("n2 is unfit because %q", why)
	}
}

// An owner that must rise above what a rebooted member may have claimed arms its
// shadows first. One that does not hear it would claim behind its numbers.
func TestAnOwnerDoesNotRiseAboveAShadowThatIsDeaf(t *testing.T) {
	f := newFleet(65, 3, 1)
	settled(t, f)
	n0, n1, n2 := f.node("n0"), f.node("n1"), f.node("n2") // the registrar
	f.deafen("n1", "n0", "n2")
	f.crash(n2)
	f.run(500 * time.Millisecond)
	f.boot(n2)
	f.run(4 * time.Second)
	check(t, f)
	if s := n0.core.slots[1]; s.role != RoleOwner || n1.core.slots[1].armed <= s.ticket {
		t.Fatalf("n0 is %s by ticket %d, and n1, which cannot hear of it, is armed with %d\n%s", s.role, s.ticket, n1.core.slots[1].armed, f.trace())
	}
	clear(f.cut)
	f.run(3 * time.Second)
	check(t, f)
	if s, armed := n0.core.slots[1], n1.core.slots[1].armed; s.outbid >= s.ticket || armed <= s.ticket {
		t.Errorf("n0 is outbid by %d and owns by %d, n1 is armed with %d, want the slot in order\n%s", s.outbid, s.ticket, armed, f.trace())
	}
}
