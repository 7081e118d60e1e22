package sim

import (
	"slices"
	"testing"
)

// TestRuns plays a few plans; make sim plays many.
func TestRuns(t *testing.T) {
	for seed := range int64(60) {
		if r := Run(NewPlan(seed), false); r.Violation != "" {
			t.Errorf("seed %d: %s", seed, r.Violation)
		}
	}
}

// TestOneSeedOneRun: the same plan gives the same run, to the line.
func TestOneSeedOneRun(t *testing.T) {
	for seed := range int64(8) {
		a, b := Run(NewPlan(seed), true), Run(NewPlan(seed), true)
		if a.Steps != b.Steps || !slices.Equal(a.Trace, b.Trace) {
			t.Fatalf("seed %d: %d and %d steps, %d and %d lines", seed, a.Steps, b.Steps, len(a.Trace), len(b.Trace))
		}
	}
}
