// Command sim searches for a schedule that breaks the decision core: many seeded
// runs of ssm/sim, a readable trace of the first that fails, shrunk, and mutants of
// the sources that the search must catch.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/ssm/sim"
)

func main() {
	from := flag.Int64("from", 1, "first `seed`")
	runs := flag.Int64("runs", 10_000, "`number` of runs")
	workers := flag.Int("workers", runtime.GOMAXPROCS(0), "runs side by side")
	first := flag.Bool("first", false, "end with the first violation")
	brief := flag.Bool("brief", false, "do not shrink what breaks a promise")
	trace := flag.Bool("trace", false, "play one run, from, and tell all of it")
	mutants := flag.Bool("mutants", false, "build every mutant of the sources, or those whose names contain an argument, and search until it is caught")
	flag.Parse()
	debug.SetGCPercent(2000) // a run is short-lived garbage, and little of it is alive
	var err error
	switch {
	case *mutants:
		err = playMutants(os.Stdout, flag.Args(), *runs, *workers)
	case flag.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flag.Arg(0))
	case *trace:
		err = tell(*from)
	default:
		err = search(*from, *runs, *workers, *first, *brief)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(1)
	}
}

func tell(seed int64) error {
	p := sim.NewPlan(seed)
	r := sim.Run(p, true)
	fmt.Print(p, strings.Join(r.Trace, "\n"), "\n")
	if r.Violation != "" {
		return fmt.Errorf("seed %d: %s", seed, r.Violation)
	}
	return nil
}

// shownTrace is how many lines before a violation are printed.
const shownTrace = 120

func search(from, runs int64, workers int, first, brief bool) error {
	began := time.Now()
	s := sim.Search(from, runs, workers, first)
	for i, v := range s.Violations {
		fmt.Printf("VIOLATION seed %d: %s\n", v.Plan.Seed, v.Violation)
		if i > 0 || brief {
			continue
		}
		small := sim.Shrink(v)
		t := small.Trace[max(0, len(small.Trace)-shownTrace):]
		fmt.Printf("shrunk to %d of %d faults:\n%s%s\n", len(small.Plan.Faults), len(v.Plan.Faults), small.Plan, strings.Join(t, "\n"))
	}
	fmt.Printf("fewest events in a run: %d; %d events a second\n", s.Fewest, int64(float64(s.Events)/time.Since(began).Seconds()))
	fmt.Printf("sim: %d runs, %d events, %d violations\n", s.Runs, s.Events, len(s.Violations))
	if len(s.Violations) > 0 {
		return fmt.Errorf("%d of %d runs broke a promise; replay one with -trace -from SEED", len(s.Violations), s.Runs)
	}
	return nil
}
