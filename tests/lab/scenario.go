package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shadowcast/shadowcast/tests/uml"
)

// Scenario is one story that the lab can play.
type Scenario struct {
	Name string
	Doc  string   // one line
	Need uml.Need // beyond what every lab needs (network namespaces, BPF)
	// Options of the lab that Run gets; OutDir and BinDir are the runner's.
	Options Options
	Timeout time.Duration // 4 minutes if 0
	Memory  string        // of a guest in which it is played, uml.DefaultMemory if empty
	// Bench scenarios measure; they are played only when they are named.
	Bench bool
	Run   func(*T, *Lab)
}

var registry []Scenario

// Register adds a scenario; called from init functions. Two of one name, or a name
// that is no file name, are a programming mistake.
func Register(s Scenario) {
	if s.Name == "" || strings.ContainsAny(s.Name, "/ ") || slices.ContainsFunc(registry, func(x Scenario) bool { return x.Name == s.Name }) {
		panic("lab: bad or duplicate scenario name " + s.Name)
	}
	if s.Timeout == 0 {
		s.Timeout = 4 * time.Minute
	}
	registry = append(registry, s)
}

// Scenarios lists all scenarios by name.
func Scenarios() []Scenario {
	out := slices.Clone(registry)
	slices.SortFunc(out, func(a, b Scenario) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Select returns the scenarios whose names match one of the patterns of
// path.Match; none means all but benchmarks.
func Select(patterns []string) ([]Scenario, error) {
	if len(patterns) == 0 {
		return slices.DeleteFunc(Scenarios(), func(s Scenario) bool { return s.Bench }), nil
	}
	var out []Scenario
	for _, p := range patterns {
		n := len(out)
		for _, s := range Scenarios() {
			ok, err := filepath.Match(p, s.Name)
			if err != nil {
				return nil, fmt.Errorf("select scenarios %q: %w", p, err)
			}
			if ok && !slices.ContainsFunc(out, func(x Scenario) bool { return x.Name == s.Name }) {
				out = append(out, s)
			}
		}
		if len(out) == n && !slices.ContainsFunc(out, func(x Scenario) bool { return x.Name == p }) {
			return nil, fmt.Errorf("select scenarios: no scenario is called %s", p)
		}
	}
	return out, nil
}

// weighty are the scenarios that say most: where there is no time for all, they are
// played before the others.
var weighty = []string{"fleet", "daemon-killed", "matrix-esp", "typed", "stale-owner", "charon-killed", "drain", "move-during-ike-rekey", "no-key-leaks"}

// Weighty puts those that say most first.
func Weighty(ss []Scenario) []Scenario {
	place := func(s Scenario) int {
		if i := slices.Index(weighty, s.Name); i >= 0 {
			return i
		}
		return len(weighty)
	}
	return slices.SortedStableFunc(slices.Values(ss), func(a, b Scenario) int { return place(a) - place(b) })
}

// Runner plays scenarios.
type Runner struct {
	Out     string    // artefacts go to Out/<scenario>/
	BinDir  string    // see Options
	Log     io.Writer // progress and results
	Verbose bool      // progress too
	// Share, if set, is a directory in which several runners of one list agree who
	// plays what: each scenario is played by the one that makes its directory there.
	Share string
	// Retries is how often a scenario that failed is played again. Every failed
	// attempt is told: a guest that shares its processor with others may starve a
	// BFD session that is well.
	Retries int
	// Until is when no further scenario begins: what is left is skipped. Never, if zero.
	Until time.Time
}

// Result is what one scenario came to; written as result.json.
type Result struct {
	Name     string   `json:"name"`
	Passed   bool     `json:"passed"`
	Skipped  string   `json:"skipped,omitempty"`
	Attempts int      `json:"-"`
	Failures []string `json:"failures,omitempty"`
	Seconds  float64  `json:"seconds"`
	// Takeovers are the claims of slots whose owner was held for dead, as the daemons'
	// logs tell them: more than a scenario brings about are a machine that is too busy.
	Takeovers []string       `json:"takeovers,omitempty"`
	Scenes    []Scene        `json:"scenes"`
	Metrics   map[string]any `json:"metrics,omitempty"`
	Table     string         `json:"table,omitempty"` // of a campaign, for people
}

// Line is the one-line verdict.
func (r Result) Line() string {
	verdict := "PASS"
	switch {
	case r.Skipped != "":
		verdict = "SKIP"
	case !r.Passed:
		verdict = "FAIL"
	}
	s := fmt.Sprintf("%s %-32s %6.1f s", verdict, r.Name, r.Seconds)
	if r.Attempts > 1 {
		s += fmt.Sprintf("  (attempt %d)", r.Attempts)
	}
	for _, sc := range r.Scenes {
		s += "  " + sc.Short()
	}
	if n := len(r.Takeovers); n > 0 {
		s += fmt.Sprintf("  %d takeovers", n)
	}
	if r.Skipped != "" {
		s += "  " + r.Skipped
	}
	if len(r.Failures) > 0 {
		first, _, _ := strings.Cut(r.Failures[0], "\n")
		s += "  " + first
	}
	return s
}

// T is what a scenario reports to. Its methods may be called from any goroutine;
// Fatalf, Skipf and Check only from the scenario's own.
type T struct {
	Name string
	ctx  context.Context
	log  io.Writer

	mu  sync.Mutex
	res Result
}

// Context ends at the scenario's time limit.
func (t *T) Context() context.Context { return t.ctx }

// Logf tells progress, with the time since the scenario began.
func (t *T) Logf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.log, "%s %s: %s\n", time.Now().Format("15:04:05.000"), t.Name, fmt.Sprintf(format, args...))
}

