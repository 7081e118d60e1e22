package shadowset

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var weights = Weights{Dispersion: 1, Load: 1, Latency: 1, Margin: 0.2}

func members(t *rapid.T) []Member {
	n := rapid.IntRange(1, 8).Draw(t, "appliances")
	label := rapid.SampledFrom([]string{"", "a", "b"})
	out := make([]Member, n)
	for i := range out {
		m := Member{
			Name: fmt.Sprintf("n%d", i), Site: rapid.SampledFrom([]string{"ams", "fra", "lhr", "nyc"}).Draw(t, "site"),
			Rack: label.Draw(t, "rack"), Power: label.Draw(t, "power"),
			Lat: rapid.Float64Range(-90, 90).Draw(t, "lat"), Lon: rapid.Float64Range(-180, 180).Draw(t, "lon"),
			Load:    rapid.Float64Range(0, 1.1).Draw(t, "load"),
			Latency: time.Duration(rapid.IntRange(0, 200).Draw(t, "ms")) * time.Millisecond,
		}
		if rapid.IntRange(0, 5).Draw(t, "fate") == 0 {
			m.Problem = "is draining"
		}
		out[i] = m
	}
	return out
}

func request(t *rapid.T) Request {
	all := members(t)
	r := Request{Owner: all[0], Candidates: all, Size: rapid.IntRange(0, 3).Draw(t, "size"), Weights: weights}
	for _, m := range all[1:] {
		if rapid.Bool().Draw(t, "current") {
			r.Current = append(r.Current, m.Name)
		}
	}
	return r
}

// every calls f with every set of k usable candidates: the dumb model.
func every(r Request, k int, f func([]Member)) {
	var usable []Member
	for _, m := range r.Candidates {
		if m.Name != r.Owner.Name && m.Problem == "" && m.Load < 1 {
			usable = append(usable, m)
		}
	}
	k = min(k, len(usable))
	for bits := range 1 << len(usable) {
		var set []Member
		for i, m := range usable {
			if bits>>i&1 == 1 {
				set = append(set, m)
			}
		}
		if len(set) == k {
			f(set)
		}
	}
}

func worst(owner Member, set []Member) Domain {
	all := append([]Member{owner}, set...)
	var d Domain
	for i := range all {
		for j := range i {
			d = max(d, Shared(all[i], all[j]))
		}
	}
	return d
}

func pick(r Request, names []string) []Member {
	var set []Member
	for _, n := range names {
		set = append(set, r.Candidates[slices.IndexFunc(r.Candidates, named(n))])
	}
	return set
}

func TestFailureDomainsAreNeverSharedWhenAvoidable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := request(t)
		got := Select(r)
		least, size := DomainAll, 0
		every(r, r.Size, func(set []Member) { least, size = min(least, worst(r.Owner, set)), len(set) })
		set := pick(r, got.Shadows)
		if len(set) != size {
			t.Fatalf("%d shadows, want %d", len(set), size)
		}
		if w := worst(r.Owner, set); size > 0 && (w != least || got.Shares != least) {
			t.Fatalf("%v share %q, said %q; a set exists that shares %q", got.Shadows, w, got.Shares, least)
		}
		for _, m := range set {
			if m.Problem != "" || m.Load >= 1 || m.Name == r.Owner.Name {
				t.Fatalf("%s must not be chosen: %+v", m.Name, m)
			}
		}
		if slices.Sort(got.Shadows); len(slices.Compact(got.Shadows)) != size {
			t.Fatalf("one appliance twice in %v", got.Shadows)
		}
	})
}

func TestOneShadowIsTheBestOfAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := request(t)
		r.Size, r.Current = 1, nil
		got, s := Select(r), selection{Request: r}
		best := math.Inf(-1)
		every(r, 1, func(set []Member) {
			if len(set) == 1 && worst(r.Owner, set) == got.Shares {
				best = max(best, s.score(set))
			}
		})
		if len(got.Shadows) == 1 && got.Score != best {
			t.Fatalf("%v scores %v, the best %v", got.Shadows, got.Score, best)
		}
	})
}

func TestEqualInputInAnyOrderChoosesTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := request(t)
		want := Select(r)
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		r.Candidates = slices.Clone(r.Candidates)
		rnd.Shuffle(len(r.Candidates), func(i, j int) { r.Candidates[i], r.Candidates[j] = r.Candidates[j], r.Candidates[i] })
		if got := Select(r); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("shuffled input changed the choice:\n%+v\n%+v", got, want)
		}
	})
}

