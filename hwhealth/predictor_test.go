package hwhealth

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// rig drives a predictor in virtual time.
type rig struct {
	t   *testing.T
	p   *Predictor
	now time.Time
}

func newRig(t *testing.T) *rig { return &rig{t: t, p: New(), now: start} }

func (r *rig) see(d Device, sig Signal, v float64) { r.p.Observe(Of("test", d, sig, v, r.now), r.now) }

func (r *rig) seeIn(d Device, sig Signal, v float64, l Limits) {
	s := Of("test", d, sig, v, r.now)
	s.Limits = l
	r.p.Observe(s, r.now)
}

func (r *rig) pass(d time.Duration) { r.now = r.now.Add(d) }

func (r *rig) assess() Assessment { return r.p.Assess(r.now) }

// cause is the first cause of a rule, nil if it is none.
func cause(a Assessment, term string) *Cause {
	i := slices.IndexFunc(a.Causes, func(c Cause) bool { return c.Term == term })
	if i < 0 {
		return nil
	}
	return &a.Causes[i]
}

func limit(a Assessment, id string) bool {
	return slices.ContainsFunc(a.Limits, func(l Latch) bool { return l.Limit == id })
}

var (
	eth  = Device{Class: ClassLink, Serial: "0000:01:00.0", Name: "eth0"}
	nvme = Device{Class: ClassNVMe, Serial: "S4X", Name: "nvme0"}
	cpu  = Device{Class: ClassThermal, Serial: "coretemp/package0"}
)

func TestCounterRules(t *testing.T) {
	r := newRig(t)
	r.see(eth, LinkDowns, 7) // the first reading after boot is the baseline
	r.pass(time.Minute)
	r.see(eth, LinkDowns, 7)
	if a := r.assess(); len(a.Causes) != 0 || a.R1h != 0 {
		t.Fatalf("a baseline of 7 is evidence: %+v", a.Causes)
	}
	r.pass(time.Minute)
	r.see(eth, LinkDowns, 8)
	a := r.assess()
	if c := cause(a, "N2.flap"); c == nil || math.Abs(a.R1h-.05) > 1e-9 || c.Share != 1 {
		t.Fatalf("one flap: R1h %.4f, causes %+v", a.R1h, a.Causes)
	}
	r.pass(time.Minute)
	r.see(eth, LinkDowns, 2) // the driver was reloaded: no increase
	if a := r.assess(); cause(a, "N2.flaps") != nil {
		t.Errorf("a reset counts as flaps: %+v", a.Causes)
	}
	r.pass(time.Minute)
	r.see(eth, LinkDowns, 3)
	if a := r.assess(); cause(a, "N2.flaps") == nil {
		t.Errorf("two flaps in ten minutes, causes %+v", a.Causes)
	}
	r.pass(3 * time.Hour)
	quiet := r.assess()
	if quiet.R1h > .01 {
		t.Errorf("R1h is %.4f three hours after the flaps", quiet.R1h)
	}
}

func TestCounterWraps(t *testing.T) {
	r := newRig(t)
	r.see(eth, LinkFECUncorrectable, 1<<32-2)
	r.pass(30 * time.Second)
	r.see(eth, LinkFECUncorrectable, 3)
	if c := cause(r.assess(), "N4.uncorrectable"); c == nil || !strings.Contains(c.Detail, "+5 ") {
		t.Errorf("a 32-bit counter that wraps by 5: %+v", c)
	}
}

func TestLevelsMustBeSeenTwice(t *testing.T) {
	r := newRig(t)
	r.see(nvme, NVMeCriticalWarning, 8)
	if a := r.assess(); len(a.Limits) != 0 {
		t.Fatalf("a single reading latches: %+v", a.Limits)
	}
	r.pass(time.Minute)
	r.see(nvme, NVMeCriticalWarning, 8)
	if a := r.assess(); !limit(a, "V1.read-only") {
		t.Fatalf("read-only media does not latch: %+v", a)
	}
	r.pass(time.Minute)
	r.see(nvme, NVMeCriticalWarning, 0)
	if a := r.assess(); !limit(a, "V1.read-only") {
		t.Error("the latch opens by itself")
	}
	if n := r.p.Clear(""); n != 1 || len(r.assess().Limits) != 0 {
		t.Errorf("%d cleared, left %v", n, r.assess().Limits)
	}
}

