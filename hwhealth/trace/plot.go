package trace

import (
	"bufio"
	"fmt"
	"html"
	"io"
	"math"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// The plot's measures, in SVG units.
const (
	plotLeft, plotWidth   = 330.0, 900.0
	riskTop, riskHeight   = 50.0, 260.0
	stateTop, stateHeight = 330.0, 22.0
	causeTop, causeHeight = 372.0, 20.0
	plottedRows           = 12
	riskLow, riskHigh     = 1e-4, 1.0 // of the logarithmic axis
)

var stateColours = map[hwhealth.State]string{hwhealth.Normal: "#cfe8cf", hwhealth.Watch: "#fff2b3", hwhealth.Degraded: "#ffd08a", hwhealth.Draining: "#f4975f", hwhealth.Withdraw: "#d64545"}

// SVG draws the result: the risk of both horizons with the thresholds of the
// states, the state, and the causes, darker where they weigh more.
func (r *Result) SVG(out io.Writer) error {
	w := bufio.NewWriter(out)
	names := r.peaks(plottedRows)
	bottom := causeTop + causeHeight*float64(max(1, len(names)))
	span := r.To.Sub(r.From)
	if span <= 0 {
		span = time.Second
	}
	x := func(t time.Time) float64 { return plotLeft + plotWidth*float64(t.Sub(r.From))/float64(span) }
	text := func(px, py float64, anchor, s string) {
		fmt.Fprintf(w, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", px, py, anchor, html.EscapeString(s))
	}
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" font-family="sans-serif" font-size="12">`+"\n", plotLeft+plotWidth+60, bottom+50)
	fmt.Fprintf(w, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	text(plotLeft, 20, "start", fmt.Sprintf("%s: health from %s to %s", r.Node, r.From.UTC().Format(time.RFC3339), r.To.UTC().Format(time.RFC3339)))
	fmt.Fprintf(w, `<text x="%.1f" y="38" fill="#b03060">risk in an hour</text><text x="%.1f" y="38" fill="#2050a0">risk in 30 days, by evidence</text>`+"\n", plotLeft, plotLeft+120)
	r.risks(w, x, text)
	r.states(w, x, text)
	r.causes(w, x, text, names)
	for _, t := range ticks(r.From, r.To) {
		fmt.Fprintf(w, `<line x1="%.1f" x2="%.1f" y1="%.0f" y2="%.0f" stroke="#888" stroke-width=".3"/>`+"\n", x(t), x(t), riskTop, bottom)
		layout := "15:04"
		if span > 36*time.Hour {
			layout = "01-02 15h"
		}
		text(x(t), bottom+18, "middle", t.UTC().Format(layout))
	}
	text(plotLeft+plotWidth, bottom+36, "end", "UTC")
	fmt.Fprintln(w, "</svg>")
	return w.Flush()
}

// logY is the place of a probability on the logarithmic axis.
func logY(p float64) float64 {
	p = min(riskHigh, max(riskLow, p))
	return riskTop + riskHeight*math.Log(riskHigh/p)/math.Log(riskHigh/riskLow)
}

func (r *Result) risks(w io.Writer, x func(time.Time) float64, text func(float64, float64, string, string)) {
	fmt.Fprintf(w, `<rect x="%.0f" y="%.0f" width="%.0f" height="%.0f" fill="none" stroke="#444"/>`+"\n", plotLeft, riskTop, plotWidth, riskHeight)
	for p := riskHigh; p >= riskLow*.99; p /= 10 {
		fmt.Fprintf(w, `<line x1="%.0f" x2="%.0f" y1="%.1f" y2="%.1f" stroke="#ccc" stroke-width=".5"/>`+"\n", plotLeft, plotLeft+plotWidth, logY(p), logY(p))
		text(plotLeft-6, logY(p)+4, "end", fmt.Sprintf("%g%%", math.Round(p*1e6)/1e4))
	}
	for _, h := range []struct {
		th     hwhealth.Thresholds
		colour string
	}{{r.Policy.Slow, "#2050a0"}, {r.Policy.Fast, "#b03060"}} {
		for _, s := range []struct {
			name string
			p    float64
		}{{"degraded", h.th.Degraded}, {"draining", h.th.Draining}} {
			if s.p <= 0 {
				continue // never
			}
			fmt.Fprintf(w, `<line x1="%.0f" x2="%.0f" y1="%.1f" y2="%.1f" stroke="%s" stroke-dasharray="4 4" stroke-width=".7"><title>%s at %g%%</title></line>`+"\n",
				plotLeft, plotLeft+plotWidth, logY(s.p), logY(s.p), h.colour, s.name, 100*s.p)
			text(plotLeft+plotWidth+4, logY(s.p)+4, "start", s.name)
		}
	}
	for _, c := range []struct {
		colour string
		of     func(Point) float64
	}{{"#2050a0", func(p Point) float64 { return p.R30 }}, {"#b03060", func(p Point) float64 { return p.R1h }}} {
		fmt.Fprintf(w, `<path fill="none" stroke="%s" stroke-width="1.5" d="`, c.colour)
		for i, p := range r.Points {
			verb := "L"
			if i == 0 || p.Gap {
				verb = "M"
			}
			fmt.Fprintf(w, "%s%.1f %.1f", verb, x(p.At), logY(c.of(p)))
		}
		fmt.Fprintln(w, `"/>`)
	}
}

// runs calls f with every stretch of points for which key stays the same.
func (r *Result) runs(key func(Point) string, f func(from, to time.Time, first Point)) {
	for i := 0; i < len(r.Points); {
		k := i + 1
		for k < len(r.Points) && key(r.Points[k]) == key(r.Points[i]) && !r.Points[k].Gap {
			k++
		}
		end := r.To
		if k < len(r.Points) {
			end = r.Points[k].At
			if r.Points[k].Gap {
				end = r.Points[k-1].At
			}
		}
		f(r.Points[i].At, end, r.Points[i])
		i = k
	}
}

func (r *Result) states(w io.Writer, x func(time.Time) float64, text func(float64, float64, string, string)) {
	text(plotLeft-6, stateTop+15, "end", "state")
	r.runs(func(p Point) string { return p.State.String() }, func(from, to time.Time, p Point) {
		fmt.Fprintf(w, `<rect x="%.1f" y="%.0f" width="%.1f" height="%.0f" fill="%s"><title>%s from %s</title></rect>`+"\n",
			x(from), stateTop, max(1, x(to)-x(from)), stateHeight, stateColours[p.State], p.State, from.UTC().Format(time.RFC3339))
		if x(to)-x(from) > 70 {
			text(x(from)+4, stateTop+15, "start", p.State.String())
		}
	})
}

func (r *Result) causes(w io.Writer, x func(time.Time) float64, text func(float64, float64, string, string), names []string) {
	if len(names) == 0 {
		text(plotLeft-6, causeTop+14, "end", "no cause of a risk")
	}
	for i, n := range names {
		top := causeTop + causeHeight*float64(i)
		label := n
		if len(label) > 52 {
			label = label[:51] + "…"
		}
		text(plotLeft-6, top+14, "end", label)
		shade := func(p Point) string { return fmt.Sprintf("%.1f", opacity(p.Causes[n])) }
		r.runs(shade, func(from, to time.Time, p Point) {
			if p.Causes[n] <= 0 {
				return
			}
			fmt.Fprintf(w, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.0f" fill="#803060" opacity="%s"><title>%s</title></rect>`+"\n",
				x(from), top+2, max(1, x(to)-x(from)), causeHeight-4, shade(p), html.EscapeString(n))
		})
	}
}

// opacity of a cause's weight: 1 where it drains by itself, .1 at a thousandth of
// that.
func opacity(weight float64) float64 {
	if weight <= 0 {
		return 0
	}
	return min(1, max(.1, 1+.3*math.Log10(weight)))
}

// ticks are about eight round moments between from and to.
func ticks(from, to time.Time) []time.Time {
	var out []time.Time
	for _, step := range []time.Duration{time.Second, 5 * time.Second, 15 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 3 * time.Hour, 6 * time.Hour,
		24 * time.Hour, 48 * time.Hour, 7 * 24 * time.Hour, 30 * 24 * time.Hour, 365 * 24 * time.Hour} {
		if to.Sub(from)/step > 9 {
			continue
		}
		for t := from.Truncate(step).Add(step); !t.After(to); t = t.Add(step) {
			out = append(out, t)
		}
		return out
	}
	return out
}
