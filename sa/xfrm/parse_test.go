package xfrm

import (
	"bytes"
	"net/netip"
	"reflect"
	"testing"
)

// secret stands for key material in synthetic messages.
var secret = bytes.Repeat([]byte{0xa5}, 36)

// encodeSA builds the body of an XFRM_MSG_NEWSA, keys included.
func encodeSA(s State) []byte {
	b := make([]byte, saInfoLen)
	copy(b[56:], s.Dst.AsSlice())
	be.PutUint32(b[72:], uint32(s.SPI))
	b[76] = s.Proto
	copy(b[80:], s.Src.AsSlice())
	ne.PutUint64(b[120:], s.HardPackets)
	ne.PutUint64(b[160:], s.Bytes)
	ne.PutUint64(b[168:], s.Packets)
	ne.PutUint32(b[192:], s.Errors.Window)
	ne.PutUint32(b[196:], s.Errors.Replay)
	ne.PutUint32(b[200:], s.Errors.Integrity)
	ne.PutUint32(b[208:], s.Reqid)
	ne.PutUint16(b[212:], s.Family)
	b[215] = uint8(min(s.Window, 255))
	if s.ESN {
		b[216] = flagESN
	}
	b = appendAttr(b, 18, secret) // XFRMA_ALG_AEAD
	if s.Encap != nil {
		v := ne.AppendUint16(nil, s.Encap.Type)
		v = be.AppendUint16(be.AppendUint16(v, s.Encap.SrcPort), s.Encap.DstPort)
		b = appendAttr(b, attrEncap, append(v, make([]byte, 18)...))
	}
	return append(b, encodeNewAE(&s)[aeIDLen:]...)
}

func states() []State {
	v4 := State{
		ID:  ID{Dst: netip.MustParseAddr("192.0.2.1"), SPI: 0x00112345, Proto: 50},
		Src: netip.MustParseAddr("198.51.100.7"), Family: familyIPv4, Reqid: 3,
		Mark: &Mark{1, 0xff}, Encap: &Encap{2, 4500, 40000}, ReplayAttr: ReplayVal,
		OSeq: 1 << 26, Seq: 77, Window: 32, Bitmap: []uint32{0xdeadbeef},
		Packets: 5, Bytes: 500, HardPackets: 1 << 26, Errors: Errors{1, 2, 3},
	}
	v6 := State{
		ID:  ID{Dst: netip.MustParseAddr("2001:db8::1"), SPI: 0x00254321, Proto: 50},
		Src: netip.MustParseAddr("2001:db8::2"), Family: familyIPv6, ESN: true, ReplayAttr: ReplayESNVal,
		OSeq: 3<<32 | 9, Seq: 2<<32 | 8, Window: 64, Bitmap: []uint32{1, 2}, HardPackets: ^uint64(0),
	}
	return []State{v4, v6}
}

func TestParseSA(t *testing.T) {
	for _, want := range states() {
		got, err := parseSA(encodeSA(want))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v\nerr %v", got, want, err)
		}
	}
}

func TestParseNewAE(t *testing.T) {
	for _, want := range states() {
		b := encodeNewAE(&want)
		ne.PutUint32(b[40:], 4|uint32(CauseTimer))
		got, cause, err := parseAE(b)
		if err != nil || cause != CauseTimer {
			t.Fatalf("cause %d, %v", cause, err)
		}
		if got.ID != want.ID || got.Src != want.Src || got.OSeq != want.OSeq || !reflect.DeepEqual(got.Sample().Bitmap, want.Bitmap) || got.Seq != want.Seq {
			t.Errorf("got %+v want %+v", got, want)
		}
	}
}

func TestParseDelSA(t *testing.T) {
	for _, want := range states() {
		whole := encodeSA(want)
		b := appendAttr(encodeID(want.ID), attrSA, whole[:saInfoLen])
		got, err := parseDelSA(append(b, whole[saInfoLen:]...))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v\nerr %v", got, want, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	good := encodeSA(states()[1])
	esn := func(edit func(v []byte)) []byte {
		b := bytes.Clone(good)
		edit(b[len(b)-esnHdrLen-8:])
		return b
	}
	for name, b := range map[string][]byte{
		"short body":                       good[:saInfoLen-1],
		"family":                           func() []byte { b := bytes.Clone(good); b[212] = 1; return b }(),
		"attribute beyond the end":         append(bytes.Clone(good), 8, 0, 1, 0),
		"trailing octets":                  append(bytes.Clone(good), 1, 2),
		"bitmap longer than the attribute": esn(func(v []byte) { ne.PutUint32(v, 3) }),
		"bitmap of 2^30 words":             esn(func(v []byte) { ne.PutUint32(v, 1<<30) }),
		"window beyond the bitmap":         esn(func(v []byte) { ne.PutUint32(v[20:], 65) }),
	} {
		if _, err := parseSA(b); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestParseStats(t *testing.T) {
	got, err := parseStats([]byte("XfrmInError             \t0\nXfrmInStateSeqError     \t12\n"))
	if err != nil || got["XfrmInStateSeqError"] != 12 || len(got) != 2 {
		t.Errorf("%v %v", got, err)
	}
	for _, bad := range []string{"a\n", "a b c\n", "a -1\n"} {
		if _, err := parseStats([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range states() {
		whole := encodeSA(s)
		f.Add(appendMessage(nil, msgNewSA, 0, 1, whole))
		f.Add(appendMessage(nil, msgNewAE, 0, 1, encodeNewAE(&s)))
		f.Add(appendMessage(nil, msgDelSA, 0, 1, appendAttr(encodeID(s.ID), attrSA, whole)))
		f.Add(appendMessage(nil, msgExpire, 0, 1, append(append(bytes.Clone(whole[:saInfoLen]), 1, 0, 0, 0, 0, 0, 0, 0), whole[saInfoLen:]...)))
	}
	f.Add(appendMessage(nil, msgFlushSA, 0, 1, []byte{50, 0, 0, 0}))
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			m, rest, err := nextMessage(b)
			if err != nil {
				return
			}
			if len(rest) >= len(b) {
				t.Fatal("no progress")
			}
			b = rest
			e, ok, err := parseEvent(m)
			if err != nil || !ok {
				continue
			}
			s := e.State
			if s.ReplayAttr == ReplayNone {
				continue
			}
			if s.ReplayAttr == ReplayVal && len(s.Bitmap) != 1 || s.ReplayAttr == ReplayESNVal && s.Window > 32*uint32(len(s.Bitmap)) {
				t.Fatalf("bitmap does not fit: %+v", s)
			}
			// What parses must survive a write of a later state.
			out, _, err := apply(s, ReplayWrite{ID: s.ID, OSeq: s.OSeq + 1, In: &Sample{Seq: s.Seq + 3}})
			if err == nil && (out.OSeq < s.OSeq || out.Seq < s.Seq || len(out.Bitmap) != len(s.Bitmap)) {
				t.Fatalf("%+v became %+v", s, out)
			}
			got, _, err := parseAE(encodeNewAE(&out))
			if err != nil || got.OSeq != out.OSeq&mask(out) || got.Seq != out.Seq&mask(out) {
				t.Fatalf("%+v became %+v, %v", out, got, err)
			}
		}
	})
}

func mask(s State) uint64 {
	if s.ReplayAttr == ReplayVal {
		return 1<<32 - 1
	}
	return ^uint64(0)
}
