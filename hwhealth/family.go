package hwhealth

import (
	"fmt"
	"math"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth/drive"
)

// family is what one part contributes: the largest of its hand-set hazards per
// horizon, or the sum of its fitted ones, which were fitted together.
type family struct {
	device           Device
	slow, fast, base float64
	causes           []Cause
}

// leastHazard is where evidence is forgotten.
const leastHazard = 1e-5

func (p *Predictor) family(d *device, now time.Time) family {
	f := family{device: d.Device}
	var best [2]*Cause
	for i := range p.rules[d.Device.Class] {
		r := &p.rules[d.Device.Class][i]
		m := d.Rules[r.ID]
		if m == nil || r.Hard || m.Last.IsZero() {
			continue
		}
		h, since := m.Hazard, age(now, m.Last)
		if !d.stillHolds(r, m, now) {
			h *= math.Exp2(-float64(since) / float64(p.half[r.horizon()]))
		}
		if h < leastHazard {
			continue
		}
		if b := best[r.horizon()]; b == nil || h > b.Hazard {
			best[r.horizon()] = &Cause{Device: d.Device, Signal: r.All[0].Signal, Term: r.ID, Detail: r.Text + d.figures(r), Horizon: r.horizon(), Hazard: h, Age: since}
		}
	}
	if c := best[Fast]; c != nil {
		f.fast = c.Hazard
		f.causes = append(f.causes, *c)
	}
	if d.rotating() {
		p.driveFamily(d, now, &f, best[Slow])
	} else if c := best[Slow]; c != nil {
		f.slow = c.Hazard
		f.causes = append(f.causes, *c)
	}
	return f
}

// stillHolds reports whether the rule's evidence is of now: its last sample held
// and is not stale.
func (d *device) stillHolds(r *Rule, m *mark, now time.Time) bool {
	if m.Hits == 0 || !d.all(r, now) {
		return false
	}
	for _, c := range r.All {
		t := d.Tracks[c.Signal]
		every := time.Duration(t.Every * float64(time.Second))
		if c.level() && age(now, t.At) > max(staleAfter*every, time.Hour) {
			return false
		}
	}
	return true
}

// driveFamily adds the fitted terms of a rotating drive, or a hand-set rule
// that weighs more.
func (p *Predictor) driveFamily(d *device, now time.Time, f *family, hand *Cause) {
	d.ensureModel(p.table)
	t := d.hour(now)
	pace := d.model.Pace(d.Drive, t)
	f.base = d.model.BaseHazard(d.Drive, t)
	sum := d.model.Lifetime(d.Drive, t) * pace
	if hand != nil && hand.Hazard > sum {
		f.slow = hand.Hazard
		f.causes = append(f.causes, *hand)
		return
	}
	if sum < leastHazard {
		return
	}
	f.slow = sum
	since := time.Duration(0)
	if at, ok := d.Drive.NewestGrowth(); ok {
		since = time.Duration(max(0, t-at) * float64(time.Hour))
	}
	for _, c := range d.model.Explain(d.Drive, t) {
		sig := Signal("disk.smart")
		detail := c.Term.String()
		if c.Term.A != 0 {
			sig = SignalSMART(c.Term.A)
			col := d.Drive.Columns[drive.Column(c.Term.A)]
			detail = fmt.Sprintf("%s (now %.0f)", detail, col.Value)
		}
		f.causes = append(f.causes, Cause{Device: d.Device, Signal: sig, Term: c.Term.String(), Detail: detail, Horizon: Slow, Hazard: c.Hazard * pace, Age: since})
	}
}

// group is parts that stand in for each other.
type group struct{ members []family }

// sum is the hazard of the group: both fail, or the failure of one takes the
// other along (a tenth): p_a p_b + 0.1 max(p_a, p_b).
func (g *group) sum() (slow, fast, base float64, causes []Cause) {
	if len(g.members) == 1 {
		m := g.members[0]
		return m.slow, m.fast, m.base, m.causes
	}
	combine := func(get func(family) float64) (float64, float64) {
		product, most, all := 1.0, 0.0, 0.0
		for _, m := range g.members {
			p := -math.Expm1(-get(m))
			product *= p
			most = math.Max(most, p)
			all += get(m)
		}
		h := -math.Log1p(-math.Min(product+.1*most, .999999))
		if all == 0 {
			return h, 0
		}
		return h, h / all
	}
	slow, ks := combine(func(f family) float64 { return f.slow })
	fast, kf := combine(func(f family) float64 { return f.fast })
	base, _ = combine(func(f family) float64 { return f.base })
	for _, m := range g.members {
		for _, c := range m.causes {
			if c.Horizon == Fast {
				c.Hazard *= kf
			} else {
				c.Hazard *= ks
			}
			causes = append(causes, c)
		}
	}
	return slow, fast, base, causes
}
