package charon

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shadowcast/shadowcast/sa"
)

// secretText is what every secret attribute of sample carries; it must never be
// printed.
const secretText = "topsecretmaterial"

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// sample returns one attribute of every type, with a value of its own.
func sample(t AttrType) Attr {
	n := uint32(t)
	switch t.kind() {
	case kindIKE:
		return NewIKERef(t, IKERef{Version: 2, Initiator: n%2 == 1, ID: sa.IKEID{Initiator: 0x0102030405060708, Responder: 0x0007a1a2a3a4a5a6}})
	case kindIdentity:
		return must(NewIdentity(t, Identity{Type: 2, Data: []byte("gw.example")}))
	case kindAddr:
		return must(NewAddr(t, netip.MustParseAddrPort("198.51.100.1:4500")))
	case kindName:
		return must(NewName(t, "rw"))
	case kindU8:
		return NewU8(t, 2)
	case kindU16:
		return NewU16(t, 0x1200+uint16(n))
	case kindU32:
		return NewU32(t, 0x01020300+n)
	case kindSPI:
		return NewSPI(t, 0xcf6bd1d5)
	case kindTS:
		return must(NewTS(t, TS{ToPort: 0xffff, From: netip.MustParseAddr("fd00::"), To: netip.MustParseAddr("fd00::ff")}))
	}
	data := "nonce"
	if attrs[t].secret {
		data = secretText
	}
	return must(NewChunk(t, []byte(data)))
}

func full(v Version) Message {
	m := Message{Version: v, Type: IKEAdd}
	for t := IKEID; t < numAttrs; t++ {
		if _, ok := t.Number(v); ok {
			m.Attrs = append(m.Attrs, sample(t))
		}
	}
	return m
}

func TestWireNumbers(t *testing.T) {
	v3 := map[AttrType]byte{
		IKEID: 0x01, RekeyID: 0x02, LocalID: 0x03, RemoteID: 0x04, EAPID: 0x05, LocalAddr: 0x06, RemoteAddr: 0x07,
		ConfigName: 0x08, Conditions: 0x09, Extensions: 0x0a, LocalVIP: 0x0b, RemoteVIP: 0x0c, PeerAddr: 0x0d,
		Initiator: 0x0e, NonceI: 0x0f, NonceR: 0x10, Secret: 0x11, OldSKD: 0x12, PRF: 0x13, OldPRF: 0x14, Encr: 0x15,
		EncrLen: 0x16, Integ: 0x17, DH: 0x18, Mode: 0x19, IPComp: 0x1a, InSPI: 0x1b, OutSPI: 0x1c, InCPI: 0x1d,
		OutCPI: 0x1e, LocalTS: 0x1f, RemoteTS: 0x20, MID: 0x21, Segment: 0x22, ESN: 0x23, IKEVersion: 0x24,
		LocalDH: 0x25, RemoteDH: 0x26, PSK: 0x27, IV: 0x28, AuthMethod: 0x29,
	}
	if len(v3) != int(numAttrs)-1-2 {
		t.Fatalf("table has %d types, package has %d", len(v3), numAttrs-3)
	}
	for at, n := range v3 {
		if got, ok := at.Number(V3); !ok || got != n {
			t.Errorf("version 3: %s is %#02x, want %#02x", at, got, n)
		}
		if back := must(ParseAttrType(at.String())); back != at {
			t.Errorf("name %s reads back as %s", at, back)
		}
	}
	for at, n := range map[AttrType]byte{Secret: 0x11, AddSecret: 0x12, DH: 0x19, AddKES: 0x1a, MID: 0x23, Segment: 0x24, AuthMethod: 0x2b} {
		if got, _ := at.Number(V5); got != n {
			t.Errorf("version 5: %s is %#02x, want %#02x", at, got, n)
		}
	}
	if _, ok := AddSecret.Number(V3); ok {
		t.Error("version 3 has ADD_SECRET")
	}
	if _, err := ParseAttrType("NOPE"); err == nil {
		t.Error("unknown name accepted")
	}
}

