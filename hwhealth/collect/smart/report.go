// Package smart understands what drives say about themselves: the JSON and the
// text that smartctl prints, and the NVMe health log page. It is pure; asking
// the drives is package collect's.
package smart

import (
	"math"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// Kind is the drive's command set.
type Kind string

// The command sets.
const (
	ATA  Kind = "ATA"
	SCSI Kind = "SCSI"
	NVMe Kind = "NVMe"
)

// Report is what one drive said. A number that it did not say is NaN.
type Report struct {
	Kind   Kind
	Serial string // "" where it is withheld
	Model  string
	// Exit are the bits of smartctl's exit status.
	Exit Exit
	// Messages are smartctl's own complaints.
	Messages []string
	// Passed is the drive's own verdict: 1, 0, or NaN where it gave none.
	Passed      float64
	Temperature float64 // degrees Celsius
	MaxTemp     float64 // the drive's own limit, degrees Celsius
	PowerOn     float64 // hours
	Solid       float64 // 1: solid state, 0: rotating
	Attributes  []Attribute
	Health      *Health // NVMe
	// GrownDefects and Uncorrected are the SCSI grown defect list's length and the
	// sum of uncorrected errors.
	GrownDefects, Uncorrected float64
	// Endurance is the percentage of endurance used (SCSI solid state).
	Endurance float64
}

// Attribute is one ATA SMART attribute.
type Attribute struct {
	ID        int
	Name      string
	Value     float64 // normalized, NaN if the vendor gives none
	Threshold float64
	Raw       float64
	Prefail   bool
	FailedNow bool // value is at or below the threshold
}

// Health is log page 02h (NVM Express Base Specification 2.0, 5.16.1.3).
// Counters wider than 64 bits are saturated; times are in minutes.
type Health struct {
	CriticalWarning                                 uint8
	Temperature, Spare, SpareThreshold, Used        float64
	MediaErrors, ErrorLog, UnsafeShutdowns, PowerOn float64
	WarningTempTime, CriticalTempTime               float64
	hasWarning, hasCritical, hasThreshold           bool
}

// Exit are the bits of smartctl's exit status (smartctl(8), EXIT STATUS).
type Exit uint8

// The bits.
const (
	ExitCommandLine Exit = 1 << iota // command line did not parse
	ExitOpen                         // device open failed, or it is in low-power mode
	ExitCommand                      // a command failed, or a checksum is wrong
	ExitFailing                      // SMART status: disk failing
	ExitPrefail                      // prefail attributes at or below threshold
	ExitPast                         // attributes were at or below threshold in the past
	ExitErrorLog                     // the error log contains records
	ExitSelfTest                     // the self-test log contains errors
)

var exitNames = []string{"command line", "open failed", "a command failed", "disk failing", "prefail attribute at its threshold",
	"an attribute was at its threshold", "errors logged", "self-test errors logged"}

// String lists the bits in words.
func (e Exit) String() string {
	var out []string
	for i, n := range exitNames {
		if e&(1<<i) != 0 {
			out = append(out, n)
		}
	}
	if out == nil {
		return "ok"
	}
	return strings.Join(out, ", ")
}

// Unusable reports whether the drive could not be asked at all.
func (e Exit) Unusable() bool { return e&(ExitCommandLine|ExitOpen) != 0 }

// newReport knows nothing yet.
func newReport() *Report {
	n := math.NaN()
	return &Report{Passed: n, Temperature: n, MaxTemp: n, PowerOn: n, Solid: n, GrownDefects: n, Uncorrected: n, Endurance: n}
}

// Says reports whether the drive said anything about its health.
func (r *Report) Says() bool {
	return !math.IsNaN(r.Passed) || len(r.Attributes) > 0 || r.Health != nil || !math.IsNaN(r.GrownDefects)
}

// wearAttributes give the remaining life as their normalized value.
var wearAttributes = map[int]bool{173: true, 177: true, 231: true, 233: true}

// Class is the class of device that the drive belongs to.
func (r *Report) Class() hwhealth.Class {
	if r.Kind == NVMe {
		return hwhealth.ClassNVMe
	}
	return hwhealth.ClassDisk
}

// Samples turns the report into samples of device d.
func (r *Report) Samples(source string, d hwhealth.Device, at time.Time) []hwhealth.Sample {
	var out []hwhealth.Sample
	put := func(sig hwhealth.Signal, v float64) {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return
		}
		if _, ok := hwhealth.SMARTID(sig); ok {
			i, _ := hwhealth.Info(sig)
			out = append(out, hwhealth.Sample{Source: source, Device: d, Signal: sig, Kind: i.Kind, Unit: i.Unit, Value: v, Limits: hwhealth.NoLimits(), At: at})
			return
		}
		out = append(out, hwhealth.Of(source, d, sig, v, at))
	}
	missing := func(sig hwhealth.Signal, why string) {
		out = append(out, hwhealth.MissingOf(source, d, sig, why, at))
	}
	if !r.Says() {
		why := "the drive says nothing about its health"
		if r.Exit != 0 || len(r.Messages) > 0 {
			why = r.Exit.String() + ": " + strings.Join(r.Messages, "; ")
		}
		missing(hwhealth.DiskPassed, why)
		return out
	}
	if math.IsNaN(r.Passed) {
		missing(hwhealth.DiskPassed, "no verdict: "+r.Exit.String())
	} else if r.Kind != NVMe || r.Health == nil { // NVMe's verdict is critical_warning, judged bit by bit
		put(hwhealth.DiskPassed, r.Passed)
	}
	if t := r.Temperature; !math.IsNaN(t) {
		if t < -40 || t > 150 || t == 0 && r.Kind == NVMe { // 0 K in the log page
			missing(hwhealth.DiskTemperature, "a temperature that cannot be true")
		} else {
			s := hwhealth.Of(source, d, hwhealth.DiskTemperature, t, at)
			s.Limits.HighCrit = r.MaxTemp
			out = append(out, s)
		}
	}
	put(hwhealth.DiskPowerOnHours, r.PowerOn)
	put(hwhealth.DiskSolid, r.Solid)
	failing := 0
	for _, a := range r.Attributes {
		if a.FailedNow && a.Prefail {
			failing++
		}
		put(hwhealth.SignalSMART(a.ID), a.Raw)
		if wearAttributes[a.ID] && r.Solid == 1 && a.Value >= 0 && a.Value <= 100 {
			put(hwhealth.DiskWearRemaining, a.Value)
		}
	}
	if len(r.Attributes) > 0 {
		put(hwhealth.DiskFailingNow, float64(failing))
	}
	if r.Kind == SCSI {
		// The grown defect list is what attribute 5 counts on ATA drives, the
		// uncorrected errors what 187 counts.
		put(hwhealth.SignalSMART(5), r.GrownDefects)
		put(hwhealth.SignalSMART(187), r.Uncorrected)
		if !math.IsNaN(r.Endurance) {
			put(hwhealth.DiskWearRemaining, max(0, 100-r.Endurance))
		}
	}
	if h := r.Health; h != nil {
		put(hwhealth.NVMeCriticalWarning, float64(h.CriticalWarning))
		put(hwhealth.NVMeMediaErrors, h.MediaErrors)
		put(hwhealth.NVMeSpare, h.Spare)
		if h.hasThreshold {
			put(hwhealth.NVMeSpareThreshold, h.SpareThreshold)
		}
		put(hwhealth.NVMeUsed, h.Used)
		if h.hasWarning {
			put(hwhealth.NVMeWarningTempTime, h.WarningTempTime)
		}
		if h.hasCritical {
			put(hwhealth.NVMeCritTempTime, h.CriticalTempTime)
		}
		put(hwhealth.NVMeErrorLog, h.ErrorLog)
		put(hwhealth.NVMeUnsafeShutdowns, h.UnsafeShutdowns)
	}
	return out
}
