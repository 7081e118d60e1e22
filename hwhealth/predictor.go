package hwhealth

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth/drive"
)

// Half-lives of evidence that has ceased to hold.
const (
	SlowHalfLife = 7 * 24 * time.Hour
	FastHalfLife = 15 * time.Minute
)

const (
	// staleAfter is how many usual intervals a level is believed.
	staleAfter = 4
	maxDevices = 4096
)

// Predictor turns samples into risk. It is not safe for concurrent use.
type Predictor struct {
	table   *drive.Table
	rules   map[Class][]Rule
	past    map[Signal]bool // some rule asks for its increases within a time
	devices map[string]*device
	latches map[string]*Latch // by device key and rule
	booted  time.Time
	hostOff bool
	half    [2]time.Duration // by Horizon
	refused uint64
}

// device is everything that is remembered of one part.
type device struct {
	Device Device            `json:"device"`
	Tracks map[Signal]*track `json:"tracks"`
	Rules  map[string]*mark  `json:"rules,omitempty"`
	Drive  *drive.History    `json:"drive,omitempty"`
	Epoch  time.Time         `json:"epoch,omitempty"` // hour 0 of Drive
	CRC    window            `json:"crc"`
	Slope  float64           `json:"slope,omitempty"` // of a temperature, degrees a second
	Light  *trend            `json:"light,omitempty"` // of received light, dBm
	model  *drive.Model
}

// mark is what is remembered of one rule at one device.
type mark struct {
	Hits int       `json:"hits"` // samples in a row for which it held
	From time.Time `json:"from"` // of the first of them
	Last time.Time `json:"last"` // when it last held
	Hard bool      `json:"-"`
	// Hazard when it last held.
	Hazard float64 `json:"hazard"`
}

// New makes a predictor that knows nothing yet, with the built-in tables.
func New() *Predictor {
	p := &Predictor{table: drive.Default(), rules: map[Class][]Rule{}, past: map[Signal]bool{}, devices: map[string]*device{}, latches: map[string]*Latch{}, half: [2]time.Duration{SlowHalfLife, FastHalfLife}}
	for _, r := range DefaultRules() {
		p.rules[r.Class] = append(p.rules[r.Class], r)
		for _, c := range r.All {
			if !c.level() {
				p.past[c.Signal] = true
			}
		}
	}
	return p
}

// SetHalfLives changes how fast evidence that has ceased to hold is forgotten.
func (p *Predictor) SetHalfLives(slow, fast time.Duration) { p.half = [2]time.Duration{slow, fast} }

// Refused is how many samples were refused because they make no sense.
func (p *Predictor) Refused() uint64 { return p.refused }

// Observe takes one sample. What makes no sense is counted and refused.
func (p *Predictor) Observe(s Sample, now time.Time) {
	if s.Check() != nil {
		p.refused++
		return
	}
	if s.At.After(now) { // a source's clock runs ahead of ours
		s.At = now
	}
	d := p.device(s)
	if d == nil {
		p.refused++
		return
	}
	t := d.Tracks[s.Signal]
	if t == nil {
		t = &track{}
		d.Tracks[s.Signal] = t
	}
	if s.Missing {
		if !t.Missing {
			t.MissingSince = s.At
		}
		t.Missing, t.Why, t.Source, t.Kind = true, s.Why, s.Source, s.Kind
		return
	}
	if t.Seen > 0 && s.At.Before(t.At) {
		return // late
	}
	prev, dt := t.Value, s.At.Sub(t.At).Seconds()
	delta, known := t.observe(s)
	if !p.past[s.Signal] {
		t.Recent = t.Recent[:0]
	}
	p.host(s)
	d.feedDrive(s, p.table)
	p.judge(d, s.Signal, now)
	t.settle()
	if t.Seen == 1 {
		dt = 0
	}
	for _, x := range append(d.derive(s, delta, known, prev, dt), p.zone(s, now)...) {
		p.Observe(x, now)
	}
}

// device finds or makes the memory of s's part. A part with another serial in
// the place of one that passed a limit takes the latch away.
func (p *Predictor) device(s Sample) *device {
	k := s.Device.Key()
	d := p.devices[k]
	if d == nil {
		if len(p.devices) >= maxDevices {
			return nil
		}
		d = &device{Device: s.Device, Tracks: map[Signal]*track{}, Rules: map[string]*mark{}}
		p.devices[k] = d
		if s.Device.Slot() != "" {
			p.replaced(s.Device)
		}
	}
	d.Device = s.Device
	return d
}

func (p *Predictor) replaced(by Device) {
	for k, o := range p.devices {
		if k != by.Key() && o.Device.Slot() == by.Slot() {
			for id, l := range p.latches {
				if l.Device.Key() == k {
					delete(p.latches, id)
				}
			}
			delete(p.devices, k)
		}
	}
}