func TestGolden(t *testing.T) {
	for _, tc := range []struct{ name, hex, text string }{
		{"activate", "0308220001", "v3 SEGMENT_DROP SEGMENT=1"},
		{"passivate", "0309220001", "v3 SEGMENT_TAKE SEGMENT=1"},
		{"resync", "030b220001", "v3 RESYNC SEGMENT=1"},
		{"activate v5", "0508240001", "v5 SEGMENT_DROP SEGMENT=1"},
		{"mid", "0304" + "01" + "02" + "0102030405060708" + "0007a1a2a3a4a5a6" + "00" + "21" + "00000002",
			"v3 MID_RESPONDER IKE_ID=0102030405060708_0007a1a2a3a4a5a6/r MID=2"},
		{"spi", "0307" + "1b" + "d5d16bcf", "v3 CHILD_DELETE IN_SPI=cf6bd1d5"},
		{"address", "0302" + "07" + "1194" + "02" + "c0000201" + "0c" + "0000" + "0a" + "20010db8000000000000000000000001",
			"v3 IKE_UPDATE REMOTE_ADDR=192.0.2.1:4500 REMOTE_VIP=[2001:db8::1]:0"},
		{"names", "0302" + "03" + "02" + "02" + "6777" + "08" + "727700", `v3 IKE_UPDATE LOCAL_ID=gw CONFIG_NAME="rw"`},
		{"selector", "0306" + "1f" + "07" + "11" + "0035" + "0035" + "01" + "0a000000" + "0a0000ff",
			"v3 CHILD_ADD LOCAL_TS=10.0.0.0-10.0.0.255[17/53-53](dynamic)"},
		{"secret", "0301" + "11" + "0003" + "616263", "v3 IKE_ADD SECRET=[redacted, 3 bytes]"},
		{"empty", "0305", "v3 IKE_DELETE"},
	} {
		b := must(hex.DecodeString(tc.hex))
		m, err := Decode(b)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if m.String() != tc.text {
			t.Errorf("%s: got  %s\nwant %s", tc.name, m, tc.text)
		}
		if got := must(m.Encode()); !bytes.Equal(got, b) {
			t.Errorf("%s: encodes as %x, want %x", tc.name, got, b)
		}
	}
}

// TestCaptured decodes datagrams that a charon sent (testdata/*.hex, one a line: those
// of 5.9.8 made by TestCharonPair with -update, those of 6.0.1 heard in the lab).
func TestCaptured(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.hex")
	if len(files) == 0 {
		t.Fatal("no captures in testdata")
	}
	for _, f := range files {
		for i, line := range strings.Fields(string(must(os.ReadFile(f)))) {
			b := must(hex.DecodeString(line))
			m, err := Decode(b)
			if err != nil {
				t.Errorf("%s line %d: %v", f, i+1, err)
				continue
			}
			if got := must(m.Encode()); !bytes.Equal(got, b) {
				t.Errorf("%s line %d: encodes differently", f, i+1)
			}
			v5, err := m.As(V5)
			if err != nil {
				t.Errorf("%s line %d: %v", f, i+1, err)
				continue
			}
			back := must(must(Decode(must(v5.Encode()))).As(m.Version))
			if got := must(back.Encode()); !bytes.Equal(got, b) {
				t.Errorf("%s line %d: differs after version 5 and back", f, i+1)
			}
		}
	}
}

func TestRoundTripEveryAttribute(t *testing.T) {
	for _, v := range Versions {
		m := full(v)
		b := must(m.Encode())
		got := must(Decode(b))
		if len(got.Attrs) != len(m.Attrs) {
			t.Fatalf("%s: %d attributes, want %d", v, len(got.Attrs), len(m.Attrs))
		}
		for i, a := range got.Attrs {
			if a.Type != m.Attrs[i].Type || !bytes.Equal(a.Value, m.Attrs[i].Value) {
				t.Errorf("%s: attribute %d is %s, want %s", v, i, a, m.Attrs[i])
			}
		}
		b[len(b)-1] ^= 0xff // the result must not alias the datagram
		if again := must(got.Encode()); again[len(again)-1] == b[len(b)-1] {
			t.Errorf("%s: decoded message aliases its datagram", v)
		}
	}
}

