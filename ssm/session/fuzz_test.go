package session

import (
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa/charon"
)

// FuzzLedger plays any order of messages and headers on a handful of IKE_SAs
// and children: what no honest charon would send must not panic, must not make
// a document that cannot be decoded, and must not reach a twin.
func FuzzLedger(f *testing.F) {
	f.Add([]byte{0, 1, 0, 2, 1, 0, 3, 1, 0, 6, 1, 1, 4, 1, 3, 6, 1, 2, 9, 1, 3})
	f.Add([]byte{0, 1, 0, 2, 1, 0, 3, 1, 0, 4, 1, 3, 0, 2, 1, 5, 1, 0, 3, 2, 0, 12, 0, 0, 9, 2, 0})
	f.Fuzz(func(t *testing.T, in []byte) { play(t, in) })
}

// play reads three octets a step: what, about which IKE_SA, with which number.
func play(t tester, in []byte) {
	w := newOwner(t)
	fd, twin := NewFeeder(), newModel()
	for ; len(in) >= 3; in = in[3:] {
		op, a, b := in[0]%14, uint64(in[1]%6), uint32(in[2])
		r := ref(ikeID(a), in[1]&0x40 != 0)
		child := inSPI(b % 8)
		var m charon.Message
		var o Output
		switch op {
		case 0:
			m = ikeAdd(r, nil)
			if old := ref(ikeID(uint64(b%6)), false); b >= 6 {
				m = ikeAdd(r, &old)
			}
			m.Version = []charon.Version{charon.V3, charon.V5}[in[1]>>7]
		case 1:
			m = midI(r, b%5)
		case 2:
			m = midR(r, b%5)
		case 3:
			m = ikeUpdate(r, fmt.Sprintf("203.0.113.%d:4500", b))
		case 4:
			m = vipUpdate(r, fmt.Sprintf("10.3.0.%d", b%4))
		case 5:
			m = ikeDelete(r)
		case 6:
			m = childAdd(r, b&0x80 != 0, child)
		case 7:
			m = childDelete(r, child)
		case 8:
			o = w.Header(response(r.ID, b%5, w.now))
		case 9:
			h := request(r.ID, b%5, w.now)
			h.FromInitiator = in[1]&0x40 == 0
			o = w.Header(h)
		case 10:
			o = w.ESPSeen(child)
		case 11:
			o = w.tick(time.Duration(b) * time.Second / 8)
		case 12:
			w = w.succeed()
		case 13:
			o, _ = w.Update(r.ID, netip.AddrPort{}, netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(b)}), 4500), w.now)
		}
		if m.Type != 0 {
			o, _ = w.Apply(m, testBirth, w.now)
		}
		w.take(o)
		for _, c := range o.Changes {
			if c.Kind == Delete {
				twin.tell(fd.Remove(c.ID))
				continue
			}
			back, err := Decode(must(c.Doc.EncodeSecret()))
			if err != nil || !reflect.DeepEqual(back, c.Doc) {
				t.Fatalf("document changed: %v\n%s", err, must(c.Doc.EncodeSecret()))
			}
			twin.tell(must(fd.Diff(back)))
		}
		if diff := twin.differs(w.Docs()); diff != "" {
			t.Fatal(diff)
		}
	}
}
