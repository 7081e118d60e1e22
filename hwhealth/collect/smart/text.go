package smart

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
)

var (
	// attributeBrief: "-x" and "-f brief": ID NAME FLAGS VALUE WORST THRESH FAIL RAW.
	attributeBrief = regexp.MustCompile(`^\s*(\d{1,3})\s+(\S+)\s+([P-][O-][S-][R-][C-][K+-])\S*\s+(\d{3}|---)\s+(\d{3}|---)\s+(\d{3}|---)\s+(\S+)\s+(.+)$`)
	// attributeOld: "-a": ID NAME 0xFLAG VALUE WORST THRESH TYPE UPDATED WHEN_FAILED RAW.
	attributeOld = regexp.MustCompile(`^\s*(\d{1,3})\s+(\S+)\s+0x[0-9a-fA-F]{4}\s+(\d{3}|---)\s+(\d{3}|---)\s+(\d{3}|---)\s+(Pre-fail|Old_age)\s+\S+\s+(\S+)\s+(.+)$`)
	leadingCount = regexp.MustCompile(`^-?\d[\d,. \x{a0}]*`)
)

// ParseText reads what "smartctl -a" or "-x" prints without --json, for
// recorded dumps and for versions before 7.0. It understands ATA and SCSI
// drives and NVMe ones.
func ParseText(text string) (*Report, error) {
	if len(text) > MaxDocument {
		return nil, fmt.Errorf("smartctl text has %d octets, at most %d are read", len(text), MaxDocument)
	}
	r := newReport()
	var h Health
	h.MediaErrors, h.ErrorLog, h.UnsafeShutdowns = math.NaN(), math.NaN(), math.NaN()
	h.Spare, h.Used, h.PowerOn, h.Temperature = math.NaN(), math.NaN(), math.NaN(), math.NaN()
	known := false
	inHealth := false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n ")
		if strings.HasPrefix(line, "smartctl ") || strings.HasPrefix(line, "=== START OF") {
			known = true
		}
		if strings.HasPrefix(line, "SMART/Health Information (NVMe") {
			r.Kind, r.Health, r.Solid, inHealth = NVMe, &h, 1, true
			continue
		}
		if inHealth && line == "" {
			inHealth = false
		}
		if a, ok, err := attribute(line); err != nil {
			return nil, err
		} else if ok {
			r.Kind = ATA
			r.Attributes = append(r.Attributes, a)
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if inHealth {
			if err := health(&h, key, value); err != nil {
				return nil, err
			}
			continue
		}
		if err := r.field(key, value); err != nil {
			return nil, err
		}
	}
	switch {
	case !known:
		return nil, fmt.Errorf("no text of smartctl")
	case r.Kind == "":
		return nil, fmt.Errorf("smartctl text: neither attributes nor a health log")
	}
	if r.Health != nil {
		r.Temperature, r.PowerOn = h.Temperature, h.PowerOn
		return r, nil
	}
	for _, a := range r.Attributes {
		switch {
		case a.ID == 9 && math.IsNaN(r.PowerOn):
			r.PowerOn = a.Raw
		case a.ID == 194 && math.IsNaN(r.Temperature), a.ID == 190 && math.IsNaN(r.Temperature):
			r.Temperature = math.Mod(a.Raw, 256) // the rest is minimum and maximum
		}
	}
	return r, nil
}

// attribute reads one line of the ATA table.
func attribute(line string) (Attribute, bool, error) {
	id, name, value, thresh, failed, raw, prefail := "", "", "", "", "", "", false
	if m := attributeBrief.FindStringSubmatch(line); m != nil {
		id, name, prefail, value, thresh, failed, raw = m[1], m[2], m[3][0] == 'P', m[4], m[6], m[7], m[8]
	} else if m := attributeOld.FindStringSubmatch(line); m != nil {
		id, name, value, thresh, prefail, failed, raw = m[1], m[2], m[3], m[5], m[6] == "Pre-fail", m[7], m[8]
	} else {
		return Attribute{}, false, nil
	}
	n, err := strconv.Atoi(id)
	if err != nil || n < 1 || n > 255 {
		return Attribute{}, false, fmt.Errorf("smartctl text: attribute %s", id)
	}
	a := Attribute{ID: n, Name: name, Value: normalized(value), Threshold: normalized(thresh), Prefail: prefail,
		FailedNow: failed == "NOW" || failed == "FAILING_NOW"}
	if a.Raw, err = rawValue(raw); err != nil {
		return Attribute{}, false, fmt.Errorf("smartctl text: attribute %d: %w", n, err)
	}
	return a, true, nil
}

