package hwhealth

import (
	"math"
	"time"
)

// Times of the trackers.
const (
	baselineTau = 7 * 24 * time.Hour // of the slow mean, a part's own normal
	lineRate    = 1e9                // counts a second; more is no wrap but a reset
	recentEdges = 6                  // increases whose times are remembered
	shortHalf   = 20.0               // samples, half-life of the short mean
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

	// Recent are the newest increases of a counter, or events.
	Recent []edge  `json:"recent,omitempty"`
	Resets int     `json:"resets,omitempty"`
	Every  float64 `json:"every,omitempty"` // seconds between samples, mean
	Rate   float64 `json:"rate"`            // per second, of the newest step; -1 unknown

	Missing      bool      `json:"missing,omitempty"`
	MissingSince time.Time `json:"missing_since,omitempty"`
	Why          string    `json:"why,omitempty"`
	Source       string    `json:"source"`
}

// edge is one increase.
type edge struct {
	At time.Time `json:"at"`
	N  float64   `json:"n"`
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

// push remembers an increase; the oldest two become one when there are too many.
func (t *track) push(at time.Time, n float64) {
	t.Recent = append(t.Recent, edge{at, n})
	if len(t.Recent) > recentEdges {
		t.Recent[1].N += t.Recent[0].N
		t.Recent = append(t.Recent[:0], t.Recent[1:]...)
	}
}

// grew is how much the signal grew within the last d. Where more increases came
// than are remembered, the oldest remembered one stands for those before it.
func (t *track) grew(now time.Time, d time.Duration) float64 {
	n := 0.0
	for _, e := range t.Recent {
		if age(now, e.At) <= d {
			n += e.N
		}
	}
	return n
}

// times is in how many samples the signal grew within the last d, at most
// recentEdges.
func (t *track) times(now time.Time, d time.Duration) int {
	n := 0
	for _, e := range t.Recent {
		if age(now, e.At) <= d {
			n++
		}
	}
	return n
}

// cusum is the Poisson CUSUM of the remembered increases: S = max(0, S + n - k
// dt), which tells a rate of l1 from one of l0 per day (k from both).
func (t *track) cusum(now time.Time, l0, l1 float64) float64 {
	k := (l1 - l0) / math.Log(l1/l0)
	s := 0.0
	var last time.Time
	for i, e := range t.Recent {
		if i > 0 {
			s = math.Max(0, s-k*e.At.Sub(last).Hours()/24)
		}
		s += e.N
		last = e.At
	}
	if !last.IsZero() {
		s = math.Max(0, s-k*age(now, last).Hours()/24)
	}
	return s
}

// cusumTrip is the bound of S for a false alarm probability of alpha.
func cusumTrip(l0, l1, alpha float64) float64 { return math.Log(1/alpha) / math.Log(l1/l0) }

// age is the time from at to now, never negative.
func age(now, at time.Time) time.Duration { return max(0, now.Sub(at)) }
