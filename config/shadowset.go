package config

import (
	"cmp"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/ssm/shadowset"
)

// ShadowSets says how shadows are chosen for slots that do not name theirs.
type ShadowSets struct {
	Size int // shadows of a slot
	// Dispersion, Load and Latency weigh a candidate's distance from the other
	// members, its free capacity and its nearness; see shadowset.Weights.
	Dispersion, Load, Latency float64
	// Margin is the gain per shadow below which a set stays as it is.
	Margin float64
	// Dynamic: owners change the sets of their slots while they serve, see
	// shadowset.Pace. Otherwise a set is what is chosen at the start.
	Dynamic bool
	// ReplaceAfter is how long a shadow must be away before another one takes its
	// place; Settle how long a better set must stay better, and ChangeEvery the least
	// time between two changes for the better.
	ReplaceAfter, Settle, ChangeEvery time.Duration
}

// DefaultShadowSets are those of a configuration that does not mention them.
func DefaultShadowSets() ShadowSets {
	return ShadowSets{Size: 2, Dispersion: 1, Load: 1, Latency: 1, Margin: 0.2, Dynamic: true, ReplaceAfter: 30 * time.Second, Settle: 5 * time.Minute, ChangeEvery: 30 * time.Minute}
}

// Pace is how fast sets change, in the form of package shadowset.
func (s ShadowSets) Pace() shadowset.Pace {
	return shadowset.Pace{ReplaceAfter: s.ReplaceAfter, Settle: s.Settle, Every: s.ChangeEvery}
}

func (s ShadowSets) raw() rawShadowSets {
	return rawShadowSets{Size: s.Size, Dispersion: s.Dispersion, Load: s.Load, Latency: s.Latency, Margin: s.Margin, Dynamic: s.Dynamic,
		ReplaceAfter: duration(short(s.ReplaceAfter)), Settle: duration(short(s.Settle)), ChangeEvery: duration(short(s.ChangeEvery))}
}

// Weights are the weights in the form of package shadowset.
func (s ShadowSets) Weights() shadowset.Weights {
	return shadowset.Weights{Dispersion: s.Dispersion, Load: s.Load, Latency: s.Latency, Margin: s.Margin}
}

// maxWeight keeps sums of scores far from losing precision.
const maxWeight = 100

func (c *collector) shadowSets(r *rawShadowSets) ShadowSets {
	const path = "fleet.shadow_sets"
	weight := func(key string, v float64) float64 {
		if !(v >= 0 && v <= maxWeight) { // NaN included
			c.addf(path+"."+key, "%g; want a weight from 0 to %d", v, maxWeight)
			return 0
		}
		return v
	}
	return ShadowSets{
		Size:       c.within(path+".size", r.Size, 0, maxShadows),
		Dispersion: weight("dispersion", r.Dispersion),
		Load:       weight("load", r.Load),
		Latency:    weight("latency", r.Latency),
		Margin:     weight("margin", r.Margin),
		Dynamic:    r.Dynamic,

		ReplaceAfter: c.duration(path+".replace_after", r.ReplaceAfter, time.Second, time.Hour),
		Settle:       c.duration(path+".settle", r.Settle, 0, 24*time.Hour),
		ChangeEvery:  c.duration(path+".change_every", r.ChangeEvery, 0, 24*time.Hour),
	}
}

// Changes reports whether the owner of s changes its shadow set.
func (f *Fleet) Changes(s Slot) bool {
	return s.Selected && f.ShadowSets.Dynamic && f.ShadowSets.Size > 0
}

// Member is a as package shadowset sees it, as far as the configuration tells.
func (a Appliance) Member() shadowset.Member {
	return shadowset.Member{Name: a.Name, Site: a.Site, Rack: a.Labels.Rack, Power: a.Labels.Power, Lat: a.Location.Lat, Lon: a.Location.Lon}
}

// selectShadows chooses the shadows of the slots that do not name them. It
// looks at nothing but the fleet section, and at that in a fixed order, so that
// every appliance comes to the same sets. An appliance counts as loaded by its
// share of the twins placed so far.
func (f *Fleet) selectShadows() {
	twins := map[string]int{}
	var open []*Slot
	for i := range f.Slots {
		s := &f.Slots[i]
		if s.Selected {
			open = append(open, s)
		}
		for _, n := range s.Shadows {
			twins[n]++
		}
	}
	slices.SortFunc(open, func(a, b *Slot) int { return cmp.Compare(a.Number, b.Number) })
	for _, s := range open {
		r := shadowset.Request{Size: f.ShadowSets.Size, Weights: f.ShadowSets.Weights()}
		for _, a := range f.Appliances {
			m := a.Member()
			m.Load = float64(twins[a.Name]) / float64(len(f.Slots)+1)
			if a.Name == s.Home {
				r.Owner = m
			}
			r.Candidates = append(r.Candidates, m)
		}
		s.Shadows = shadowset.Select(r).Shadows
		for _, n := range s.Shadows {
			twins[n]++
		}
	}
}
