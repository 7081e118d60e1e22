package bench

import (
	"math"
	"slices"
)

// Score is the outcome of one alarm rule, with the definitions of the
// benchmark's score.py.
type Score struct {
	Failed, Healthy int
	DriveYears      float64 // of healthy drives
	// FDR is the share of failed drives that were in alarm when they died, by
	// an alarm at least 24 h old; Caught90 by one at most 90 days old.
	FDR, Caught90 float64
	// Touched30 is the share of failed drives with an alarm in their last 30 days.
	Touched30              float64
	Lead25, Lead50, Lead75 float64 // days from that alarm to the failure
	// FAREver is the share of healthy drives that ever were in alarm, FAR30
	// within their last 30 days of record.
	FAREver, FAR30 float64
	Onsets         float64 // per 100 healthy drive-years
	Time           float64 // share of healthy drive-hours in alarm
	Flap           float64 // onsets per alarmed healthy drive
	Flappers       float64 // share of drives with 3 onsets within 30 days
}

// Scorer adds drives up. Its memory grows with the number of caught drives
// only.
type Scorer struct {
	failed, healthy, caught, caught90, touched int
	ever, last30, onsets, flappers             int
	hours, alarmHours                          float64
	leads                                      []float64
}

// Add counts one drive, alive from hour first, with its alarm intervals in
// order.
func (s *Scorer) Add(first float64, l Label, alarms []Interval) {
	var iv []Interval
	for _, a := range alarms {
		if a.On <= l.LastHour {
			iv = append(iv, Interval{math.Max(a.On, first), math.Min(a.Off, l.LastHour)})
		}
	}
	for i := 2; i < len(iv); i++ {
		if iv[i].On-iv[i-2].On <= 720 {
			s.flappers++
			break
		}
	}
	if l.Failed {
		s.addFailed(l.LastHour, iv)
		return
	}
	s.healthy++
	s.hours += l.LastHour - first
	if len(iv) == 0 {
		return
	}
	s.ever++
	s.onsets += len(iv)
	recent := false
	for _, a := range iv {
		s.alarmHours += a.Off - a.On
		recent = recent || a.Off >= l.LastHour-720
	}
	if recent {
		s.last30++
	}
}

func (s *Scorer) addFailed(end float64, iv []Interval) {
	s.failed++
	if n := len(iv); n > 0 && iv[n-1].Off >= end && end-iv[n-1].On >= 24 {
		lead := (end - iv[n-1].On) / 24
		s.caught++
		s.leads = append(s.leads, lead)
		if lead <= 90 {
			s.caught90++
		}
	}
	if slices.ContainsFunc(iv, func(a Interval) bool { return a.Off >= end-720 && end-a.On >= 24 }) {
		s.touched++
	}
}

// Score sums up.
func (s *Scorer) Score() Score {
	ratio := func(a, b float64) float64 {
		if b == 0 {
			return 0
		}
		return a / b
	}
	f, h := float64(s.failed), float64(s.healthy)
	slices.Sort(s.leads)
	years := s.hours / 8766
	return Score{
		Failed: s.failed, Healthy: s.healthy, DriveYears: years,
		FDR: ratio(float64(s.caught), f), Caught90: ratio(float64(s.caught90), f), Touched30: ratio(float64(s.touched), f),
		Lead25: quantile(s.leads, .25), Lead50: quantile(s.leads, .5), Lead75: quantile(s.leads, .75),
		FAREver: ratio(float64(s.ever), h), FAR30: ratio(float64(s.last30), h),
		Onsets: ratio(100*float64(s.onsets), years), Time: ratio(s.alarmHours, s.hours),
		Flap: ratio(float64(s.onsets), float64(s.ever)), Flappers: ratio(float64(s.flappers), f+h),
	}
}

// quantile of sorted values, between neighbours in a straight line.
func quantile(v []float64, p float64) float64 {
	if len(v) == 0 {
		return math.NaN()
	}
	k := float64(len(v)-1) * p
	i := int(k)
	j := min(i+1, len(v)-1)
	return v[i] + (v[j]-v[i])*(k-float64(i))
}
