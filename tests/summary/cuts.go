package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/shadowcast/shadowcast/tests/lab"
)

// cuts adds the parts of the power-cut campaign up into one table. A session that
// was lost, and had been replicated, is an error.
func cuts(paths []string, out io.Writer) (ok bool, err error) {
	var all []lab.Cut
	seen := 0
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			return false, fmt.Errorf("read a part of the campaign: %w", err)
		}
		var r struct {
			Metrics struct {
				Cuts []lab.Cut `json:"cuts"`
			} `json:"metrics"`
		}
		if err := json.Unmarshal(b, &r); err != nil {
			return false, fmt.Errorf("read %s: %w", p, err)
		}
		if len(r.Metrics.Cuts) == 0 {
			return false, fmt.Errorf("read %s: it holds no power cut", p)
		}
		last := 0
		for _, c := range r.Metrics.Cuts {
			last = max(last, c.Cut)
			c.Cut += seen // numbered through
			all = append(all, c)
		}
		seen += last
	}
	_, err = io.WriteString(out, lab.CutTable(all))
	for _, c := range all {
		if !c.Kept && !c.Excused() {
			return false, err
		}
	}
	return true, err
}
