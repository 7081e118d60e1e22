package bench

import (
	"math"

	"github.com/shadowcast/shadowcast/hwhealth/drive"
)

// Interval is a time in alarm; Off is +Inf while it lasts.
type Interval struct{ On, Off float64 }

// tick is the time between two looks at a drive that reports nothing new.
const tick = 24.0

// Steps calls look at every hour of the drive's life at which a look can find
// anything new: at each row, after it was observed, and at the daily ticks at
// which a term expires or due (an hour of the caller's, asked after each look)
// passes. Ticks in between would see the same values. It looks no further than
// until, and ends by itself where nothing changes any more.
func Steps(first float64, rows []Row, until float64, h *drive.History, look func(t float64), due func() float64) {
	at := func(e float64) float64 { // first tick after e
		return first + tick*(math.Floor((e-first)/tick)+1)
	}
	for i, r := range rows {
		if r.Hour > until {
			return
		}
		h.Observe(r.Hour, r.Values)
		look(r.Hour)
		end := until
		if i+1 < len(rows) {
			end = math.Min(end, math.Nextafter(rows[i+1].Hour, 0))
		}
		for t := r.Hour; ; {
			next := math.Min(h.Next(math.Nextafter(t, math.Inf(1))), math.Max(due(), t))
			if math.IsInf(next, 1) {
				break
			}
			if t = at(next); t > end {
				break
			}
			look(t)
		}
	}
}

// Alarms replays d against the thresholds and appends the intervals of each to
// out, which must have their length.
func Alarms(table *drive.Table, d *Drive, thresholds []float64, out [][]Interval) {
	m := table.For(d.Vendor, d.Model)
	h := drive.NewHistory(true)
	alarms := make([]drive.Alarm, len(thresholds))
	look := func(t float64) {
		l := m.Lifetime(h, t)
		for k := range alarms {
			if !alarms[k].Step(t, l, thresholds[k]) {
				continue
			}
			if alarms[k].On {
				out[k] = append(out[k], Interval{t, math.Inf(1)})
			} else {
				out[k][len(out[k])-1].Off = t
			}
		}
	}
	due := func() float64 {
		e := math.Inf(1)
		for k := range alarms {
			e = math.Min(e, alarms[k].Due())
		}
		return e
	}
	Steps(d.FirstHour, d.Rows, math.Inf(1), h, look, due)
}
