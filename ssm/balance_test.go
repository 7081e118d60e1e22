package ssm

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

func shedding(c *Config) { c.ShedLoad, c.HoldDown = 0.85, 5*time.Second }

// loads tells every appliance its load for d, computed from who owns what.
func (f *fleet) loads(d time.Duration, perSlot map[sa.Slot]float64) {
	for end := f.now.Add(d); f.now.Before(end); {
		for _, n := range f.nodes {
			if !n.up {
				continue
			}
			load, sessions := 0.05, map[sa.Slot]int{}
			for slot, share := range perSlot {
				if n.core.slots[slot].role == RoleOwner {
					load += share
					sessions[slot] = int(1000 * share)
				}
			}
			f.step(n, EvLoad{Load: load, Sessions: sessions})
		}
		f.run(500 * time.Millisecond)
	}
}

func TestOverloadShedsNewSessionsThenASlot(t *testing.T) {
	f := newFleetWith(41, 3, 6, shedding)
	settled(t, f)
	heavy := map[sa.Slot]float64{1: 0.55, 4: 0.35, 2: 0.1, 3: 0.2}
	f.loads(shedAfter+2*time.Second, heavy)
	n := f.node("n0")
	if n.core.fit.worst.Source != SourceLoad || f.level("n0") != LevelDegraded {
		t.Fatalf("after %s of load: %+v at level %s\n%s", shedAfter, n.core.fit.worst, f.level("n0"), f.trace())
	}
	if slices.Contains(n.core.newClients, 1) || slices.Contains(n.core.newClients, 4) {
		t.Errorf("new clients at the overloaded n0 go to %v", n.core.newClients)
	}
	f.loads(shedMoveAfter+10*time.Second, heavy)
	// Moving slot 4 leaves 0.6 here and at most 0.5 there; slot 1 would leave less here
	// and more there.
	if got := f.owner(4); slices.Equal(got, []Node{"n0"}) {
		t.Fatalf("slot 4 is still owned by n0\n%s", f.trace())
	}
	if got := f.owner(1); !slices.Equal(got, []Node{"n0"}) {
		t.Errorf("slot 1 moved too, to %v", got)
	}
	// And it stays there: no to and fro though its home is well.
	moves := strings.Count(strings.Join(f.log, "\n"), "move done")
	f.loads(5*time.Minute, heavy)
	if again := strings.Count(strings.Join(f.log, "\n"), "move done"); again != moves {
		t.Errorf("%d moves became %d while the load stayed as it was\n%s", moves, again, f.trace())
	}
	// The load goes: the slot returns, the routers are told.
	f.loads(calmAfter+30*time.Second, map[sa.Slot]float64{1: 0.1, 4: 0.1})
	if got := f.owner(4); !slices.Equal(got, []Node{"n0"}) || f.level("n0") != LevelNormal {
		t.Errorf("the load is gone: slot 4 is owned by %v, level %s\n%s", got, f.level("n0"), f.trace())
	}
	check(t, f)
}

// Everybody is overloaded: nothing moves, and the log says so once.
func TestOverloadEverywhereMovesNothing(t *testing.T) {
	f := newFleetWith(42, 3, 3, shedding)
	settled(t, f)
	f.loads(10*time.Minute, map[sa.Slot]float64{1: 0.9, 2: 0.9, 3: 0.9})
	check(t, f)
	for _, s := range f.cfg.Slots {
		if got := f.owner(s.Slot); !slices.Equal(got, []Node{s.Home}) {
			t.Errorf("slot %d is owned by %v", s.Slot, got)
		}
	}
	if n := strings.Count(strings.Join(f.log, "\n"), "no slot moves away"); n != 3 {
		t.Errorf("%d appliances said that they get no relief, want each once", n)
	}
	if got := f.node("n0").core.newClients; !slices.Equal(got, []sa.Slot{1}) {
		t.Errorf("new clients at n0 go to %v though everybody is overloaded", got)
	}
}

// A short burst moves nothing and tells the routers nothing.
func TestBurstIsNoOverload(t *testing.T) {
	f := newFleetWith(43, 3, 3, shedding)
	settled(t, f)
	for range 10 {
		f.loads(shedAfter/2, map[sa.Slot]float64{1: 0.95})
		f.loads(shedAfter/2, map[sa.Slot]float64{1: 0.3})
	}
	check(t, f)
	if f.level("n0") != LevelNormal || strings.Contains(strings.Join(f.log, "\n"), "load:") {
		t.Errorf("bursts led to level %s\n%s", f.level("n0"), f.trace())
	}
}

// One failure returns after the hold-down; the third in a row does not.
func TestReturnsAreDampened(t *testing.T) {
	f := newFleetWith(44, 3, 3, func(c *Config) { c.HoldDown, c.DampHalfLife = 2*time.Second, 30*time.Second })
	settled(t, f)
	fail := func() time.Duration {
		f.crash(f.node("n0"))
		f.run(time.Second)
		f.boot(f.node("n0"))
		f.run(time.Second)
		for _, o := range f.owner(1) { // the stream to the rebooted shadow caught up
			f.step(f.node(o), EvReplica{1, "n0", true})
		}
		for i := range 200 {
			f.run(100 * time.Millisecond)
			if got := f.owner(1); slices.Equal(got, []Node{"n0"}) {
				return time.Duration(i) * 100 * time.Millisecond
			}
		}
		return time.Hour
	}
	if d := fail(); d > 15*time.Second {
		t.Fatalf("after one failure slot 1 took %s to return\n%s", d, f.trace())
	}
	if d := fail(); d != time.Hour {
		t.Fatalf("after two failures slot 1 returned within %s\n%s", d, f.trace())
	}
	if !strings.Contains(f.trace(), "do not return before") {
		t.Errorf("nobody said why\n%s", f.trace())
	}
	f.run(50 * time.Second)
	check(t, f)
	if got := f.owner(1); !slices.Equal(got, []Node{"n0"}) {
		t.Errorf("slot 1 is owned by %v after the penalty has decayed\n%s", got, f.trace())
	}
}
