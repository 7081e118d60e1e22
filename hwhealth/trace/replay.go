package trace

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// Change is one change of state.
type Change struct {
	At   time.Time `json:"at"`
	From string    `json:"from"`
	To   string    `json:"to"`
	Why  string    `json:"why"`
	// Causes are the limits that were passed and the causes of the risk in words,
	// largest first.
	Causes []string `json:"causes"`
	R30    float64  `json:"risk_30d"`
	R1h    float64  `json:"risk_1h"`
}

// Point is the assessment at one moment, or the worst of several.
type Point struct {
	At       time.Time
	R30, R1h float64 // R30 by evidence
	State    hwhealth.State
	Causes   map[string]float64 // hazard, in shares of the one that drains
	Gap      bool               // nothing was recorded before it for long
}

// Result is what the predictor makes of a trace.
type Result struct {
	Node     string          `json:"node"`
	From     time.Time       `json:"from"`
	To       time.Time       `json:"to"`
	Starts   int             `json:"starts"`  // lives of the daemon
	Boots    int             `json:"boots"`   // of the machine
	Samples  int             `json:"samples"` // that were read
	Refused  uint64          `json:"refused"` // of them, because they make no sense
	Final    string          `json:"final"`   // state
	Changes  []Change        `json:"changes"`
	Points   []Point         `json:"-"`
	Policy   hwhealth.Policy `json:"-"`
	distance time.Duration   // of points
}

const (
	// silence is a gap in the record: the daemon was not there to assess.
	silence = 10 * time.Minute
	// maxPoints bounds what a plot shows; more are merged.
	maxPoints = 4000
	// plottedCauses of a moment.
	plottedCauses = 8
)

// player is the predictor and the ladder under a trace.
type player struct {
	Result
	every     time.Duration
	predictor *hwhealth.Predictor
	ladder    hwhealth.Ladder
	boot      string
	next      time.Time // when to assess
}

// Replay plays the trace in dir through a predictor that knows nothing else,
// which assesses as often as every says (the daemon: every second). The fleet
// guard is not part of it: predictions may drain.
func Replay(dir string, every time.Duration) (*Result, error) {
	if every <= 0 {
		return nil, fmt.Errorf("assess every %s: want more than 0", every)
	}
	p := &player{every: every, predictor: hwhealth.New(), Result: Result{Policy: hwhealth.DefaultPolicy(), distance: every}}
	if err := Read(dir, p); err != nil {
		return nil, err
	}
	if p.Samples == 0 {
		return nil, fmt.Errorf("the trace in %s has no reading", dir)
	}
	p.assess(p.To)
	p.Refused += p.predictor.Refused()
	p.Final = p.ladder.State.String()
	return &p.Result, nil
}

// Begin is a start of the daemon: after a reboot what counts from boot has no past.
func (p *player) Begin(s Start) error {
	p.Starts++
	p.Node = s.Node
	if s.Policy != nil {
		if err := s.Policy.Check(); err != nil {
			return fmt.Errorf("start: policy: %w", err)
		}
		p.Policy = *s.Policy
	}
	if s.Boot != p.boot {
		p.Boots++
		if p.boot != "" {
			p.Refused += p.predictor.Refused()
			b, err := hwhealth.Encode(p.predictor, p.ladder, p.boot)
			if err != nil {
				return err
			}
			if p.predictor, p.ladder, err = hwhealth.Decode(b, s.Boot); err != nil {
				return err
			}
		}
		p.boot = s.Boot
	}
	p.predictor.SetHalfLives(min(hwhealth.SlowHalfLife, p.Policy.SlowHold), min(hwhealth.FastHalfLife, p.Policy.FastHold))
	return nil
}

// Reading assesses until at and takes the samples then.
func (p *player) Reading(at time.Time, samples []hwhealth.Sample) error {
	if p.From.IsZero() {
		p.From, p.next = at, at
	}
	gap := !p.To.IsZero() && at.Sub(p.To) > silence
	if gap {
		p.next = at
	}
	for !p.next.After(at) {
		p.assess(p.next)
		p.next = p.next.Add(p.every)
	}
	if gap && len(p.Points) > 0 {
		p.Points[len(p.Points)-1].Gap = true
	}
	if at.After(p.To) {
		p.To = at
	}
	p.Samples += len(samples)
	for _, s := range samples {
		p.predictor.Observe(s, at)
	}
	return nil
}

// assess is what the daemon does every second.
func (p *player) assess(now time.Time) {
	a := p.predictor.Assess(now)
	was := p.ladder.State
	if p.ladder.Step(&a, p.Policy, hwhealth.Withdraw, now) {
		p.Changes = append(p.Changes, Change{At: now, From: was.String(), To: a.State.String(), Why: a.Why, Causes: a.Texts(), R30: a.E30, R1h: a.R1h})
	}
	x := Point{At: now, R30: a.E30, R1h: a.R1h, State: a.State, Causes: map[string]float64{}}
	for _, l := range a.Limits {
		x.Causes["limit "+l.Limit+": "+l.Device.String()] = 1
	}
	for i, c := range a.Causes {
		if i == plottedCauses {
			break
		}
		x.Causes[c.Term+": "+c.Device.String()] = min(1, c.Weight())
	}
	p.add(x)
}

// add appends a point; of too many, neighbours become the worse of both.
func (p *player) add(x Point) {
	if n := len(p.Points); n > 0 && x.At.Sub(p.Points[n-1].At) < p.distance {
		p.Points[n-1].merge(x)
		return
	}
	p.Points = append(p.Points, x)
	if len(p.Points) < maxPoints {
		return
	}
	p.distance *= 2
	old := p.Points
	p.Points = old[:0:0]
	for _, x := range old {
		if n := len(p.Points); n > 0 && x.At.Sub(p.Points[n-1].At) < p.distance {
			p.Points[n-1].merge(x)
		} else {
			p.Points = append(p.Points, x)
		}
	}
}

func (x *Point) merge(y Point) {
	x.R30, x.R1h, x.State, x.Gap = max(x.R30, y.R30), max(x.R1h, y.R1h), max(x.State, y.State), x.Gap || y.Gap
	for k, v := range y.Causes {
		x.Causes[k] = max(x.Causes[k], v)
	}
}

// peaks are the causes of the result, those with the highest peaks first.
func (r *Result) peaks(most int) []string {
	peak := map[string]float64{}
	for _, x := range r.Points {
		for k, v := range x.Causes {
			peak[k] = max(peak[k], v)
		}
	}
	var names []string
	for k := range peak {
		names = append(names, k)
	}
	slices.SortFunc(names, func(a, b string) int {
		if peak[a] != peak[b] {
			if peak[a] > peak[b] {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	return names[:min(most, len(names))]
}
