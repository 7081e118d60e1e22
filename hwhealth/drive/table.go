package drive

import (
	"bytes"
	_ "embed" // the hazard table
	"encoding/json"
	"fmt"
	"math"
	"sort"
	"strings"
	"sync"
)

// TableVersion is the format that this program reads and writes.
const TableVersion = 1

//go:embed table.json
var tableJSON []byte

// Table is the hazard table of rotating drives, made by hwhealth/fit.
type Table struct {
	Version    int        `json:"version"`
	Provenance Provenance `json:"provenance"`
	// Models are the model names that have terms of their own; other drives go
	// by their vendor.
	Models []string `json:"models"`
	Points []Point  `json:"points"`
	// Pace is what share of L falls into the next 30 days, by the age of the
	// newest growth; the last band has no bound.
	Pace []Pace `json:"pace"`
	Base []Base `json:"base"`
	// Terms have hazards in failures over the rest of the drive's life.
	Terms []Weighted `json:"terms"`
}

// Provenance says where the figures come from.
type Provenance struct {
	Data    string `json:"data"`
	Folds   string `json:"folds"`
	Drives  int    `json:"drives"`
	Failed  int    `json:"failed"`
	Method  string `json:"method"`
	Command string `json:"command"`
	Licence string `json:"licence"`
}

// Point is a threshold on L with the rates that cross-validation inside the
// fitted folds gave.
type Point struct {
	Name      string  `json:"name"`
	Threshold float64 `json:"threshold"`
	FDR       float64 `json:"cv_fdr"`
	FAR       float64 `json:"cv_far_ever"`
}

// Pace is one band of the pace curve.
type Pace struct {
	WithinDays float64 `json:"within_days,omitempty"` // 0: no bound
	Per30d     float64 `json:"per_30d"`
	Failures   float64 `json:"failures"` // behind the figure
}

// Base is the hazard per 30 days of a drive that shows nothing.
type Base struct {
	Vendor   string  `json:"vendor"`
	ToYears  float64 `json:"to_years,omitempty"` // 0: no bound
	Hazard   float64 `json:"hazard"`
	Failures float64 `json:"failures"`
}

// Weighted is a term with its hazard.
type Weighted struct {
	Term
	Hazard float64 `json:"hazard"`
	// Drives is how many drives of the fit were judged with this term, of them
	// Failed failed.
	Drives int `json:"drives"`
	Failed int `json:"failed"`
}

// ParseTable reads and checks a table.
func ParseTable(b []byte) (*Table, error) {
	var t Table
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return nil, fmt.Errorf("read hazard table: %w", err)
	}
	if err := t.Check(); err != nil {
		return nil, fmt.Errorf("hazard table: %w", err)
	}
	return &t, nil
}

// Check reports the first thing in t that cannot be.
func (t *Table) Check() error {
	if t.Version != TableVersion {
		return fmt.Errorf("version is %d, this program reads %d", t.Version, TableVersion)
	}
	for i, w := range t.Terms {
		if err := w.check(); err != nil {
			return fmt.Errorf("terms[%d]: %w", i, err)
		}
		if !(w.Hazard >= 0) || math.IsInf(w.Hazard, 0) {
			return fmt.Errorf("terms[%d] %s: hazard is %v, want a number from 0", i, w.Term, w.Hazard)
		}
	}
	if len(t.Pace) == 0 || t.Pace[len(t.Pace)-1].WithinDays != 0 {
		return fmt.Errorf("pace: the last band must have no bound")
	}
	for i, p := range t.Pace {
		if !(p.Per30d >= 0) || math.IsInf(p.Per30d, 0) || (i < len(t.Pace)-1 && p.WithinDays <= 0) {
			return fmt.Errorf("pace[%d]: within_days %v, per_30d %v: want numbers above 0", i, p.WithinDays, p.Per30d)
		}
	}
	for i, b := range t.Base {
		if !(b.Hazard >= 0) || math.IsInf(b.Hazard, 0) || b.ToYears < 0 {
			return fmt.Errorf("base[%d] of %s: hazard %v, to_years %v: want numbers from 0", i, b.Vendor, b.Hazard, b.ToYears)
		}
	}
	if len(t.Points) == 0 {
		return fmt.Errorf("points: there is none")
	}
	for i, p := range t.Points {
		if !(p.Threshold > 0) || math.IsInf(p.Threshold, 0) || p.Name == "" {
			return fmt.Errorf("points[%d] %q: threshold is %v, want a number above 0", i, p.Name, p.Threshold)
		}
	}
	return nil
}

// Default is the table that is built in.
var Default = sync.OnceValue(func() *Table {
	t, err := ParseTable(tableJSON)
	if err != nil {
		panic(err) // the file is part of the program and tested
	}
	return t
})

