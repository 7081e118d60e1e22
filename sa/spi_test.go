package sa

import (
	"encoding/json"
	"testing"

	"pgregory.net/rapid"
)

func TestSPIRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Slot(rapid.IntRange(1, int(MaxSlot)).Draw(t, "slot"))
		lo, hi := s.SPIRange()
		if lo.Slot() != s || hi.Slot() != s || hi-lo != 1<<20-1 {
			t.Fatalf("slot %d: %s..%s", s, lo, hi)
		}
		if lo < 256 {
			t.Fatal("SPIs below 256 are reserved (RFC 4303 section 2.1)")
		}
		if lo > 0 && (lo-1).Slot() == s || hi < ^SPI(0) && (hi+1).Slot() == s {
			t.Fatal("the range has a longer one inside")
		}
		spi := SPI(rapid.Uint32Range(uint32(lo), uint32(hi)).Draw(t, "spi"))
		if spi.Slot() != s {
			t.Fatalf("%s belongs to slot %d, want %d", spi, spi.Slot(), s)
		}
		ike := IKESPI(s.IKELabel() | rapid.Uint64().Draw(t, "random")&^IKEMask)
		if ike.Slot() != s {
			t.Fatalf("%s belongs to slot %d, want %d", ike, ike.Slot(), s)
		}
	})
}

func TestSlotBounds(t *testing.T) {
	for s, want := range map[Slot]bool{0: false, 1: true, MaxSlot: true, MaxSlot + 1: false, 65535: false} {
		if s.Valid() != want {
			t.Errorf("slot %d valid: %v", s, !want)
		}
		// A label that is no slot number names no slot.
		if got := IKESPI(s.IKELabel() | 5).Slot(); want && got != s || !want && got != 0 {
			t.Errorf("label %d names slot %d", s, got)
		}
	}
	if SPI(0).Slot() != 0 || SPI(0xfffff).Slot() != 0 {
		t.Error("SPIs below 2^20 belong to no slot")
	}
	if got := SPIFromWire([]byte{0xcf, 0x6b, 0xd1, 0xd5, 9}); got != 0xcf6bd1d5 {
		t.Errorf("%s", got)
	}
}

func TestSPIText(t *testing.T) {
	type doc struct {
		E SPI    `json:"e"`
		I IKESPI `json:"i"`
		D IKEID  `json:"d"`
	}
	d := doc{E: 0x00100001, I: 0x0001_0000_0000_00ff, D: IKEID{1, 2}}
	b, err := json.Marshal(d)
	want := `{"e":"00100001","i":"00010000000000ff","d":{"spi_i":"0000000000000001","spi_r":"0000000000000002"}}`
	if err != nil || string(b) != want {
		t.Fatalf("%s, %v", b, err)
	}
	var back doc
	if err := json.Unmarshal(b, &back); err != nil || back != d {
		t.Errorf("%+v, %v", back, err)
	}
	if s := d.D.String(); s != "0000000000000001_0000000000000002" {
		t.Error(s)
	}
	for _, bad := range []string{"", "1", "0010000", "001000011", "0010000G", "0010000A", "0x100001", " 0010001", "-0100001"} {
		if err := new(SPI).UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
		if err := new(IKESPI).UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func FuzzSPIText(f *testing.F) {
	f.Add("00100001")
	f.Add("00010000000000ff")
	f.Fuzz(func(t *testing.T, s string) {
		var e SPI
		if err := e.UnmarshalText([]byte(s)); err == nil && e.String() != s {
			t.Errorf("%q became %s", s, e)
		}
		var i IKESPI
		if err := i.UnmarshalText([]byte(s)); err == nil && i.String() != s {
			t.Errorf("%q became %s", s, i)
		}
	})
}
