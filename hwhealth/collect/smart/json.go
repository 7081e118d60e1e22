package smart

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// MaxDocument bounds what is read of one drive.
const MaxDocument = 4 << 20

// document is the part of smartctl's JSON (format 1.0) that is used.
type document struct {
	Version  []int `json:"json_format_version"`
	Smartctl struct {
		Exit     *int `json:"exit_status"`
		Messages []struct {
			String   string `json:"string"`
			Severity string `json:"severity"`
		} `json:"messages"`
	} `json:"smartctl"`
	Device struct {
		Name     string `json:"name"`
		Type     string `json:"type"`
		Protocol string `json:"protocol"`
	} `json:"device"`
	Model    string `json:"model_name"`
	SCSI     string `json:"scsi_model_name"`
	Product  string `json:"product"`
	Serial   string `json:"serial_number"`
	Rotation *int   `json:"rotation_rate"`
	Status   *struct {
		Passed *bool `json:"passed"`
	} `json:"smart_status"`
	Temperature struct {
		Current   *float64 `json:"current"`
		DriveTrip *float64 `json:"drive_trip"`
		OpLimit   *float64 `json:"op_limit_max"`
	} `json:"temperature"`
	PowerOn struct {
		Hours *float64 `json:"hours"`
	} `json:"power_on_time"`
	Attributes struct {
		Table []struct {
			ID         int      `json:"id"`
			Name       string   `json:"name"`
			Value      *float64 `json:"value"`
			Thresh     *float64 `json:"thresh"`
			WhenFailed string   `json:"when_failed"`
			Flags      struct {
				Prefailure bool `json:"prefailure"`
			} `json:"flags"`
			Raw struct {
				Value json.Number `json:"value"`
			} `json:"raw"`
		} `json:"table"`
	} `json:"ata_smart_attributes"`
	NVMe *struct {
		CriticalWarning  json.Number  `json:"critical_warning"`
		Temperature      *float64     `json:"temperature"`
		Spare            *float64     `json:"available_spare"`
		SpareThreshold   *float64     `json:"available_spare_threshold"`
		Used             *float64     `json:"percentage_used"`
		MediaErrors      *json.Number `json:"media_errors"`
		ErrorLog         *json.Number `json:"num_err_log_entries"`
		UnsafeShutdowns  *json.Number `json:"unsafe_shutdowns"`
		PowerOn          *json.Number `json:"power_on_hours"`
		WarningTempTime  *json.Number `json:"warning_temp_time"`
		CriticalTempTime *json.Number `json:"critical_comp_time"`
	} `json:"nvme_smart_health_information_log"`
	GrownDefects *float64 `json:"scsi_grown_defect_list"`
	Errors       *struct {
		Read, Write, Verify struct {
			Uncorrected *float64 `json:"total_uncorrected_errors"`
		}
	} `json:"scsi_error_counter_log"`
	Endurance *float64 `json:"scsi_percentage_used_endurance_indicator"`
}

