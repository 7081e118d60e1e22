package shadowset

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var pace = Pace{ReplaceAfter: 30 * time.Second, Settle: time.Minute, Every: 10 * time.Minute}

var start = time.Unix(1_700_000_000, 0)

// settled is a request whose present set is what a keeper would choose.
func settled(t *rapid.T) Request {
	r := request(t)
	for i := range r.Candidates {
		r.Candidates[i].Load = min(r.Candidates[i].Load, 0.9)
	}
	r.Current = Select(r).Shadows
	return r
}

// Whatever the noise, a keeper changes a set for the better at most once in Every.
func TestNoiseChangesASetOnceInAWhile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, k := settled(t), Keeper{Pace: pace}
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		clean, changes := r.Candidates, 0
		const steps, step = 720, 5 * time.Second
		for i := range steps {
			r.Candidates = slices.Clone(clean)
			for j := range r.Candidates {
				r.Candidates[j].Load += 0.05 * (2*rnd.Float64() - 1)
				r.Candidates[j].Latency += time.Duration(rnd.IntN(100)) * time.Millisecond
			}
			v := k.Step(r, nil, start.Add(time.Duration(i)*step))
			if !sameSet(v.Want, r.Current) {
				changes++
			}
			r.Current = v.Want
		}
		if limit := int(steps*step/pace.Every) + 1; changes > limit {
			t.Fatalf("%d changes in %s, want at most %d", changes, steps*step, limit)
		}
	})
}

// A member that blinks is not replaced, however often; one that stays away is, by
// the time that ReplaceAfter ends, if anybody can take its place.
func TestALostMemberIsReplacedAndABlinkIsNot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := settled(t)
		if len(r.Current) == 0 {
			return
		}
		lost := rapid.SampledFrom(r.Current).Draw(t, "lost")
		gone := func(away bool) Request {
			x := r
			x.Candidates = slices.Clone(r.Candidates)
			i := slices.IndexFunc(x.Candidates, named(lost))
			if x.Candidates[i].Problem = ""; away {
				x.Candidates[i].Problem = "is silent"
			}
			return x
		}
		k, now := Keeper{Pace: pace}, start
		for range 40 {
			for _, away := range []bool{true, true, false} {
				if v := k.Step(gone(away), nil, now); !sameSet(v.Want, r.Current) {
					t.Fatalf("%v became %v when %s blinked: %s", r.Current, v.Want, lost, v.Reason)
				}
				now = now.Add(pace.ReplaceAfter / 3)
			}
		}
		want := Select(gone(true)).Shadows
		var v Verdict
		for range 5 {
			v = k.Step(gone(true), nil, now)
			now = now.Add(pace.ReplaceAfter / 4)
		}
		switch {
		case len(want) == len(r.Current):
			if slices.Contains(v.Want, lost) || len(v.Want) != len(want) {
				t.Fatalf("%s has gone, %v became %v, want %v", lost, r.Current, v.Want, want)
			}
		case !sameSet(v.Want, r.Current):
			t.Fatalf("nobody can replace %s, and %v became %v", lost, r.Current, v.Want)
		}
	})
}

// Two keepers that see the same come to the same, and a set never shares a failure
// domain that it could avoid.
func TestKeepersAgreeAndSpread(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var a, b Keeper
		a.Pace, b.Pace = pace, pace
		r := request(t)
		r.Current = nil
		for i := range rapid.IntRange(1, 12).Draw(t, "steps") {
			x := request(t)
			x.Current, x.Size = nil, r.Size
			for _, n := range r.Current {
				if slices.ContainsFunc(x.Candidates, named(n)) && n != x.Owner.Name {
					x.Current = append(x.Current, n)
				}
			}
			now := start.Add(time.Duration(i) * time.Hour)
			v, w := a.Step(x, nil, now), b.Step(x, nil, now)
			if fmt.Sprint(v) != fmt.Sprint(w) {
				t.Fatalf("two keepers differ:\n%+v\n%+v", v, w)
			}
			if !sameSet(v.Want, x.Current) {
				least := DomainAll
				every(x, len(v.Want), func(set []Member) { least = min(least, worst(x.Owner, set)) })
				// A member that is away for less than ReplaceAfter may stay.
				if away := slices.ContainsFunc(pick(x, v.Want), func(m Member) bool { return m.Problem != "" || m.Load >= 1 }); !away {
					if got := worst(x.Owner, pick(x, v.Want)); got > least {
						t.Fatalf("%v share %s, a set exists that shares %s", v.Want, got, least)
					}
				}
			}
			r.Current = v.Want
		}
	})
}

func TestAMemberThatDoesNotBecomeReadyIsAvoided(t *testing.T) {
	at := func(name string, lon float64) Member { return Member{Name: name, Site: name, Lat: 50, Lon: lon} }
	r := Request{Owner: at("ams", 5), Size: 1, Weights: weights, Current: []string{"fra"}, Candidates: []Member{at("fra", 9), at("lhr", 0), at("nyc", -74)}}
	r.Weights.Dispersion = 0
	k, now := Keeper{Pace: pace}, start
	for now.Sub(start) < unreadyTimes*pace.ReplaceAfter {
		if v := k.Step(r, []string{"fra"}, now); !slices.Equal(v.Want, []string{"fra"}) {
			t.Fatalf("after %s: %v, %s", now.Sub(start), v.Want, v.Reason)
		}
		now = now.Add(time.Second)
	}
	v := k.Step(r, []string{"fra"}, now)
	if slices.Contains(v.Want, "fra") || v.Reason != "fra has not become ready for 2m0s" {
		t.Fatalf("%v, %q", v.Want, v.Reason)
	}
	for r.Current = v.Want; now.Sub(start) < 15*time.Minute; now = now.Add(time.Second) {
		if v = k.Step(r, nil, now); slices.Contains(v.Want, "fra") {
			t.Fatalf("after %s it is chosen again: %s", now.Sub(start), v.Reason)
		}
	}
}