func TestTranslate(t *testing.T) {
	m3 := full(V3)
	m5, err := m3.As(V5)
	if err != nil {
		t.Fatal(err)
	}
	if back := must(must(Decode(must(m5.Encode()))).As(V3)); !bytes.Equal(must(back.Encode()), must(m3.Encode())) {
		t.Error("3 -> 5 -> 3 differs")
	}
	for _, at := range []AttrType{AddSecret, AddKES} {
		_, err := Message{Version: V5, Type: IKEAdd, Attrs: []Attr{sample(IKEID), sample(at)}}.As(V3)
		if err == nil || !strings.Contains(err.Error(), at.String()) {
			t.Errorf("%s to version 3: %v", at, err)
		}
	}
	if _, err := m3.As(6); err == nil {
		t.Error("version 6 accepted")
	}
}

func TestDecodeErrors(t *testing.T) {
	for _, tc := range []struct{ hex, want string }{
		{"", "shorter than its 2-byte header"},
		{"03", "shorter than its 2-byte header"},
		{"0601", "unknown HA protocol version 6"},
		{"0300", "unknown message type 0"},
		{"030d", "unknown message type 13"},
		{"030100", "unknown attribute number 0x00 at offset 2"},
		{"03012a", "unknown attribute number 0x2a at offset 2"},
		{"030101", "IKE_ID at offset 2: value is truncated"},
		{"03060e01" + "1b010203", "IN_SPI at offset 4: value is truncated"},
		{"030108414243", "CONFIG_NAME at offset 2: value is truncated"},
		{"030203", "LOCAL_ID at offset 2: value is truncated"},
		{"0302030205aa", "LOCAL_ID at offset 2: value is truncated"},
		{"0302061194ff", "LOCAL_ADDR at offset 2: unknown address family 255"},
		{"03061f09", "LOCAL_TS at offset 2: unknown traffic selector type 9"},
		{"0301110010aabb", "SECRET at offset 2: value is truncated"},
	} {
		_, err := Decode(must(hex.DecodeString(tc.hex)))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.hex, err, tc.want)
		}
	}
}

func TestEncodeErrors(t *testing.T) {
	for _, tc := range []struct {
		m    Message
		want string
	}{
		{Message{Version: 6, Type: IKEAdd}, "version 6"},
		{Message{Version: V3, Type: 77}, "type 77"},
		{Message{Version: V3, Type: IKEAdd, Attrs: []Attr{sample(AddSecret)}}, "ADD_SECRET"},
		{Message{Version: V3, Type: IKEAdd, Attrs: []Attr{{MID, []byte{1}}}}, "MID"},
		{Message{Version: V3, Type: IKEAdd, Attrs: []Attr{{Initiator, []byte{1, 2}}}}, "INITIATOR"},
		{Message{Version: V3, Type: IKEAdd, Attrs: []Attr{{0, nil}}}, "attribute type 0"},
		{Message{Version: V3, Type: IKEAdd, Attrs: []Attr{must(NewChunk(NonceI, make([]byte, MaxDatagram)))}}, "at most 8192"},
	} {
		if _, err := tc.m.Encode(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.m, err, tc.want)
		}
	}
	if _, err := NewIdentity(LocalID, Identity{Data: make([]byte, 256)}); err == nil {
		t.Error("identity of 256 bytes accepted")
	}
	if _, err := NewName(ConfigName, "a\x00b"); err == nil {
		t.Error("name with NUL accepted")
	}
	if _, err := NewChunk(Secret, make([]byte, 1<<16)); err == nil {
		t.Error("chunk of 65536 bytes accepted")
	}
	if _, err := NewTS(LocalTS, TS{From: netip.MustParseAddr("10.0.0.1"), To: netip.MustParseAddr("::1")}); err == nil {
		t.Error("mixed traffic selector accepted")
	}
	if _, err := NewAddr(LocalAddr, netip.AddrPort{}); err == nil {
		t.Error("invalid address accepted")
	}
}

