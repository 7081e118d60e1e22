package node

import (
	"fmt"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/sim"
)

// aSeed gives a simulated fleet whose slots return to their homes.
const aSeed = 0

// standingsUnder plays a temperature through the monitor of an appliance whose
// two peers are well, every 5 s for an hour and, unless it goes on forever, until it is normal again,
// and returns every change of its standing as a plan's faults.
func standingsUnder(t *testing.T, celsius func(time.Duration) float64, forever bool) (out []sim.Fault) {
	t.Helper()
	m := newTestMonitor(t)
	sensor := hwhealth.Device{Class: hwhealth.ClassThermal, Serial: "coretemp/package0"}
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	was := ssm.StandingNormal
	for at := time.Duration(0); at < time.Hour || !forever && was != ssm.StandingNormal; at += 5 * time.Second {
		if at > 12*time.Hour {
			t.Fatalf("still %s after %s", was, at)
		}
		now := start.Add(at)
		s := hwhealth.Of("hwmon", sensor, hwhealth.Temperature, celsius(at), now)
		s.Limits.HighWarn, s.Limits.HighCrit = 80, 100
		m.predictor.Observe(s, now)
		ev := m.assess(healthyPeers(now), now)
		if ev.Standing != was {
			was = ev.Standing
			out = append(out, sim.Fault{At: at, Kind: sim.Predict, Mask: int(was)})
		}
	}
	return out
}

// spread puts the changes at most this far apart.
func spread(faults []sim.Fault, most time.Duration) (out []sim.Fault, end time.Duration) {
	was := time.Duration(0)
	for _, f := range faults {
		end += min(f.At-was, most)
		was, f.At = f.At, up+end
		out = append(out, f)
	}
	return out, up + end
}

// up is when a simulated fleet has come up.
const up = 5 * time.Second

// owners plays standings of the appliance n0, at home to the only slot, and
// returns who owned that, one after the other.
func owners(t *testing.T, faults []sim.Fault, span time.Duration) []ssm.Node {
	t.Helper()
	r := sim.Run(sim.Plan{Seed: aSeed, Nodes: 3, Slots: 1, Span: span, Faults: faults}, false)
	if r.Violation != "" {
		t.Fatal(r.Violation)
	}
	return r.Owners[1]
}

// An oscillating sensor must not make sessions oscillate: through the real
// predictor, guard and ladder into real cores it costs one handover away within
// the hour at most, and one back when it has come to rest.
func TestOscillatingSensorMovesSlotsOnce(t *testing.T) {
	for _, period := range []time.Duration{10 * time.Second, time.Minute, 5 * time.Minute, 20 * time.Minute, 40 * time.Minute} {
		t.Run(period.String(), func(t *testing.T) {
			faults := standingsUnder(t, func(at time.Duration) float64 {
				if at < time.Hour && at%period < period/2 {
					return 95
				}
				return 50
			}, false)
			told := ""
			for _, f := range faults {
				told += fmt.Sprintf(" %s %s;", f.At, ssm.Standing(f.Mask))
			}
			t.Logf("standings:%s", told)
			// The cores' own times are seconds: two minutes between changes are as
			// good as an hour.
			faults, end := spread(faults, 2*time.Minute)
			got := owners(t, faults, end+30*time.Second)
			t.Logf("owners: %v", got)
			if n := len(got); n != 3 && (n != 1 || period >= time.Minute) || got[0] != "n0" || got[n-1] != "n0" {
				t.Errorf("the slot was owned by %v: want it away once and back once", got)
			}
		})
	}
}

// The same hour at its own pace, tick by tick. That everything heals at a plan's end
// brings the slot back: the only return.
func TestOscillatingSensorForAnHour(t *testing.T) {
	const period = 2 * time.Minute
	faults := standingsUnder(t, func(at time.Duration) float64 {
		if at%period < period/2 {
			return 95
		}
		return 50
	}, true)
	faults, _ = spread(faults, time.Hour)
	if got := owners(t, faults, up+time.Hour); len(got) != 3 || got[0] != "n0" || got[2] != "n0" {
		t.Errorf("the slot was owned by %v: want one handover each way", got)
	}
}
