package shadowset

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Pace bounds how fast a set changes. Building a twin costs its owner a snapshot and
// its host an installation of every SA, so a set changes for a reason that lasts.
type Pace struct {
	// ReplaceAfter is how long a member must be unusable before another one takes
	// its place; one that is there and does not become ready has four times as long.
	ReplaceAfter time.Duration
	// Settle is how long a better set must stay better.
	Settle time.Duration
	// Every is the least time between two changes for the better. A loss is made good
	// at once.
	Every time.Duration
}

// unreadyTimes is how many times ReplaceAfter a member may take to become ready.
const unreadyTimes = 4

// avoidTimes is for how many times ReplaceAfter one that did not is not chosen again.
const avoidTimes = 40

// Keeper decides for one slot when a choice replaces the present set. It belongs to
// the owner of the slot and reads no clock.
type Keeper struct {
	Pace Pace
	// since when a member of the set is unusable, or not ready.
	bad, unready map[string]time.Time
	avoid        map[string]time.Time // until when one is not chosen
	better       []string             // the set that may replace the present one
	since        time.Time            // of better
	changed      time.Time            // last change for the better
}

// Verdict is what a Keeper came to.
type Verdict struct {
	Want   []string // whom the slot shall have for shadows, first to claim first
	Result Result   // of the choice behind it
	Reason string   // why Want is not the present set, or why it still is
}

// Step judges the present set of r. notReady are members of it whose twins are not
// complete. Time must not run backwards.
func (k *Keeper) Step(r Request, notReady []string, now time.Time) Verdict {
	k.note(r, notReady, now)
	r.Candidates = slices.Clone(r.Candidates)
	lost := ""
	for i := range r.Candidates {
		m := &r.Candidates[i]
		member := slices.Contains(r.Current, m.Name)
		bad, isBad := k.bad[m.Name]
		unready, isUnready := k.unready[m.Name]
		switch {
		case member && isBad && now.Sub(bad) < k.Pace.ReplaceAfter:
			m.Problem, m.Load = "", min(m.Load, 0.99) // it may be back in a moment
		case member && isBad:
			lost = fmt.Sprintf("%s %s for %s", m.Name, k.problem(*m), now.Sub(bad).Round(time.Second))
		case member && isUnready && now.Sub(unready) >= unreadyTimes*k.Pace.ReplaceAfter:
			k.avoid[m.Name] = now.Add(avoidTimes * k.Pace.ReplaceAfter)
			m.Problem = "has not become ready"
			lost = fmt.Sprintf("%s has not become ready for %s", m.Name, now.Sub(unready).Round(time.Second))
		case !member && m.Problem == "" && now.Before(k.avoid[m.Name]):
			m.Problem = "did not become ready"
		}
	}
	v := Verdict{Want: r.Current, Result: Select(r)}
	choice := v.Result.Shadows
	usable := 0
	for _, n := range r.Current {
		if slices.ContainsFunc(r.Candidates, func(m Member) bool { return m.Name == n && m.Problem == "" }) {
			usable++
		}
	}
	switch {
	case len(choice) == 0 || sameSet(choice, r.Current):
		k.better = nil
	case usable < len(choice):
		v.Want, k.better = choice, nil
		v.Reason = lost
		if usable == len(r.Current) {
			v.Reason = fmt.Sprintf("%d of %d shadows", usable, len(choice))
		}
	case usable > len(choice):
		v.Want, k.better = choice, nil
		v.Reason = fmt.Sprintf("%d shadows suffice", len(choice))
	case lost != "" && !slices.ContainsFunc(choice, func(n string) bool { return !slices.Contains(r.Current, n) }):
		k.better, v.Reason = nil, lost+", and nobody can take its place"
	default:
		v.Reason = k.improve(&v, choice, now)
	}
	return v
}

// improve waits until a better set has been better for long enough.
func (k *Keeper) improve(v *Verdict, choice []string, now time.Time) string {
	if !sameSet(choice, k.better) {
		k.better, k.since = slices.Clone(choice), now
	}
	wait := max(k.Pace.Settle-now.Sub(k.since), 0)
	if !k.changed.IsZero() {
		wait = max(wait, k.Pace.Every-now.Sub(k.changed))
	}
	names := strings.Join(choice, ", ")
	if wait > 0 {
		return fmt.Sprintf("%s would be better for %s; a change waits %s more", names, now.Sub(k.since).Round(time.Second), wait.Round(time.Second))
	}
	v.Want, k.changed, k.better = choice, now, nil
	return names + " has been better for " + k.Pace.Settle.String()
}

// note keeps since when members are unusable.
func (k *Keeper) note(r Request, notReady []string, now time.Time) {
	if k.bad == nil {
		k.bad, k.unready, k.avoid = map[string]time.Time{}, map[string]time.Time{}, map[string]time.Time{}
	}
	mark := func(m map[string]time.Time, name string, on bool) {
		if _, was := m[name]; on && !was {
			m[name] = now
		} else if !on {
			delete(m, name)
		}
	}
	for _, m := range r.Candidates {
		member := slices.Contains(r.Current, m.Name)
		mark(k.bad, m.Name, member && k.problem(m) != "")
		mark(k.unready, m.Name, member && k.problem(m) == "" && slices.Contains(notReady, m.Name))
	}
}

// problem is why Select would exclude m, "" if it would not.
func (k *Keeper) problem(m Member) string {
	if m.Problem == "" && !(m.Load < 1) {
		return "has no capacity left"
	}
	return m.Problem
}

// sameSet reports whether two sets have the same members.
func sameSet(a, b []string) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(n string) bool { return !slices.Contains(b, n) })
}
