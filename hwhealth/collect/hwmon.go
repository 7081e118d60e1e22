package collect

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/hwhealth/collect/sysfs"
)

// What a sensor can truly show. Values outside come from sensors that are not
// connected (-128, 127.5, 65535) or not initialised.
const (
	minCelsius, maxCelsius = -55.0, 150.0
	maxRPM                 = 60000
	maxVolt                = 400.0
)

// chips reads /sys/class/hwmon. The list of sensors is kept for a minute.
type chips struct {
	roots   Roots
	kinds   map[string]bool // "temp", "fan", "in", "curr", "power"
	source  string
	scanned time.Time
	found   []sensor
	listErr error
	roster  roster
}

// sensor is one numbered input of one chip.
type sensor struct {
	dir    sysfs.Dir
	kind   string
	n      int
	files  map[string]bool // suffixes that exist: "input", "max", "crit_alarm"
	device hwhealth.Device
	label  string
	optic  bool // belongs to a transceiver's driver
}

func (s sensor) path(suffix string) string { return fmt.Sprintf("%s%d_%s", s.kind, s.n, suffix) }

// number reads a suffix in the kernel's unit; ok is false where it is not offered.
func (s sensor) number(suffix string) (v float64, ok bool, err error) {
	if !s.files[suffix] {
		return 0, false, nil
	}
	i, err := s.dir.Int(s.path(suffix))
	if err != nil {
		if sysfs.Absent(err) {
			return 0, false, nil
		}
		return 0, true, err
	}
	return float64(i), true, nil
}

// limit reads a limit, NaN where there is none or it cannot be true.
func (s sensor) limit(suffix string, scale, low, high float64) float64 {
	v, ok, err := s.number(suffix)
	if v *= scale; !ok || err != nil || v < low || v > high {
		return math.NaN()
	}
	return v
}

func (c *chips) read(_ context.Context, now time.Time) []hwhealth.Sample {
	b := newBatch(c.source, now)
	if c.scanned.IsZero() || now.Sub(c.scanned) >= rescan || now.Before(c.scanned) {
		c.found, c.listErr = c.scan()
		c.scanned = now
		if c.listErr == nil {
			present := map[string]hwhealth.Device{}
			for _, s := range c.found {
				present[s.device.Key()] = s.device
			}
			c.roster.call(b, present)
		}
	}
	if c.listErr != nil || len(c.found) == 0 {
		c.nothing(b)
		return b.out
	}
	for _, s := range c.found {
		switch {
		case s.optic:
			s.readOptic(b)
		case s.kind == "temp":
			s.readTemperature(b)
		case s.kind == "fan":
			s.readFan(b)
		default:
			s.readRail(b)
		}
	}
	return b.out
}

// nothing reports a machine without such sensors.
func (c *chips) nothing(b *batch) {
	why := "no such sensor below " + c.roots.sys("class", "hwmon").Path()
	if c.listErr != nil {
		why = c.listErr.Error()
	}
	for _, k := range []struct {
		kind  string
		class hwhealth.Class
		sig   hwhealth.Signal
	}{{"temp", hwhealth.ClassThermal, hwhealth.Temperature}, {"fan", hwhealth.ClassFan, hwhealth.FanSpeed}, {"in", hwhealth.ClassPower, hwhealth.PowerRail}} {
		if c.kinds[k.kind] {
			b.missing(hwhealth.Device{Class: k.class, Serial: "all"}, k.sig, "%s", why)
		}
	}
}

// scan lists the sensors of the wanted kinds.
func (c *chips) scan() ([]sensor, error) {
	root := c.roots.sys("class", "hwmon")
	names, err := root.List()
	if err != nil {
		return nil, err
	}
	var out []sensor
	for _, h := range names {
		dir := root.Sub(h)
		files, err := dir.List()
		if err != nil {
			continue // went away between the two; the roster tells
		}
		if !slices.Contains(files, "name") && slices.Contains(files, "device") {
			if deeper, err := dir.List("device"); err == nil { // before Linux 3.13
				dir, files = dir.Sub("device"), deeper
			}
		}
		out = append(out, c.chip(dir, h, files)...)
	}
	return out, nil
}

