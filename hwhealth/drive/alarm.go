package drive

import "math"

// The alarm goes off when L has been below OffShare of the threshold for
// OffHold hours: without a hold 0.5 % of drives flap, with it none does.
const (
	OffShare = 0.5
	OffHold  = 14 * day
)

// Alarm follows L against one threshold.
type Alarm struct {
	On    bool
	Since float64 // hour of the onset, while on
	below float64 // hour since which L is under the off level; +Inf if it is not
}

// Step takes L at hour t. It reports whether the alarm went on or off.
func (a *Alarm) Step(t, l, threshold float64) (changed bool) {
	if !a.On {
		if l < threshold {
			return false
		}
		*a = Alarm{On: true, Since: t, below: math.Inf(1)}
		return true
	}
	switch {
	case l >= threshold*OffShare:
		a.below = math.Inf(1)
	case math.IsInf(a.below, 1):
		a.below = t
	case t-a.below >= OffHold:
		*a = Alarm{}
		return true
	}
	return false
}

// Due is the hour at which the alarm goes off unless L rises, +Inf if it will
// not.
func (a *Alarm) Due() float64 {
	if !a.On {
		return math.Inf(1)
	}
	return a.below + OffHold
}
