package peer

// windowSize is how many sequence numbers the replay window remembers.
const windowSize = 1024

// window remembers which of the last windowSize sequence numbers were heard.
// One bit per number, indexed modulo the size: moving forward clears the bits
// of the numbers that come into view.
type window struct {
	top  uint64 // highest number heard, 0 before the first
	bits [windowSize / 64]uint64
}

// has reports whether seq was heard. seq must lie within the window.
func (w *window) has(seq uint64) bool {
	return w.bits[seq%windowSize/64]&(1<<(seq%64)) != 0
}

// fresh reports whether seq may still be accepted.
func (w *window) fresh(seq uint64) bool {
	if seq > w.top {
		return true
	}
	return w.top-seq < windowSize && !w.has(seq)
}

// add notes that seq, which is fresh, was heard.
func (w *window) add(seq uint64) {
	if seq > w.top {
		if seq-w.top >= windowSize {
			w.bits = [windowSize / 64]uint64{}
		} else {
			for q := w.top + 1; q < seq; q++ {
				w.bits[q%windowSize/64] &^= 1 << (q % 64)
			}
		}
		w.top = seq
	}
	w.bits[seq%windowSize/64] |= 1 << (seq % 64)
}
