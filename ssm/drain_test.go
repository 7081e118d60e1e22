package ssm

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// drained answers EvEntry like the shell does and waits for the end of a drain.
func (f *fleet) drained(t *testing.T, n Node, within time.Duration) *DrainAccount {
	t.Helper()
	var acc *DrainAccount
	f.untilDrain(n, within, func(r ActReport) bool { acc = r.Account; return r.Account != nil })
	check(t, f)
	if acc == nil {
		t.Fatalf("the drain of %s did not end within %s\n%s", n, within, f.trace())
	}
	return acc
}

// untilDrain runs until a report of n satisfies f.
func (f *fleet) untilDrain(n Node, within time.Duration, ok func(ActReport) bool) {
	x := f.node(n)
	seen := len(f.reports)
	for end := f.now.Add(within); f.now.Before(end) && len(f.bad) == 0; {
		f.run(25 * time.Millisecond)
		if x.core.WatchesEntry() {
			f.step(x, EvEntry{7})
		}
		for ; seen < len(f.reports); seen++ {
			if r := f.reports[seen]; r.node == n && ok(r.ActReport) {
				return
			}
		}
	}
}

func drainAsked(on bool) EvStanding {
	e := EvStanding{Source: SourceOperator, Reason: "test", Drain: 77}
	if on {
		e.Standing = StandingDraining
	}
	return e
}

func quick(c *Config) { c.DrainTime = 200 * time.Millisecond; c.DrainRate = 600 }

func TestDrainMovesEverySlotAndWithdraws(t *testing.T) {
	f := newFleetWith(21, 3, 6, quick)
	settled(t, f)
	n := f.node("n0")
	f.step(n, EvLoad{Load: 0.2, Sessions: map[sa.Slot]int{1: 5, 4: 3}})
	f.step(n, drainAsked(true))
	acc := f.drained(t, "n0", 20*time.Second)
	if !slices.Equal(acc.Slots, []sa.Slot{1, 4}) || acc.Sessions != 8 || acc.Entered {
		t.Errorf("the account is %+v, want slots 1 and 4 with 8 sessions", acc)
	}
	if len(acc.To) == 2 && acc.To[0] == acc.To[1] {
		t.Errorf("both slots went to %s: the load must spread", acc.To[0])
	}
	var phases []DrainPhase
	for _, p := range acc.Phases {
		phases = append(phases, p.Phase)
	}
	if want := []DrainPhase{DrainPrepare, DrainSessions, DrainMove, DrainVerify, DrainWithdraw}; !slices.Equal(phases, want) {
		t.Errorf("phases %v, want %v", phases, want)
	}
	if f.level("n0") != LevelWithdrawn {
		t.Errorf("the VIP is at level %s after the drain", f.level("n0"))
	}
	// And back.
	f.step(n, drainAsked(false))
	f.run(time.Second)
	if f.level("n0") != LevelDegraded { // it owns nothing yet
		t.Errorf("the VIP is at level %s after undrain", f.level("n0"))
	}
	check(t, f)
}

// The order of a drain: nobody hears of a withdrawn VIP while a slot is here or
// packets enter.
func TestDrainWaitsForEntryToEnd(t *testing.T) {
	f := newFleetWith(22, 3, 3, quick)
	settled(t, f)
	n := f.node("n0")
	f.step(n, drainAsked(true))
	f.untilDrain("n0", 20*time.Second, func(r ActReport) bool { return r.Phase == string(DrainVerify) })
	packets := uint64(100)
	for range 40 { // 2 s, packets enter all the time
		f.run(50 * time.Millisecond)
		packets++
		f.step(n, EvEntry{packets})
		if f.level("n0") != LevelDraining {
			t.Fatalf("level %s while packets enter\n%s", f.level("n0"), f.trace())
		}
	}
	for range 20 {
		f.run(50 * time.Millisecond)
		f.step(n, EvEntry{packets})
	}
	f.run(100 * time.Millisecond)
	if f.level("n0") != LevelWithdrawn {
		t.Fatalf("level %s a second after the last packet\n%s", f.level("n0"), f.trace())
	}
	// A router that ignores the MED: patience ends, the account says so.
	f.step(n, drainAsked(false))
	f.run(3 * time.Second)
	f.step(n, drainAsked(true))
	for range 600 {
		f.run(50 * time.Millisecond)
		packets++
		f.step(n, EvEntry{packets})
	}
	last := f.reports[len(f.reports)-1]
	for _, r := range f.reports {
		if r.Account != nil {
			last = r
		}
	}
	if last.Account == nil || !last.Account.Entered || last.Phase != string(DrainDone) {
		t.Fatalf("entry never ended: the last account is %+v\n%s", last, f.trace())
	}
}