// chip lists the sensors of one chip.
func (c *chips) chip(dir sysfs.Dir, hwmon string, files []string) []sensor {
	name, _ := dir.Text("name")
	name = printable(name)
	parent := dir.Link("device")
	if parent == "" || parent == ".." || parent == "." {
		parent = "" // a virtual chip, or a tree without links
		if p := filepath.Dir(filepath.Dir(dir.Resolve())); filepath.Base(filepath.Dir(dir.Resolve())) == "hwmon" {
			parent = filepath.Base(p)
		}
	}
	if parent == "" || parent == "class" {
		parent = hwmon
	}
	at := name + "@" + parent
	if name == "" {
		at = parent
	}
	byKey := map[string]*sensor{}
	var order []string
	for _, f := range files {
		kind, n, rest, ok := sysfs.Index(f)
		if !ok || rest == "" {
			continue
		}
		key := fmt.Sprintf("%s%d", kind, n)
		s := byKey[key]
		if s == nil {
			s = &sensor{dir: dir, kind: kind, n: n, files: map[string]bool{}}
			byKey[key] = s
			order = append(order, key)
		}
		s.files[rest] = true
	}
	fans := 0
	for _, s := range byKey {
		if s.kind == "fan" && s.files["input"] {
			fans++
		}
		if s.files["label"] {
			l, _ := dir.Text(s.path("label"))
			s.label = printable(l)
		}
	}
	optic := isOptic(name, byKey)
	var out []sensor
	for _, key := range order {
		s := byKey[key]
		alarms := s.files["alarm"] || s.files["crit_alarm"] || s.files["lcrit_alarm"] || s.files["fault"]
		if !c.kinds[s.kind] || !s.files["input"] && !alarms {
			continue
		}
		s.optic = optic
		s.device = hwhealth.Device{Serial: at + "/" + key, Name: strings.TrimSpace(name + " " + s.label), Vendor: name}
		switch {
		case optic:
			s.device = hwhealth.Device{Class: hwhealth.ClassOptic, Serial: at, Name: parent}
		case s.kind == "temp":
			s.device.Class = hwhealth.ClassThermal
		case s.kind == "fan":
			s.device.Class = hwhealth.ClassFan
			if fans > 1 {
				s.device.Redundant = "fans:" + at
			}
		default:
			s.device.Class = hwhealth.ClassPower
		}
		out = append(out, *s)
	}
	return out
}

// isOptic: the sfp driver labels its sensors "TX_power", "RX_power", "bias".
func isOptic(name string, sensors map[string]*sensor) bool {
	if strings.HasPrefix(name, "sfp") {
		return true
	}
	for _, s := range sensors {
		if s.kind == "power" && strings.EqualFold(s.label, "RX_power") {
			return true
		}
	}
	return false
}

// readTemperature reads millidegrees.
func (s sensor) readTemperature(b *batch) {
	if fault, ok, err := s.number("fault"); ok && err == nil && fault == 1 {
		b.missing(s.device, hwhealth.Temperature, "the sensor reports a fault")
		return
	}
	v, ok, err := s.number("input")
	v /= 1000
	switch {
	case err != nil:
		b.missing(s.device, hwhealth.Temperature, "%v", err)
	case ok && (v < minCelsius || v > maxCelsius):
		b.missing(s.device, hwhealth.Temperature, "%g degrees cannot be true", v)
	case ok:
		high := func(suffix string) float64 { return s.limit(suffix, 0.001, 1, maxCelsius) }
		l := hwhealth.Limits{LowCrit: math.NaN(), LowWarn: math.NaN(), HighWarn: high("max"), HighCrit: high("crit")}
		if math.IsNaN(l.HighCrit) {
			l.HighCrit = high("emergency")
		}
		b.limited(s.device, hwhealth.Temperature, v, l)
	}
	for _, suffix := range []string{"crit_alarm", "emergency_alarm"} {
		if alarm, ok, err := s.number(suffix); err != nil {
			b.missing(s.device, hwhealth.TempCritAlarm, "%v", err)
		} else if ok {
			b.put(s.device, hwhealth.TempCritAlarm, flag(alarm != 0))
			if alarm != 0 {
				return // the other one must not clear it
			}
		}
	}
}

// readFan reads revolutions per minute and the duty of the fan's own PWM.
func (s sensor) readFan(b *batch) {
	speed, ok, err := s.number("input")
	switch {
	case err != nil:
		b.missing(s.device, hwhealth.FanSpeed, "%v", err)
	case ok && (speed < 0 || speed > maxRPM):
		b.missing(s.device, hwhealth.FanSpeed, "%g RPM cannot be true", speed)
	case ok:
		l := hwhealth.NoLimits()
		l.LowCrit = s.limit("min", 1, 1, maxRPM)
		b.limited(s.device, hwhealth.FanSpeed, speed, l)
	}
	if pwm, err := s.dir.Int(fmt.Sprintf("pwm%d", s.n)); err == nil && pwm >= 0 && pwm <= 255 {
		b.put(s.device, hwhealth.FanPWM, float64(pwm)/255)
	}
	low := s.limit("min", 1, 1, maxRPM)
	s.alarm(b, hwhealth.FanAlarm, "alarm", speed, ok && err == nil, low, math.NaN())
	if v, ok, err := s.number("fault"); err != nil {
		b.missing(s.device, hwhealth.FanFault, "%v", err)
	} else if ok {
		b.put(s.device, hwhealth.FanFault, flag(v != 0))
	}
}

