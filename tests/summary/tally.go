package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
)

// verdict is what a test came to. The higher one stands where two passes differ.
type verdict int

const (
	skipped verdict = iota + 1
	passed
	failed
)

// result is one test, scenario or fuzz target.
type result struct {
	verdict verdict
	reason  string // of a skip, or what failed
}

// tally merges the results of all passes by name. Passes may run side by side.
type tally struct {
	mu      sync.Mutex
	results map[string]result
}

func newTally() *tally { return &tally{results: map[string]result{}} }

// note records a result; a failure outweighs a pass, a pass outweighs a skip.
func (t *tally) note(name string, r result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old, ok := t.results[name]; !ok || r.verdict > old.verdict {
		t.results[name] = r
	}
}

// names returns the sorted names of one verdict.
func (t *tally) names(v verdict) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for n, r := range t.results {
		if r.verdict == v {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// report writes what failed, what was skipped and why, and as its last line the
// counts. It reports whether everything that ran passed, and something did.
func (t *tally) report(w io.Writer) bool {
	bad := t.names(failed)
	if len(bad) > 0 {
		fmt.Fprintln(w, "\nfailed:")
		for _, n := range bad {
			fmt.Fprintf(w, "  %s%s\n", n, suffix(t.results[n].reason))
		}
	}
	why := map[string][]string{}
	none := t.names(skipped)
	for _, n := range none {
		r := cmp.Or(t.results[n].reason, "no reason given")
		why[r] = append(why[r], n)
	}
	if len(none) > 0 {
		fmt.Fprintln(w, "\nskipped:")
		for _, r := range slices.Sorted(maps.Keys(why)) {
			fmt.Fprintf(w, "  %s\n", r)
			for _, n := range why[r] {
				fmt.Fprintf(w, "    %s\n", n)
			}
		}
	}
	good := len(t.names(passed))
	fmt.Fprintf(w, "\n%d passed, %d failed, %d skipped\n", good, len(bad), len(none))
	return len(bad) == 0 && good > 0
}

func suffix(s string) string {
	if s = strings.TrimSpace(s); s == "" {
		return ""
	}
	first, _, _ := strings.Cut(s, "\n")
	return ": " + first
}
