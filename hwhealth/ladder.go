package hwhealth

import (
	"fmt"
	"math"
	"time"
)

// Thresholds are the probabilities at which a state begins, by horizon. 0
// means never.
type Thresholds struct {
	Watch, Degraded, Draining, Withdraw float64
}

func (t Thresholds) of(s State) float64 {
	return [...]float64{0, t.Watch, t.Degraded, t.Draining, t.Withdraw}[s]
}

// state is the worst one whose threshold r reaches.
func (t Thresholds) state(r float64) State {
	for s := Withdraw; s > Normal; s-- {
		if th := t.of(s); th > 0 && r >= th {
			return s
		}
	}
	return Normal
}

// Policy is how the state follows the risk.
type Policy struct {
	Slow, Fast         Thresholds
	SlowHold, FastHold time.Duration // below half of a threshold for so long: one state better
	Dwell              time.Duration // between two changes for the better, and before a mild one for the worse
	// Dampening of recovery, RFC 2439 section 4: figure of merit.
	DrainPenalty, ChangePenalty, Suppress, Reuse, Ceiling float64
	SlowHalfLife, FastHalfLife                            time.Duration
}

// DefaultPolicy is the policy of the signal catalogue. Withdraw is reached by
// hard limits alone; WithConsent lets predictions do it too.
func DefaultPolicy() Policy {
	return Policy{
		Slow:     Thresholds{Watch: .005, Degraded: .009, Draining: .06},
		Fast:     Thresholds{Watch: .005, Degraded: .01, Draining: .05},
		SlowHold: 7 * 24 * time.Hour, FastHold: 15 * time.Minute, Dwell: time.Minute,
		DrainPenalty: 1000, ChangePenalty: 500, Suppress: 2000, Reuse: 750, Ceiling: 12000,
		SlowHalfLife: 24 * time.Hour, FastHalfLife: 15 * time.Minute,
	}
}

// Check reports what of a policy that was read makes no sense.
func (p Policy) Check() error {
	for name, t := range map[string]Thresholds{"slow": p.Slow, "fast": p.Fast} {
		for s := Watch; s <= Withdraw; s++ {
			if v := t.of(s); !(v >= 0 && v <= 1) {
				return fmt.Errorf("%s %s: %v is no probability", name, s, v)
			}
		}
	}
	for name, d := range map[string]time.Duration{"slow hold": p.SlowHold, "fast hold": p.FastHold, "dwell": p.Dwell, "slow half-life": p.SlowHalfLife, "fast half-life": p.FastHalfLife} {
		if d <= 0 {
			return fmt.Errorf("%s is %s, want more than 0", name, d)
		}
	}
	if !(p.Reuse > 0 && p.Suppress >= p.Reuse && p.Ceiling >= p.Suppress) {
		return fmt.Errorf("dampening: want 0 < reuse %v <= suppress %v <= ceiling %v", p.Reuse, p.Suppress, p.Ceiling)
	}
	return nil
}

// WithConsent lets predictions withdraw, which an operator must ask for.
func (p Policy) WithConsent() Policy {
	p.Slow.Withdraw, p.Fast.Withdraw = .4, .5
	return p
}

// leaveShare of a threshold must be undercut to leave its state.
const leaveShare = .5

// rung is the state that one horizon asks for.
type rung struct {
	State State     `json:"state"`
	Over  State     `json:"over"`  // the state that the last look would have entered
	Below time.Time `json:"below"` // since when it is low enough to leave; zero: it is not
}

// step takes the risk now. confirm asks for two looks in a row before it gets
// worse.
func (r *rung) step(risk float64, th Thresholds, hold time.Duration, confirm bool, now time.Time) {
	want := th.state(risk)
	if want > r.State {
		if confirm {
			first := min(want, r.Over)
			r.Over = want
			want = first
		}
		if want > r.State {
			r.State, r.Below = want, time.Time{}
		}
		return
	}
	r.Over = want
	if r.State == Normal || risk >= leaveShare*th.of(r.State) {
		r.Below = time.Time{}
		return
	}
	switch {
	case r.Below.IsZero() || r.Below.After(now):
		r.Below = now
	case now.Sub(r.Below) >= hold:
		r.State--
		for r.State > Normal && th.of(r.State) == 0 {
			r.State--
		}
		r.Below = now
	}
}

// Ladder turns risks into a state with hysteresis, dwell and dampened recovery.
// It is pure: the time comes from the caller. The zero value is normal.
type Ladder struct {
	Slow  rung      `json:"slow"`
	Fast  rung      `json:"fast"`
	State State     `json:"state"`
	Since time.Time `json:"since"`
	// Penalty is the figure of merit at PenaltyAt; Held says that recovery is
	// suppressed.
	Penalty   float64   `json:"penalty"`
	PenaltyAt time.Time `json:"penalty_at"`
	Held      bool      `json:"held"`
	FastCause bool      `json:"fast_cause"` // the half-life that applies
}

