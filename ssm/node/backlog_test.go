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

// A second attempt does not make a twin ready before it has succeeded: a move to a twin
// whose charon installs nothing would lose every packet.
func TestBacklogRemembersWhatFailedToCome(t *testing.T) {
	b, now := newBacklog(), time.Unix(1000, 0)
	failed, other, fresh := &twinChild{}, &twinChild{}, &twinChild{}
	b.add(failed, now)
	b.add(other, now)
	b.missed()
	b.add(fresh, now)
	b.add(failed, now.Add(time.Hour)) // fed again
	if len(b.late) != 2 {
		t.Errorf("%d children are late, want the two that were open", len(b.late))
	}
	b.remove(other)
	b.remove(fresh)
	if len(b.late) != 1 || !b.late[failed] {
		t.Errorf("late are %v, want the one that has not come", b.late)
	}
	b.remove(failed)
	if len(b.late) != 0 || b.len() != 0 {
		t.Errorf("%d children are late and %d open, want none", len(b.late), b.len())
	}
}