// Vendor is the vendor's name as the table uses it, from a model name.
func Vendor(model string) string {
	m := strings.ToUpper(model)
	for _, v := range []struct{ prefix, name string }{
		{"HGST", "HGST"}, {"HITACHI", "HGST"}, {"HU", "HGST"}, {"HD", "HGST"}, {"WUH", "WDC"}, {"WUS", "WDC"},
		{"WDC", "WDC"}, {"WD", "WDC"}, {"WESTERN", "WDC"}, {"ST", "ST"}, {"SEAGATE", "ST"},
	} {
		if strings.HasPrefix(m, v.prefix) {
			return v.name
		}
	}
	return ""
}

// Model is the table made ready for drives of one model.
type Model struct {
	table *Table
	terms []compiled
	base  []Base
}

// For makes the model of drives whose model name is model. Vendor may be empty.
func (t *Table) For(vendor, model string) *Model {
	if vendor == "" {
		vendor = Vendor(model)
	}
	group := vendor
	for _, m := range t.Models {
		if m == model {
			group = m
		}
	}
	m := &Model{table: t}
	for i, w := range t.Terms {
		if w.Group == "" || w.Group == group {
			m.terms = append(m.terms, compile(w.Term, w.Hazard, i))
		}
	}
	for _, b := range t.Base {
		if b.Vendor == vendor {
			m.base = append(m.base, b)
		}
	}
	if len(m.base) == 0 { // an unknown vendor gets what all together had
		for _, b := range t.Base {
			if b.Vendor == "" {
				m.base = append(m.base, b)
			}
		}
	}
	return m
}

// Lifetime is L at hour t: the failures to expect over the rest of the drive's
// life, 0 without evidence.
func (m *Model) Lifetime(h *History, t float64) float64 {
	t = math.Max(t, h.At)
	y := h.tally(t)
	sum := 0.0
	for i := range m.terms {
		if c := &m.terms[i]; c.holds(h, &y, t) {
			sum += c.hazard
		}
	}
	return sum
}

// Contribution is one term's part of L.
type Contribution struct {
	Term   Term
	Hazard float64
}

// Explain lists the terms that hold at hour t, the heaviest first. Their sum
// is Lifetime.
func (m *Model) Explain(h *History, t float64) []Contribution {
	t = math.Max(t, h.At)
	y := h.tally(t)
	var out []Contribution
	for i := range m.terms {
		if c := &m.terms[i]; c.hazard > 0 && c.holds(h, &y, t) {
			out = append(out, Contribution{m.table.Terms[c.term].Term, c.hazard})
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Hazard > out[j].Hazard })
	return out
}

// Pace is the share of L that falls into the next 30 days.
func (m *Model) Pace(h *History, t float64) float64 {
	at, ok := h.NewestGrowth()
	age := (math.Max(t, h.At) - at) / day
	for _, p := range m.table.Pace {
		if p.WithinDays == 0 || ok && age <= p.WithinDays {
			return p.Per30d
		}
	}
	return 0
}

// BaseHazard is the hazard per 30 days of a drive of this age that shows
// nothing.
func (m *Model) BaseHazard(h *History, t float64) float64 {
	if len(m.base) == 0 {
		return 0
	}
	if h.AgeKnow {
		for _, b := range m.base {
			if b.ToYears == 0 || t < b.ToYears*year {
				return b.Hazard
			}
		}
	}
	return m.base[len(m.base)-1].Hazard
}

// edges are the ages of evidence at which a term begins or ends to hold.
var growthEdges = [...]float64{1.5 * day, 7.5 * day, 30 * day, 90 * day}
var newEdges = [...]float64{30 * day, 90 * day, 365.25 * day}
var ageEdges = [...]float64{.25 * year, 1 * year, 2 * year, 3 * year, 4 * year}

// Next is the first hour after t at which Lifetime or Pace may change without a
// new observation, +Inf if none.
func (h *History) Next(t float64) float64 {
	next := math.Inf(1)
	any := false
	for i := range h.Columns {
		c := &h.Columns[i]
		any = any || c.Peak > 0
		if c.Times > 0 {
			for _, e := range growthEdges {
				if c.GrewAt+e >= t {
					next = math.Min(next, c.GrewAt+e)
					break
				}
			}
		}
		if c.Nonzero == watched {
			for _, e := range newEdges {
				if c.Since+e >= t {
					next = math.Min(next, c.Since+e)
					break
				}
			}
		}
	}
	if any && h.AgeKnow {
		for _, e := range ageEdges {
			if e > t {
				next = math.Min(next, e)
				break
			}
		}
	}
	return next
}

// Probe asks many terms about histories; the fit uses it so that it cannot see
// a term differently from the predictor.
type Probe struct{ terms []compiled }

// NewProbe compiles terms.
func NewProbe(terms []Term) *Probe {
	p := &Probe{}
	for i, t := range terms {
		p.terms = append(p.terms, compile(t, 0, i))
	}
	return p
}

// Holding appends the indices of the terms that hold at hour t to out.
func (p *Probe) Holding(h *History, t float64, out []uint16) []uint16 {
	y := h.tally(t)
	for i := range p.terms {
		if p.terms[i].holds(h, &y, t) {
			out = append(out, uint16(p.terms[i].term))
		}
	}
	return out
}