// Noise that moves no set's score by more than a quarter of the margin can make
// a set change only while its true score rises by half a margin each time.
func TestNoiseMovesFewTwins(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := request(t)
		for i := range r.Candidates {
			r.Candidates[i].Load = math.Min(r.Candidates[i].Load, 0.9)
		}
		r.Current = Select(r).Shadows
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		clean, changes := r.Candidates, 0
		for range 60 {
			r.Candidates = slices.Clone(clean)
			for i := range r.Candidates {
				r.Candidates[i].Load += weights.Margin / 4 * (2*rnd.Float64() - 1)
			}
			next := Select(r).Shadows
			if !slices.Equal(next, r.Current) {
				changes++
			}
			r.Current = next
		}
		perShadow := weights.Dispersion + weights.Load + weights.Latency
		if limit := int(perShadow / (weights.Margin / 2)); changes > limit {
			t.Fatalf("%d changes under noise, at most %d can improve the set", changes, limit)
		}
	})
}

func TestAChoiceStaysAndALossReplacesOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := request(t)
		first := Select(r)
		r.Current = first.Shadows
		if again := Select(r); !slices.Equal(again.Shadows, first.Shadows) {
			t.Fatalf("%v became %v by asking again", first.Shadows, again.Shadows)
		}
		if len(first.Shadows) < 2 {
			return
		}
		// With a margin that no gain exceeds, and where the others can stay at
		// all, the loss of one moves nobody else.
		r.Weights.Margin = 100
		r.Candidates = slices.Clone(r.Candidates)
		i := slices.IndexFunc(r.Candidates, named(first.Shadows[0]))
		r.Candidates[i].Problem = "is not heard"
		s := selection{Request: r}
		for _, m := range r.Candidates {
			if m.Name != r.Owner.Name && m.Problem == "" && m.Load < 1 {
				s.pool = append(s.pool, m)
			}
		}
		s.size = min(r.Size, len(s.pool))
		others := pick(r, first.Shadows[1:])
		if s.least(others) != s.least(nil) {
			return
		}
		after := Select(r)
		for _, n := range first.Shadows[1:] {
			if !slices.Contains(after.Shadows, n) {
				t.Fatalf("%s failed and %s had to go: %v became %v", first.Shadows[0], n, first.Shadows, after.Shadows)
			}
		}
	})
}

func TestDistance(t *testing.T) {
	ams, lhr := Member{Lat: 52.37, Lon: 4.90}, Member{Lat: 51.47, Lon: -0.45}
	if d := Distance(ams, lhr); d < 370 || d > 385 {
		t.Errorf("Amsterdam to Heathrow is %.0f km, want about 378", d)
	}
	if d := Distance(Member{Lat: 90}, Member{Lat: -90}); math.Abs(d-math.Pi*earth) > 1 {
		t.Errorf("pole to pole is %.0f km", d)
	}
	if d := Distance(Member{Lon: 179.5}, Member{Lon: -179.5}); d > 112 {
		t.Errorf("a degree across the date line is %.0f km", d)
	}
}

func TestRowsSayWhy(t *testing.T) {
	at := func(name, site string, lat, lon float64) Member {
		return Member{Name: name, Site: site, Lat: lat, Lon: lon}
	}
	full, gone := at("par", "paris", 48.86, 2.35), at("nyc", "newyork", 40.7, -74)
	full.Load, gone.Problem = 1, "is draining"
	r := Select(Request{Owner: at("ams", "amsterdam", 52.37, 4.9), Size: 1, Weights: weights,
		Candidates: []Member{full, gone, at("ams2", "amsterdam", 52.3, 4.8), at("fra", "frankfurt", 50.1, 8.7)}})
	if !slices.Equal(r.Shadows, []string{"fra"}) {
		t.Fatalf("chose %v", r.Shadows)
	}
	var got []string
	for _, x := range r.Rows {
		got = append(got, fmt.Sprintf("%s %d %s %q", x.Name, x.Rank, x.Shares, x.Problem))
	}
	want := []string{`fra 1 nothing ""`, `ams2 0 site, rack and power ""`, `nyc 0 nothing "is draining"`, `par 0 nothing "its capacity is used up"`}
	if !slices.Equal(got, want) {
		t.Errorf("rows\n%q\nwant\n%q", got, want)
	}
}
