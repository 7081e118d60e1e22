package lab

import (
	_ "embed"
	"fmt"
	html "html/template"
	"io"
)

//go:embed report.html.tmpl
var reportPage string

var reportTemplate = html.Must(html.New("report").Funcs(html.FuncMap{
	"plot":      newPlot,
	"thousands": thousands,
	"bars":      newBars,
	"columns":   func() []string { return reportColumns },
	"legend":    func() string { return reportLegend },
}).Parse(reportPage))

// WriteHTML writes the report as one page that needs nothing else.
func (r *Report) WriteHTML(w io.Writer) error {
	if err := reportTemplate.Execute(w, r); err != nil {
		return fmt.Errorf("render report: %w", err)
	}
	return nil
}

// Planned sums up the planned handovers, for the headline.
func (r *Report) Planned() (sum struct{ Moves, Sent, Lost int }) {
	for _, s := range r.named("planned") {
		sum.Moves, sum.Sent, sum.Lost = sum.Moves+1, sum.Sent+s.Sent, sum.Lost+s.Lost
	}
	return sum
}

// Cut and Uncovered are the power cut with and without shadowing, nil where it was
// not played.
func (r *Report) Cut() *ReportScene { return r.first("power-cut") }

// Uncovered is the power cut without shadowing.
func (r *Report) Uncovered() *ReportScene { return r.first("power-cut-unshadowed") }

func (r *Report) first(name string) *ReportScene {
	for i := range r.Scenes {
		if r.Scenes[i].Name == name {
			return &r.Scenes[i]
		}
	}
	return nil
}

// bar is one bar of the comparison of outages.
type bar struct {
	Label, Text string
	Class       string
	Y, W, TextX float64
}

// barsWidth is the length of the longest bar, in units of the drawing.
const barsWidth = 560

// newBars compares the outage of both power cuts to scale; none unless both were
// played.
func newBars(r *Report) []bar {
	a, b := r.Cut(), r.Uncovered()
	if a == nil || b == nil {
		return nil
	}
	length := func(s *ReportScene) float64 {
		if min(s.OutageMS, s.OutageUpMS) < 0 {
			return s.To.Sub(s.faultAt()).Seconds() * 1000
		}
		return max(s.OutageMS, s.OutageUpMS)
	}
	longest := max(length(a), length(b), 1)
	var out []bar
	for i, s := range []*ReportScene{a, b} {
		x := bar{Label: "with shadowing", Class: "good", Text: s.OutageText(), Y: float64(i) * 36}
		if i == 1 {
			x.Label, x.Class = "without", "bad"
		}
		x.W = max(2, length(s)/longest*barsWidth)
		x.TextX = 130 + x.W + 10
		out = append(out, x)
	}
	return out
}
