package hwhealth

import (
	"math"
	"time"
)

// Signals that the predictor makes of others. They are levels.
const (
	linkCRCRatio      Signal = "link.crc_ratio"          // checksum errors per packet
	linkFECRate       Signal = "link.fec_rate"           // corrected blocks per second
	thermalNearness   Signal = "thermal.nearness"        // (T - max) / (crit - max)
	thermalLeft       Signal = "thermal.minutes_left"    // to the critical temperature at this slope
	thermalThrottled  Signal = "thermal.throttled_share" // of the time
	fanRelative       Signal = "fan.relative"            // of its usual speed at equal duty
	powerDeviation    Signal = "power.deviation"         // from the nominal voltage
	crcWindowPackets         = 1e7
	crcWindow                = 5 * time.Minute
	slopeTau                 = 60.0 // seconds
	sameDuty                 = .1
	bootGrace                = 5 * time.Minute
	fansSeenBeforeUse        = 20
)

var derived = map[Signal]bool{
	linkCRCRatio: true, linkFECRate: true, thermalNearness: true, thermalLeft: true, thermalThrottled: true, fanRelative: true, powerDeviation: true,
}

// window gathers errors and packets until a ratio of them means something.
type window struct {
	Errors  float64   `json:"errors"`
	Packets float64   `json:"packets"`
	From    time.Time `json:"from"`
}

// derive makes further samples of s, which d has just observed with the given
// increase.
func (d *device) derive(s Sample, delta float64, known bool, prev float64, dt float64) []Sample {
	level := func(sig Signal, v float64) []Sample {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil
		}
		return []Sample{{Source: s.Source, Device: s.Device, Signal: sig, Kind: Level, Unit: Ratio, Value: v, At: s.At}}
	}
	switch s.Signal {
	case LinkCRCErrors:
		if known {
			d.CRC.Errors += delta
		}
	case LinkRxPackets:
		if !known {
			d.CRC = window{From: s.At}
			return nil
		}
		d.CRC.Packets += delta
		if d.CRC.From.IsZero() {
			d.CRC.From = s.At
		}
		if w := d.CRC; w.Packets >= crcWindowPackets || w.Packets > 0 && age(s.At, w.From) >= crcWindow {
			d.CRC = window{From: s.At}
			return level(linkCRCRatio, w.Errors/math.Max(w.Packets, 1))
		}
	case LinkFECCorrected:
		if t := d.Tracks[s.Signal]; known && t.Rate >= 0 {
			return level(linkFECRate, t.Rate)
		}
	case Temperature:
		return d.heat(s, prev, dt, level)
	case ThrottleTime:
		if known && dt > 0 {
			return level(thermalThrottled, delta/1000/dt)
		}
	case FanSpeed:
		t := d.Tracks[s.Signal]
		if p := d.Tracks[FanPWM]; p != nil && (p.Value == 0 || math.Abs(p.Value-p.Slow) > sameDuty) {
			return nil // off on purpose, or another duty than usual
		}
		if t.Seen > fansSeenBeforeUse && t.Slow > 0 {
			return level(fanRelative, s.Value/t.Slow)
		}
	case PowerRail:
		if l := s.Limits; l.LowCrit > 0 && l.HighCrit > l.LowCrit {
			mid := (l.LowCrit + l.HighCrit) / 2
			return level(powerDeviation, math.Abs(s.Value-mid)/mid)
		}
	}
	return nil
}

// heat follows a temperature's slope and its place between maximum and critical.
func (d *device) heat(s Sample, prev, dt float64, level func(Signal, float64) []Sample) []Sample {
	crit := s.Limits.HighCrit
	if s.Limits == (Limits{}) || math.IsNaN(crit) {
		return nil
	}
	high := s.Limits.HighWarn
	if math.IsNaN(high) || high >= crit {
		high = crit - 10
	}
	out := level(thermalNearness, math.Min(1, (s.Value-high)/(crit-high)))
	if dt <= 0 {
		return out
	}
	d.Slope += ((s.Value-prev)/dt - d.Slope) * -math.Expm1(-dt/slopeTau)
	left := 1e6 // minutes: not in sight
	// Near the limit only: a cold machine that starts to work is steep, too.
	if d.Slope > 1e-3 && s.Value > high-10 {
		left = math.Max(0, crit-s.Value) / d.Slope / 60
	}
	return append(out, level(thermalLeft, left)...)
}
