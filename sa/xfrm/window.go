package xfrm

import "slices"

// merge returns the bitmap, in the layout of local, of a window whose highest
// number is the sample's and in which a number counts as seen if either side
// saw it, or if neither side's bitmap reaches that far down. So a number that
// one owner accepted is never accepted again by the next. The caller ensures
// local.Seq <= in.Seq.
func merge(local, in Sample) []uint32 {
	same := local.Attr == in.Attr && local.Window == in.Window && len(local.Bitmap) == len(in.Bitmap)
	w := uint64(local.width())
	switch {
	case same && local.Seq+w <= in.Seq:
		return slices.Clone(in.Bitmap)
	case same && local.Seq == in.Seq:
		out := slices.Clone(local.Bitmap)
		for i, b := range in.Bitmap {
			out[i] |= b
		}
		return out
	}
	out := Sample{Seq: in.Seq, Window: local.Window, Attr: local.Attr, Bitmap: make([]uint32, len(local.Bitmap))}
	for d := uint64(0); d < w && d < in.Seq; d++ {
		n := in.Seq - d
		if in.seen(n) || (n <= local.Seq && local.seen(n)) {
			word, bit := out.pos(n)
			out.Bitmap[word] |= bit
		}
	}
	return out.Bitmap
}

// width is the number of sequence numbers the bitmap can tell about.
func (s Sample) width() uint32 {
	if s.Attr == ReplayVal {
		return min(32, 32*uint32(len(s.Bitmap)))
	}
	return min(s.Window, 32*uint32(len(s.Bitmap)))
}

// seen reports whether number n, which is at most s.Seq, counts as received.
// Numbers below the window do.
func (s Sample) seen(n uint64) bool {
	if s.Seq-n >= uint64(s.width()) {
		return true
	}
	word, bit := s.pos(n)
	return s.Bitmap[word]&bit != 0
}

// pos returns where the bit of number n lies. The ring counts back from the
// position of Seq, in 32-bit arithmetic as net/xfrm/xfrm_replay.c does, which
// matters only for windows that are no power of two.
func (s Sample) pos(n uint64) (word, bit uint32) {
	d := uint32(s.Seq - n)
	if s.Attr == ReplayVal {
		return 0, 1 << d
	}
	p := (uint32(s.Seq) - 1) % s.Window
	if p >= d {
		p -= d
	} else {
		p = s.Window - (d - p)
	}
	return p / 32, 1 << (p % 32)
}