// Step takes an assessment, fills in its Raw, State, Why and Next, and reports
// whether the state changed. limit caps what predictions may ask for (the fleet
// guard); hard limits are above it.
func (l *Ladder) Step(a *Assessment, p Policy, limit State, now time.Time) (changed bool) {
	l.Slow.step(a.E30, p.Slow, p.SlowHold, false, now)
	l.Fast.step(a.R1h, p.Fast, p.FastHold, true, now)
	hard := Normal
	for _, x := range a.Limits {
		if x.Redundant {
			hard = max(hard, Degraded)
		} else {
			hard = Withdraw
		}
	}
	predicted := max(l.Slow.State, l.Fast.State)
	want := max(hard, min(predicted, limit))
	a.Raw = max(hard, p.Slow.state(a.E30), p.Fast.state(a.R1h))
	l.decay(p, now)
	was := l.State
	switch {
	case want > l.State && (want >= Draining || now.Sub(l.Since) >= p.Dwell || l.Since.IsZero()):
		l.FastCause = hard == Normal && l.Fast.State >= l.Slow.State
		l.to(want, p, now)
	case want < l.State && !l.Held && now.Sub(l.Since) >= p.Dwell:
		l.to(l.State-1, p, now)
	}
	a.State = l.State
	a.Why, a.Next = l.explain(a, p, want, predicted, limit, hard, now)
	return l.State != was
}

// to changes the state and pays for it.
func (l *Ladder) to(s State, p Policy, now time.Time) {
	cost := p.ChangePenalty
	if s >= Draining && l.State < Draining {
		cost = p.DrainPenalty
	}
	l.Penalty = math.Min(l.Penalty+cost, p.Ceiling)
	if l.Penalty > p.Suppress {
		l.Held = true
	}
	l.State, l.Since = s, now
}

func (l *Ladder) halfLife(p Policy) time.Duration {
	if l.FastCause {
		return p.FastHalfLife
	}
	return p.SlowHalfLife
}

func (l *Ladder) decay(p Policy, now time.Time) {
	if dt := now.Sub(l.PenaltyAt); dt > 0 && !l.PenaltyAt.IsZero() {
		l.Penalty *= math.Exp2(-float64(dt) / float64(l.halfLife(p)))
	}
	l.PenaltyAt = now
	if l.Penalty < p.Reuse {
		l.Held = false
	}
}

// explain says what holds the state and what happens next if nothing new is
// seen and the evidence does not get weaker than it is.
func (l *Ladder) explain(a *Assessment, p Policy, want, predicted, limit, hard State, now time.Time) (string, *Outlook) {
	why := "no evidence"
	switch {
	case hard == Withdraw:
		why = "a hard limit was passed: " + a.Limits[0].Detail
	case hard > Normal && hard >= predicted:
		why = "a hard limit was passed by a part that another stands in for: " + a.Limits[0].Detail
	case predicted > limit:
		why = fmt.Sprintf("the risk asks for %s, the fleet guard allows %s", predicted, limit)
	case a.Raw > Normal && a.Raw >= l.State:
		why = fmt.Sprintf("the risk (%.2g%% in 30 days, %.2g%% in an hour) is above the threshold", 100*a.E30, 100*a.R1h)
	case l.State > Normal:
		why = "the risk fell, recovery is on hold"
	}
	if want > l.State {
		return why, &Outlook{State: want, At: l.Since.Add(p.Dwell), Why: "one minute between changes"}
	}
	if l.State == Normal {
		return why, nil
	}
	if hard >= l.State {
		return why, &Outlook{State: l.State, Why: "stays until an operator clears the limit, the part is replaced, or the machine reboots if it is a limit of this boot"}
	}
	at := l.Since.Add(p.Dwell)
	if l.Held {
		d := math.Log2(l.Penalty/p.Reuse) * float64(l.halfLife(p))
		at = later(at, now.Add(time.Duration(d)))
		why += fmt.Sprintf("; recovery is dampened (figure of merit %.0f, reuse below %.0f)", l.Penalty, p.Reuse)
	}
	for _, x := range []struct {
		r    rung
		hold time.Duration
	}{{l.Slow, p.SlowHold}, {l.Fast, p.FastHold}} {
		if x.r.State < l.State {
			continue
		}
		if x.r.Below.IsZero() {
			return why, &Outlook{State: l.State, Why: "stays while the risk is above half of the threshold"}
		}
		at = later(at, x.r.Below.Add(x.hold))
	}
	return why, &Outlook{State: l.State - 1, At: at, Why: "if the risk stays below half of the threshold"}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Wants is the state that the predictions of both horizons ask for, with
// hysteresis and before the fleet guard.
func (l *Ladder) Wants() State { return max(l.Slow.State, l.Fast.State) }
