package replica

import (
	"time"

	peerv1 "github.com/shadowcast/shadowcast/api/peer/v1"
)

// key tells SAs apart: an SPI is unique per destination only.
func (x *Sample) key() sampleKey { return sampleKey{x.SPI, x.Dst.As16()} }

// addSamples notes the samples; the SAs that are not among them have not
// changed. It returns how many named an unknown session.
func (s *state) addSamples(in []Sample, now time.Time) (unknown int) {
	s.sampled = now
	for i := range in {
		e := &s.unbound
		if id := in[i].Session; id != "" {
			if e = s.entries[id]; e == nil || e.deleted {
				unknown++
				continue
			}
		}
		k := in[i].key()
		x := s.samples[k]
		if x == nil || x.of != e {
			if x != nil {
				s.forgetSample(x)
			}
			x = &sample{of: e}
			s.samples[k] = x
			if e == &s.unbound {
				s.loose++
			} else {
				if len(e.samples) >= MaxSamples {
					s.forgetSample(e.samples[0])
				}
				e.samples = append(e.samples, x)
			}
		} else {
			s.unlinkSample(x)
		}
		x.Sample = in[i]
		x.Session = e.id // not the caller's string
		s.sseq++
		x.seq = s.sseq
		x.prev, x.next = s.sring.prev, &s.sring
		x.prev.next, s.sring.prev = x, x
	}
	s.sseq++ // even an empty call is news: nothing changed
	for x := s.sring.next; s.loose > MaxSamples+4*s.live && x != &s.sring; {
		old := x
		if x = x.next; old.of == &s.unbound {
			s.forgetSample(old)
		}
	}
	return unknown
}

// forgetSample removes x everywhere.
func (s *state) forgetSample(x *sample) {
	s.unlinkSample(x)
	delete(s.samples, x.key())
	if x.of == &s.unbound {
		s.loose--
		return
	}
	for i, y := range x.of.samples {
		if y == x {
			x.of.samples = append(x.of.samples[:i], x.of.samples[i+1:]...)
			break
		}
	}
}

// unlinkSample takes x out of the order.
func (s *state) unlinkSample(x *sample) {
	for _, c := range s.cursors {
		if c != nil && c.ssent == x {
			c.ssent = x.prev
		}
	}
	x.prev.next, x.next.prev = x.next, x.prev
	x.prev, x.next = nil, nil
}

// collectSamples returns the next samples for the shadow, nil for none.
func (s *state) collectSamples(c *cursor, now time.Time) *peerv1.ReplayBatch {
	if c.ssentSeq >= s.sseq {
		return nil
	}
	m := &peerv1.ReplayBatch{AgeMicros: uint64(max(now.Sub(s.sampled), 0).Microseconds())}
	for n := 0; n < scanItems && len(m.Samples) < sampleItems; n++ {
		x := c.ssent.next
		if x == &s.sring {
			break
		}
		c.ssent, c.ssentSeq = x, x.seq
		if x.of.want&c.bit == 0 {
			continue
		}
		dst, _ := x.Dst.Unmap().MarshalBinary()
		m.Samples = append(m.Samples, &peerv1.Sample{Spi: uint32(x.SPI), Dst: dst, OutSeq: x.OutSeq,
			InSeq: x.InSeq, Window: x.Window, Bitmap: x.Bitmap, EsnVal: x.ESNVal})
	}
	if c.ssent.next == &s.sring {
		c.ssentSeq = s.sseq
		c.sinflight = append(c.sinflight, flight{s.sseq, s.sampled})
	}
	m.Seq = c.ssentSeq
	return m
}

// ackSamples notes that the batches up to seq are applied.
func (s *state) ackSamples(c *cursor, seq uint64) {
	if seq <= c.sackSeq || seq > c.ssentSeq {
		return
	}
	c.sackSeq = seq
	for len(c.sinflight) > 0 && c.sinflight[0].seq <= seq {
		c.sampledAt = c.sinflight[0].at
		c.sinflight = c.sinflight[1:]
	}
}