// ParseJSON reads what "smartctl --json -a" printed. A document of another
// format version, or without a device, is refused; a drive that could not be
// asked is a Report whose Exit says so.
func ParseJSON(b []byte) (*Report, error) {
	if len(b) > MaxDocument {
		return nil, fmt.Errorf("smartctl document has %d octets, at most %d are read", len(b), MaxDocument)
	}
	var d document
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := dec.Decode(&d); err != nil {
		return nil, fmt.Errorf("smartctl document: %w", err)
	}
	if err := checkVersion(d.Version); err != nil {
		return nil, err
	}
	r := newReport()
	if d.Smartctl.Exit == nil {
		return nil, errors.New("smartctl document has no exit_status")
	}
	if *d.Smartctl.Exit < 0 || *d.Smartctl.Exit > 255 {
		return nil, fmt.Errorf("smartctl document has exit_status %d", *d.Smartctl.Exit)
	}
	r.Exit = Exit(*d.Smartctl.Exit)
	for _, m := range d.Smartctl.Messages {
		r.Messages = append(r.Messages, m.String)
	}
	switch d.Device.Protocol {
	case "ATA", "SCSI", "NVMe":
		r.Kind = Kind(d.Device.Protocol)
	case "":
		if !r.Exit.Unusable() {
			return nil, errors.New("smartctl document names no device protocol")
		}
	default:
		return nil, fmt.Errorf("smartctl document: unknown protocol %q", d.Device.Protocol)
	}
	r.Serial = d.Serial
	for _, m := range []string{d.Model, d.SCSI, d.Product} {
		if r.Model == "" {
			r.Model = m
		}
	}
	if d.Status != nil && d.Status.Passed != nil {
		r.Passed = flag(*d.Status.Passed)
	}
	r.Temperature = or(d.Temperature.Current)
	if r.MaxTemp = or(d.Temperature.OpLimit); math.IsNaN(r.MaxTemp) {
		r.MaxTemp = or(d.Temperature.DriveTrip)
	}
	if !(r.MaxTemp > 0 && r.MaxTemp < 150) { // 0: the drive has no trip temperature
		r.MaxTemp = math.NaN()
	}
	r.PowerOn = or(d.PowerOn.Hours)
	if d.Rotation != nil {
		r.Solid = flag(*d.Rotation == 0)
	} else if r.Kind == NVMe {
		r.Solid = 1
	}
	r.GrownDefects, r.Endurance = or(d.GrownDefects), or(d.Endurance)
	if e := d.Errors; e != nil {
		for _, v := range []*float64{e.Read.Uncorrected, e.Write.Uncorrected, e.Verify.Uncorrected} {
			if v != nil {
				r.Uncorrected = zero(r.Uncorrected) + *v
			}
		}
	}
	for _, a := range d.Attributes.Table {
		raw, err := counter(a.Raw.Value)
		if a.ID < 1 || a.ID > 255 || err != nil {
			return nil, fmt.Errorf("smartctl document: attribute %d with raw value %q", a.ID, a.Raw.Value)
		}
		r.Attributes = append(r.Attributes, Attribute{ID: a.ID, Name: a.Name, Value: or(a.Value), Threshold: or(a.Thresh),
			Raw: raw, Prefail: a.Flags.Prefailure, FailedNow: strings.EqualFold(a.WhenFailed, "now")})
	}
	if n := d.NVMe; n != nil {
		h := &Health{Temperature: or(n.Temperature), Spare: or(n.Spare), SpareThreshold: or(n.SpareThreshold), Used: or(n.Used)}
		w, err := strconv.ParseUint(string(n.CriticalWarning), 10, 8)
		if err != nil {
			return nil, fmt.Errorf("smartctl document: critical_warning %q", n.CriticalWarning)
		}
		h.CriticalWarning = uint8(w)
		for _, c := range []struct {
			to   *float64
			from *json.Number
		}{
			{&h.MediaErrors, n.MediaErrors}, {&h.ErrorLog, n.ErrorLog}, {&h.UnsafeShutdowns, n.UnsafeShutdowns},
			{&h.PowerOn, n.PowerOn}, {&h.WarningTempTime, n.WarningTempTime}, {&h.CriticalTempTime, n.CriticalTempTime},
		} {
			if *c.to = math.NaN(); c.from != nil {
				if *c.to, err = counter(*c.from); err != nil {
					return nil, fmt.Errorf("smartctl document: NVMe log: %w", err)
				}
			}
		}
		h.hasThreshold, h.hasWarning, h.hasCritical = n.SpareThreshold != nil, n.WarningTempTime != nil, n.CriticalTempTime != nil
		r.Health = h
	}
	return r, nil
}

// checkVersion: smartctl 7.0 wrote 0.1 while the format was young, with the
// same names.
func checkVersion(v []int) error {
	if len(v) != 2 || v[0] != 1 && !(v[0] == 0 && v[1] == 1) {
		return fmt.Errorf("smartctl document has format version %v, want 1.x", v)
	}
	return nil
}

// counter reads a number that is not negative; one beyond 64 bits (NVMe
// counters have 128) loses precision, not size.
func counter(n json.Number) (float64, error) {
	v, err := strconv.ParseFloat(string(n), 64)
	if err != nil || v < 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return 0, fmt.Errorf("%q is no counter", string(n))
	}
	return v, nil
}

func or(p *float64) float64 {
	if p == nil {
		return math.NaN()
	}
	return *p
}

func zero(v float64) float64 {
	if math.IsNaN(v) {
		return 0
	}
	return v
}

func flag(v bool) float64 {
	if v {
		return 1
	}
	return 0
}

// Found is one device of "smartctl --json --scan".
type Found struct {
	Name string `json:"name"` // /dev/sda, /dev/bus/0
	Type string `json:"type"` // sat, scsi, nvme, megaraid,8
}

// ParseScan reads the list of devices.
func ParseScan(b []byte) ([]Found, error) {
	if len(b) > MaxDocument {
		return nil, fmt.Errorf("smartctl scan has %d octets, at most %d are read", len(b), MaxDocument)
	}
	var d struct {
		Version []int   `json:"json_format_version"`
		Devices []Found `json:"devices"`
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, fmt.Errorf("smartctl scan: %w", err)
	}
	if err := checkVersion(d.Version); err != nil {
		return nil, err
	}
	for _, f := range d.Devices {
		if !strings.HasPrefix(f.Name, "/dev/") || strings.ContainsAny(f.Name+f.Type, " \t\n") || strings.HasPrefix(f.Type, "-") {
			return nil, fmt.Errorf("smartctl scan: device %q of type %q", f.Name, f.Type)
		}
	}
	return d.Devices, nil
}