// host notes boots and whether the host is on at all: fans and supplies of a
// machine that is off or just starting say nothing.
func (p *Predictor) host(s Sample) {
	switch s.Signal {
	case HostPowered:
		if p.hostOff && s.Value != 0 {
			p.booted = s.At
		}
		p.hostOff = s.Value == 0
	case HostBoot:
		if s.Value > 0 {
			p.booted = s.At
			for id, l := range p.latches {
				if l.Boot {
					delete(p.latches, id)
				}
			}
		}
	}
}

func (p *Predictor) quiet(c Class, now time.Time) bool {
	return (c == ClassFan || c == ClassPower) && (p.hostOff || !p.booted.IsZero() && age(now, p.booted) < bootGrace)
}

// rotating reports whether the drive model is for d.
func (d *device) rotating() bool {
	t := d.Tracks[DiskSolid]
	return d.Device.Class == ClassDisk && d.Drive != nil && (t == nil || t.Value == 0)
}

// feedDrive keeps the history of a disk's counters on the drive's own clock.
func (d *device) feedDrive(s Sample, table *drive.Table) {
	if d.Device.Class != ClassDisk {
		return
	}
	id, ok := SMARTID(s.Signal)
	col := drive.Column(id)
	if s.Signal != DiskPowerOnHours && (!ok || col < 0) {
		return
	}
	if d.Drive == nil {
		d.Drive, d.Epoch = drive.NewHistory(false), s.At
	}
	d.ensureModel(table)
	if s.Signal == DiskPowerOnHours {
		if s.Value >= 0 && s.Value < 1e7 && !d.Drive.AgeKnow {
			shift := s.Value - d.hour(s.At)
			d.Drive.Shift(shift)
			d.Epoch = d.Epoch.Add(-time.Duration(shift * float64(time.Hour)))
		}
		return
	}
	v := drive.NoValues()
	v[col] = s.Value
	d.Drive.Observe(d.hour(s.At), v)
}

func (d *device) ensureModel(table *drive.Table) {
	if d.model == nil {
		d.model = table.For(vendorName(d.Device), d.Device.Model)
	}
}

func vendorName(d Device) string {
	if v := drive.Vendor(d.Model); v != "" {
		return v
	}
	return drive.Vendor(d.Vendor)
}

func (d *device) hour(at time.Time) float64 { return at.Sub(d.Epoch).Hours() }

// judge looks at every rule that asks for sig, now that it has a new value.
func (p *Predictor) judge(d *device, sig Signal, now time.Time) {
	if p.quiet(d.Device.Class, now) {
		return
	}
	for i := range p.rules[d.Device.Class] {
		r := &p.rules[d.Device.Class][i]
		if !slices.ContainsFunc(r.All, func(c Cond) bool { return c.Signal == sig }) {
			continue
		}
		m := d.Rules[r.ID]
		if !d.all(r, now) {
			if m != nil {
				m.Hits = 0
			}
			continue
		}
		if m == nil {
			m = &mark{}
			d.Rules[r.ID] = m
		}
		if m.Hits == 0 {
			m.From = now
		}
		m.Hits = min(m.Hits+1, 1e6)
		if !r.ripe(m, now) {
			continue
		}
		m.Last = now
		if r.Hard {
			p.latch(d, r, now)
			continue
		}
		m.Hazard = r.hazard(d.Device.Redundant != "")
		if r.Scale {
			m.Hazard *= math.Max(0, math.Min(2, d.Tracks[r.All[0].Signal].Value))
		}
	}
}

// all reports whether every condition of r holds.
func (d *device) all(r *Rule, now time.Time) bool {
	for _, c := range r.All {
		t := d.Tracks[c.Signal]
		if t == nil || t.Seen == 0 || t.Missing || !c.holds(t, now) {
			return false
		}
	}
	return true
}

// ripe reports whether r has held long enough: increases are facts at once,
// levels must be seen twice and for as long as the rule says.
func (r *Rule) ripe(m *mark, now time.Time) bool {
	level, hold := false, time.Duration(0)
	for _, c := range r.All {
		level = level || c.level()
		hold = max(hold, time.Duration(c.For))
	}
	if !level {
		return true
	}
	return m.Hits >= 2 && age(now, m.From) >= hold
}

func (p *Predictor) latch(d *device, r *Rule, now time.Time) {
	id := d.Device.Key() + " " + r.ID
	if p.latches[id] == nil {
		p.latches[id] = &Latch{Device: d.Device, Limit: r.ID, Detail: r.Text + d.figures(r), Since: now, Boot: r.Boot}
	}
}