func TestReplacedDriveTakesItsLatchAway(t *testing.T) {
	r := newRig(t)
	for range 2 {
		r.see(nvme, NVMeCriticalWarning, 8)
		r.pass(time.Minute)
	}
	if !limit(r.assess(), "V1.read-only") {
		t.Fatal("not latched")
	}
	r.see(Device{Class: ClassNVMe, Serial: "NEW", Name: "nvme0"}, NVMeCriticalWarning, 0)
	if a := r.assess(); len(a.Limits) != 0 {
		t.Errorf("the new drive inherits %+v", a.Limits)
	}
}

// Sensors of one name stand beside each other: two processors have a "Core 0"
// each, and what is known of one is not forgotten when the other speaks.
func TestSensorsOfOneNameAreNotReplacedByEachOther(t *testing.T) {
	r := newRig(t)
	lim := Limits{HighWarn: 80, HighCrit: 100}
	for range 3 {
		for n, c := range map[string]float64{"coretemp.0": 50, "coretemp.1": 90} {
			r.seeIn(Device{Class: ClassThermal, Serial: "coretemp@" + n + "/temp2", Name: "coretemp Core 0"}, Temperature, c, lim)
		}
		r.pass(5 * time.Second)
	}
	if c := cause(r.assess(), "T1.near"); c == nil || c.Device.Serial != "coretemp@coretemp.1/temp2" {
		t.Errorf("the second processor at 90 of 100 degrees is no cause: %+v", r.assess().Causes)
	}
}

func TestHeatRisesToALimit(t *testing.T) {
	r := newRig(t)
	l := Limits{LowCrit: math.NaN(), LowWarn: math.NaN(), HighWarn: 80, HighCrit: 100}
	last := 0.0
	for c := 60.0; c <= 99; c++ {
		r.seeIn(cpu, Temperature, c, l)
		r.pass(5 * time.Second)
		a := r.assess()
		if c > 85 && a.R1h < last-1e-9 {
			t.Fatalf("at %v degrees R1h falls from %.3f to %.3f", c, last, a.R1h)
		}
		last = a.R1h
	}
	if last < .25 {
		t.Errorf("R1h one degree below critical is %.3f", last)
	}
	if a := r.assess(); len(a.Limits) != 0 {
		t.Errorf("a limit below critical: %v", a.Limits)
	}
	for range 8 {
		r.seeIn(cpu, Temperature, 101, l)
		r.pass(5 * time.Second)
	}
	if !limit(r.assess(), "T1.limit") {
		t.Error("critical for 35 s is no limit")
	}
}

func TestRedundantPartsWeighLess(t *testing.T) {
	risk := func(group string) float64 {
		r := newRig(t)
		for _, s := range []string{"a", "b"} {
			d := Device{Class: ClassPower, Serial: s, Redundant: group}
			v := 1.0
			if s == "b" {
				v = 0
			}
			r.see(d, PowerOK, v)
			r.pass(10 * time.Second)
			r.see(d, PowerOK, v)
		}
		return r.assess().R1h
	}
	alone, pair := risk(""), risk("psu")
	if alone < .1 || math.Abs(pair-.1*alone) > .003 {
		t.Errorf("a lost supply: R1h %.4f alone, %.4f beside a good one, want a tenth", alone, pair)
	}
}

func TestMissingIsNeitherHealthNorFailure(t *testing.T) {
	r := newRig(t)
	r.see(nvme, NVMeSpare, 100)
	r.see(nvme, NVMeCriticalWarning, 0)
	r.pass(time.Minute)
	r.p.Observe(MissingOf("smartctl", nvme, NVMeCriticalWarning, "timed out after 20 s", r.now), r.now)
	a := r.assess()
	if a.Confidence != .5 || len(a.Silent) != 1 || a.Silent[0].Why != "timed out after 20 s" || a.R30 != 0 {
		t.Errorf("confidence %.2f, silent %+v, R30 %v", a.Confidence, a.Silent, a.R30)
	}
}

func TestGarbageIsRefused(t *testing.T) {
	r := newRig(t)
	s := Of("test", nvme, NVMeSpare, math.NaN(), r.now)
	r.p.Observe(s, r.now)
	r.p.Observe(Sample{}, r.now)
	if r.p.Refused() != 2 {
		t.Errorf("%d refused, want 2", r.p.Refused())
	}
}

