package hwhealth

import (
	"bytes"
	_ "embed" // the rules
	"encoding/json"
	"fmt"
	"math"
	"sync"
	"time"
)

//go:embed rules.json
var rulesJSON []byte

// Rule is one line of the hand-set hazard table (rules.json): when All of its
// conditions hold, the part fails with probability P within the horizon; or,
// with Hard, it has passed a limit that latches.
type Rule struct {
	ID    string `json:"id"` // signal catalogue number and a word: "N2.flaps"
	Class Class  `json:"class"`
	All   []Cond `json:"all"`
	// Horizon of P: "1h" or "30d".
	Horizon string  `json:"horizon,omitempty"`
	P       float64 `json:"p,omitempty"`
	// Group is the probability in place of P where others stand in for the part:
	// of this a tenth counts as long as they are well. 0 is P.
	Group float64 `json:"group,omitempty"`
	// Scale multiplies the hazard by the value of the first condition's
	// signal, between 0 and 2.
	Scale bool `json:"scale,omitempty"`
	Hard  bool `json:"hard,omitempty"`
	// Boot limits are cleared by a reboot, others only by another serial or an
	// operator.
	Boot bool   `json:"boot,omitempty"`
	Text string `json:"text"`
	// Source says where P comes from: "prior" is an engineer's estimate.
	Source string `json:"source"`
}

// Cond is one condition on one signal of the part.
type Cond struct {
	Signal Signal  `json:"signal"`
	When   When    `json:"when"`
	N      float64 `json:"n"`
	// Over is the window of grew, times and cusum; For how long a level must
	// hold before it counts.
	Over Span `json:"over,omitempty"`
	For  Span `json:"for,omitempty"`
}

// When is the kind of a condition.
type When string

// The kinds of conditions.
const (
	WhenAtLeast  When = "at-least"  // the value is N or more
	WhenAtMost   When = "at-most"   // N or less
	WhenBits     When = "bits"      // has one of the bits N
	WhenGrew     When = "grew"      // grew by N or more within Over
	WhenTimes    When = "times"     // grew in N or more samples within Over
	WhenCUSUM    When = "cusum"     // comes more often than 0.1 a day, by CUSUM against N a day
	WhenHighWarn When = "high-warn" // above the part's own limit by N
	WhenHighCrit When = "high-crit"
	WhenLowWarn  When = "low-warn" // below it by N
	WhenLowCrit  When = "low-crit"
	WhenDrop     When = "drop"       // N below the part's own slow mean
	WhenFall     When = "fall"       // N below its mean of the last 20 samples
	WhenRatio    When = "ratio"      // N times its own slow mean
	WhenBelowTop When = "below-best" // less than the highest value seen
)

// Span is a time.Duration that JSON writes as text.
type Span time.Duration

// UnmarshalText reads 10m, 30d.
func (s *Span) UnmarshalText(b []byte) error {
	t := string(b)
	var days float64
	if n, err := fmt.Sscanf(t, "%gd", &days); err == nil && n == 1 && t[len(t)-1] == 'd' {
		*s = Span(days * float64(24*time.Hour))
		return nil
	}
	d, err := time.ParseDuration(t)
	if err != nil {
		return fmt.Errorf("span %.20q: want 10m, 36h, 7d", t)
	}
	*s = Span(d)
	return nil
}

// ParseRules reads and checks rules.
func ParseRules(b []byte) ([]Rule, error) {
	var rules []Rule
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&rules); err != nil {
		return nil, fmt.Errorf("read rules: %w", err)
	}
	seen := map[string]bool{}
	for i, r := range rules {
		if err := r.check(); err != nil {
			return nil, fmt.Errorf("rules[%d] %s: %w", i, r.ID, err)
		}
		if seen[r.ID] {
			return nil, fmt.Errorf("rules[%d] %s: the id is there twice", i, r.ID)
		}
		seen[r.ID] = true
	}
	return rules, nil
}

