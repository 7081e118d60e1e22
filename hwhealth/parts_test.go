package hwhealth

import (
	"math"
	"math/rand"
	"testing"
	"time"
)

// What a rule sees of a counter's past is what a list of all increases gives:
// exactly while they are few, and near it when they are many and come in bursts.
func TestIncreasesWithinATime(t *testing.T) {
	for seed := range int64(20) {
		rng := rand.New(rand.NewSource(seed))
		r := newRig(t)
		var all []edge
		total := 0.0
		r.see(eth, LinkDowns, 0)
		burst := 1 + rng.Intn(200)
		for i := range 2000 {
			pause := time.Duration(1+rng.Intn(3600)) * time.Second
			if i%burst == 0 {
				pause *= 30
			}
			r.pass(pause)
			n := float64(1 + rng.Intn(3))
			total += n
			all = append(all, edge{At: r.now, N: n})
			r.see(eth, LinkDowns, total)
			tr := r.p.devices[eth.Key()].Tracks[LinkDowns]
			if len(tr.Recent) > recentEdges {
				t.Fatalf("%d increases are remembered", len(tr.Recent))
			}
			for _, d := range []time.Duration{10 * time.Minute, time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, 30 * 24 * time.Hour} {
				want, count := 0.0, 0
				for k := len(all) - 1; k >= 0 && r.now.Sub(all[k].At) <= d; k-- {
					want += all[k].N
					count++
				}
				got, times := tr.grew(r.now, d), tr.times(r.now, d)
				exact := len(all) <= recentEdges
				if exact && (got != want || times != count) || math.Abs(got-want) > .3*want+6 || math.Abs(float64(times-count)) > .3*float64(count)+3 {
					t.Fatalf("seed %d, increase %d: %v in %d steps within %s, want %v in %d", seed, i, got, times, d, want, count)
				}
			}
		}
	}
}

func TestFanAloneAndAmongOthers(t *testing.T) {
	risk := func(group string) float64 {
		r := newRig(t)
		for range 3 {
			r.see(Device{Class: ClassFan, Serial: "a", Redundant: group}, FanAlarm, 1)
			r.see(Device{Class: ClassFan, Serial: "b", Redundant: group}, FanAlarm, 0)
			r.pass(10 * time.Second)
		}
		return r.assess().R1h
	}
	if alone, pair := risk(""), risk("fans:x"); math.Abs(alone-.5) > 1e-9 || math.Abs(pair-.095) > 1e-9 {
		t.Errorf("a fan's alarm: R1h %.4f alone, %.4f among others, want 0.5 and 0.095", alone, pair)
	}
}

func TestPowerSupplyOfTwo(t *testing.T) {
	r := newRig(t)
	for range 3 {
		r.see(Device{Class: ClassPower, Serial: "a", Redundant: "psu"}, PowerOK, 0)
		r.see(Device{Class: ClassPower, Serial: "b", Redundant: "psu"}, PowerOK, 1)
		r.pass(10 * time.Second)
	}
	if a := r.assess(); math.Abs(a.R1h-.02) > 1e-9 {
		t.Errorf("one of two supplies is lost: R1h %.4f, want 0.02", a.R1h)
	}
}

func TestAllFansOfAZoneStandStill(t *testing.T) {
	for _, c := range []struct {
		name            string
		duty            float64 // of both fans
		other           float64 // RPM of the second
		from, perMinute float64 // of the temperature
		booted          bool    // a minute ago
		want            bool
	}{
		{"still, told to turn, heat near the maximum rises", .4, 0, 72, 1, false, true},
		{"off on purpose", 0, 0, 72, 1, false, false},
		{"one turns", .4, 900, 72, 1, false, false},
		{"nothing gets hotter", .4, 0, 72, 0, false, false},
		{"a cool machine starts to work", .4, 0, 40, 5, false, false},
		{"the machine has just started", .4, 0, 72, 1, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			fan := func(n string) Device { return Device{Class: ClassFan, Serial: "nct/" + n, Redundant: "fans:nct"} }
			look := func(a, b, celsius float64) {
				for n, rpm := range map[string]float64{"fan1": a, "fan2": b, "fan3": 0} { // fan3: nothing is plugged in
					r.see(fan(n), FanPWM, c.duty)
					r.see(fan(n), FanSpeed, rpm)
				}
				r.seeIn(cpu, Temperature, celsius, Limits{HighWarn: 80, HighCrit: 100})
				r.pass(10 * time.Second)
			}
			for range 3 {
				look(1000, 1000, c.from)
			}
			if c.booted {
				r.see(Device{Class: ClassHost, Serial: "machine"}, HostBoot, 1)
			}
			for i := range 24 { // four minutes
				look(0, c.other, c.from+c.perMinute*float64(i)/6)
			}
			a := r.assess()
			if got := limit(a, "F1.limit"); got != c.want {
				t.Errorf("hard limit: %v, want %v; %+v", got, c.want, a.Limits)
			}
			for _, l := range a.Limits {
				if l.Redundant {
					t.Errorf("another part stands in for %s", l.Device)
				}
			}
		})
	}
}

// Light that fades in a line is a matter of the time that is left; noise, the day
// and a step are not.
func TestLightThatFades(t *testing.T) {
	for _, c := range []struct {
		name  string
		light func(day float64) float64
		least float64 // hazard of O1.decline after 14 days
		most  float64
	}{
		{"steady", func(float64) float64 { return -6 }, 0, 0},
		{"day and night", func(d float64) float64 { return -6 + .3*math.Sin(2*math.Pi*d) }, 0, 0},
		{"a step of 2 dB", func(d float64) float64 { return -6 - 2*math.Floor(math.Min(1, d/9)) }, 0, 0},
		{"rising", func(d float64) float64 { return -9 + .1*d }, 0, 0},
		{"falling, alarm in 56 days", func(d float64) float64 { return -6 - .1*d + .05*math.Sin(2*math.Pi*d) }, .47, .6},
		{"falling fast, alarm in 6 days", func(d float64) float64 { return -4 - .4*d }, 1.9, 2.01},
		{"falling slowly, alarm in years", func(d float64) float64 { return -6 - .001*d }, 0, 0},
	} {
		r := newRig(t)
		d := Device{Class: ClassOptic, Serial: "sfp"}
		for r.now.Sub(start) < 14*24*time.Hour {
			r.seeIn(d, OpticRxPower, c.light(r.now.Sub(start).Hours()/24), Limits{LowCrit: -13, LowWarn: -12, HighWarn: 1, HighCrit: 2})
			r.pass(10 * time.Minute)
		}
		got := 0.0
		if x := cause(r.assess(), "O1.decline"); x != nil && x.Age < time.Hour {
			got = x.Hazard
		}
		if got < c.least || got > c.most {
			t.Errorf("%s: hazard %.3f, want %.2f to %.2f", c.name, got, c.least, c.most)
		}
	}
}
