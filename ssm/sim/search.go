package sim

import (
	"slices"
	"sync"
	"sync/atomic"
)

// Summary is what a campaign came to.
type Summary struct {
	Runs, Events int64
	Fewest       int // events of the shortest run
	Violations   []Result
}

// Search plays runs seeds from the given one, some side by side. With first it ends
// soon after the first violation.
func Search(from, runs int64, workers int, first bool) Summary {
	var next, done, events atomic.Int64
	var stop atomic.Bool
	var mu sync.Mutex
	s := Summary{Fewest: int(^uint(0) >> 1)}
	var wg sync.WaitGroup
	for range max(workers, 1) {
		wg.Go(func() {
			for !stop.Load() {
				i := next.Add(1) - 1
				if i >= runs {
					return
				}
				r := Run(NewPlan(from+i), false)
				done.Add(1)
				events.Add(int64(r.Steps))
				mu.Lock()
				if r.Violation != "" {
					s.Violations = append(s.Violations, r)
					stop.Store(first)
				} else {
					s.Fewest = min(s.Fewest, r.Steps)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	s.Runs, s.Events = done.Load(), events.Load()
	slices.SortFunc(s.Violations, func(a, b Result) int { return int(a.Plan.Seed - b.Plan.Seed) })
	return s
}

// Shrink leaves out faults as long as the run still breaks the same promise, and
// returns the smallest run with its trace.
func Shrink(r Result) Result {
	kind := func(r Result) string { return r.Violation[:min(2, len(r.Violation))] }
	best := r.Plan
	for again := true; again; {
		again = false
		for i := range best.Faults {
			p := best
			p.Faults = slices.Delete(slices.Clone(best.Faults), i, i+1)
			if x := Run(p, false); x.Violation != "" && kind(x) == kind(r) {
				best, again = p, true
				break
			}
		}
	}
	return Run(best, true)
}