func TestClockJumps(t *testing.T) {
	r := newRig(t)
	r.see(eth, LinkDowns, 0)
	r.pass(time.Minute)
	r.see(eth, LinkDowns, 1)
	before := r.assess().R1h
	r.pass(-time.Hour) // a late reading of an earlier time changes nothing
	r.see(eth, LinkDowns, 5)
	if a := r.assess(); a.R1h != before {
		t.Errorf("R1h %.4f after the clock went back, was %.4f", a.R1h, before)
	}
	r.pass(48 * time.Hour)
	if a := r.assess(); a.R1h > 1e-3 {
		t.Errorf("R1h %.4f after a jump of two days ahead", a.R1h)
	}
}

func TestDiskFollowsTheTable(t *testing.T) {
	r := newRig(t)
	d := Device{Class: ClassDisk, Serial: "Z30", Name: "sda", Model: "ST4000DM000"}
	day := func(n187, n197 float64) {
		r.see(d, SignalSMART(5), 0)
		r.see(d, SignalSMART(187), n187)
		r.see(d, SignalSMART(188), 0)
		r.see(d, SignalSMART(197), n197)
		r.see(d, SignalSMART(198), n197)
		r.see(d, DiskPowerOnHours, 9000+r.now.Sub(start).Hours())
		r.pass(24 * time.Hour)
	}
	day(0, 0)
	a := r.assess()
	if a.E30 != 0 || a.R30 <= 0 || a.R30 > .02 {
		t.Fatalf("a clean drive: evidence %.4f, R30 %.4f", a.E30, a.R30)
	}
	day(40, 16)
	a = r.assess()
	if a.E30 < .06 || len(a.Causes) < 2 {
		t.Fatalf("40 uncorrectable, 16 pending: %.4f, %+v", a.E30, a.Causes)
	}
	sum := 0.0
	for _, c := range a.Causes {
		sum += c.Share
	}
	if math.Abs(sum-1) > 1e-9 {
		t.Errorf("the shares sum up to %v", sum)
	}
}

func TestStateSurvivesARestart(t *testing.T) {
	r := newRig(t)
	for range 2 {
		r.see(nvme, NVMeCriticalWarning, 8)
		r.see(cpu, TempCritAlarm, 1)
		r.see(eth, LinkDowns, 3)
		r.pass(time.Minute)
	}
	r.see(nvme, NVMeMediaErrors, 1)
	r.pass(time.Minute)
	r.see(nvme, NVMeMediaErrors, 2)
	var l Ladder
	a := r.assess()
	l.Step(&a, DefaultPolicy(), Withdraw, r.now)
	b, err := Encode(r.p, l, "boot-1")
	if err != nil {
		t.Fatal(err)
	}
	p, l2, err := Decode(b, "boot-1")
	if err != nil {
		t.Fatal(err)
	}
	again := p.Assess(r.now)
	if again.R30 != a.R30 || len(again.Limits) != 2 || l2.State != Withdraw {
		t.Errorf("after a restart R30 %v (was %v), %d limits, %s", again.R30, a.R30, len(again.Limits), l2.State)
	}
	if b2, err := Encode(p, l2, "boot-1"); err != nil || !bytes.Equal(b, b2) {
		t.Errorf("written again it differs (%v)", err)
	}
	p, _, err = Decode(b, "boot-2")
	if err != nil {
		t.Fatal(err)
	}
	if a := p.Assess(r.now); !limit(a, "V1.read-only") || limit(a, "T1.alarm") {
		t.Errorf("a reboot clears limits of the boot and no others: %+v", a.Limits)
	}
	p.Observe(Of("test", eth, LinkDowns, 9, r.now), r.now)
	if a := p.Assess(r.now); cause(a, "N2.flap") != nil {
		t.Error("a counter that starts at boot went on counting across one")
	}
}

func FuzzDecode(f *testing.F) {
	r := &rig{p: New(), now: start}
	r.see(nvme, NVMeMediaErrors, 1)
	r.see(Device{Class: ClassDisk, Serial: "x", Model: "ST4000DM000"}, SignalSMART(187), 4)
	r.pass(time.Hour)
	r.see(nvme, NVMeMediaErrors, 4)
	b, err := Encode(r.p, Ladder{}, "b")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, l, err := Decode(b, "b")
		if err != nil {
			return
		}
		p.Observe(Of("test", nvme, NVMeMediaErrors, 9, start), start)
		a := p.Assess(start)
		l.Step(&a, DefaultPolicy(), Withdraw, start)
	})
}

func FuzzParseRules(f *testing.F) {
	f.Add(rulesJSON)
	f.Add([]byte(`[{"id":"x","class":"disk","all":[{"signal":"gone","when":"at-least","n":1}],"hard":true,"text":"t","source":"prior"}]`))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = ParseRules(b) })
}
