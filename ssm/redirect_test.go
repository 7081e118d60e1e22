package ssm

import (
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// redirectsOf collects what a drain of n0 has told, by slot.
func redirectsOf(f *fleet, n Node, d time.Duration) map[sa.Slot]int {
	out := map[sa.Slot]int{}
	f.untilDrain(n, d, func(r ActReport) bool {
		if r.Kind == "redirect" && strings.HasPrefix(r.Text, "clients are told") {
			out[r.Slot]++
		}
		return false
	})
	return out
}

func TestDrainRedirectsOnlyWhatNobodyTakes(t *testing.T) {
	for name, x := range map[string]struct {
		mode  Redirect
		alone bool
		want  int
	}{
		"never, nobody takes the slots":  {RedirectNever, true, 0},
		"uncovered, all have successors": {RedirectUncovered, false, 0},
		"uncovered, nobody takes them":   {RedirectUncovered, true, 2},
		"all":                            {RedirectAll, false, 2},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleetWith(31, 3, 6, func(c *Config) { c.DrainTime, c.DrainRate, c.Redirect = time.Second, 600, x.mode })
			settled(t, f)
			if x.alone {
				f.crash(f.node("n1"))
				f.crash(f.node("n2"))
				f.run(2 * time.Second)
			}
			n := f.node("n0")
			mine := 0
			for _, s := range n.core.View().Slots {
				if s.Role == RoleOwner && (s.Slot == 1 || s.Slot == 4) {
					mine++
				}
			}
			if mine != 2 {
				t.Fatalf("n0 owns %d of its home slots, want 2", mine)
			}
			f.step(n, EvLoad{Sessions: map[sa.Slot]int{1: 5, 4: 3}})
			f.step(n, drainAsked(true))
			told := redirectsOf(f, "n0", 12*time.Second)
			if told[1]+told[4] != x.want {
				t.Errorf("slots told: %v, want %d of slots 1 and 4\n%s", told, x.want, f.trace())
			}
			for s, k := range told {
				if k != 1 {
					t.Errorf("the clients of slot %d were told %d times", s, k)
				}
			}
			if x.want == 0 {
				return
			}
			f.step(n, EvRedirected{Slot: 1, Drain: 77, Went: 4, Stayed: 1})
			f.step(n, EvRedirected{Slot: 1, Drain: 76, Went: 9}) // of another drain
			if n.core.drain != nil {
				if got := n.core.drain.account.Redirected; got != 4 {
					t.Errorf("the account has %d clients redirected, want 4", got)
				}
			}
			f.step(n, drainAsked(false))
			check(t, f)
		})
	}
}
