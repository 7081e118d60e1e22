package node

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/hwhealth/collect"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/sim"
	"github.com/shadowcast/shadowcast/tests/sensors"
)

// bench is an appliance's monitor with a sensor tree, in a time of its own.
type bench struct {
	t       *testing.T
	m       *monitor
	tree    *sensors.Tree
	sources []collect.Source
	now     time.Time
	peers   func(time.Time) ssm.View
	changes []ssm.EvStanding // every change of the standing
	faults  []sim.Fault      // the same, for a simulated fleet
	start   time.Time
}

func newBench(t *testing.T) *bench {
	tree, err := sensors.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, m: newTestMonitor(t), tree: tree, now: time.Now(), peers: healthyPeers}
	b.start = b.now
	all, _ := collect.Machine(collect.Config{Roots: collect.Roots{Sys: tree.Path("sys"), Proc: tree.Path("proc"), Dev: tree.Path("dev")}, SmartDir: tree.Path("smart")})
	for _, s := range all {
		if s.Name == "hwmon-temperature" || s.Name == "smartctl" {
			b.sources = append(b.sources, s)
		}
	}
	if len(b.sources) != 2 {
		t.Fatalf("%d sources, want two", len(b.sources))
	}
	return b
}

// set fails the test where a sensor could not be written.
func (b *bench) set(errs ...error) {
	b.t.Helper()
	for _, err := range errs {
		if err != nil {
			b.t.Fatal(err)
		}
	}
}

// run reads and assesses every so often.
func (b *bench) run(span, every time.Duration) {
	b.t.Helper()
	for end := b.now.Add(span); b.now.Before(end); b.now = b.now.Add(every) {
		b.set(os.Chtimes(filepath.Join(b.tree.Path("smart"), "nvme0.json"), b.now, b.now))
		for _, s := range b.sources {
			for _, x := range s.Read(b.t.Context(), b.now) {
				b.m.predictor.Observe(x, b.now)
			}
		}
		ev := b.m.assess(b.peers(b.now), b.now)
		if n := len(b.changes); n == 0 && ev.Standing != ssm.StandingNormal || n > 0 && b.changes[n-1].Standing != ev.Standing {
			b.changes = append(b.changes, ev)
			b.faults = append(b.faults, sim.Fault{At: b.now.Sub(b.start), Kind: sim.Predict, Mask: int(ev.Standing)})
		}
	}
}

// worsen is a drive that wears out, a machine that warms up, and a critical alarm.
func (b *bench) worsen() {
	b.run(time.Minute, 5*time.Second)
	b.set(b.tree.NVMe(sensors.Log{Serial: "S1", Used: 100}), b.tree.Heat(68, false))
	b.run(2*time.Minute, 5*time.Second)
	b.set(b.tree.NVMe(sensors.Log{Serial: "S1", Used: 100, Warning: 1 << 1}))
	for c := 72; c <= 88; c += 4 {
		b.set(b.tree.Heat(c, false))
		b.run(5*time.Second, 5*time.Second)
	}
	b.run(2*time.Minute, 5*time.Second)
}

func (b *bench) standings() (out []ssm.Standing) {
	for _, c := range b.changes {
		out = append(out, c.Standing)
	}
	return out
}

