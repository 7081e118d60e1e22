package hwhealth

import (
	"testing"
	"time"
)

// climb steps a ladder every 10 s for d with the given risk of an hour.
func climb(l *Ladder, now *time.Time, d time.Duration, limit State, r1h func(time.Duration) float64) (changes []State) {
	for t := time.Duration(0); t < d; t += 10 * time.Second {
		a := Assessment{R1h: r1h(t)}
		if l.Step(&a, DefaultPolicy(), limit, *now) {
			changes = append(changes, a.State)
		}
		*now = now.Add(10 * time.Second)
	}
	return changes
}

func constant(v float64) func(time.Duration) float64 { return func(time.Duration) float64 { return v } }

// drains counts the passages into draining and out of it.
func drains(from State, changes []State) (in, out int) {
	for _, s := range changes {
		if s >= Draining && from < Draining {
			in++
		}
		if s < Draining && from >= Draining {
			out++
		}
		from = s
	}
	return in, out
}

func TestOscillatingSensorHandsOverOnce(t *testing.T) {
	for _, period := range []time.Duration{20 * time.Second, 2 * time.Minute, 10 * time.Minute, 25 * time.Minute} {
		var l Ladder
		now := start
		changes := climb(&l, &now, time.Hour, Withdraw, func(t time.Duration) float64 {
			if t%period < period/2 {
				return .2
			}
			return 0
		})
		if in, out := drains(Normal, changes); in > 1 || out > 1 || in == 0 && period > time.Minute {
			t.Errorf("period %s: %d handovers away, %d back within an hour: %v", period, in, out, changes)
		}
		// Afterwards, at rest, it comes back once, one level at a time.
		calm := climb(&l, &now, 4*time.Hour, Withdraw, constant(0))
		if l.State != Normal {
			t.Errorf("period %s: still %s after four quiet hours", period, l.State)
		}
		for i, s := range calm {
			if i > 0 && s != calm[i-1]-1 {
				t.Errorf("period %s: recovery %v skips a level", period, calm)
			}
		}
	}
}

// TestOscillatingHeatHandsOverOnce is the whole way from a sensor that swings
// between cool and hot to the state, for an hour and at any period.
func TestOscillatingHeatHandsOverOnce(t *testing.T) {
	lim := Limits{HighWarn: 80, HighCrit: 100}
	for _, period := range []time.Duration{10 * time.Second, time.Minute, 5 * time.Minute, 20 * time.Minute, 30 * time.Minute, 40 * time.Minute} {
		r, l := newRig(t), Ladder{}
		var changes []State
		for range int(time.Hour / (5 * time.Second)) {
			c := 50.0
			if r.now.Sub(start)%period < period/2 {
				c = 95
			}
			r.seeIn(cpu, Temperature, c, lim)
			a := r.assess()
			if l.Step(&a, DefaultPolicy(), Withdraw, r.now) {
				changes = append(changes, a.State)
			}
			r.pass(5 * time.Second)
		}
		if in, out := drains(Normal, changes); in > 1 || out > 1 || in == 0 && period >= time.Minute {
			t.Errorf("period %s: %d handovers away, %d back: %v", period, in, out, changes)
		}
	}
}

func TestDrainIsNeverDampened(t *testing.T) {
	l := Ladder{Penalty: 12000, Held: true, PenaltyAt: start, Since: start.Add(-time.Hour)}
	now := start
	if changes := climb(&l, &now, 30*time.Second, Withdraw, constant(.3)); len(changes) != 1 || changes[0] != Draining {
		t.Errorf("a suppressed ladder under R1h 30 %%: %v, want draining at the second look", changes)
	}
}