// Errorf records a failure and goes on.
func (t *T) Errorf(format string, args ...any) {
	s := fmt.Sprintf(format, args...)
	t.Logf("FAILED: %s", s)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.res.Failures = append(t.res.Failures, s)
}

// Fatalf records a failure and ends the scenario.
func (t *T) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	runtime.Goexit()
}

// Check ends the scenario if err is not nil.
func (t *T) Check(err error) {
	if err != nil {
		t.Fatalf("%v", err)
	}
}

// Skipf ends the scenario as skipped.
func (t *T) Skipf(format string, args ...any) {
	t.mu.Lock()
	t.res.Skipped = fmt.Sprintf(format, args...)
	t.mu.Unlock()
	runtime.Goexit()
}

// Failed reports whether the scenario failed so far.
func (t *T) Failed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.res.Failures) > 0
}

// Scene records a phase.
func (t *T) Scene(s Scene) {
	t.Logf("%s", s.Long())
	t.mu.Lock()
	defer t.mu.Unlock()
	t.res.Scenes = append(t.res.Scenes, s)
}

// Table is printed below the verdict.
func (t *T) Table(text string) {
	t.Logf("\n%s", text)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.res.Table = text
}

// Metric records a value for the artefacts.
func (t *T) Metric(name string, v any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.res.Metrics == nil {
		t.res.Metrics = map[string]any{}
	}
	t.res.Metrics[name] = v
}

// Run plays one scenario in a fresh lab: build, play, dump if it failed, remove,
// write result.json. An error means that the artefacts could not be written.
func (r *Runner) Run(ctx context.Context, s Scenario) (Result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.Timeout, fmt.Errorf("scenario %s still running after %s", s.Name, s.Timeout))
	defer cancel()
	out := filepath.Join(r.Out, s.Name)
	// Artefacts of an earlier run would lie beside this one's.
	if err := os.RemoveAll(out); err != nil {
		return Result{}, fmt.Errorf("clear artefacts: %w", err)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return Result{}, fmt.Errorf("make artefact directory: %w", err)
	}
	f, err := os.Create(filepath.Join(out, "scenario.log"))
	if err != nil {
		return Result{}, fmt.Errorf("open scenario log: %w", err)
	}
	defer f.Close()
	var log io.Writer = f
	if r.Verbose {
		log = io.MultiWriter(f, r.Log)
	}
	t := &T{Name: s.Name, ctx: ctx, log: log, res: Result{Name: s.Name}}
	start := time.Now()
	if m := uml.Missing(s.Need | uml.BPF); m != 0 {
		t.res.Skipped = "missing capability " + m.String()
	} else {
		t.play(s, out, r.BinDir)
	}
	t.res.Seconds = time.Since(start).Seconds()
	if t.res.Takeovers, err = takeovers(out); err != nil {
		return t.res, err
	}
	t.res.Passed = len(t.res.Failures) == 0 && t.res.Skipped == ""
	if t.res.Scenes == nil {
		t.res.Scenes = []Scene{}
	}
	return t.res, WriteJSON(filepath.Join(out, "result.json"), t.res)
}