func TestUndrainInEveryPhase(t *testing.T) {
	for _, p := range []string{"prepare", "sessions", "move", "quiesce", "flush", "take", "flip", "drain", "close", "verify", "withdraw"} {
		t.Run(p, func(t *testing.T) {
			f := newFleetWith(23, 3, 3, func(c *Config) { quick(c); c.HoldDown = time.Second })
			settled(t, f)
			n := f.node("n0")
			f.step(n, drainAsked(true))
			reached := false
			f.untilDrain("n0", 20*time.Second, func(r ActReport) bool { reached = r.Phase == p; return reached })
			if !reached {
				t.Fatalf("phase %s was never reached\n%s", p, f.trace())
			}
			f.step(n, drainAsked(false))
			for i := 0; i < 16 && (f.level("n0") != LevelNormal || len(f.owner(1)) != 1 || n.core.drain != nil); i++ {
				f.run(500 * time.Millisecond)
			}
			check(t, f)
			if got := f.owner(1); !slices.Equal(got, []Node{"n0"}) {
				t.Errorf("slot 1 is owned by %v after undrain and the hold-down\n%s", got, f.trace())
			}
			if f.level("n0") != LevelNormal || n.core.drain != nil {
				t.Errorf("level %s, drain %v after undrain", f.level("n0"), n.core.drain)
			}
		})
	}
}

// Whoever dies in whatever phase: one owner in the end, never two.
func TestDrainSurvivesDeaths(t *testing.T) {
	for _, p := range []string{"prepare", "sessions", "move", "quiesce", "flush", "take", "flip", "drain", "close", "verify", "withdraw"} {
		for _, who := range []string{"target", "owner", "target degrades", "partition"} {
			t.Run(p+"/"+who, func(t *testing.T) {
				f := newFleetWith(24, 3, 3, quick)
				settled(t, f)
				n := f.node("n0")
				f.step(n, drainAsked(true))
				reached := false
				var target Node
				f.untilDrain("n0", 20*time.Second, func(r ActReport) bool {
					if s := n.core.slots[1]; s.move != nil {
						target = s.move.to
					}
					reached = r.Phase == p
					return reached
				})
				if !reached {
					t.Fatalf("phase %s was never reached\n%s", p, f.trace())
				}
				if target == "" {
					target = n.core.candidates(n.core.slots[1], nil)[0].Node
				}
				switch who {
				case "target":
					f.crash(f.node(target))
				case "owner":
					f.crash(n)
				case "target degrades":
					f.step(f.node(target), EvStanding{Source: SourceHealth, Standing: StandingDraining, Reason: "fan"})
				case "partition":
					f.partition([]Node{target}, true)
					f.run(3 * time.Second)
					f.partition([]Node{target}, false)
				}
				var got []Node
				for range 28 {
					f.untilDrain("n0", 500*time.Millisecond, func(r ActReport) bool { return false })
					check(t, f)
					if got = f.owner(1); len(got) == 1 && (got[0] != "n0" || !n.up) {
						break
					}
				}
				f.untilDrain("n0", 500*time.Millisecond, func(r ActReport) bool { return false })
				check(t, f)
				got = f.owner(1)
				if len(got) != 1 || got[0] == "n0" && n.up {
					t.Fatalf("slot 1 is owned by %v\n%s", got, f.trace())
				}
				if who == "target degrades" && got[0] == target && slices.Contains([]string{"prepare", "sessions", "move", "quiesce"}, p) {
					t.Errorf("slot 1 went to %s, which is leaving", target)
				}
			})
		}
	}
}

// Two appliances drain at once: their slots go to the others, not in circles.
func TestTwoDrainAtOnce(t *testing.T) {
	f := newFleetWith(25, 4, 8, quick)
	settled(t, f)
	f.step(f.node("n0"), drainAsked(true))
	f.step(f.node("n1"), drainAsked(true))
	for range 20 * 40 {
		f.run(25 * time.Millisecond)
		for _, x := range []Node{"n0", "n1"} {
			if f.node(x).core.WatchesEntry() {
				f.step(f.node(x), EvEntry{1})
			}
		}
	}
	check(t, f)
	for _, s := range f.cfg.Slots {
		if got := f.owner(s.Slot); len(got) != 1 || got[0] == "n0" || got[0] == "n1" {
			t.Errorf("slot %d is owned by %v while n0 and n1 drain", s.Slot, got)
		}
	}
	if a, b := f.level("n0"), f.level("n1"); a != LevelWithdrawn || b != LevelWithdrawn {
		t.Errorf("levels %s and %s, want both withdrawn\n%s", a, b, f.trace())
	}
}

// Without anybody who could take the slots they stay, are served, and the log
// says why.
func TestDrainWithoutSuccessor(t *testing.T) {
	f := newFleetWith(26, 3, 3, quick)
	settled(t, f)
	for _, n := range []Node{"n1", "n2"} {
		f.step(f.node(n), EvTunnel{"n0", true})
		f.step(f.node("n0"), EvTunnel{n, false})
	}
	f.step(f.node("n0"), drainAsked(true))
	f.run(15 * time.Second)
	check(t, f)
	if got := f.owner(1); !slices.Equal(got, []Node{"n0"}) {
		t.Fatalf("slot 1 is owned by %v though no tunnel is up\n%s", got, f.trace())
	}
	if !strings.Contains(f.trace(), "the tunnel to n1 is down; the tunnel to n2 is down") {
		t.Errorf("nobody said why\n%s", f.trace())
	}
	f.step(f.node("n0"), EvTunnel{"n2", true})
	f.run(10 * time.Second)
	if got := f.owner(1); !slices.Equal(got, []Node{"n2"}) {
		t.Errorf("the tunnel to n2 is back: slot 1 is owned by %v\n%s", got, f.trace())
	}
}

