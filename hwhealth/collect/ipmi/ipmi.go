// Package ipmi understands the sensor lists that ipmitool prints: "sdr"
// (name | reading | status) and "sdr elist" (name | number | status | entity |
// reading). It is pure.
package ipmi

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// MaxText bounds what is read of one list.
const MaxText = 1 << 20

// Status is ipmitool's short word for a sensor's state.
type Status string

// The states: within its limits, beyond the non-critical, critical or
// non-recoverable one, and no reading (disabled, or its part is without power).
const (
	OK             Status = "ok"
	NonCritical    Status = "nc"
	Critical       Status = "cr"
	NonRecoverable Status = "nr"
	NoReading      Status = "ns"
)

// Sensor is one line of the list.
type Sensor struct {
	Name   string
	Status Status
	// Value is the reading, NaN where there is none or it is discrete.
	Value float64
	// Unit is ipmitool's word: "degrees C", "RPM", "Volts", "Watts".
	Unit string
	// Text is the reading as printed; for a discrete sensor its states.
	Text string
}

// Parse reads a list. Lines that are no sensor (time stamps, complaints of
// ipmitool) are returned apart, so that the caller can tell them.
func Parse(text string) (sensors []Sensor, others []string, err error) {
	if len(text) > MaxText {
		return nil, nil, fmt.Errorf("IPMI sensor list has %d octets, at most %d are read", len(text), MaxText)
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		f := strings.Split(line, "|")
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		s := Sensor{Value: math.NaN()}
		switch {
		case len(f) == 3:
			s.Name, s.Text, s.Status = f[0], f[1], Status(f[2])
		case len(f) == 5:
			s.Name, s.Status, s.Text = f[0], Status(f[2]), f[4]
		default:
			others = append(others, line)
			continue
		}
		switch s.Status {
		case OK, NonCritical, Critical, NonRecoverable, NoReading:
		default:
			others = append(others, line)
			continue
		}
		if s.Name == "" {
			others = append(others, line)
			continue
		}
		number, unit, ok := strings.Cut(s.Text, " ")
		if v, err := strconv.ParseFloat(number, 64); ok && err == nil && !math.IsInf(v, 0) && !math.IsNaN(v) {
			s.Value, s.Unit = v, strings.TrimSpace(unit)
		}
		sensors = append(sensors, s)
	}
	return sensors, others, nil
}

var (
	cpuTemp = regexp.MustCompile(`(?i)^cpu ?\d* ?temp$`)
	supply  = regexp.MustCompile(`(?i)^(power supply|psu|ps) ?\d+( status)?$`)
	battery = regexp.MustCompile(`(?i)cmos|vbat|rtc bat`)
)

// HostOn reports whether the machine that the sensors watch is running: the
// BMC answers all the same when it is not, with fans at a standstill. known is
// false where the list has no sensor of a processor's temperature.
func HostOn(sensors []Sensor) (on, known bool) {
	for _, s := range sensors {
		if cpuTemp.MatchString(s.Name) {
			known = true
			on = on || !math.IsNaN(s.Value)
		}
	}
	return on, known
}

// Samples turns the list into samples. host names the machine: "machine" for
// our own. A machine that is off
// has no other samples than that it is, and its clock's battery.
func Samples(sensors []Sensor, host string, at time.Time) []hwhealth.Sample {
	var out []hwhealth.Sample
	const source = "ipmi"
	dev := func(c hwhealth.Class, name string) hwhealth.Device {
		return hwhealth.Device{Class: c, Serial: host + "/bmc/" + name, Name: name, Vendor: "bmc"}
	}
	put := func(d hwhealth.Device, sig hwhealth.Signal, v float64) {
		out = append(out, hwhealth.Of(source, d, sig, v, at))
	}
	missing := func(d hwhealth.Device, sig hwhealth.Signal, why string) {
		out = append(out, hwhealth.MissingOf(source, d, sig, why, at))
	}
	on, known := HostOn(sensors)
	machine := hwhealth.Device{Class: hwhealth.ClassHost, Serial: host}
	if known {
		put(machine, hwhealth.HostPowered, flag(on))
	}
	fans := 0
	for _, s := range sensors {
		if s.Unit == "RPM" {
			fans++
		}
	}
	off := known && !on
	for _, s := range sensors {
		if off && !(s.Unit == "Volts" && battery.MatchString(s.Name)) {
			continue
		}
		bad := s.Status == Critical || s.Status == NonRecoverable
		switch {
		case s.Unit == "degrees C":
			d := dev(hwhealth.ClassThermal, s.Name)
			if s.Value <= -55 || s.Value > 150 {
				missing(d, hwhealth.Temperature, fmt.Sprintf("%g degrees cannot be true", s.Value))
				continue
			}
			put(d, hwhealth.Temperature, s.Value)
			put(d, hwhealth.TempCritAlarm, flag(bad))
		case s.Unit == "RPM":
			d := dev(hwhealth.ClassFan, s.Name)
			if fans > 1 {
				d.Redundant = "fans:" + host + "/bmc"
			}
			if s.Value < 0 || s.Value > 60000 {
				missing(d, hwhealth.FanSpeed, fmt.Sprintf("%g RPM cannot be true", s.Value))
				continue
			}
			put(d, hwhealth.FanSpeed, s.Value)
			put(d, hwhealth.FanAlarm, flag(bad))
		case s.Unit == "Volts" && battery.MatchString(s.Name):
			put(dev(hwhealth.ClassPower, s.Name), hwhealth.PowerCMOS, s.Value)
		case s.Unit == "Volts":
			d := dev(hwhealth.ClassPower, s.Name)
			put(d, hwhealth.PowerRail, s.Value)
			put(d, hwhealth.PowerAlarm, flag(s.Status == NonCritical))
			put(d, hwhealth.PowerCritAlarm, flag(bad))
		case supply.MatchString(s.Name):
			d := dev(hwhealth.ClassPower, s.Name)
			d.Redundant = "psu:" + host
			t := strings.ToLower(s.Text)
			switch {
			case s.Status == NoReading, strings.HasPrefix(t, "0x"):
				missing(d, hwhealth.PowerOK, fmt.Sprintf("the state %q says nothing (use sdr elist)", s.Text))
			case strings.Contains(t, "failure") || strings.Contains(t, "lost") || strings.Contains(t, "out of range"):
				put(d, hwhealth.PowerOK, 0)
			default:
				put(d, hwhealth.PowerOK, 1)
			}
		}
	}
	return out
}

func flag(v bool) float64 {
	if v {
		return 1
	}
	return 0
}
