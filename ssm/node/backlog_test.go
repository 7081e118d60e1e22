package node

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestBacklogAgainstModel: the age of the oldest incomplete child, as a list that
// is searched from end to end would tell it.
func TestBacklogAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b, now := newBacklog(), time.Unix(1000, 0)
		children := make([]*twinChild, 6)
		for i := range children {
			children[i] = &twinChild{}
		}
		since := map[*twinChild]time.Time{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3).Draw(t, "ms")) * time.Millisecond)
			c := rapid.SampledFrom(children).Draw(t, "child")
			if rapid.Bool().Draw(t, "add") {
				b.add(c, now)
				if _, ok := since[c]; !ok {
					since[c] = now
				}
			} else {
				b.remove(c)
				delete(since, c)
			}
			var want time.Duration
			for _, s := range since {
				want = max(want, now.Sub(s))
			}
			if got := b.age(now); got != want {
				t.Fatalf("age %s, want %s", got, want)
			}
			if b.len() != len(since) {
				t.Fatalf("%d children, want %d", b.len(), len(since))
			}
		}
	})
}