// figures writes the values that r looks at.
func (d *device) figures(r *Rule) string {
	s := ""
	for _, c := range r.All {
		t := d.Tracks[c.Signal]
		if t == nil || t.Seen == 0 {
			continue
		}
		if s != "" {
			s += ", "
		}
		s += fmt.Sprintf("%s %.4g", c.Signal, t.Value)
		if c.Over > 0 {
			s += fmt.Sprintf(" (+%.4g within %s)", t.grew(t.At, time.Duration(c.Over)), time.Duration(c.Over))
		}
	}
	return ": " + s
}

// Clear forgets the latched limits of the device with this serial, or all of
// them if serial is empty, and how many there were. A limit that is still
// passed latches again with the next sample.
func (p *Predictor) Clear(serial string) int {
	n := 0
	for id, l := range p.latches {
		if serial == "" || l.Device.Serial == serial {
			delete(p.latches, id)
			if d := p.devices[l.Device.Key()]; d != nil {
				delete(d.Rules, l.Limit)
			}
			n++
		}
	}
	return n
}

// Assess sums up. State and Raw are left to the Ladder.
func (p *Predictor) Assess(now time.Time) Assessment {
	a := Assessment{At: now, Confidence: 1}
	var causes []Cause
	known, silent := 0, 0
	groups := map[string]*group{}
	var slow, fast, base float64
	add := func(fam family) {
		if g := fam.device.Redundant; g != "" {
			k := string(fam.device.Class) + " " + g
			if groups[k] == nil {
				groups[k] = &group{}
			}
			groups[k].members = append(groups[k].members, fam)
			return
		}
		slow, fast, base = slow+fam.slow, fast+fam.fast, base+fam.base
		causes = append(causes, fam.causes...)
	}
	for _, k := range sortedKeys(p.devices) {
		d := p.devices[k]
		for _, sig := range sortedKeys(d.Tracks) {
			if derived[sig] {
				continue
			}
			known++
			if t := d.Tracks[sig]; t.Missing {
				silent++
				a.Silent = append(a.Silent, Silence{Source: t.Source, Device: d.Device, Signal: sig, Why: t.Why, Since: t.MissingSince})
			}
		}
		add(p.family(d, now))
	}
	for _, k := range sortedKeys(groups) {
		s, f, b, c := groups[k].sum()
		slow, fast, base = slow+s, fast+f, base+b
		causes = append(causes, c...)
	}
	if known > 0 {
		a.Confidence = 1 - float64(silent)/float64(known)
	}
	for i := range causes {
		total := slow
		if causes[i].Horizon == Fast {
			total = fast
		}
		causes[i].Share = causes[i].Hazard / total
	}
	slices.SortStableFunc(causes, func(x, y Cause) int {
		// An hour weighs more than a month: order by what they add to the risk
		// relative to the draining thresholds.
		return cmp.Compare(y.Weight(), x.Weight())
	})
	a.Causes = causes
	a.R30, a.R1h = -math.Expm1(-slow-base), -math.Expm1(-fast)
	a.E30 = -math.Expm1(-slow)
	if rate := slow/Slow.Span().Hours() + fast/Fast.Span().Hours(); rate > 0 && (a.E30 > .001 || a.R1h > .001) {
		a.TimeToFailure = time.Duration(math.Min(math.Ln2/rate, 24*365*10) * float64(time.Hour))
	}
	for _, l := range p.latches {
		x := *l
		x.Redundant = p.covered(l)
		a.Limits = append(a.Limits, x)
	}
	slices.SortFunc(a.Limits, func(x, y Latch) int {
		return cmp.Or(x.Since.Compare(y.Since), cmp.Compare(x.Device.Key()+x.Limit, y.Device.Key()+y.Limit))
	})
	return a
}

// covered reports whether another part of the same group, without a limit of
// its own, stands in for l's.
func (p *Predictor) covered(l *Latch) bool {
	if l.Device.Redundant == "" {
		return false
	}
	for k, d := range p.devices {
		if k == l.Device.Key() || d.Device.Class != l.Device.Class || d.Device.Redundant != l.Device.Redundant {
			continue
		}
		if !slices.ContainsFunc(sortedKeys(p.latches), func(id string) bool { return p.latches[id].Device.Key() == k }) {
			return true
		}
	}
	return false
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	out := make([]K, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// Weight compares causes of both horizons: 1 is about what drains by itself.
func (c Cause) Weight() float64 {
	if c.Horizon == Fast {
		return c.Hazard / .05
	}
	return c.Hazard / .06
}

// Readings are the newest values of all signals, by device and signal.
func (p *Predictor) Readings() []Sample {
	var out []Sample
	for _, k := range sortedKeys(p.devices) {
		d := p.devices[k]
		for _, sig := range sortedKeys(d.Tracks) {
			t := d.Tracks[sig]
			if t.Seen == 0 || t.Missing {
				continue
			}
			info, _ := Info(sig)
			out = append(out, Sample{Source: t.Source, Device: d.Device, Signal: sig, Kind: t.Kind, Unit: info.Unit, Value: t.Value, At: t.At})
		}
	}
	return out
}