// The deadline of a prediction shortens the time that sessions may stay.
func TestDeadlineBoundsTheWait(t *testing.T) {
	for _, x := range []struct {
		ev      EvStanding
		at, not time.Duration // moved before, not moved before
	}{
		{EvStanding{Source: SourceHealth, Standing: StandingDraining, Deadline: 10 * time.Second}, 12 * time.Second, 2 * time.Second},
		{EvStanding{Source: SourceHealth, Standing: StandingWithdrawn, Hard: true, Reason: "heat"}, 3 * time.Second, 0},
		{EvStanding{Source: SourceOperator, Standing: StandingDraining}, 40 * time.Second, 20 * time.Second},
	} {
		f := newFleetWith(27, 3, 3, func(c *Config) { c.DrainTime = 30 * time.Second })
		settled(t, f)
		f.step(f.node("n0"), x.ev)
		f.run(x.not)
		if got := f.owner(1); !slices.Equal(got, []Node{"n0"}) {
			t.Errorf("%+v: owned by %v after %s", x.ev, got, x.not)
		}
		f.run(x.at - x.not)
		if got := f.owner(1); slices.Equal(got, []Node{"n0"}) {
			t.Errorf("%+v: not moved after %s\n%s", x.ev, x.at, f.trace())
		}
		check(t, f)
	}
}

// The healthiest shadow is the successor, and the plan says so beforehand.
func TestSuccessorIsTheHealthiest(t *testing.T) {
	f := newFleetWith(28, 4, 4, quick)
	settled(t, f)
	f.step(f.node("n1"), EvStanding{Source: SourceHealth, Standing: StandingDegraded, Reason: "fan", Risk: 0.03})
	f.step(f.node("n2"), EvLoad{Load: 0.9})
	f.step(f.node("n3"), EvLoad{Load: 0.1})
	f.run(200 * time.Millisecond)
	n := f.node("n0")
	p := n.core.Plan()
	if len(p.Slots) != 1 || p.Slots[0].To != "n3" || p.Slots[0].Problem != "" || p.Last {
		t.Fatalf("the plan is %+v, want slot 1 to n3", p)
	}
	f.step(n, drainAsked(true))
	if acc := f.drained(t, "n0", 20*time.Second); !slices.Equal(acc.To, []Node{"n3"}) {
		t.Errorf("slot 1 went to %v, want n3\n%s", acc.To, f.trace())
	}
}

// A power cut: a shadow that is well claims before one that is not, whatever
// their tickets.
func TestFitShadowClaimsFirst(t *testing.T) {
	for seed := range int64(6) {
		f := newFleetWith(30+seed, 3, 3, patient)
		settled(t, f)
		ill := f.node("n0").core.armedShadows(f.node("n0").core.slots[1])[0] // the lowest ticket
		f.step(f.node(ill), EvStanding{Source: SourceHealth, Standing: StandingDegraded, Reason: "fan"})
		f.run(300 * time.Millisecond)
		f.crash(f.node("n0"))
		f.run(time.Second)
		check(t, f)
		if got := f.owner(1); len(got) != 1 || got[0] == ill {
			t.Errorf("seed %d: slot 1 is owned by %v, %s is degraded\n%s", seed, got, ill, f.trace())
		}
	}
}

// A leaving appliance still takes over when nobody else can.
func TestLeavingShadowIsTheLastResort(t *testing.T) {
	f := newFleetWith(37, 2, 2, patient)
	settled(t, f)
	f.step(f.node("n1"), drainAsked(true))
	f.run(200 * time.Millisecond)
	f.crash(f.node("n0"))
	f.run(2 * time.Second)
	check(t, f)
	if got := f.owner(1); !slices.Equal(got, []Node{"n1"}) {
		t.Errorf("slot 1 is owned by %v\n%s", got, f.trace())
	}
	if l := f.level("n1"); l != LevelDraining {
		t.Errorf("the last announcer is at level %s", l)
	}
}

func TestMoveToALeavingApplianceIsRefused(t *testing.T) {
	f := newFleetWith(38, 3, 3, patient)
	settled(t, f)
	f.step(f.node("n1"), drainAsked(true))
	f.run(200 * time.Millisecond)
	got := ""
	for _, a := range f.node("n0").core.Step(EvMove{Slot: 1, To: "n1", ID: 9}, f.now) {
		if r, ok := a.(ActReport); ok && r.Phase == "refused" {
			got = r.Reason
		}
	}
	if got != "n1 is draining" {
		t.Errorf("refused with %q", got)
	}
}
