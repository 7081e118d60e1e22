package ssm

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

func (f *fleet) level(n Node) Level { return f.node(n).core.announced.Level }

// newFleetWith is newFleet with another configuration.
func newFleetWith(seed int64, n, slots int, change func(*Config)) *fleet {
	f := newFleet(seed, n, slots)
	change(&f.cfg)
	for _, x := range f.nodes {
		x.inc = 0
		f.boot(x)
	}
	return f
}

// patient fleets drain so slowly that only what happens at once is seen.
func patient(c *Config) { c.DrainTime = time.Hour }

func TestStandingNames(t *testing.T) {
	for s := StandingNormal; s <= StandingWithdrawn; s++ {
		b, err := s.MarshalText()
		var back Standing
		if err != nil || back.UnmarshalText(b) != nil || back != s {
			t.Errorf("%v reads back as %v, %v", s, back, err)
		}
	}
	var s Standing
	if err := s.UnmarshalText([]byte("ill")); err == nil || !strings.Contains(err.Error(), "normal, watch, degraded, draining, withdrawn") {
		t.Errorf("an unknown name: %v", err)
	}
}

// The worst of all sources counts, and each takes back only its own word.
func TestWorstStandingCounts(t *testing.T) {
	f := newFleetWith(11, 3, 3, patient)
	settled(t, f)
	n := f.node("n0")
	for i, x := range []struct {
		ev    EvStanding
		want  Standing
		level Level
	}{
		{EvStanding{Source: SourceHealth, Standing: StandingWatch, Risk: 0.01}, StandingWatch, LevelNormal},
		{EvStanding{Source: SourceHealth, Standing: StandingDegraded, Risk: 0.1}, StandingDegraded, LevelDegraded},
		{EvStanding{Source: SourceOperator, Standing: StandingDraining}, StandingDraining, LevelDraining},
		{EvStanding{Source: SourceHealth, Standing: StandingNormal}, StandingDraining, LevelDraining},
		{EvStanding{Source: SourceMaintenance, Standing: StandingWithdrawn}, StandingWithdrawn, LevelWithdrawn},
		{EvStanding{Source: SourceMaintenance, Standing: StandingNormal}, StandingDraining, LevelDraining},
		{EvStanding{Source: SourceOperator, Standing: StandingNormal}, StandingNormal, LevelNormal},
	} {
		f.step(n, x.ev)
		if got := n.core.fit.worst.Standing; got != x.want || f.level("n0") != x.level {
			t.Fatalf("step %d %+v: %s at level %s, want %s at %s", i, x.ev, got, f.level("n0"), x.want, x.level)
		}
		f.run(200 * time.Millisecond)
		for _, o := range []Node{"n1", "n2"} {
			if p := f.node(o).core.peers["n0"]; p.standing != x.want || p.level != x.level || p.risk != n.core.fit.risk {
				t.Fatalf("step %d: %s believes that n0 is %s at %s with risk %v", i, o, p.standing, p.level, p.risk)
			}
		}
	}
	check(t, f)
}

// New clients that enter at an appliance that is leaving go to slots of others.
func TestNewClientsLeaveFirst(t *testing.T) {
	f := newFleetWith(12, 3, 3, patient)
	settled(t, f)
	n := f.node("n0")
	if got := n.core.newClients; !slices.Equal(got, []sa.Slot{1}) {
		t.Fatalf("new clients at n0 go to %v, want its home slot 1", got)
	}
	f.step(n, EvStanding{Source: SourceOperator, Standing: StandingDraining})
	if got := n.core.newClients; !slices.Equal(got, []sa.Slot{2, 3}) {
		t.Fatalf("new clients at the leaving n0 go to %v, want the slots 2 and 3 of others", got)
	}
	f.step(f.node("n1"), EvStanding{Source: SourceHealth, Standing: StandingDraining})
	f.run(200 * time.Millisecond)
	if got := n.core.newClients; !slices.Equal(got, []sa.Slot{3}) {
		t.Fatalf("n1 is leaving too: new clients at n0 go to %v, want slot 3", got)
	}
	f.step(f.node("n2"), EvStanding{Source: SourceHealth, Standing: StandingDraining})
	f.run(200 * time.Millisecond)
	if got := n.core.newClients; !slices.Equal(got, []sa.Slot{1}) {
		t.Fatalf("everybody is leaving: new clients at n0 go to %v, want its own slot", got)
	}
	check(t, f)
}

// I6: however predictions fall and appliances die, somebody living announces.
func TestPredictionNeverWithdrawsTheLast(t *testing.T) {
	f := newFleetWith(13, 3, 3, patient)
	settled(t, f)
	withdraw := EvStanding{Source: SourceHealth, Standing: StandingWithdrawn, Reason: "fan", Risk: 0.6}
	announced := func() (out []Node) {
		for _, n := range f.nodes {
			if n.up && f.level(n.name).Announced() {
				out = append(out, n.name)
			}
		}
		return out
	}
	// All at once: each must not count on the others.
	for _, n := range f.nodes {
		f.step(n, withdraw)
	}
	for range 400 {
		f.run(5 * time.Millisecond)
		if len(announced()) != 3 {
			t.Fatalf("all predict their end: only %v announce\n%s", announced(), f.trace())
		}
	}
	if !strings.Contains(f.trace(), "the VIP stays announced") {
		t.Fatalf("nobody said why the VIP stays\n%s", f.trace())
	}
	// One recovers: the others may go.
	f.step(f.node("n2"), EvStanding{Source: SourceHealth})
	f.run(time.Second)
	if got := announced(); !slices.Equal(got, []Node{"n2"}) {
		t.Fatalf("n2 is well: %v announce\n%s", got, f.trace())
	}
	// It dies: they come back.
	f.crash(f.node("n2"))
	f.run(time.Second)
	if got := announced(); !slices.Equal(got, []Node{"n0", "n1"}) {
		t.Fatalf("n2 died: %v announce\n%s", got, f.trace())
	}
	check(t, f)
}

// What is certain may withdraw the last announcement, with a warning.
func TestCertaintyWithdrawsTheLast(t *testing.T) {
	for _, ev := range []EvStanding{
		{Source: SourceOperator, Standing: StandingWithdrawn},
		{Source: SourceMaintenance, Standing: StandingWithdrawn},
		{Source: SourceHealth, Standing: StandingWithdrawn, Hard: true, Reason: "uplink gone"},
	} {
		f := newFleetWith(14, 3, 3, patient)
		settled(t, f)
		f.crash(f.node("n1"))
		f.crash(f.node("n2"))
		f.run(2 * time.Second)
		f.step(f.node("n0"), ev)
		if f.level("n0") != LevelWithdrawn || !strings.Contains(f.trace(), "though no other appliance announces it") {
			t.Errorf("%+v: level %s\n%s", ev, f.level("n0"), f.trace())
		}
	}
}
