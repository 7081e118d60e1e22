package xfrm

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// kernelWindow accepts packets the way net/xfrm/xfrm_replay.c does.
type kernelWindow struct {
	Sample
}

func newKernelWindow(attr ReplayAttr, window uint32) *kernelWindow {
	return &kernelWindow{Sample{Window: window, Attr: attr, Bitmap: make([]uint32, (window+31)/32)}}
}

// receive reports whether number n is accepted, and records it.
func (k *kernelWindow) receive(n uint64) bool {
	if n <= k.Seq {
		if k.Seq-n >= uint64(k.Window) {
			return false
		}
	}
	if k.Attr == ReplayVal {
		switch d := n - k.Seq; {
		case n > k.Seq && d < uint64(k.Window):
			k.Bitmap[0] = k.Bitmap[0]<<d | 1
			k.Seq = n
		case n > k.Seq:
			k.Bitmap[0] = 1
			k.Seq = n
		default:
			bit := uint32(1) << (k.Seq - n)
			if k.Bitmap[0]&bit != 0 {
				return false
			}
			k.Bitmap[0] |= bit
		}
		return true
	}
	old := n <= k.Seq
	pos := (uint32(k.Seq) - 1) % k.Window
	var bit uint32
	if n > k.Seq {
		if d := n - k.Seq; d < uint64(k.Window) {
			for i := uint32(1); i < uint32(d); i++ {
				b := (pos + i) % k.Window
				k.Bitmap[b/32] &^= 1 << (b % 32)
			}
			bit = (pos + uint32(d)) % k.Window
		} else {
			clear(k.Bitmap)
			bit = (uint32(n) - 1) % k.Window
		}
		k.Seq = n
	} else if d := uint32(k.Seq - n); pos >= d {
		bit = pos - d
	} else {
		bit = k.Window - (d - pos)
	}
	if old && k.Bitmap[bit/32]&(1<<(bit%32)) != 0 {
		return false
	}
	k.Bitmap[bit/32] |= 1 << (bit % 32)
	return true
}

// TestMergeForgetsNothing plays packets to an owner and to a shadow that was
// owner before, moves the owner's sample to the shadow, and checks that the
// shadow accepts exactly the numbers that neither saw.
func TestMergeForgetsNothing(t *testing.T) {
	windows := rapid.SampledFrom([]struct {
		attr ReplayAttr
		size uint32
	}{{ReplayVal, 32}, {ReplayESNVal, 32}, {ReplayESNVal, 64}, {ReplayESNVal, 128}, {ReplayESNVal, 1024}})
	rapid.Check(t, func(t *rapid.T) {
		lw, ow := windows.Draw(t, "local"), windows.Draw(t, "owner")
		if rapid.Bool().Draw(t, "same") {
			ow = lw
		}
		local, owner := newKernelWindow(lw.attr, lw.size), newKernelWindow(ow.attr, ow.size)
		seen := map[uint64]bool{}
		play := func(k *kernelWindow, from uint64, label string) uint64 {
			for range rapid.IntRange(0, 60).Draw(t, label) {
				n := from + uint64(rapid.IntRange(0, 90).Draw(t, "n")) + 1
				if k.receive(n) {
					seen[n] = true
				}
			}
			return k.Seq
		}
		from := play(local, 0, "to local")
		from = max(from, 10) - 10
		play(owner, from, "to owner")
		if owner.Seq < local.Seq {
			t.Skip("sample behind: never applied")
		}
		out := merge(local.Sample, owner.Sample)
		next := &kernelWindow{Sample{Seq: owner.Seq, Window: lw.size, Attr: lw.attr, Bitmap: out}}
		for n := uint64(1); n <= owner.Seq; n++ {
			probe := &kernelWindow{next.Sample}
			probe.Bitmap = slices.Clone(out)
			accepted := probe.receive(n)
			if accepted && seen[n] {
				t.Fatalf("number %d would be accepted twice (top %d)", n, owner.Seq)
			}
			// What nobody saw and both windows reach is accepted.
			reach := owner.Seq-n < uint64(min(lw.size, ow.size))
			if !accepted && !seen[n] && reach {
				t.Fatalf("number %d would be refused although nobody saw it (top %d)", n, owner.Seq)
			}
		}
	})
}

func TestApplyNeverBackwards(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := State{ID: ID{Dst: netip.MustParseAddr("192.0.2.1"), SPI: 1, Proto: 50}, ESN: rapid.Bool().Draw(t, "esn"),
			ReplayAttr: ReplayESNVal, Window: 64, Bitmap: []uint32{0, 0}}
		top := uint64(1<<32 - 1)
		if s.ESN {
			top = 1 << 40
		}
		num := rapid.Uint64Range(0, top)
		s.OSeq, s.Seq = num.Draw(t, "oseq"), num.Draw(t, "seq")
		for range rapid.IntRange(1, 5).Draw(t, "writes") {
			w := ReplayWrite{ID: s.ID, OSeq: num.Draw(t, "want oseq")}
			if rapid.Bool().Draw(t, "in") {
				w.In = &Sample{Seq: num.Draw(t, "want seq"), Window: 64, Attr: ReplayESNVal,
					Bitmap: []uint32{rapid.Uint32().Draw(t, "b0"), rapid.Uint32().Draw(t, "b1")}}
			}
			out, changed, err := apply(s, w)
			if err != nil {
				t.Fatal(err)
			}
			if out.OSeq != max(s.OSeq, w.OSeq) {
				t.Fatalf("outbound %d, want %d: got %d", s.OSeq, w.OSeq, out.OSeq)
			}
			if out.Seq < s.Seq || w.In != nil && out.Seq != max(s.Seq, w.In.Seq) {
				t.Fatalf("inbound %d became %d", s.Seq, out.Seq)
			}
			if out.Seq == s.Seq {
				for i := range s.Bitmap {
					if out.Bitmap[i]&s.Bitmap[i] != s.Bitmap[i] {
						t.Fatal("bits got lost")
					}
				}
			}
			if !changed && (out.OSeq != s.OSeq || out.Seq != s.Seq) {
				t.Fatal("change not reported")
			}
			if err := verify(out, out); err != nil {
				t.Fatal(err)
			}
			if changed && verify(out, s) == nil {
				t.Fatal("a write without effect passes")
			}
			s = out
		}
	})
}

func TestApplyRefusesWideNumbers(t *testing.T) {
	s := State{ReplayAttr: ReplayESNVal, Window: 64, Bitmap: []uint32{0, 0}}
	for _, w := range []ReplayWrite{{OSeq: 1 << 32}, {In: &Sample{Seq: 1 << 32}}} {
		if _, _, err := apply(s, w); err == nil {
			t.Errorf("%+v: no error", w)
		}
	}
	if _, _, err := apply(State{}, ReplayWrite{OSeq: 1}); err == nil {
		t.Error("an SA without replay attribute: no error")
	}
}
