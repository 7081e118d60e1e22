package hwhealth

import (
	"fmt"
	"time"
)

// State is how fit the appliance is to carry traffic, from best to worst.
type State uint8

// The states. Draining may follow from a prediction, Withdraw only from a hard
// limit or from R30 with the operator's consent.
const (
	Normal State = iota
	Watch
	Degraded
	Draining
	Withdraw
)

var stateNames = [...]string{"normal", "watch", "degraded", "draining", "withdraw"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return "unknown"
}

// Horizon is the time span of a probability.
type Horizon uint8

// Slow evidence (media, wear, memory, optics) speaks of 30 days, fast evidence
// (links, heat, fans, power, kernel) of one hour.
const (
	Slow Horizon = iota // 30 days
	Fast                // 1 hour
)

// Span is the length of the horizon.
func (h Horizon) Span() time.Duration {
	if h == Fast {
		return time.Hour
	}
	return 30 * 24 * time.Hour
}

func (h Horizon) String() string {
	if h == Fast {
		return "1h"
	}
	return "30d"
}

// Cause is one term of the sum that makes the risk.
type Cause struct {
	Device  Device
	Signal  Signal
	Term    string // name in the hazard table: "197>=64", "187 grew <=1.5 d"
	Detail  string // in words, with the figures: "Current_Pending_Sector 72, +16 6h ago"
	Horizon Horizon
	Hazard  float64       // expected failures within the horizon, >= 0
	Share   float64       // of the horizon's sum, 0..1
	Age     time.Duration // since the evidence was last renewed
}

// Latch is a hard limit that was passed. It holds across restarts until an
// operator clears it or the part is replaced.
type Latch struct {
	Device Device
	Limit  string // name of the limit: "disk.smart_passed"
	Detail string
	Since  time.Time
	// Redundant says that a healthy part stands in for this one: then the
	// limit asks for degraded only.
	Redundant bool
	Boot      bool // a reboot clears it
}

// Silence is a source that does not say what it should. It lowers Confidence.
type Silence struct {
	Source string
	Device Device
	Signal Signal
	Why    string
	Since  time.Time
}

// Assessment is what the predictor thinks at one moment.
type Assessment struct {
	At  time.Time
	R30 float64 // probability of failing within 30 days, with what drives of this age do anyway
	E30 float64 // the part of it that rests on evidence; the state follows this one
	R1h float64 // probability of failing within the hour
	// Raw is the state that the figures alone would give; State is the one
	// after hysteresis, dwell, dampening and the fleet guard.
	Raw, State State
	Why        string // what holds State where it is, in words
	Next       *Outlook
	Causes     []Cause   // largest share first, both horizons
	Limits     []Latch   // oldest first
	Silent     []Silence // sources that are missing
	Confidence float64   // share of the known signals that speak, 0..1
	// TimeToFailure is the median of the predicted time, 0 when the risk is
	// too small for one to be named.
	TimeToFailure time.Duration
}

// Texts are the limits and causes in words, with the shares of these.
func (a *Assessment) Texts() []string {
	var out []string
	for _, l := range a.Limits {
		out = append(out, fmt.Sprintf("limit %s: %s: %s", l.Limit, l.Device, l.Detail))
	}
	for _, c := range a.Causes {
		out = append(out, fmt.Sprintf("%.0f%% of R%s: %s: %s", 100*c.Share, c.Horizon, c.Device, c.Detail))
	}
	return out
}

// Outlook is what happens next if nothing new is seen.
type Outlook struct {
	State State
	At    time.Time
	Why   string
}
