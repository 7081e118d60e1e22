package fit

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"

	"github.com/shadowcast/shadowcast/hwhealth/bench"
	"github.com/shadowcast/shadowcast/hwhealth/drive"
)

// Options steer a fit.
type Options struct {
	Iterations int
	Sparsity   float64 // drives added to every term's denominator
	Least      float64 // hazards below are dropped
	// MinFailures is how many failures a model needs for terms of its own.
	MinFailures int
	// Targets are the operating points: name and the FAR_ever to stay under,
	// in cross-validation.
	Targets []Target
	Say     func(format string, args ...any) // progress
}

// Target is one operating point to be found.
type Target struct {
	Name string
	FAR  float64
}

// DefaultOptions are those of the built-in table. The targets lie about two
// standard errors of the smaller validation part below 3.0 % and 4.9 %.
func DefaultOptions() Options {
	return Options{
		Iterations: 200, Sparsity: 3, Least: 1e-4, MinFailures: 15,
		Targets: []Target{{"far1", .0095}, {"far3", .0275}, {"far5", .0455}},
		Say:     func(string, ...any) {},
	}
}

const fitFrom, fitTo = 5, 9

type fitter struct {
	o        Options
	drives   []*subject
	groups   []string
	models   []string
	recalled map[string]bool
	terms    []drive.Term
	bases    []drive.Base // bins, hazard to be found
}

// Fit reads the benchmark in dir and makes a table. command is recorded in its
// provenance.
func Fit(dir, command string, o Options) (*drive.Table, error) {
	f := &fitter{o: o, recalled: map[string]bool{}}
	if err := f.census(dir); err != nil {
		return nil, err
	}
	f.terms = candidates(f.groups, f.recalled)
	if err := f.load(dir); err != nil {
		return nil, err
	}
	failed := 0
	for _, d := range f.drives {
		if d.failed {
			failed++
		}
	}
	o.Say("%d drives of folds %d-%d, %d failed; %d candidate terms, %d models of their own", len(f.drives), fitFrom, fitTo, failed, len(f.terms), len(f.models))

	seen := make([][]float64, len(f.drives)) // L at each moment, by a fit without the drive
	for fold := fitFrom; fold <= fitTo; fold++ {
		e := em(f.without(fold), len(f.terms), o)
		for i, d := range f.drives {
			if d.fold == fold {
				seen[i] = make([]float64, len(d.moments))
				for k, m := range d.moments {
					seen[i][k] = sum(m.terms, e.hazard)
				}
			}
		}
		o.Say("cross-validation: fold %d done", fold)
	}
	e := em(f.drives, len(f.terms), o)

	t := &drive.Table{
		Version: drive.TableVersion,
		Provenance: drive.Provenance{
			Data:    "Backblaze drive statistics 2013-04-10..2016-09-30 (change-point form), source: Backblaze, https://www.backblaze.com/b2/hard-drive-test-data.html",
			Folds:   fmt.Sprintf("%d-%d of sha256(serial) mod 10", fitFrom, fitTo),
			Drives:  len(f.drives),
			Failed:  failed,
			Method:  "noisy-OR of non-negative additive hazards on each drive's worst moment, expectation maximisation, exponential prior; rates of points by 5-fold cross-validation",
			Command: command,
			Licence: "derived figures; the records themselves are Backblaze's and are not part of this file",
		},
		Models: f.models,
		Points: f.points(seen),
		Pace:   f.pace(seen),
		Base:   f.base(seen),
	}
	for i, h := range e.hazard {
		if h > 0 {
			t.Terms = append(t.Terms, drive.Weighted{Term: f.terms[i], Hazard: round(h), Drives: e.drives[i], Failed: e.failed[i]})
		}
	}
	return t, t.Check()
}

// round keeps four significant digits: more would be noise.
func round(v float64) float64 {
	if v == 0 {
		return 0
	}
	p := math.Pow(10, 3-math.Floor(math.Log10(v)))
	return math.Round(v*p) / p
}

func (f *fitter) without(fold int) []*subject {
	var out []*subject
	for _, d := range f.drives {
		if d.fold != fold {
			out = append(out, d)
		}
	}
	return out
}

// walk calls visit for every drive of the fitted folds.
func walk(dir string, visit func(*bench.Drive) error) (err error) {
	r, err := bench.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if !r.Labelled {
		return fmt.Errorf("%s has no labels (last_hour, failed): nothing can be fitted to it", r.Path)
	}
	for {
		d, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if d.Fold >= fitFrom && d.Fold <= fitTo {
			if err := visit(d); err != nil {
				return err
			}
		}
	}
}

// census finds which models get terms of their own and the base bins.
func (f *fitter) census(dir string) error {
	lived, died := map[string]int{}, map[string]int{}
	vendors := map[string]bool{}
	err := walk(dir, func(d *bench.Drive) error {
		if d.Label.Failed {
			died[d.Model]++
		} else {
			lived[d.Model]++
		}
		vendors[vendor(d)] = true
		return nil
	})
	if err != nil {
		return err
	}
	for m, n := range died {
		if n >= f.o.MinFailures {
			f.models = append(f.models, m)
			f.recalled[m] = n > lived[m]
		}
	}
	slices.Sort(f.models)
	for v := range vendors {
		f.groups = append(f.groups, v)
	}
	slices.Sort(f.groups)
	for _, v := range append(slices.Clone(f.groups), "") {
		for _, y := range ages[1:] {
			f.bases = append(f.bases, drive.Base{Vendor: v, ToYears: y})
		}
	}
	f.groups = append(f.groups, f.models...)
	return nil
}

