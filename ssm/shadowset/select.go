package shadowset

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"
)

// Member is one appliance as the choice sees it.
type Member struct {
	Name string
	// Site, Rack and Power are failure domains; racks and power feeds are named
	// within their site. An empty rack or feed is unknown and counts as shared.
	Site, Rack, Power string
	Lat, Lon          float64 // degrees, north and east positive
	// Problem excludes the appliance and says why, "" if it may be chosen.
	Problem string
	// Load is the share of its capacity in use, 0..1; at 1 it is excluded.
	Load float64
	// Latency is the round-trip time from the appliance to the slot's clients, or
	// the nearest thing that is known; 0 is unknown and estimated from the
	// distance to the owner.
	Latency time.Duration
}

// Weights say what a point of each term is worth. A term runs from 0 to 1.
type Weights struct {
	Dispersion float64 // distance to the nearest other member of the set
	Load       float64 // capacity that is free
	Latency    float64 // nearness to the clients
	// Margin is by how much a set must be better, per shadow, to replace the
	// present one.
	Margin float64
}

// Request asks for the shadows of one slot.
type Request struct {
	Owner      Member
	Candidates []Member // the owner among them is ignored
	Current    []string // the present shadows, first to claim first
	Size       int      // how many shadows are wanted
	Weights    Weights
}

// Terms is a score and what it is made of, already weighted.
type Terms struct{ Dispersion, Load, Latency, Score float64 }

// Row is what became of one candidate.
type Row struct {
	Name string
	Rank int // place in the set from 1, 0 if not chosen
	// Problem is why it was excluded, "" if it was not.
	Problem string
	// Terms are those of the candidate in the set, or added to it.
	Terms Terms
	// Nearest is the distance in km to the nearest other member, called NearestName.
	Nearest     float64
	NearestName string
	// Latency is what was reckoned with; Estimated says that it follows from the
	// distance to the owner because nothing better was known.
	Latency   time.Duration
	Estimated bool
	// Shares is the failure domain that it shares with another member, "" if none.
	Shares Domain
}

// Result is a choice and its reasons.
type Result struct {
	Shadows []string // first to claim first
	Rows    []Row    // chosen first, then by score, then the excluded
	// Shares is the largest overlap of failure domains within the set; no set of
	// this size has a smaller one.
	Shares Domain
	Score  float64
	// Better is the score of the set that would have been chosen without a
	// present one; the present one stays while the gain is below the margin.
	Better float64
}

// What the terms are scaled by.
const (
	farEnough   = 1000.0 // km beyond which more distance does not help
	slowLatency = 50 * time.Millisecond
	kmPerMilli  = 100.0 // of round-trip time in fibre
)

// Select chooses the shadows of a slot.
func Select(r Request) Result {
	var pool, out []Member
	for _, m := range r.Candidates {
		switch {
		case m.Name == r.Owner.Name:
			continue
		case m.Problem == "" && !(m.Load < 1):
			m.Problem = "its capacity is used up"
		}
		if m.Problem != "" {
			out = append(out, m)
		} else {
			pool = append(pool, m)
		}
	}
	byName := func(a, b Member) int { return cmp.Compare(a.Name, b.Name) }
	slices.SortFunc(pool, byName)
	slices.SortFunc(out, byName)

	s := selection{Request: r, pool: pool, size: min(max(r.Size, 0), len(pool))}
	s.bound = s.least(nil)
	set := s.greedy(nil)
	res := Result{Better: s.score(set), Shares: s.bound}
	var kept []Member
	for _, n := range r.Current {
		i := slices.IndexFunc(pool, func(m Member) bool { return m.Name == n })
		if i >= 0 && len(kept) < s.size && !slices.ContainsFunc(kept, named(n)) {
			kept = append(kept, pool[i])
		}
	}
	if len(kept) > 0 && s.least(kept) == s.bound {
		stay := s.greedy(kept)
		if res.Better <= s.score(stay)+r.Weights.Margin*float64(s.size) {
			set = stay
		}
	}
	res.Score = s.score(set)
	for _, m := range set {
		res.Shadows = append(res.Shadows, m.Name)
	}
	res.Rows = s.rows(set, out)
	return res
}

// selection is one run of Select.
type selection struct {
	Request
	pool  []Member
	size  int
	bound Domain // of what two members may share
}

func named(n string) func(Member) bool { return func(m Member) bool { return m.Name == n } }

