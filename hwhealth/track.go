package hwhealth

import (
	"math"
	"time"
)

// Times of the trackers.
const (
	baselineTau = 7 * 24 * time.Hour  // of the slow mean, a part's own normal
	lineRate    = 1e9                 // counts a second; more is no wrap but a reset
	recentEdges = 64                  // increases of which each one's time is remembered
	edgesFor    = 31 * 24 * time.Hour // longer than any rule looks back
	shortHalf   = 20.0                // samples, half-life of the short mean
)

// track is what is remembered of one signal of one device, in constant memory.
// Times are wall clock: they must survive a restart. A clock that jumps back
// ages nothing; one that jumps ahead makes evidence old, never new.
type track struct {
	Kind    Kind      `json:"kind"`
	Seen    int       `json:"seen"` // samples, counted to 1e6
	Value   float64   `json:"value"`
	At      time.Time `json:"at"`
	Highest float64   `json:"highest"`
	Limits  *Limits   `json:"-"`

	Slow  float64   `json:"slow"`  // EWMA over baselineTau
	Short float64   `json:"short"` // EWMA over shortHalf samples, without the newest
	Since time.Time `json:"since"` // of the slow mean

	// Recent are the increases of a counter, or events, of the last edgesFor,
	// where a rule asks for them.
	Recent []edge  `json:"recent,omitempty"`
	Resets int     `json:"resets,omitempty"`
	Every  float64 `json:"every,omitempty"` // seconds between samples, mean
	Rate   float64 `json:"rate"`            // per second, of the newest step; -1 unknown

	Missing      bool      `json:"missing,omitempty"`
	MissingSince time.Time `json:"missing_since,omitempty"`
	Why          string    `json:"why,omitempty"`
	Source       string    `json:"source"`
}

// edge is one increase, or several in a row that became one when there were too
// many to remember each.
type edge struct {
	At    time.Time `json:"at"`              // of the newest
	From  time.Time `json:"from,omitzero"`   // of the oldest, where there are several
	N     float64   `json:"n"`               // by how much in all
	Times int       `json:"times,omitempty"` // how many, where there are several
}

func (e edge) from() time.Time {
	if e.From.IsZero() {
		return e.At
	}
	return e.From
}

func (e edge) times() int { return max(1, e.Times) }

// within is the share of e's increases that came after since: several are taken
// to have come evenly.
func (e edge) within(since time.Time) float64 {
	switch from := e.from(); {
	case !from.Before(since):
		return 1
	case e.At.Before(since):
		return 0
	default:
		return float64(e.At.Sub(since)) / float64(e.At.Sub(from))
	}
}

// observe takes a sample that passed Check and is not missing. It returns the
// increase since the last one; known is false where there is none to know: the
// first sample, a reset, a level.
func (t *track) observe(s Sample) (delta float64, known bool) {
	t.Kind, t.Source, t.Missing, t.Why = s.Kind, s.Source, false, ""
	l := s.Limits
	if l != (Limits{}) {
		t.Limits = &l
	}
	first := t.Seen == 0
	t.Seen = min(t.Seen+1, 1e6)
	dt := s.At.Sub(t.At).Seconds()
	prev := t.Value
	t.Value, t.At = s.Value, s.At
	if first {
		t.Slow, t.Short, t.Since, t.Highest, t.Rate = s.Value, s.Value, s.At, s.Value, -1
		if s.Kind == Event && s.Value > 0 {
			t.push(s.At, s.Value)
			return s.Value, true
		}
		return 0, false
	}
	t.Highest = math.Max(t.Highest, s.Value)
	switch s.Kind {
	case Event:
		if s.Value > 0 {
			t.push(s.At, s.Value)
		}
		return s.Value, true
	case Counter:
		return t.count(prev, dt)
	}
	t.pace(dt)
	t.Slow += (s.Value - t.Slow) * -math.Expm1(-dt/baselineTau.Seconds())
	return 0, false
}

