package node

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/ssm/session"
)

var testTiers = config.Tiers{Default: "standard", Shadows: map[string]int{"basic": 1, "standard": 2, "premium": 3}}

// covering drives a coverage by hand: who shadows, who is ready, and what each holds.
type covering struct {
	*coverage
	t       *testing.T
	now     time.Time
	shadows []string
	down    map[string]bool
}

func newCovering(t *testing.T, shadows ...string) *covering {
	c := &covering{coverage: newCoverage(testTiers), t: t, now: time.Unix(1000, 0), shadows: shadows, down: map[string]bool{}}
	for _, tier := range []string{"basic", "standard", "premium"} {
		c.note(&session.Document{SessionID: tier, Tier: tier})
	}
	return c
}

// step is one tick; a shadow that got other sessions is ready at the next.
func (c *covering) step() (tell bool) {
	c.now = c.now.Add(tickEvery)
	_, tell = c.arrange(c.shadows, func(n string) bool { return !c.down[n] }, c.now)
	return tell
}

func (c *covering) run(d time.Duration) {
	for end := c.now.Add(d); c.now.Before(end); {
		c.step()
	}
}

func (c *covering) held(n string) (out []string) {
	for _, tier := range []string{"basic", "standard", "premium"} {
		if c.holds(tier, n) {
			out = append(out, tier)
		}
	}
	return out
}

func (c *covering) want(what string, want map[string]int) {
	c.t.Helper()
	for _, n := range slices.Sorted(maps.Keys(want)) {
		if got := len(c.held(n)); got != want[n] {
			c.t.Errorf("%s: %s holds %v, want %d of them", what, n, c.held(n), want[n])
		}
	}
}

func TestTiersGoToTheFirstShadows(t *testing.T) {
	c := newCovering(t, "a", "b", "c")
	if !c.step() || !slices.Equal(c.told, []string{"a", "b", "c"}) {
		t.Fatalf("told is %v", c.told)
	}
	c.want("begin", map[string]int{"a": 3, "b": 2, "c": 1})
	if c.holds("never noted", "c") != true {
		t.Error("a session whose tier is not known yet is kept from a shadow")
	}
}

func TestNextReadyShadowTakesThePlace(t *testing.T) {
	c := newCovering(t, "a", "b", "c")
	c.run(5 * time.Second)
	c.down["a"] = true
	c.run(unreadyFor - tickEvery)
	c.want("a moment later", map[string]int{"a": 3, "b": 2, "c": 1})
	c.run(unreadyFor)
	if !slices.Equal(c.told, []string{"b", "c", "a"}) {
		t.Fatalf("told is %v", c.told)
	}
	c.run(5 * time.Second)
	c.want("a is gone", map[string]int{"b": 3, "c": 2, "a": 1})
	c.down["a"] = false
	c.run(5 * time.Second)
	c.want("a is back: nothing moves for its sake", map[string]int{"b": 3, "c": 2, "a": 1})
}

// Who is to come to the front is told of when it has everything, and nobody drops
// anything before.
func TestPromotionComesBeforeDemotion(t *testing.T) {
	c := newCovering(t, "a", "b")
	c.run(5 * time.Second)
	c.first = "b"
	if c.step() {
		t.Error("b is told to hold all at the moment when it begins to get it")
	}
	c.want("at once", map[string]int{"a": 3, "b": 3})
	c.down["b"] = true // it lags
	c.run(time.Second)
	if slices.Equal(c.told, []string{"b", "a"}) {
		t.Error("b is told to hold all while it lags")
	}
	c.down["b"] = false
	c.step()
	if !slices.Equal(c.told, []string{"b", "a"}) {
		t.Errorf("told is %v, want b first", c.told)
	}
	c.want("told", map[string]int{"a": 3, "b": 3})
	c.run(2 * overlapFor)
	c.want("a second later", map[string]int{"a": 2, "b": 3})
}

// A newcomer that never becomes ready does not keep the others from being told.
func TestNewcomerThatNeverComesHoldsNobodyUp(t *testing.T) {
	c := newCovering(t, "a", "b")
	c.run(5 * time.Second)
	c.shadows, c.down["x"] = []string{"a", "b", "x"}, true
	c.run(5 * time.Second)
	c.down["a"] = true
	c.run(5 * time.Second)
	if len(c.told) != 3 || c.told[0] != "b" {
		t.Errorf("told is %v, want b first", c.told)
	}
}

// Whatever happens, in the end the first k of the ready ones hold what has k copies, and
// what was told never promises more than is held.
func TestCoverageUnderNoise(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		all := []string{"a", "b", "c", "d"}
		c := newCovering(t, all[:1+rng.IntN(4)]...)
		for range 60 {
			n := all[rng.IntN(len(all))]
			switch rng.IntN(5) {
			case 0:
				c.down[n] = !c.down[n]
			case 1:
				if len(c.shadows) > 1 {
					c.shadows = slices.DeleteFunc(slices.Clone(c.shadows), func(x string) bool { return x == n })
				}
			case 2:
				if !slices.Contains(c.shadows, n) {
					c.shadows = append(slices.Clone(c.shadows), n)
				}
			case 3:
				c.first = []string{"", n}[rng.IntN(2)]
			}
			c.run(time.Duration(rng.IntN(4)) * time.Second)
			for i := 1; i < len(c.told); i++ {
				a, b := c.told[i-1], c.told[i]
				if slices.Contains(c.shadows, a) && slices.Contains(c.shadows, b) && len(c.held(a)) < min(3, 3-i+1) {
					t.Fatalf("seed %d: told %v, but %s holds %v", seed, c.told, a, c.held(a))
				}
			}
		}
		c.first, c.down = "", map[string]bool{}
		c.run(10 * time.Second)
		for i, n := range c.order {
			if got, want := len(c.held(n)), max(3-i, 0); got != want {
				t.Fatalf("seed %d: %s is number %d of %v and holds %d, want %d", seed, n, i, c.order, got, want)
			}
		}
		if !slices.Equal(c.told, c.order) {
			t.Fatalf("seed %d: told %v, want %v", seed, c.told, c.order)
		}
	}
}
