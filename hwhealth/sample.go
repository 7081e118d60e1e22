package hwhealth

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Class is the kind of part a device is. The evidence of one device is one
// family: it is combined by the family's own rule before families are added.
type Class string

// The classes of parts.
const (
	ClassDisk    Class = "disk"    // SATA and SAS drives, rotating or solid
	ClassNVMe    Class = "nvme"    // NVMe drives
	ClassLink    Class = "link"    // a network interface and its PCIe slot
	ClassOptic   Class = "optic"   // a transceiver module
	ClassThermal Class = "thermal" // a temperature sensor, thermal zone or throttling core
	ClassFan     Class = "fan"     // one fan
	ClassPower   Class = "power"   // a power supply, rail, UPS or battery
	ClassMemory  Class = "memory"  // a DIMM or memory controller
	ClassCPU     Class = "cpu"     // processors: machine checks
	ClassKernel  Class = "kernel"  // what the kernel log says of no part in particular
	ClassPath    Class = "path"    // the way to a shadow or router: instability as a cause
	ClassHost    Class = "host"    // the machine as a whole: boot, pressure, space, clock
)

// Device names one part of the machine.
type Device struct {
	Class  Class  `json:"class"`
	Serial string `json:"serial"` // identity; survives a reboot
	Name   string `json:"name,omitempty"`
	Model  string `json:"model,omitempty"`
	Vendor string `json:"vendor,omitempty"`
	// Redundant names the group of parts that stand in for each other.
	Redundant string `json:"redundant,omitempty"`
}

// Key identifies the device in the state store.
func (d Device) Key() string { return string(d.Class) + "/" + d.Serial }

// Slot is the place that one part at a time is in, "" where Name does not say so:
// two processors have a sensor "Core 0" each, several zones the type "acpitz".
// Another serial number in a slot is a part that was replaced.
func (d Device) Slot() string {
	switch d.Class {
	case ClassDisk, ClassNVMe, ClassLink, ClassOptic:
		if d.Name != "" {
			return string(d.Class) + "/" + d.Name
		}
	}
	return ""
}

// String is the device for people: "disk sda (S4X0)".
func (d Device) String() string {
	if d.Name == "" || d.Name == d.Serial {
		return string(d.Class) + " " + d.Serial
	}
	return fmt.Sprintf("%s %s (%s)", d.Class, d.Name, d.Serial)
}

// Kind says how a signal's values follow each other.
type Kind string

// The kinds of signals.
const (
	Level   Kind = "level"   // the value now
	Counter Kind = "counter" // a running total; restarts and wraps
	Event   Kind = "event"   // happened Value times since the last sample
)

// Unit of a value. Flags are 0 or 1.
type Unit string

// The units.
const (
	Count   Unit = "count"
	Flag    Unit = "flag"
	Bits    Unit = "bits"
	Celsius Unit = "celsius"
	DBm     Unit = "dbm"
	MilliA  Unit = "milliampere"
	Volt    Unit = "volt"
	RPM     Unit = "rpm"
	Percent Unit = "percent"
	Ratio   Unit = "ratio" // 0..1
	Millis  Unit = "milliseconds"
	Minutes Unit = "minutes"
	Hours   Unit = "hours"
	Seconds Unit = "seconds"
	Mbps    Unit = "megabits_per_second"
	GTps    Unit = "gigatransfers_per_second"
	Lanes   Unit = "lanes"
	Bytes   Unit = "bytes"
)

// Limits are the part's own limits in the unit of the sample; NaN where the
// source gives none.
type Limits struct {
	LowCrit, LowWarn, HighWarn, HighCrit float64
}

// NoLimits is the Limits of a part that gives none.
func NoLimits() Limits {
	n := math.NaN()
	return Limits{n, n, n, n}
}

// Sample is one reading of one signal of one device.
type Sample struct {
	Source  string // the collector: smartctl, hwmon, ethtool, kmsg, ...
	Device  Device
	Signal  Signal
	Kind    Kind
	Unit    Unit
	Value   float64
	Limits  Limits // the zero value counts as NoLimits
	Missing bool   // the source could not say; Value means nothing
	Why     string // why it is missing, or what the event said
	At      time.Time
}

// Check reports what is wrong with s, naming the field.
func (s Sample) Check() error {
	switch {
	case s.Source == "":
		return fmt.Errorf("sample of %s %s: source is empty", s.Device, s.Signal)
	case s.Device.Class == "" || s.Device.Serial == "":
		return fmt.Errorf("sample %s from %s: device class and serial must be set", s.Signal, s.Source)
	case s.Signal == "" || strings.ContainsAny(string(s.Signal), " \n"):
		return fmt.Errorf("sample of %s from %s: signal %q is not a name", s.Device, s.Source, s.Signal)
	case s.At.IsZero():
		return fmt.Errorf("sample of %s %s: time is not set", s.Device, s.Signal)
	case s.Missing:
		return nil
	case math.IsNaN(s.Value) || math.IsInf(s.Value, 0):
		return fmt.Errorf("sample of %s %s: value %v is no number", s.Device, s.Signal, s.Value)
	}
	if info, ok := Signals[s.Signal]; ok && s.Kind != info.Kind {
		return fmt.Errorf("sample of %s %s: kind is %q, a %s is due", s.Device, s.Signal, s.Kind, info.Kind)
	}
	return nil
}

// Of makes a sample of a known signal with the table's kind and unit.
func Of(source string, d Device, sig Signal, value float64, at time.Time) Sample {
	i := Signals[sig]
	return Sample{Source: source, Device: d, Signal: sig, Kind: i.Kind, Unit: i.Unit, Value: value, Limits: NoLimits(), At: at}
}

// MissingOf makes the sample that says that sig could not be read.
func MissingOf(source string, d Device, sig Signal, why string, at time.Time) Sample {
	s := Of(source, d, sig, 0, at)
	s.Missing, s.Why = true, why
	return s
}