// greedy extends set to the wanted size.
func (s *selection) greedy(set []Member) []Member {
	set = slices.Clone(set)
	for len(set) < s.size {
		best := -1
		var bestShare Domain
		var bestScore float64
		for i, m := range s.pool {
			if slices.ContainsFunc(set, named(m.Name)) {
				continue
			}
			share, score := s.shares(m, set), s.terms(m, set).Score
			if share > s.bound || best >= 0 && (share > bestShare || share == bestShare && score <= bestScore) {
				continue
			}
			if s.feasible(append(slices.Clone(set), m), 0, s.bound) {
				best, bestShare, bestScore = i, share, score
			}
		}
		set = append(set, s.pool[best]) // there is one: the bound is that of a set that exists
	}
	return set
}

// least returns the smallest overlap with which set can be completed.
func (s *selection) least(set []Member) Domain {
	d := s.overlap(set)
	for d < DomainAll && !s.feasible(set, 0, d) {
		d++
	}
	return d
}

// feasible reports whether set can be completed from pool[from:] with no two
// members that share more than bound. Sets have at most a few members, so the
// search is short.
func (s *selection) feasible(set []Member, from int, bound Domain) bool {
	if len(set) >= s.size {
		return s.overlap(set) <= bound
	}
	for i := from; i < len(s.pool); i++ {
		m := s.pool[i]
		if slices.ContainsFunc(set, named(m.Name)) || s.shares(m, set) > bound {
			continue
		}
		if s.feasible(append(slices.Clone(set), m), i+1, bound) {
			return true
		}
	}
	return false
}

// overlap is the most that two of the owner and set share.
func (s *selection) overlap(set []Member) Domain {
	var d Domain
	for _, m := range set {
		d = max(d, s.shares(m, set))
	}
	return d
}

// shares is the most that m shares with the owner or another one of set.
func (s *selection) shares(m Member, set []Member) Domain {
	d := Shared(m, s.Owner)
	for _, o := range set {
		if o.Name != m.Name {
			d = max(d, Shared(m, o))
		}
	}
	return d
}

// nearest returns the distance to the nearest of the owner and the others of set.
func (s *selection) nearest(m Member, set []Member) (float64, string) {
	d, name := Distance(m, s.Owner), s.Owner.Name
	for _, o := range set {
		if k := Distance(m, o); o.Name != m.Name && k < d {
			d, name = k, o.Name
		}
	}
	return d, name
}

// latency returns what is known of m's, or an estimate.
func (s *selection) latency(m Member) (time.Duration, bool) {
	if m.Latency > 0 {
		return m.Latency, false
	}
	return Travel(Distance(m, s.Owner)), true
}

// Travel is the round-trip time over km of fibre.
func Travel(km float64) time.Duration {
	return time.Duration(km / kmPerMilli * float64(time.Millisecond))
}

// terms scores m as a member of set, or added to it.
func (s *selection) terms(m Member, set []Member) Terms {
	km, _ := s.nearest(m, set)
	rtt, _ := s.latency(m)
	t := Terms{
		Dispersion: s.Weights.Dispersion * math.Min(km, farEnough) / farEnough,
		Load:       s.Weights.Load * (1 - math.Max(0, m.Load)),
		Latency:    s.Weights.Latency / (1 + rtt.Seconds()/slowLatency.Seconds()),
	}
	t.Score = t.Dispersion + t.Load + t.Latency
	return t
}

// score is that of a whole set; it does not depend on the order.
func (s *selection) score(set []Member) float64 {
	var each []float64
	for _, m := range set {
		each = append(each, s.terms(m, set).Score)
	}
	slices.Sort(each) // the sum of floats depends on the order
	sum := 0.0
	for _, x := range each {
		sum += x
	}
	return sum
}

func (s *selection) rows(set, excluded []Member) []Row {
	row := func(m Member) Row {
		x := Row{Name: m.Name, Problem: m.Problem, Terms: s.terms(m, set), Shares: s.shares(m, set)}
		x.Nearest, x.NearestName = s.nearest(m, set)
		x.Latency, x.Estimated = s.latency(m)
		x.Rank = slices.IndexFunc(set, named(m.Name)) + 1
		return x
	}
	var rows, rest []Row
	for _, m := range set {
		rows = append(rows, row(m))
	}
	for _, m := range s.pool {
		if !slices.ContainsFunc(set, named(m.Name)) {
			rest = append(rest, row(m))
		}
	}
	slices.SortStableFunc(rest, func(a, b Row) int {
		return cmp.Or(cmp.Compare(a.Shares, b.Shares), cmp.Compare(b.Terms.Score, a.Terms.Score), strings.Compare(a.Name, b.Name))
	})
	rows = append(rows, rest...)
	for _, m := range excluded {
		rows = append(rows, row(m))
	}
	return rows
}