func (r Rule) check() error {
	switch {
	case r.ID == "" || r.Class == "" || len(r.All) == 0 || r.Text == "" || r.Source == "":
		return fmt.Errorf("id, class, all, text and source must be there")
	case r.Hard && (r.P != 0 || r.Group != 0 || r.Horizon != ""):
		return fmt.Errorf("a hard limit has no probability")
	case !r.Hard && (r.Horizon != "1h" && r.Horizon != "30d"):
		return fmt.Errorf("horizon is %q, want 1h or 30d", r.Horizon)
	case !r.Hard && !(r.P > 0 && r.P < 1):
		return fmt.Errorf("p is %v, want a probability between 0 and 1", r.P)
	case !(r.Group >= 0 && r.Group < 1):
		return fmt.Errorf("group is %v, want a probability below 1", r.Group)
	}
	for _, c := range r.All {
		switch c.When {
		case WhenGrew, WhenTimes:
			if c.Over <= 0 {
				return fmt.Errorf("%s %s needs over", c.Signal, c.When)
			}
		case WhenCUSUM:
			if c.N <= .1 {
				return fmt.Errorf("%s cusum against %v a day: want more than 0.1", c.Signal, c.N)
			}
		case WhenAtLeast, WhenAtMost, WhenBits, WhenHighWarn, WhenHighCrit, WhenLowWarn, WhenLowCrit, WhenDrop, WhenFall, WhenRatio, WhenBelowTop:
		default:
			return fmt.Errorf("when is %q", c.When)
		}
		if _, ok := Info(c.Signal); !ok && !derived[c.Signal] {
			return fmt.Errorf("signal %q is not in the table", c.Signal)
		}
	}
	return nil
}

// horizon and hazard of a soft rule: the hazard is -ln(1-p), for a part that
// others stand in for or one that is alone.
func (r Rule) horizon() Horizon {
	if r.Horizon == "1h" {
		return Fast
	}
	return Slow
}

func (r Rule) hazard(grouped bool) float64 {
	if grouped && r.Group > 0 {
		return -math.Log1p(-r.Group)
	}
	return -math.Log1p(-r.P)
}

// DefaultRules are the rules that are built in.
var DefaultRules = sync.OnceValue(func() []Rule {
	rules, err := ParseRules(rulesJSON)
	if err != nil {
		panic(err) // the file is part of the program and tested
	}
	return rules
})

// holds reports whether the condition holds now for a track that has a value.
func (c Cond) holds(t *track, now time.Time) bool {
	lim := NoLimits()
	if t.Limits != nil {
		lim = *t.Limits
	}
	switch c.When {
	case WhenAtLeast:
		return t.Value >= c.N
	case WhenAtMost:
		return t.Value <= c.N
	case WhenBits:
		return t.Value >= 0 && t.Value < 1<<32 && uint64(t.Value)&uint64(c.N) != 0
	case WhenGrew:
		return t.grew(now, time.Duration(c.Over)) >= c.N
	case WhenTimes:
		return float64(t.times(now, time.Duration(c.Over))) >= c.N
	case WhenCUSUM:
		return t.cusum(now, .1, c.N) >= cusumTrip(.1, c.N, 1e-3)
	case WhenHighWarn:
		return t.Value >= lim.HighWarn+c.N // false where the limit is NaN
	case WhenHighCrit:
		return t.Value >= lim.HighCrit+c.N
	case WhenLowWarn:
		return t.Value <= lim.LowWarn-c.N
	case WhenLowCrit:
		return t.Value <= lim.LowCrit-c.N
	case WhenDrop:
		return t.warm() && t.Value <= t.Slow-c.N
	case WhenFall:
		return t.Seen > int(shortHalf) && t.Value <= t.Short-c.N
	case WhenRatio:
		return t.warm() && t.Slow > 0 && t.Value >= t.Slow*c.N
	case WhenBelowTop:
		return t.Value > 0 && t.Value < t.Highest-1e-9
	}
	return false
}

// warm reports whether the slow mean means something: an hour of samples.
func (t *track) warm() bool { return t.Seen >= 20 && t.At.Sub(t.Since) >= time.Hour }

// level reports whether the condition is about a value now, which must be seen
// twice, and not about increases that are facts.
func (c Cond) level() bool {
	switch c.When {
	case WhenGrew, WhenTimes, WhenCUSUM:
		return false
	}
	return true
}
