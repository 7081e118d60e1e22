package hwhealth

import (
	"math"
	"time"
)

const (
	trendTau     = baselineTau
	trendNeeds   = 3 * 24 * time.Hour
	straightLine = .8   // share of the variance that the line explains; a step explains three quarters
	noLight      = -40. // dBm, the least that is shown
)

// trend is a line through the values of about the last week: least squares in
// which a value weighs exp(-age/trendTau). Constant memory.
type trend struct {
	From time.Time `json:"from"` // time 0, of the first value
	At   float64   `json:"at"`   // of the newest, days
	W    float64   `json:"w"`    // weight of all values
	T    float64   `json:"t"`    // mean time, days
	Y    float64   `json:"y"`    // mean value
	TT   float64   `json:"tt"`   // weighted sums of squares about the means
	TY   float64   `json:"ty"`
	YY   float64   `json:"yy"`
}

// add takes a value; one from before the newest is ignored.
func (r *trend) add(y float64, at time.Time) {
	t := at.Sub(r.From).Hours() / 24
	if t < r.At {
		return
	}
	keep := math.Exp(-(t - r.At) / (trendTau.Hours() / 24))
	r.At = t
	r.W, r.TT, r.TY, r.YY = r.W*keep+1, r.TT*keep, r.TY*keep, r.YY*keep
	dt, dy := t-r.T, y-r.Y
	r.T += dt / r.W
	r.Y += dy / r.W
	r.TT += dt * (t - r.T)
	r.TY += dt * (y - r.Y)
	r.YY += dy * (y - r.Y)
}

// slope is by how much the values change in a day, and the share of their
// variance that this explains (R squared).
func (r *trend) slope() (perDay, explained float64) {
	if r.TT <= 0 || r.YY <= 0 {
		return 0, 0
	}
	return r.TY / r.TT, r.TY * r.TY / (r.TT * r.YY)
}