func TestSuppressedRecoveryWaitsForReuse(t *testing.T) {
	l := Ladder{State: Draining, Penalty: 6000, Held: true, PenaltyAt: start, Since: start.Add(-time.Hour), FastCause: true}
	now := start
	// 6000 halves every 15 minutes: below 750 after 45.
	if changes := climb(&l, &now, 44*time.Minute, Withdraw, constant(0)); len(changes) != 0 {
		t.Fatalf("recovered while suppressed: %v", changes)
	}
	if changes := climb(&l, &now, 3*time.Minute, Withdraw, constant(0)); len(changes) == 0 || changes[0] != Degraded {
		t.Errorf("not reused after three half-lives: %v", changes)
	}
}

func TestSlowHorizonEntersAtOnceAndHoldsAWeek(t *testing.T) {
	var l Ladder
	p := DefaultPolicy()
	a := Assessment{E30: .1}
	if !l.Step(&a, p, Withdraw, start) || a.State != Draining {
		t.Fatalf("E30 10 %%: %s", a.State)
	}
	for _, c := range []struct {
		after time.Duration
		want  State
	}{{6 * 24 * time.Hour, Draining}, {7*24*time.Hour + time.Hour, Degraded}, {15 * 24 * time.Hour, Watch}, {23 * 24 * time.Hour, Normal}} {
		a := Assessment{E30: .001}
		l.Step(&a, p, Withdraw, start.Add(time.Minute)) // low since here
		l.Step(&a, p, Withdraw, start.Add(time.Minute+c.after))
		if a.State != c.want {
			t.Errorf("low for %s: %s, want %s", c.after, a.State, c.want)
		}
		if a.State != Normal && a.Next == nil {
			t.Errorf("low for %s: nobody says what comes next", c.after)
		}
	}
}

func TestOnlyHardLimitsAndConsentWithdraw(t *testing.T) {
	for _, c := range []struct {
		name   string
		a      Assessment
		policy Policy
		limit  State
		want   State
	}{
		{"certain prediction", Assessment{E30: .99, R1h: .99}, DefaultPolicy(), Withdraw, Draining},
		{"with consent", Assessment{E30: .45}, DefaultPolicy().WithConsent(), Withdraw, Withdraw},
		{"hard limit", Assessment{Limits: []Latch{{Limit: "x"}}}, DefaultPolicy(), Withdraw, Withdraw},
		{"hard limit above the guard", Assessment{Limits: []Latch{{Limit: "x"}}}, DefaultPolicy(), Degraded, Withdraw},
		{"hard limit of a redundant part", Assessment{Limits: []Latch{{Limit: "x", Redundant: true}}}, DefaultPolicy(), Withdraw, Degraded},
		{"prediction under the guard", Assessment{E30: .5}, DefaultPolicy(), Degraded, Degraded},
	} {
		var l Ladder
		for i := range 3 {
			a := c.a
			l.Step(&a, c.policy, c.limit, start.Add(time.Duration(i)*2*time.Minute))
		}
		if l.State != c.want {
			t.Errorf("%s: %s, want %s", c.name, l.State, c.want)
		}
	}
}

