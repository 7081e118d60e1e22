package ssm

import (
	"testing"
	"time"
)

// The target of a move was measured once while it waited for its processor: a hold
// by that sample alone would be shorter than the path difference, and packets of the
// old owner would arrive behind those of the new one, which the client drops.
func TestHoldCoversThePathDifferenceInSpiteOfQueues(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	f := newFleet(70, 3, 1)
	f.cfg.HoldCap = ms(500)
	for _, n := range f.nodes {
		f.boot(n)
	}
	settled(t, f)
	n0, n1 := f.node("n0"), f.node("n1")
	measured := func(n *fnode, best, worst int) {
		f.step(n, EvRTT{Slot: 1, RTT: ms(best), Worst: ms(worst)})
		f.run(200 * time.Millisecond) // its probes tell
	}
	for range pathSamples {
		measured(n0, 40, 40)
		measured(n1, 2, 2)
	}
	hold := func() time.Duration {
		d, _ := n0.core.holdFor(n0.core.slots[1], "n1")
		return d
	}
	if got := hold(); got != ms(38)+holdMargin {
		t.Errorf("hold %s of a path difference of 38 ms, want %s", got, ms(38)+holdMargin)
	}
	measured(n1, 18, 25)
	if got := hold(); got != ms(38)+holdMargin {
		t.Errorf("hold %s after the target was measured while it was busy, want %s as before", got, ms(38)+holdMargin)
	}
	measured(n0, 41, 62)
	if got := hold(); got != ms(60)+holdMargin {
		t.Errorf("hold %s after queues of up to 22 ms on the old path, want %s", got, ms(60)+holdMargin)
	}
	// It is forgotten with its sample.
	for range pathSamples {
		measured(n0, 40, 40)
		measured(n1, 20, 20)
	}
	if got := hold(); got != ms(20)+holdMargin {
		t.Errorf("hold %s of a path difference of 20 ms, want %s", got, ms(20)+holdMargin)
	}
	check(t, f)
}