// settle moves the short mean; the rules look at it before the newest value
// enters it.
func (t *track) settle() {
	t.Short += (t.Value - t.Short) * -math.Expm1(-math.Ln2/shortHalf)
}

// pace follows the interval between samples and reports a gap of more than
// three, over which no rate is known.
func (t *track) pace(dt float64) (gap bool) {
	gap = t.Every > 0 && dt > 3*t.Every
	if t.Every == 0 {
		t.Every = dt
	} else {
		t.Every += (math.Min(dt, 3*t.Every) - t.Every) / 8
	}
	return gap
}

// count handles a counter's step over dt seconds.
func (t *track) count(prev, dt float64) (float64, bool) {
	gap := t.pace(dt)
	d := t.Value - prev
	if d < 0 {
		const wrap = 1 << 32
		if w := t.Value + wrap - prev; prev > 1<<31 && prev < wrap && dt > 0 && w/dt < lineRate && w < 1<<31 {
			d = w
		} else { // the driver was reloaded, or the source has lost its mind
			t.Resets++
			t.Rate = -1
			return 0, false
		}
	}
	t.Rate = -1
	if dt > 0 && !gap {
		t.Rate = d / dt
	}
	if d > 0 {
		t.push(t.At, d)
	}
	return d, true
}

// push remembers an increase. Of too many, those two neighbours become one whose
// common span is the smallest share of its age: what is recent stays exact, and
// of the past the order of magnitude.
func (t *track) push(at time.Time, n float64) {
	t.Recent = append(t.Recent, edge{At: at, N: n})
	old := 0
	for old < len(t.Recent)-1 && at.Sub(t.Recent[old].At) > edgesFor {
		old++
	}
	t.Recent = append(t.Recent[:0], t.Recent[old:]...)
	if len(t.Recent) <= recentEdges {
		return
	}
	best, least := 0, math.Inf(1)
	for i, e := range t.Recent[:len(t.Recent)-1] {
		next := t.Recent[i+1]
		if share := next.At.Sub(e.from()).Seconds() / (1 + age(at, next.At).Seconds()); share < least {
			best, least = i, share
		}
	}
	a, b := t.Recent[best], t.Recent[best+1]
	t.Recent[best] = edge{At: b.At, From: a.from(), N: a.N + b.N, Times: a.times() + b.times()}
	t.Recent = append(t.Recent[:best+1], t.Recent[best+2:]...)
}

// grew is how much the signal grew within the last d.
func (t *track) grew(now time.Time, d time.Duration) float64 {
	n := 0.0
	for _, e := range t.Recent {
		n += e.N * e.within(now.Add(-d))
	}
	return n
}

// times is in how many samples the signal grew within the last d.
func (t *track) times(now time.Time, d time.Duration) int {
	n := 0.0
	for _, e := range t.Recent {
		n += float64(e.times()) * e.within(now.Add(-d))
	}
	return int(n + .5)
}

// cusum is the Poisson CUSUM of the remembered increases: S = max(0, S + n - k
// dt), which tells a rate of l1 from one of l0 per day (k from both).
func (t *track) cusum(now time.Time, l0, l1 float64) float64 {
	k := (l1 - l0) / math.Log(l1/l0)
	s := 0.0
	var last time.Time
	rest := func(until time.Time) {
		if !last.IsZero() {
			s = math.Max(0, s-k*age(until, last).Hours()/24)
		}
	}
	for _, e := range t.Recent {
		rest(e.from())
		s += e.N
		last = e.from()
		rest(e.At)
		last = e.At
	}
	rest(now)
	return s
}

// cusumTrip is the bound of S for a false alarm probability of alpha.
func cusumTrip(l0, l1, alpha float64) float64 { return math.Log(1/alpha) / math.Log(l1/l0) }

// age is the time from at to now, never negative.
func age(now, at time.Time) time.Duration { return max(0, now.Sub(at)) }