func TestGuardLetsFewDrainAtOnce(t *testing.T) {
	const settle = 500 * time.Millisecond
	wish := Wish{State: Draining, Cause: NVMeMediaErrors, For: time.Minute}
	peer := func(name string, w Wish) Peer { return Peer{Name: name, Alive: true, Wish: w} }
	var g Guard
	calm := []Peer{peer("b", Wish{}), peer("c", Wish{})}
	if v := g.Decide("a", Normal, wish, calm, settle, start); v.Limit != Degraded || !v.Asks {
		t.Fatalf("at once: %+v, others must hear it first", v)
	}
	if v := g.Decide("a", Normal, wish, calm, settle, start.Add(settle)); v.Limit != Withdraw || !v.Holds {
		t.Fatalf("after everybody heard: %+v", v)
	}
	var h Guard
	held := []Peer{peer("a", Wish{State: Draining, Cause: Temperature, For: time.Second, Holds: true}), peer("c", Wish{})}
	for i := range 20 {
		if v := h.Decide("b", Normal, wish, held, settle, start.Add(time.Duration(i)*time.Second)); v.Limit != Degraded || v.Alarm == "" {
			t.Fatalf("one of three drains: %+v", v)
		}
	}
	// Two that ask at the same moment: exactly one goes.
	var x, y Guard
	now := start
	vx, vy := Verdict{}, Verdict{}
	for range 5 {
		wx, wy := wish, Wish{State: Draining, Cause: FanAlarm, For: time.Minute}
		wx.Asks, wx.Holds, wy.Asks, wy.Holds = vx.Asks, vx.Holds, vy.Asks, vy.Holds
		vx, vy = x.Decide("a", Normal, wish, []Peer{peer("b", wy), peer("c", Wish{})}, settle, now), y.Decide("b", Normal, Wish{State: Draining, Cause: FanAlarm, For: time.Minute}, []Peer{peer("a", wx), peer("c", Wish{})}, settle, now)
		now = now.Add(settle)
	}
	if vx.Holds == vy.Holds || !vx.Holds {
		t.Errorf("a and b ask together: %+v and %+v", vx, vy)
	}
	if v := x.Decide("a", Draining, Wish{}, calm, settle, now); !v.Holds {
		t.Errorf("a, whose recovery is dampened, drains without a lease: %+v", v)
	}
	if v := x.Decide("a", Degraded, Wish{}, calm, settle, now); v.Holds {
		t.Errorf("a that is well again: %+v", v)
	}
}

// A ladder and its guard as an appliance uses them: evaluation by evaluation, the
// wish of one being told to the next.
func TestGuardHoldsTheFirstStepBack(t *testing.T) {
	for _, x := range []struct {
		name  string
		wish  Wish // of the only other appliance
		state State
		most  State // that may be seen
	}{
		{"nobody else drains, nothing was asked for yet", Wish{}, Normal, Degraded},
		{"another one drains", Wish{State: Draining, Cause: Temperature, Holds: true}, Normal, Degraded},
		{"it drained before the daemon was restarted", Wish{}, Draining, Draining},
	} {
		t.Run(x.name, func(t *testing.T) {
			var g Guard
			var l Ladder
			p := DefaultPolicy()
			now := start
			if x.state >= Draining {
				l.State, l.Slow.State, l.Since = x.state, x.state, now.Add(-time.Hour)
			}
			peers := []Peer{{Name: "b", Alive: true, Wish: x.wish}}
			for i := range 5 {
				v := g.Decide("a", l.State, Wish{State: l.Wants(), Cause: NVMeMediaErrors}, peers, time.Minute, now)
				l.Step(&Assessment{E30: .5}, p, v.Limit, now)
				if l.State > x.most || l.State < x.state {
					t.Fatalf("evaluation %d: %s, want %s to %s; the guard says %+v", i, l.State, x.state, x.most, v)
				}
				now = now.Add(time.Second)
			}
			if x.wish.Holds != (l.State == Degraded && g.asked.IsZero()) {
				t.Errorf("%s after five evaluations, asked at %s", l.State, g.asked)
			}
		})
	}
}

func TestSameCauseOnThreeIsCapped(t *testing.T) {
	w := Wish{State: Draining, Cause: Temperature, For: time.Minute}
	peers := []Peer{{Name: "b", Alive: true, Wish: Wish{State: Degraded, Cause: Temperature, For: 3 * time.Minute}}, {Name: "c", Alive: true, Wish: w}, {Name: "d", Alive: true}}
	var g Guard
	for i := range 10 {
		if v := g.Decide("a", Normal, w, peers, time.Second, start.Add(time.Duration(i)*time.Second)); v.Limit != Degraded || v.Alarm == "" || v.Asks {
			t.Fatalf("heat on three of four: %+v", v)
		}
	}
	peers[0].Wish.For = 2 * time.Hour // began long before: another story
	var h Guard
	h.Decide("a", Normal, w, peers, time.Second, start)
	if v := h.Decide("a", Normal, w, peers, time.Second, start.Add(time.Second)); v.Limit != Withdraw {
		t.Errorf("two within ten minutes: %+v", v)
	}
}
