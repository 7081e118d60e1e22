package xfrm

import (
	"fmt"
	"slices"
)

// ReplayWrite asks for a later replay state of one SA. Each half applies only
// where it moves the state forwards.
//
// OSeq presets the last outbound number (sa.FirstSeq of the block); 0 leaves
// it. In is the owner's last sample of the inbound half; nil leaves it.
//
// The kernel replaces both halves at once, so that a packet which passes
// between read and write could be forgotten: write only while the slot's fence
// is closed. WriteResult.Live names SAs where that was not so.
type ReplayWrite struct {
	ID
	OSeq uint64
	In   *Sample
}

// WriteResult accounts for every SA named in a Write: Written + Skipped +
// Missing + the failed ones in the error.
type WriteResult struct {
	Written int // changed, and read back so
	Skipped int // already there or further
	Missing int // no such SA, or gone meanwhile
	// Live lists SAs that carried packets while being written.
	Live []ID
}

// apply returns the state after w, and whether that differs from s.
func apply(s State, w ReplayWrite) (State, bool, error) {
	if s.ReplayAttr == ReplayNone {
		return s, false, fmt.Errorf("write replay state of %s: kernel reports no replay attribute", s.ID)
	}
	out, changed := s, false
	if w.OSeq > s.OSeq {
		if !s.ESN && w.OSeq >= 1<<32 {
			return s, false, fmt.Errorf("write replay state of %s: outbound number %d exceeds 32 bits and the SA has no ESN", s.ID, w.OSeq)
		}
		out.OSeq, changed = w.OSeq, true
	}
	if w.In == nil || w.In.Seq < s.Seq {
		return out, changed, nil
	}
	if !s.ESN && w.In.Seq >= 1<<32 {
		return s, false, fmt.Errorf("write replay state of %s: inbound number %d exceeds 32 bits and the SA has no ESN", s.ID, w.In.Seq)
	}
	out.Seq, out.Bitmap = w.In.Seq, merge(s.Sample(), *w.In)
	if out.Seq != s.Seq || !slices.Equal(out.Bitmap, s.Bitmap) {
		changed = true
	}
	return out, changed, nil
}

// verify reports whether the state read back carries what was written. Both
// numbers may have moved on since.
func verify(want, got State) error {
	if got.OSeq < want.OSeq {
		return fmt.Errorf("write replay state of %s: kernel took no notice: outbound number is %d, wrote %d", want.ID, got.OSeq, want.OSeq)
	}
	if got.Seq < want.Seq {
		return fmt.Errorf("write replay state of %s: kernel took no notice: inbound number is %d, wrote %d", want.ID, got.Seq, want.Seq)
	}
	if got.Seq != want.Seq {
		return nil
	}
	for i, w := range want.Bitmap {
		if i >= len(got.Bitmap) || got.Bitmap[i]&w != w {
			return fmt.Errorf("write replay state of %s: kernel took no notice: bitmap word %d lacks bits written", want.ID, i)
		}
	}
	return nil
}