func normalized(s string) float64 {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return math.NaN() // "---"
	}
	return v
}

// rawValue reads the forms that smartctl gives a raw value: "34 (Min/Max
// 23/38)", "1234h+56m+07.890s", "0/12345678", "0x0000", "123 456 789".
func rawValue(s string) (float64, error) {
	word, _, _ := strings.Cut(s, " ")
	if hours, _, ok := strings.Cut(word, "h+"); ok {
		word = hours
	}
	if first, _, ok := strings.Cut(word, "/"); ok {
		word = first
	}
	if hex, ok := strings.CutPrefix(word, "0x"); ok {
		v, err := strconv.ParseUint(hex, 16, 64)
		if err != nil {
			return 0, fmt.Errorf("raw value %q", s)
		}
		return float64(v), nil
	}
	v, err := strconv.ParseFloat(strings.TrimRight(word, "hms"), 64)
	if err != nil || v < 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return 0, fmt.Errorf("raw value %q", s)
	}
	return v, nil
}

// field takes one "Key: value" line outside of tables.
func (r *Report) field(key, value string) error {
	switch key {
	case "Serial Number", "Serial number":
		if strings.Trim(value, "-") != "" {
			r.Serial = value
		}
	case "Device Model", "Model Number", "Product":
		r.Model = value
	case "Rotation Rate":
		r.Solid = flag(strings.HasPrefix(value, "Solid State"))
	case "SMART overall-health self-assessment test result", "SMART Health Status":
		switch {
		case value == "PASSED" || value == "OK":
			r.Passed = 1
		case strings.HasPrefix(value, "FAILED") || key == "SMART Health Status":
			r.Passed = 0
		}
	case "Current Temperature", "Current Drive Temperature":
		if v, ok := count(value); ok {
			r.Temperature = v
		}
	case "Specified Max Operating Temperature", "Drive Trip Temperature":
		if v, ok := count(value); ok && v > 0 && v < 150 {
			r.MaxTemp = v
		}
	case "Elements in grown defect list":
		v, ok := count(value)
		if !ok {
			return fmt.Errorf("smartctl text: %s %q", key, value)
		}
		r.Kind, r.GrownDefects = SCSI, v
	case "Percentage used endurance indicator":
		if v, ok := count(value); ok {
			r.Endurance = v
		}
	}
	return nil
}

// health takes one line of the NVMe log.
func health(h *Health, key, value string) error {
	if key == "Critical Warning" {
		v, err := strconv.ParseUint(value, 0, 8)
		if err != nil {
			return fmt.Errorf("smartctl text: critical warning %q", value)
		}
		h.CriticalWarning = uint8(v)
		return nil
	}
	to := map[string]*float64{
		"Temperature": &h.Temperature, "Available Spare": &h.Spare, "Available Spare Threshold": &h.SpareThreshold,
		"Percentage Used": &h.Used, "Power On Hours": &h.PowerOn, "Unsafe Shutdowns": &h.UnsafeShutdowns,
		"Media and Data Integrity Errors": &h.MediaErrors, "Error Information Log Entries": &h.ErrorLog,
		"Warning  Comp. Temperature Time": &h.WarningTempTime, "Critical Comp. Temperature Time": &h.CriticalTempTime,
	}[key]
	if to == nil {
		return nil
	}
	v, ok := count(value)
	if !ok && value == "-" { // the controller withholds it
		return nil
	}
	if !ok {
		return fmt.Errorf("smartctl text: %s %q", key, value)
	}
	*to = v
	switch key {
	case "Available Spare Threshold":
		h.hasThreshold = true
	case "Warning  Comp. Temperature Time":
		h.hasWarning = true
	case "Critical Comp. Temperature Time":
		h.hasCritical = true
	}
	return nil
}

// count reads the number at the start of a value, with the separators that
// smartctl puts between groups of three digits in the user's locale.
func count(s string) (float64, bool) {
	m := leadingCount.FindString(s)
	m = strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return -1
	}, m)
	v, err := strconv.ParseFloat(m, 64)
	return v, err == nil
}
