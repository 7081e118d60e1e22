package trace

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// Version is the format.
const Version = 1

// Start begins a file or a life of the daemon.
type Start struct {
	Version int              `json:"version"`
	Node    string           `json:"node"`
	Boot    string           `json:"boot"` // names this life of the machine
	At      int64            `json:"at"`   // Unix milliseconds
	Policy  *hwhealth.Policy `json:"policy,omitempty"`
}

// series is a signal of a part.
type series struct {
	N      int             `json:"n"`
	Source string          `json:"source"`
	Device hwhealth.Device `json:"device"`
	Signal hwhealth.Signal `json:"signal"`
	Kind   hwhealth.Kind   `json:"kind"`
	Unit   hwhealth.Unit   `json:"unit"`
	Limits []*float64      `json:"limits,omitempty"`
}

// line is one line of a file; exactly one of its parts is there.
type line struct {
	Start  *Start  `json:"start,omitempty"`
	Series *series `json:"series,omitempty"`
	At     *int64  `json:"at,omitempty"`
	Values []value `json:"values,omitempty"`
}

// value is [series, value or null, text].
type value struct {
	n    int
	v    float64
	gone bool
	text string
}

// MarshalJSON writes the array.
func (v value) MarshalJSON() ([]byte, error) {
	a := []any{v.n, v.v}
	if v.gone {
		a[1] = nil
	}
	if v.text != "" {
		a = append(a, v.text)
	}
	return json.Marshal(a)
}

// UnmarshalJSON reads it.
func (v *value) UnmarshalJSON(b []byte) error {
	var a []json.RawMessage
	if err := json.Unmarshal(b, &a); err != nil || len(a) < 2 || len(a) > 3 {
		return fmt.Errorf("value %.60q: want [series, value] or [series, value, text]", b)
	}
	var x *float64
	if json.Unmarshal(a[0], &v.n) != nil || json.Unmarshal(a[1], &x) != nil || len(a) == 3 && json.Unmarshal(a[2], &v.text) != nil {
		return fmt.Errorf("value %.60q: want numbers, and a text", b)
	}
	if v.gone = x == nil; !v.gone {
		v.v = *x
	}
	return nil
}

// maxSeries bounds the signals of one life.
const maxSeries = 1 << 16

// parse reads one line.
func parse(b []byte) (l line, err error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return l, err
	}
	if _, err := d.Token(); err != io.EOF {
		return l, fmt.Errorf("more than one object")
	}
	parts := 0
	if s := l.Start; s != nil {
		parts++
		if s.Version != Version {
			return l, fmt.Errorf("version is %d, this program reads %d", s.Version, Version)
		}
		if s.At <= 0 {
			return l, fmt.Errorf("start: at is %d, want Unix milliseconds", s.At)
		}
	}
	if s := l.Series; s != nil {
		parts++
		if s.N < 1 || s.N > maxSeries {
			return l, fmt.Errorf("series: n is %d, want 1 to %d", s.N, maxSeries)
		}
		if len(s.Limits) != 0 && len(s.Limits) != 4 {
			return l, fmt.Errorf("series %d: %d limits, want 4", s.N, len(s.Limits))
		}
		if err := s.sample(time.Unix(1, 0)).Check(); err != nil {
			return l, fmt.Errorf("series %d: %w", s.N, err)
		}
	}
	if l.At != nil {
		parts++
		if *l.At <= 0 {
			return l, fmt.Errorf("at is %d, want Unix milliseconds", *l.At)
		}
	}
	if parts != 1 || len(l.Values) > 0 && l.At == nil {
		return l, fmt.Errorf("want one of start, series, and at with values")
	}
	return l, nil
}

// sample is a sample of the series without its value.
func (s *series) sample(at time.Time) hwhealth.Sample {
	x := hwhealth.Sample{Source: s.Source, Device: s.Device, Signal: s.Signal, Kind: s.Kind, Unit: s.Unit, At: at, Limits: hwhealth.NoLimits()}
	if len(s.Limits) == 4 {
		for i, p := range []*float64{&x.Limits.LowCrit, &x.Limits.LowWarn, &x.Limits.HighWarn, &x.Limits.HighCrit} {
			if l := s.Limits[i]; l != nil {
				*p = *l
			}
		}
	}
	return x
}

// limits writes known limits, nil if there are none.
func limits(l hwhealth.Limits) []*float64 {
	out, known := make([]*float64, 4), false
	if l == (hwhealth.Limits{}) {
		return nil
	}
	for i, v := range []float64{l.LowCrit, l.LowWarn, l.HighWarn, l.HighCrit} {
		if !math.IsNaN(v) && !math.IsInf(v, 0) {
			out[i], known = &v, true
		}
	}
	if !known {
		return nil
	}
	return out
}
