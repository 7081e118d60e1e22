package node

import (
	"context"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/hwhealth/trace"
	"github.com/shadowcast/shadowcast/operator"
	"github.com/shadowcast/shadowcast/ssm"
)

// testConfig is the example's in directories of its own.
func testConfig(t *testing.T) *config.Config {
	t.Helper()
	c, err := config.Parse([]byte(config.Example()))
	if err != nil {
		t.Fatal(err)
	}
	c.StateDir, c.RunDir = t.TempDir(), t.TempDir()
	return c
}

// monitorOf is the monitor of an appliance with nothing around it: nothing is read
// of this machine's hardware.
func monitorOf(c *config.Config) *monitor {
	return newMonitor(&Appliance{cfg: c, events: &journal{log: operator.NewEvents(c.Node, 1000, slog.New(slog.DiscardHandler))}})
}

func newTestMonitor(t *testing.T) *monitor {
	t.Helper()
	return monitorOf(testConfig(t))
}

// healthyPeers is a view of two others that are heard and well.
func healthyPeers(now time.Time) ssm.View {
	return ssm.View{Peers: []ssm.PeerView{{Node: "fra", Heard: now}, {Node: "par", Heard: now}}}
}

var (
	testStart  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	testSensor = hwhealth.Device{Class: hwhealth.ClassThermal, Serial: "coretemp/package0"}
	testNVMe   = hwhealth.Device{Class: hwhealth.ClassNVMe, Serial: "S4X", Name: "nvme0"}
)

// hot lets the sensor say 95 of 100 degrees every second for n seconds, and
// returns the last standing.
func (m *monitor) hot(n int, from time.Time, view func(time.Time) ssm.View) (ev ssm.EvStanding) {
	for i := range n {
		now := from.Add(time.Duration(i) * time.Second)
		s := hwhealth.Of("hwmon", testSensor, hwhealth.Temperature, 95, now)
		s.Limits.HighWarn, s.Limits.HighCrit = 80, 100
		m.predictor.Observe(s, now)
		ev = m.assess(view(now), now)
	}
	return ev
}

// broken lets the drive say for two minutes that its media is read-only.
func (m *monitor) broken(from time.Time) (ev ssm.EvStanding) {
	for i := range 3 {
		now := from.Add(time.Duration(i) * time.Minute)
		m.predictor.Observe(hwhealth.Of("nvme", testNVMe, hwhealth.NVMeCriticalWarning, 8, now), now)
		ev = m.assess(healthyPeers(now), now)
	}
	return ev
}

// told are the texts and reasons of all events so far.
func (m *monitor) eventTexts() string {
	events, _, _ := m.a.events.log.After(0, 1000)
	var b strings.Builder
	for _, e := range events {
		b.WriteString(e.Message + " | " + e.Reason + "\n")
	}
	return b.String()
}

func TestPredictionBecomesAStanding(t *testing.T) {
	m := newTestMonitor(t)
	ev := m.hot(30, testStart, healthyPeers)
	if ev.Source != ssm.SourceHealth || ev.Standing != ssm.StandingDraining || ev.Hard || ev.Risk < .05 || ev.Deadline <= 0 || ev.Reason == "" {
		t.Errorf("the standing is %+v", ev)
	}
	if w := ev.Wish; w == nil || w.Standing != ssm.StandingDraining || !w.Holds || w.For < 10*time.Second || w.Cause == "" {
		t.Errorf("the wish is %+v", ev.Wish)
	}
	if len(ev.Causes) == 0 || !strings.Contains(ev.Causes[0], "of R1h: thermal coretemp/package0") {
		t.Errorf("the causes are %q", ev.Causes)
	}
	if told := m.eventTexts(); !strings.Contains(told, "hardware health is draining, was ") || !strings.Contains(told, "critical temperature") {
		t.Errorf("told is\n%s", told)
	}
	if ev := newTestMonitor(t).assess(healthyPeers(testStart), testStart); ev.Standing != ssm.StandingNormal || ev.Wish != nil || len(ev.Causes) != 0 {
		t.Errorf("a machine that says nothing: %+v", ev)
	}
}

// A hard limit withdraws, survives a restart, and ends when an operator says so.
func TestHardLimitUntilItIsCleared(t *testing.T) {
	c := testConfig(t)
	m := monitorOf(c)
	ev := m.broken(testStart)
	if ev.Standing != ssm.StandingWithdrawn || !ev.Hard || len(ev.Causes) == 0 || !strings.Contains(ev.Causes[0], "limit V1.read-only: nvme nvme0 (S4X)") {
		t.Fatalf("the standing is %+v", ev)
	}
	if n := strings.Count(m.eventTexts(), "hard limit V1.read-only passed by nvme nvme0 (S4X)"); n != 1 {
		t.Errorf("the limit is told %d times in\n%s", n, m.eventTexts())
	}
	m = monitorOf(c)
	now := testStart.Add(time.Hour)
	if ev := m.assess(healthyPeers(now), now); ev.Standing != ssm.StandingWithdrawn || !ev.Hard {
		t.Fatalf("after a restart: %+v", ev)
	}
	ctx := context.Background()
	r, err := m.Health(ctx, true)
	if err != nil || len(r.Limits) != 1 || r.Limits[0].Serial != "S4X" || r.Limits[0].UntilBoot || r.State != v1.Standing_STANDING_WITHDRAWN || len(r.Signals) == 0 || len(r.Trend) != 1 {
		t.Errorf("the API says %v (%v)", r, err)
	}
	if _, err := m.ClearHealth(ctx, "S5"); err == nil || !strings.Contains(err.Error(), `"S5"`) {
		t.Errorf("clear of another part: %v", err)
	}
	if r, err := m.ClearHealth(ctx, "S4X"); err != nil || r.Cleared != 1 {
		t.Errorf("clear: %v, %v", r, err)
	}
	if ev := m.assess(healthyPeers(now.Add(time.Second)), now.Add(time.Second)); ev.Hard {
		t.Errorf("cleared, and still %+v", ev)
	}
	if ev := monitorOf(c).assess(healthyPeers(now), now); ev.Hard {
		t.Errorf("cleared, and back after a restart: %+v", ev)
	}
	if r, err := m.ClearHealth(ctx, ""); err != nil || r.Cleared != 0 {
		t.Errorf("clear all of none: %v, %v", r, err)
	}
}