// takeovers are the log lines of claims that say how long the failure took to notice.
func takeovers(dir string) (out []string, err error) {
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return nil, fmt.Errorf("look for logs: %w", err)
	}
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read log: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, " event=claim ") && strings.Contains(line, " detection=") {
				out = append(out, strings.TrimSpace(line))
			}
		}
	}
	slices.Sort(out) // by time
	return out, nil
}

// attempts plays a scenario until it passes or its retries are used up.
func (r *Runner) attempts(ctx context.Context, s Scenario) (Result, error) {
	for n := 1; ; n++ {
		res, err := r.Run(ctx, s)
		res.Attempts = n
		if res.Passed || res.Skipped != "" || n > r.Retries || err != nil || ctx.Err() != nil {
			fmt.Fprintln(r.Log, res.Line())
			fmt.Fprint(r.Log, res.Table)
			return res, err
		}
		fmt.Fprintf(r.Log, "AGAIN %s\n", res.Line())
		if err := os.Rename(filepath.Join(r.Out, s.Name), filepath.Join(r.Out, fmt.Sprintf("%s.attempt-%d", s.Name, n))); err != nil {
			return res, fmt.Errorf("keep the artefacts of attempt %d: %w", n, err)
		}
	}
}

// late reports whether nothing may begin any more.
func (r *Runner) late() bool { return !r.Until.IsZero() && time.Now().After(r.Until) }

// SkipAll tells that scenarios are skipped, and why.
func (r *Runner) SkipAll(ss []Scenario, why string) {
	for _, s := range ss {
		fmt.Fprintln(r.Log, Result{Name: s.Name, Skipped: why}.Line())
	}
}

// WriteJSON writes v, indented.
func WriteJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write artefact: %w", err)
	}
	return nil
}

// play runs the scenario on a goroutine of its own, which Fatalf may end, and waits.
func (t *T) play(s Scenario, out, bin string) {
	o := s.Options
	o.OutDir = out
	if o.BinDir == "" {
		o.BinDir = bin
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		l, err := New(t.ctx, o)
		if err != nil {
			t.Errorf("%v", err)
			return
		}
		defer func() {
			if err := l.Close(); err != nil {
				t.Errorf("remove lab: %v", err)
			}
		}()
		defer func() {
			if p := recover(); p != nil {
				t.Errorf("panic: %v\n%s", p, debug.Stack())
			}
			if t.Failed() {
				if err := l.Dump(context.Background()); err != nil {
					t.Errorf("dump lab: %v", err)
				}
			}
		}()
		t.Logf("lab built")
		s.Run(t, l)
		if err := context.Cause(t.ctx); err != nil {
			t.Errorf("%v", err)
		}
	}()
	<-done
}

// mine reports whether this runner is the one that plays the scenario.
func (r *Runner) mine(name string) (bool, error) {
	if r.Share == "" {
		return true, nil
	}
	err := os.Mkdir(filepath.Join(r.Share, name), 0o755)
	if errors.Is(err, os.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("share scenario %s with other runners: %w", name, err)
	}
	return true, nil
}

// RunAll plays scenarios one after the other and prints a count. The error joins
// what could not be written; failed says whether a scenario failed.
func (r *Runner) RunAll(ctx context.Context, ss []Scenario) (results []Result, failed bool, err error) {
	var errs []error
	passed, skipped := 0, 0
	for _, s := range ss {
		if ctx.Err() != nil {
			errs = append(errs, fmt.Errorf("run scenarios: %w", context.Cause(ctx)))
			break
		}
		if mine, err := r.mine(s.Name); err != nil {
			errs = append(errs, err)
			break
		} else if !mine {
			continue
		}
		if r.late() {
			r.SkipAll([]Scenario{s}, "missing capability time: the suite's time for the lab was over before this one's turn came")
			results, skipped = append(results, Result{Name: s.Name}), skipped+1
			continue
		}
		res, err := r.attempts(ctx, s)
		errs = append(errs, err)
		results = append(results, res)
		switch {
		case res.Passed:
			passed++
		case res.Skipped != "":
			skipped++
		}
	}
	n := len(results)
	fmt.Fprintf(r.Log, "%d scenarios: %d passed, %d failed, %d skipped\n", n, passed, n-passed-skipped, skipped)
	return results, n != passed+skipped, errors.Join(errs...)
}