func vendor(d *bench.Drive) string {
	if d.Vendor != "" {
		return d.Vendor
	}
	return drive.Vendor(d.Model)
}

// load turns every drive into moments.
func (f *fitter) load(dir string) error {
	probes := map[string]*drive.Probe{}
	index := map[string][]uint16{}
	for _, g := range f.groups {
		var own []drive.Term
		var ids []uint16
		for i, t := range f.terms {
			if t.Group == "" || t.Group == g {
				own, ids = append(own, t), append(ids, uint16(i))
			}
		}
		probes[g], index[g] = drive.NewProbe(own), ids
	}
	var buf []uint16
	return walk(dir, func(d *bench.Drive) error {
		g := vendor(d)
		if slices.Contains(f.models, d.Model) {
			g = d.Model
		}
		s := &subject{failed: d.Label.Failed, last: d.Label.LastHour, fold: d.Fold, vendor: vendor(d)}
		h := drive.NewHistory(true)
		bench.Steps(d.FirstHour, d.Rows, s.last, h, func(t float64) {
			buf = probes[g].Holding(h, t, buf[:0])
			m := moment{hour: t, terms: make([]uint16, len(buf)), until: s.last, band: paceBand(h, t), base: f.baseBin(s.vendor, t)}
			for i, k := range buf {
				m.terms[i] = index[g][k]
			}
			if n := len(s.moments); n > 0 {
				s.moments[n-1].until = math.Min(t, s.last)
			}
			s.moments = append(s.moments, m)
		}, func() float64 { return math.Inf(1) })
		f.drives = append(f.drives, s)
		return nil
	})
}

// points finds the thresholds from L of unseen drives.
func (f *fitter) points(seen [][]float64) []drive.Point {
	var healthy, failed []float64
	for i, d := range f.drives {
		w := 0.0
		for k, n := 0, d.judged(); k < n; k++ {
			w = math.Max(w, seen[i][k])
		}
		if d.failed {
			failed = append(failed, w)
		} else {
			healthy = append(healthy, w)
		}
	}
	sort.Sort(sort.Reverse(sort.Float64Slice(healthy)))
	share := func(v []float64, th float64) float64 {
		n := 0
		for _, x := range v {
			if x >= th {
				n++
			}
		}
		return float64(n) / float64(len(v))
	}
	var out []drive.Point
	for _, t := range f.o.Targets {
		th := round(healthy[int(t.FAR*float64(len(healthy)))] * 1.0001)
		out = append(out, drive.Point{Name: t.Name, Threshold: th, FDR: round(share(failed, th)), FAR: round(share(healthy, th))})
	}
	return out
}

// The bands of the pace: days since the newest growth.
var paceDays = []float64{7.5, 30, 0}

func paceBand(h *drive.History, t float64) int {
	if at, ok := h.NewestGrowth(); ok {
		for i, d := range paceDays {
			if d > 0 && t-at <= d*24 {
				return i
			}
		}
	}
	return len(paceDays) - 1
}

// evident is the L from which a drive counts as showing something.
const evident = .05

const month = 720.0 // hours

// pace is failures over L-weighted time, per band, of drives that show
// something.
func (f *fitter) pace(seen [][]float64) []drive.Pace {
	out := make([]drive.Pace, len(paceDays))
	load := make([]float64, len(paceDays))
	f.time(seen, func(d *subject, m *moment, l, months float64, died bool) {
		if l < evident {
			return
		}
		load[m.band] += l * months
		if died {
			out[m.band].Failures++
		}
	})
	for i := range out {
		out[i].WithinDays = paceDays[i]
		out[i].Per30d = round(out[i].Failures / math.Max(load[i], 1))
	}
	return out
}

func (f *fitter) baseBin(vendor string, t float64) int {
	for i, b := range f.bases {
		if b.Vendor == vendor && (b.ToYears == 0 || t < b.ToYears*8766) {
			return i
		}
	}
	return len(f.bases) - 1
}

// base is failures over time of drives that show nothing.
func (f *fitter) base(seen [][]float64) []drive.Base {
	months := make([]float64, len(f.bases))
	out := slices.Clone(f.bases)
	f.time(seen, func(d *subject, m *moment, l, t float64, died bool) {
		if l >= evident {
			return
		}
		for _, b := range []int{m.base, f.baseBin("", m.hour)} {
			months[b] += t
			if died {
				out[b].Failures++
			}
		}
	})
	for i := range out {
		// Half a failure more keeps a short or lucky bin from promising
		// immortality.
		out[i].Hazard = round((out[i].Failures + .5) / math.Max(months[i], 100))
	}
	return out
}

// time visits every stretch of drive time between two looks.
func (f *fitter) time(seen [][]float64, visit func(d *subject, m *moment, l, months float64, died bool)) {
	for i, d := range f.drives {
		for k := range d.moments {
			m := &d.moments[k]
			if m.hour > d.last {
				break
			}
			visit(d, m, seen[i][k], (m.until-m.hour)/month, d.failed && k == len(d.moments)-1)
		}
	}
}