// alarm believes an alarm flag only where it can mean something: many chips
// show one for inputs whose limits were never set.
func (s sensor) alarm(b *batch, sig hwhealth.Signal, suffix string, value float64, readable bool, low, high float64) {
	v, ok, err := s.number(suffix)
	switch {
	case !ok:
	case err != nil:
		b.missing(s.device, sig, "%v", err)
	case v == 0:
		b.put(s.device, sig, 0)
	case readable && math.IsNaN(low) && math.IsNaN(high):
		b.missing(s.device, sig, "alarm at a reading of %g without a limit set", value)
	case readable && !(value < low) && !(value > high):
		b.missing(s.device, sig, "alarm at a reading of %g within its limits %g to %g", value, low, high)
	default:
		b.put(s.device, sig, 1)
	}
}

// readRail reads millivolts, milliamperes or microwatts of a supply. Only
// voltages have a value with a meaning to the predictor; of the others the
// alarms count.
func (s sensor) readRail(b *batch) {
	v, ok, err := s.number("input")
	if s.kind == "in" {
		l := hwhealth.Limits{
			LowCrit: s.limit("lcrit", 0.001, 0.001, maxVolt), LowWarn: s.limit("min", 0.001, 0.001, maxVolt),
			HighWarn: s.limit("max", 0.001, 0.001, maxVolt), HighCrit: s.limit("crit", 0.001, 0.001, maxVolt),
		}
		switch {
		case err != nil:
			b.missing(s.device, hwhealth.PowerRail, "%v", err)
		case ok && (v < -maxVolt*1000 || v > maxVolt*1000):
			b.missing(s.device, hwhealth.PowerRail, "%g V cannot be true", v/1000)
		case ok && isBattery(s.label):
			b.put(s.device, hwhealth.PowerCMOS, v/1000)
		case ok:
			b.limited(s.device, hwhealth.PowerRail, v/1000, l)
		}
		if isBattery(s.label) {
			return
		}
	}
	readable := ok && err == nil
	raw := func(suffix string) float64 { return s.limit(suffix, 1, 1, math.MaxInt64) }
	s.alarm(b, hwhealth.PowerAlarm, "alarm", v, readable, raw("min"), raw("max"))
	s.alarm(b, hwhealth.PowerCritAlarm, "lcrit_alarm", v, readable, raw("lcrit"), math.NaN())
	s.alarm(b, hwhealth.PowerCritAlarm, "crit_alarm", v, readable, math.NaN(), raw("crit"))
}

// isBattery: the clock's battery is not what keeps the machine running.
func isBattery(label string) bool {
	l := strings.ToLower(label)
	return l == "vbat" || l == "vbatt" || strings.Contains(l, "cmos") || strings.Contains(l, "rtc")
}

// readOptic reads the sensors of the sfp driver: power in microwatts, bias in
// milliamperes, supply in millivolts, temperature in millidegrees.
func (s sensor) readOptic(b *batch) {
	sig, scale := hwhealth.OpticTemperature, 0.001
	convert := func(v float64) float64 { return v }
	switch s.kind {
	case "power":
		sig, scale, convert = hwhealth.OpticTxPower, 0.001, dBm
		if strings.EqualFold(s.label, "RX_power") {
			sig = hwhealth.OpticRxPower
		}
	case "curr":
		sig, scale = hwhealth.OpticBias, 1
	case "in":
		sig = hwhealth.OpticVoltage
	case "temp":
	default:
		return
	}
	v, ok, err := s.number("input")
	v *= scale
	switch {
	case err != nil:
		b.missing(s.device, sig, "%v", err)
	case !ok:
	case sig == hwhealth.OpticTemperature && (v < minCelsius || v > maxCelsius):
		b.missing(s.device, sig, "%g degrees cannot be true", v)
	case v < 0 && sig != hwhealth.OpticTemperature:
		b.missing(s.device, sig, "%g cannot be true", v)
	default:
		lim := func(suffix string) float64 {
			l, ok, err := s.number(suffix)
			if !ok || err != nil {
				return math.NaN()
			}
			return convert(l * scale)
		}
		b.limited(s.device, sig, convert(v), hwhealth.Limits{
			LowCrit: lim("lcrit"), LowWarn: lim("min"), HighWarn: lim("max"), HighCrit: lim("crit")})
	}
}

// dBm of a power in milliwatts; nothing at all is -40, the least that is shown.
func dBm(mW float64) float64 {
	if mW <= 0.0001 {
		return -40
	}
	return 10 * math.Log10(mW)
}