func TestBrokenMemoryBeginsAnew(t *testing.T) {
	c := testConfig(t)
	if err := os.WriteFile(filepath.Join(c.StateDir, "health.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := monitorOf(c)
	if told := m.eventTexts(); !strings.Contains(told, "the remembered health state cannot be read, it begins anew") {
		t.Errorf("told is %q", told)
	}
	if ev := m.assess(healthyPeers(testStart), testStart); ev.Standing != ssm.StandingNormal {
		t.Errorf("the standing is %+v", ev)
	}
}

// A state directory that is gone is told once, not every minute, and again when it
// broke another time.
func TestMemoryThatCannotBeWritten(t *testing.T) {
	c := testConfig(t)
	m := monitorOf(c)
	dir := c.StateDir
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	now := testStart
	look := func() int {
		now = now.Add(2 * keepEvery)
		m.assess(healthyPeers(now), now)
		return strings.Count(m.eventTexts(), "keep the health state failed")
	}
	if a, b := look(), look(); a != 1 || b != 1 {
		t.Errorf("told %d and %d times, want once", a, b)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	look()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if n := look(); n != 2 {
		t.Errorf("told %d times after the second failure, want 2", n)
	}
}

func TestHealthPolicyOfAConfiguration(t *testing.T) {
	h := config.DefaultHealth()
	p, want := healthPolicy(h), hwhealth.DefaultPolicy()
	if math.Abs(p.Slow.Degraded-want.Slow.Degraded) < 1e-12 {
		p.Slow.Degraded = want.Slow.Degraded // .9 per cent is no number of the machine's
	}
	if p != want {
		t.Errorf("the default configuration makes %+v, the catalogue's policy is %+v", p, want)
	}
	h.Hold = config.Hold{Month: time.Hour, Hour: 10 * time.Second}
	h.Withdraw = config.Risk{Month: .4, Hour: .5}
	p = healthPolicy(h)
	if p.FastHalfLife != 10*time.Second || p.SlowHalfLife != time.Hour || p.Dwell != 10*time.Second || p.Slow.Withdraw != .4 || p.Fast.Withdraw != .5 || p.Check() != nil {
		t.Errorf("short holds make %+v", p)
	}
}

// What the monitor is told is in the trace, and a replay comes to what it did. A
// trace that cannot be written is told once and costs nothing else.
func TestTraceOfTheMonitor(t *testing.T) {
	c := testConfig(t)
	c.Health.Trace = filepath.Join(c.StateDir, "trace")
	m := monitorOf(c)
	now := time.Now()
	for i := range 3 {
		s := hwhealth.Of("nvme", testNVMe, hwhealth.NVMeCriticalWarning, 8, now.Add(time.Duration(i-3)*time.Minute))
		m.observe([]hwhealth.Sample{s})
	}
	if ev := m.assess(healthyPeers(now), now); ev.Standing != ssm.StandingWithdrawn {
		t.Fatalf("the standing is %+v", ev)
	}
	m.trace.close()
	r, err := trace.Replay(c.Health.Trace, time.Second)
	if err != nil || r.Node != c.Node || r.Samples != 3 || r.Final != "withdraw" {
		t.Fatalf("the replay is %+v (%v)", r, err)
	}
	if err := os.RemoveAll(c.Health.Trace); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.Health.Trace, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	sample := []hwhealth.Sample{hwhealth.Of("nvme", testNVMe, hwhealth.NVMeSpare, 100, now)}
	for i := range 3 {
		m.trace.write(sample, now.Add(time.Duration(i)*traceRetry))
	}
	if n := strings.Count(m.eventTexts(), "record the health trace failed"); n != 1 {
		t.Errorf("told %d times, want once:\n%s", n, m.eventTexts())
	}
	if err := os.Remove(c.Health.Trace); err != nil {
		t.Fatal(err)
	}
	m.trace.write(sample, now.Add(2*traceRetry+time.Second)) // too soon
	if _, err := os.Stat(c.Health.Trace); err == nil {
		t.Error("it was tried again within a minute")
	}
	m.trace.write(sample, now.Add(4*traceRetry))
	m.trace.close()
	if r, err := trace.Replay(c.Health.Trace, time.Second); err != nil || r.Samples != 1 {
		t.Errorf("after the failure: %+v, %v", r, err)
	}
}
