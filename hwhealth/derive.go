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
	opticDecline      Signal = "optic.decline"           // 30 days / time to the module's low alarm at this slope
	zoneHot           Signal = "fan.zone_hot"            // all fans of a zone stand still, told to turn, while heat rises
	crcWindowPackets         = 1e7
	crcWindow                = 5 * time.Minute
	slopeTau                 = 60.0 // seconds
	sameDuty                 = .1
	bootGrace                = 5 * time.Minute
	fansSeenBeforeUse        = 20
)

var derived = map[Signal]bool{
	linkCRCRatio: true, linkFECRate: true, opticDecline: true, zoneHot: true, thermalNearness: true, thermalLeft: true, thermalThrottled: true, fanRelative: true, powerDeviation: true,
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
	case OpticRxPower:
		return level(opticDecline, d.fade(s))
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

// nearHeat is how many degrees below its maximum a temperature that rises counts:
// a cold machine that starts to work is steep, too.
const nearHeat = 10

// heat returns the maximum and the critical temperature, if they are known.
func (l Limits) heat() (high, crit float64, ok bool) {
	high, crit = l.HighWarn, l.HighCrit
	if l == (Limits{}) || math.IsNaN(crit) {
		return 0, 0, false
	}
	if math.IsNaN(high) || high >= crit {
		high = crit - nearHeat
	}
	return high, crit, true
}

// heat follows a temperature's slope and its place between maximum and critical.
func (d *device) heat(s Sample, prev, dt float64, level func(Signal, float64) []Sample) []Sample {
	if dt > 0 {
		d.Slope += ((s.Value-prev)/dt - d.Slope) * -math.Expm1(-dt/slopeTau)
	}
	high, crit, ok := s.Limits.heat()
	if !ok {
		return nil
	}
	out := level(thermalNearness, math.Min(1, (s.Value-high)/(crit-high)))
	if dt <= 0 {
		return out
	}
	left := 1e6 // minutes: not in sight
	if d.Slope > 1e-3 && s.Value > high-nearHeat {
		left = math.Max(0, crit-s.Value) / d.Slope / 60
	}
	return append(out, level(thermalLeft, left)...)
}

// fade is 30 days over the time that received light takes to the module's low
// alarm if it goes on as in the last week, 0 where it does not fall in a line.
func (d *device) fade(s Sample) float64 {
	if d.Light == nil {
		d.Light = &trend{From: s.At}
	}
	d.Light.add(s.Value, s.At)
	low := s.Limits.LowCrit
	if s.Limits == (Limits{}) || math.IsNaN(low) || low <= noLight || s.At.Sub(d.Light.From) < trendNeeds {
		return 0
	}
	slope, straight := d.Light.slope()
	if slope >= 0 || straight < straightLine {
		return 0
	}
	days := (s.Value - low) / -slope
	return math.Min(2, 30/math.Max(days, 1))
}