func TestAccessors(t *testing.T) {
	if r := must(sample(IKEID).IKERef()); r.ID.Responder.Slot() != 7 || !r.Initiator || r.Version != 2 {
		t.Errorf("IKE_ID reads as %+v", r)
	}
	if s := must(sample(InSPI).SPI()); s != 0xcf6bd1d5 {
		t.Errorf("SPI reads as %s", s)
	}
	if v := sample(InSPI).Value; !bytes.Equal(v, []byte{0xd5, 0xd1, 0x6b, 0xcf}) {
		t.Errorf("SPI travels as %x", v)
	}
	if n := must(sample(MID).Uint()); n != 0x01020300+uint32(MID) {
		t.Errorf("MID reads as %d", n)
	}
	if ap := must(sample(RemoteAddr).Addr()); ap.String() != "198.51.100.1:4500" {
		t.Errorf("address reads as %s", ap)
	}
	if ts := must(sample(LocalTS).TS()); ts.From.String() != "fd00::" || ts.To.String() != "fd00::ff" || ts.ToPort != 0xffff {
		t.Errorf("selector reads as %+v", ts)
	}
	if k := must(sample(Secret).Key()); string(k) != secretText {
		t.Error("secret reads wrong")
	}
	if _, err := sample(MID).SPI(); err == nil {
		t.Error("MID read as SPI")
	}
	if _, err := (Message{Version: V3, Type: IKEAdd}).SA(); err == nil {
		t.Error("message without IKE_ID has an SA")
	}
}

func TestNoSecretsPrinted(t *testing.T) {
	var log bytes.Buffer
	l := slog.New(slog.NewJSONHandler(&log, nil))
	for _, v := range []Version{V3, V5} {
		m := full(v)
		l.Info("x", "m", m, "attr", m.Attrs)
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&log, verb, m)
			fmt.Fprintf(&log, verb, m.Attrs)
			fmt.Fprintf(&log, verb, &m)
			fmt.Fprintf(&log, verb, struct{ M Message }{m})
		}
		log.Write(must(json.Marshal(m)))
		m.Attrs = append(m.Attrs, Attr{Secret, []byte(secretText)}) // malformed
		fmt.Fprint(&log, m)
		_, err := m.Encode()
		fmt.Fprint(&log, err)
	}
	s := log.String()
	for _, leak := range []string{secretText, hex.EncodeToString([]byte(secretText)), "dG9wc2VjcmV0", fmt.Sprint([]byte(secretText))} {
		if strings.Contains(s, strings.Trim(leak, "[]")) {
			t.Errorf("printed %q", leak)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(must(full(V3).Encode()))
	f.Add(must(full(V5).Encode()))
	files, _ := filepath.Glob("testdata/*.hex")
	for _, name := range files {
		for _, line := range strings.Fields(string(must(os.ReadFile(name)))) {
			f.Add(must(hex.DecodeString(line)))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		_ = m.String()
		got, err := m.Encode()
		if len(b) > MaxDatagram {
			return
		}
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("encodes as %x (%v), want %x", got, err, b)
		}
		for _, a := range m.Attrs {
			a.IKERef()
			a.Identity()
			a.Addr()
			a.Uint()
			a.SPI()
			a.Name()
			a.TS()
			a.Key()
		}
		other := V3 + V5 - m.Version
		if tr, err := m.As(other); err == nil {
			back, err := must(Decode(must(tr.Encode()))).As(m.Version)
			if err != nil || !bytes.Equal(must(back.Encode()), b) {
				t.Fatalf("differs after version %d and back: %v", other, err)
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	for _, c := range benchMessages() {
		w := must(c.m.Encode())
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(w)))
			for b.Loop() {
				if _, err := Decode(w); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, c := range benchMessages() {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.m.Encode(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func benchMessages() []struct {
	name string
	m    Message
} {
	return []struct {
		name string
		m    Message
	}{
		{"mid", Message{Version: V3, Type: MIDResponder, Attrs: []Attr{sample(IKEID), sample(MID)}}},
		{"full", full(V3)},
	}
}
