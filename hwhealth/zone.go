package hwhealth

import "time"

const (
	// risingHeat is the slope of a temperature that rises because nothing cools:
	// half a degree in a minute.
	risingHeat = .5 / 60
	// zoneFresh is how old a reading of a fan or a temperature may be here.
	zoneFresh = 3 * time.Minute
)

// zone says of the fans that stand in for the one that s is about (or of it
// alone) whether all stand still although they are told to turn, while something
// in the machine gets hotter. It is a sample of a device of its own: what all
// fans of a zone have in common no fan can stand in for.
func (p *Predictor) zone(s Sample, now time.Time) []Sample {
	if s.Signal != FanSpeed {
		return nil
	}
	name := s.Device.Redundant
	if name == "" {
		name = s.Device.Serial
	}
	z := Device{Class: ClassFan, Serial: "zone:" + name, Name: "all fans"}
	hot := p.stand(s.Device, now) && p.rising(now)
	if !hot && p.devices[z.Key()] == nil {
		return nil
	}
	v := 0.0
	if hot {
		v = 1
	}
	return []Sample{{Source: s.Source, Device: z, Signal: zoneHot, Kind: Level, Unit: Flag, Value: v, At: s.At}}
}

// stand reports whether every fan of f's zone stands still while its duty is
// above 0. Connectors without a fan, which have never turned, do not count.
func (p *Predictor) stand(f Device, now time.Time) bool {
	fans := 0
	for _, d := range p.devices {
		if d.Device.Class != ClassFan || d.Device.Key() != f.Key() && (f.Redundant == "" || d.Device.Redundant != f.Redundant) {
			continue
		}
		speed, duty := d.Tracks[FanSpeed], d.Tracks[FanPWM]
		if speed == nil || speed.Seen == 0 || speed.Highest == 0 {
			continue
		}
		if speed.Missing || speed.Value > 0 || age(now, speed.At) > zoneFresh || duty == nil || duty.Missing || duty.Value == 0 {
			return false
		}
		fans++
	}
	return fans > 0
}

// rising reports whether some temperature near its maximum rises.
func (p *Predictor) rising(now time.Time) bool {
	for _, d := range p.devices {
		t := d.Tracks[Temperature]
		if d.Device.Class != ClassThermal || t == nil || t.Missing || t.Limits == nil || d.Slope < risingHeat || age(now, t.At) > zoneFresh {
			continue
		}
		if high, _, ok := t.Limits.heat(); ok && t.Value > high-nearHeat {
			return true
		}
	}
	return false
}
