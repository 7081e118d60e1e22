package bench

import (
	"fmt"
	"io"
	"math"
	"strings"
)

// baseline is a published figure to stand beside.
type baseline struct {
	method                                            string
	fdr, c90, far, far30, onsets, time, l25, l50, l75 float64
}

// The published baselines of the benchmark, scored on its held-out folds 0-2
// (thresholds picked on 3-4, models trained on 5-9), and two figures of the
// plain noisy-OR on folds 3-4. Source: the benchmark's README.
var (
	heldOut = []baseline{
		{"vendor threshold (5, 10)", 2.7, 2.7, .02, .02, .01, 0, 1.2, 4, 8},
		{"any of 5,187,188,197,198 > 0", 69.5, 30.8, 8.28, 7.53, 4.89, 5.91, 28, 114, 256},
		{"at least 2 of the five", 45.4, 31.1, 1.72, 1.24, 1.11, .46, 12, 43, 119},
		{"logistic, FAR~1%", 38.6, 28.4, .92, .66, .61, .17, 11, 37, 98},
		{"logistic, FAR~3%", 58.3, 34.7, 2.72, 2.28, 1.72, .86, 16, 65, 160},
		{"logistic, FAR~5%", 66.6, 31.6, 4.79, 4.64, 2.87, 2.54, 25, 102, 235},
		{"noisy-OR, r>=0.0567", 56.3, 39.1, 3.02, 1.67, 2.59, .60, 11, 43, 115},
		{"noisy-OR, r>=0.0087", 66.7, 33.2, 4.90, 3.83, 3.53, 2.11, 22, 91, 218},
		{"gradient boosting, FAR~1%", 38.0, 33.6, .97, .52, .63, .08, 6, 21, 51},
		{"gradient boosting, FAR~3%", 58.8, 40.8, 2.88, 1.79, 2.23, .55, 13, 45, 109},
		{"gradient boosting, FAR~5%", 66.2, 32.2, 4.89, 3.63, 3.11, 1.74, 23, 95, 218},
	}
	validation = []baseline{
		{method: "noisy-OR, same folds", fdr: 55.0, far: 3.00},
		{method: "noisy-OR, same folds", fdr: 64.0, far: 4.92},
		{method: "any of the five, same folds", fdr: 67.2, far: 8.27},
	}
)

// Report writes r for people.
func (r *Result) Report(w io.Writer) {
	fmt.Fprintf(w, "%s: %d drives, %d rows in %.1f s, %.1f s of one processor\n", r.Path, r.Drives, r.Rows, r.Elapsed.Seconds(), r.CPU.Seconds())
	if !r.Labelled {
		fmt.Fprintln(w, "no labels in the drives file: alarms only, no score")
	}
	for _, p := range r.Points {
		fmt.Fprintf(w, "  %s: %d drives in alarm (L >= %g), intervals in %s\n", p.Point.Name, p.Alarmed, p.Point.Threshold, p.File)
	}
	if !r.Labelled {
		return
	}
	head := "| %-34s | %-13s | %7s | %-13s | %7s | %10s | %6s | %6s | %5s | %8s |\n"
	fmt.Fprintln(w)
	fmt.Fprintf(w, head, "method", "FDR (95%)", "<=90d", "FAR_ever(95%)", "FAR_30d", "lead q1-3 d", "onsets", "time", "flap", "flappers")
	fmt.Fprintln(w, "|"+strings.Repeat("---|", 10))
	for _, p := range r.Points {
		line(w, "shadowcast "+p.Point.Name+", folds not fitted", p.Unseen)
	}
	for _, p := range r.Points {
		line(w, "shadowcast "+p.Point.Name+", fitted folds", p.Fitted)
	}
	for _, b := range validation {
		fmt.Fprintf(w, head, b.method, pct(b.fdr/100), "", pct(b.far/100), "", "", "", "", "", "")
	}
	for _, b := range heldOut {
		fmt.Fprintf(w, head, b.method+" *", pct(b.fdr/100), pct(b.c90/100), pct(b.far/100), pct(b.far30/100),
			fmt.Sprintf("%g/%g/%g", b.l25, b.l50, b.l75), fmt.Sprintf("%.2f", b.onsets), pct(b.time/100), "", "")
	}
	fmt.Fprintln(w, "* published, on the held-out folds 0-2; onsets per 100 healthy drive-years, flap: onsets per alarmed healthy drive,")
	fmt.Fprintln(w, "flappers: share of drives with 3 onsets within 30 days. FAR_ever over a mean record of 1.7 years.")
	for _, p := range r.Points {
		fmt.Fprintf(w, "%s in cross-validation inside the fitted folds: FDR %s at FAR_ever %s\n", p.Point.Name, pct(p.Point.FDR), pct(p.Point.FAR))
	}
}

func line(w io.Writer, name string, s *Score) {
	if s == nil {
		return
	}
	fmt.Fprintf(w, "| %-34s | %-13s | %7s | %-13s | %7s | %11s | %6.2f | %6s | %5.2f | %8s |\n", name,
		withError(s.FDR, s.Failed, 1), pct(s.Caught90), withError(s.FAREver, s.Healthy, 2), pct2(s.FAR30),
		fmt.Sprintf("%.0f/%.0f/%.0f", s.Lead25, s.Lead50, s.Lead75), s.Onsets, pct2(s.Time), s.Flap, fmt.Sprintf("%.3f%%", 100*s.Flappers))
}

func pct(v float64) string  { return fmt.Sprintf("%.1f%%", 100*v) }
func pct2(v float64) string { return fmt.Sprintf("%.2f%%", 100*v) }

// withError adds the half-width of the 95 % interval of a share of n.
func withError(p float64, n, digits int) string {
	e := 1.96 * math.Sqrt(p*(1-p)/float64(max(n, 1)))
	return fmt.Sprintf("%.*f%%+-%.*f", digits, 100*p, digits, 100*e)
}