// NVMe and temperature sensors get worse, then good again: from the files of the
// collectors through predictor, guard and ladder into real cores. Every step has its
// causes; good sensors alone clear no limit; the slot leaves once and returns once.
func TestFailingHardwareLeavesAndReturnsOnce(t *testing.T) {
	b := newBench(t)
	b.worsen()
	b.set(b.tree.Heat(sensors.Crit+1, true))
	b.run(time.Minute, 5*time.Second)
	b.set(b.tree.NVMe(sensors.Log{Serial: "S2"}), b.tree.Heat(sensors.Cool, false))
	b.run(24*time.Hour, 30*time.Minute)
	if s := b.changes[len(b.changes)-1]; s.Standing != ssm.StandingWithdrawn || !s.Hard {
		t.Fatalf("%s (%s) a day after everything was repaired, though nobody has cleared the limit", s.Standing, s.Reason)
	}
	if r, err := b.m.ClearHealth(t.Context(), sensors.Serial); err != nil || r.Cleared == 0 {
		t.Fatalf("clear %s: %v, %v", sensors.Serial, r, err)
	}
	b.run(30*24*time.Hour, 30*time.Minute)
	want := []ssm.Standing{ssm.StandingDegraded, ssm.StandingDraining, ssm.StandingWithdrawn, ssm.StandingDraining, ssm.StandingDegraded, ssm.StandingWatch, ssm.StandingNormal}
	if got := b.standings(); !slices.Equal(got, want) {
		t.Fatalf("standings %v, want %v", got, want)
	}
	told := healthEvents(b.m)
	for i, causes := range [][]string{
		{"of R30d: nvme nvme0 (S1): rated endurance used up"},
		{"of R1h: nvme nvme0 (S1): critical warning: temperature", "of R30d: nvme nvme0 (S1): rated endurance used up"},
		{"limit T1.alarm: thermal coretemp Package id 0 (" + sensors.Serial + ")"},
	} {
		for _, c := range causes {
			if e := b.changes[i]; !slices.ContainsFunc(e.Causes, func(x string) bool { return strings.Contains(x, c) }) {
				t.Errorf("%s without the cause %q: %v", e.Standing, c, e.Causes)
			}
			if !strings.Contains(told[i], c) {
				t.Errorf("the event log says %q without the cause %q", told[i], c)
			}
		}
	}
	if len(told) != len(want) {
		t.Errorf("%d changes in the event log, want %d: %v", len(told), len(want), told)
	}
	for i, c := range b.changes {
		if c.Hard != (i == 2) {
			t.Errorf("change %d, %s: hard is %t", i, c.Standing, c.Hard)
		}
	}
	faults, end := spread(b.faults, 2*time.Minute)
	if got := owners(t, faults, end+30*time.Second); len(got) != 3 || got[0] != "n0" || got[2] != "n0" {
		t.Errorf("the slot was owned by %v: want it away once and back once", got)
	}
}

// The same machine while another one drains on a prediction: the guard keeps it at
// degraded from the first evaluation on, and says so. A hard limit is no prediction.
func TestGuardHoldsFailingHardwareBack(t *testing.T) {
	b := newBench(t)
	b.peers = func(now time.Time) ssm.View {
		v := healthyPeers(now)
		v.Peers[0].Wish = &ssm.Wish{Standing: ssm.StandingDraining, Cause: string(hwhealth.FanAlarm), For: time.Hour, Holds: true}
		return v
	}
	b.worsen()
	if got := b.standings(); !slices.Equal(got, []ssm.Standing{ssm.StandingDegraded}) {
		t.Fatalf("standings %v beside an appliance that drains, want degraded alone", got)
	}
	if b.m.verdict.Alarm == "" || b.m.told != b.m.verdict.Alarm {
		t.Errorf("the guard's alarm is %q, the event log has %q", b.m.verdict.Alarm, b.m.told)
	}
	b.set(b.tree.Heat(sensors.Crit+1, true))
	b.run(time.Minute, 5*time.Second)
	if got := b.standings(); got[len(got)-1] != ssm.StandingWithdrawn {
		t.Errorf("standings %v: the guard held a hard limit back", got)
	}
}

// healthEvents are the changes of the state that the event log has.
func healthEvents(m *monitor) (out []string) {
	evs, _, _ := m.a.events.log.After(0, 1000)
	for _, e := range slices.DeleteFunc(evs, func(e *v1.Event) bool { return !strings.HasPrefix(e.Message, "hardware health is ") }) {
		out = append(out, fmt.Sprintf("%s: %s", e.Message, e.Reason))
	}
	return out
}
