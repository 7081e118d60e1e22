package lab

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// plot is the timeline of a scene as the page draws it: two lanes over one time
// axis, each the packets received per bucket.
type plot struct {
	Lanes  []lane
	Ticks  []tick
	Marks  []plotMark
	Shade  *span // the outage
	Width  float64
	Height float64
	Bottom float64 // of the lower lane
	Alt    string  // for who cannot see it
}

type lane struct {
	Label, Class string
	Area         string // path
	Top, Base    float64
	Middle       float64
	Max          string // value at the top
}

type tick struct {
	X    float64
	Text string
}

type plotMark struct {
	N    int
	X, Y float64 // of the number
	When string  // since the first mark
	What string
}

type span struct{ X, W float64 }

// Geometry in units of the drawing.
const (
	plotWidth  = 960.0
	plotLeft   = 120.0 // the lane's name and scale
	plotRight  = 8.0
	plotTop    = 50.0 // three rows of numbers
	laneHeight = 72.0
	laneGap    = 26.0
	axisHeight = 24.0
	markRows   = 3
	markRadius = 8.0
	plotMost   = 30 // packets a bucket; bursts beyond are cut off
)

// newPlot draws s; nil where there was no traffic.
func newPlot(s ReportScene) *plot {
	n := max(len(s.ReceivedUp), len(s.ReceivedDown))
	if n == 0 || s.BucketMS <= 0 {
		return nil
	}
	total := time.Duration(n*s.BucketMS) * time.Millisecond
	inner := plotWidth - plotLeft - plotRight
	x := func(d time.Duration) float64 {
		return round1(plotLeft + inner*min(max(float64(d)/float64(total), 0), 1))
	}
	p := &plot{Width: plotWidth, Bottom: plotTop + 2*laneHeight + laneGap}
	p.Height = p.Bottom + axisHeight
	high := 1
	for _, v := range [][]int{s.ReceivedUp, s.ReceivedDown} {
		if len(v) > 0 {
			high = max(high, slices.Max(v))
		}
	}
	scale := fmt.Sprint(high)
	if high > plotMost {
		high, scale = plotMost, fmt.Sprintf("%d+", plotMost)
	}
	for i, l := range []struct {
		label, class string
		v            []int
	}{{"client to server", "up", s.ReceivedUp}, {"server to client", "down", s.ReceivedDown}} {
		top := plotTop + float64(i)*(laneHeight+laneGap)
		p.Lanes = append(p.Lanes, lane{Label: l.label, Class: l.class, Top: top, Base: top + laneHeight, Middle: top + laneHeight/2, Max: scale, Area: area(l.v, n, high, top+laneHeight)})
	}
	zero := s.faultAt().Sub(s.From)
	for _, at := range ticks(-zero, total-zero) {
		p.Ticks = append(p.Ticks, tick{x(at + zero), secondsText(at)})
	}
	var last [markRows]float64
	for i := range last {
		last[i] = -1
	}
	for i, m := range s.Events {
		at := m.At.Sub(s.From)
		k := plotMark{N: i + 1, X: x(at), When: fmt.Sprintf("%+.3f s", (at - zero).Seconds()), What: m.What}
		row := 0
		for r := range last {
			if last[r] < 0 || k.X-last[r] >= 2*markRadius+1 {
				row = r
				break
			}
			if last[r] < last[row] {
				row = r
			}
		}
		// All rows taken here: beside the one that is furthest behind.
		k.Y = plotTop - 10 - float64(row)*2*markRadius
		last[row] = k.X
		p.Marks = append(p.Marks, k)
	}
	if s.HasFault() {
		end := total
		if min(s.OutageMS, s.OutageUpMS) >= 0 && s.OutageMS > 0 {
			end = zero + time.Duration(max(s.OutageMS, s.OutageUpMS)*float64(time.Millisecond))
		}
		p.Shade = &span{x(zero), round1(max(x(end)-x(zero), 1))}
	}
	p.Alt = fmt.Sprintf("%s: packets received per %d ms over %.1f s; lost %d of %d", s.Title, s.BucketMS, total.Seconds(), s.Lost, s.Sent)
	return p
}

// area is the path of a stepped area over n buckets that stands on base. Buckets of
// one height in a row are one step.
func area(v []int, n, high int, base float64) string {
	inner := plotWidth - plotLeft - plotRight
	at := func(i int) float64 { return round1(plotLeft + inner*float64(i)/float64(n)) }
	var b strings.Builder
	fmt.Fprintf(&b, "M%g %g", plotLeft, base)
	for i := 0; i < len(v); {
		j := i
		for j < len(v) && v[j] == v[i] {
			j++
		}
		fmt.Fprintf(&b, "V%gH%g", round1(base-laneHeight*float64(min(v[i], high))/float64(high)), at(j))
		i = j
	}
	fmt.Fprintf(&b, "V%gZ", base)
	return b.String()
}

// ticks are round moments within from..to, at most about ten.
func ticks(from, to time.Duration) []time.Duration {
	step := 100 * time.Millisecond
	for _, s := range []time.Duration{200 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute} {
		if (to-from)/step <= 10 {
			break
		}
		step = s
	}
	var out []time.Duration
	for at := time.Duration(math.Ceil(float64(from)/float64(step))) * step; at <= to; at += step {
		out = append(out, at)
	}
	return out
}

func secondsText(d time.Duration) string { return fmt.Sprintf("%g s", d.Seconds()) }

func round1(f float64) float64 { return math.Round(f*10) / 10 }
