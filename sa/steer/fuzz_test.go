package steer

import (
	"testing"

	"github.com/shadowcast/shadowcast/sa"
)

// FuzzSteer gives two packets in a row to the real programs and to the model:
// return code, counters, hits, events and the packet afterwards must agree.
// An input is mode, the length of the first packet in two octets, both packets;
// mode bit 0 is the peer program, bits 1-2 the delivery.
func FuzzSteer(f *testing.F) {
	seed := func(peer bool, delivery Delivery, one, two []byte) {
		mode := byte(delivery) << 1
		if peer {
			mode |= 1
		}
		in := append([]byte{mode, byte(len(one) >> 8), byte(len(one))}, one...)
		f.Add(append(in, two...))
	}
	var before []byte
	for i, c := range branches() {
		seed(c.peer, Delivery(i%3), c.raw, before)
		before = c.raw
	}
	b := newBench(f)
	desired := b.desired
	watched := sa.SPI(2)<<20 | 0xabcd
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) < 3 || in[0] > 5 {
			return
		}
		n := int(be.Uint16(in[1:]))
		l2, rest := in[0]&1 == 0, in[3:]
		if n > len(rest) {
			return
		}
		b.t = t
		if d := Delivery(in[0] >> 1); d != b.desired.Delivery {
			desired.Delivery = d
			b.set(desired)
		}
		b.forget()
		b.watch(watched)
		for _, raw := range [][]byte{rest[:n], rest[n:]} {
			if len(raw) < 14 || len(raw) > 1500 || refused(raw) {
				continue
			}
			b.run(raw, l2)
		}
	})
}

func FuzzDecodeEvent(f *testing.F) {
	b := make([]byte, eventSize)
	b[56], b[59] = byte(EventIKE), 4
	f.Add(b)
	f.Add(b[:20])
	f.Fuzz(func(t *testing.T, in []byte) {
		e, err := decodeEvent(in)
		if err == nil && (!e.Src.IsValid() || e.Kind != EventIKE && e.Kind != EventESP) {
			t.Errorf("accepted %x as %+v", in, e)
		}
	})
}
