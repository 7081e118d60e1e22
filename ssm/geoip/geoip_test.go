package geoip

import (
	"encoding/binary"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/ssm/shadowset"
)

// database writes a MaxMind DB of IPv4 networks by the format's specification, version 2.0:
// a binary search tree with records of 24 bits, the data section, and the metadata.
func database(places map[string]*Place) []byte {
	type node [2]int // child, or -1: none, or -2-i: data i
	tree := []node{{-1, -1}}
	var data []byte
	var offsets []int
	keys := make([]string, 0, len(places))
	for p := range places {
		keys = append(keys, p)
	}
	slices.Sort(keys)
	for _, k := range keys {
		p := netip.MustParsePrefix(k)
		offsets = append(offsets, len(data))
		if pl := places[k]; pl == nil {
			data = append(data, 0xe0) // an empty map
		} else {
			data = append(append(append(data, 0xe1), text("location")...), 0xe2)
			data = append(append(data, text("latitude")...), double(pl.Lat)...)
			data = append(append(data, text("longitude")...), double(pl.Lon)...)
		}
		at := 0
		a := p.Addr().As4()
		for i := range p.Bits() {
			bit := a[i/8] >> (7 - i%8) & 1
			if i == p.Bits()-1 {
				tree[at][bit] = -2 - (len(offsets) - 1)
				break
			}
			if tree[at][bit] < 0 {
				tree = append(tree, node{-1, -1})
				tree[at][bit] = len(tree) - 1
			}
			at = tree[at][bit]
		}
	}
	var out []byte
	for _, n := range tree {
		for _, c := range n {
			v := c
			switch {
			case c == -1:
				v = len(tree)
			case c < -1:
				v = len(tree) + 16 + offsets[-2-c]
			}
			out = append(out, byte(v>>16), byte(v>>8), byte(v))
		}
	}
	out = append(append(out, make([]byte, 16)...), data...)
	out = append(out, "\xab\xcd\xefMaxMind.com"...)
	out = append(out, 0xe0|7)
	for _, m := range []struct {
		key   string
		value []byte
	}{
		{"binary_format_major_version", []byte{0xa1, 2}}, {"binary_format_minor_version", []byte{0xa0}},
		{"build_epoch", []byte{0x01, 0x02, 1}}, {"database_type", text("Test-City")}, {"ip_version", []byte{0xa1, 4}},
		{"node_count", append([]byte{0xc4}, binary.BigEndian.AppendUint32(nil, uint32(len(tree)))...)}, {"record_size", []byte{0xa1, 24}},
	} {
		out = append(append(out, text(m.key)...), m.value...)
	}
	return out
}

func text(s string) []byte {
	if len(s) < 29 {
		return append([]byte{0x40 | byte(len(s))}, s...)
	}
	return append([]byte{0x40 | 29, byte(len(s) - 29)}, s...)
}

func double(f float64) []byte {
	return binary.BigEndian.AppendUint64([]byte{0x68}, math.Float64bits(f))
}

var world = database(map[string]*Place{
	"192.0.2.0/25": {52.37, 4.9}, "192.0.2.128/25": {51.47, -0.45}, "198.51.100.0/24": {91, 0}, "203.0.113.0/24": nil,
})

func TestFind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "city.mmdb")
	if err := os.WriteFile(path, world, 0o644); err != nil {
		t.Fatal(err)
	}
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for a, want := range map[string]Place{"192.0.2.1": {52.37, 4.9}, "192.0.2.200": {51.47, -0.45}, "::ffff:192.0.2.200": {51.47, -0.45}} {
		if got, ok := db.Find(netip.MustParseAddr(a)); !ok || got != want {
			t.Errorf("%s is at %v, %v; want %v", a, got, ok, want)
		}
	}
	for _, a := range []string{"10.0.0.1", "198.51.100.1", "203.0.113.1", "2001:db8::1"} { // unknown, no latitude, no place, no such family
		if got, ok := db.Find(netip.MustParseAddr(a)); ok {
			t.Errorf("%s is at %v, want nowhere", a, got)
		}
	}
	if got := db.FindAll([]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("10.0.0.1")}); len(got) != 1 {
		t.Errorf("found %v, want one place", got)
	}
}

func TestEstimate(t *testing.T) {
	ams := shadowset.Member{Lat: 52.37, Lon: 4.9}
	london, here := Place{51.47, -0.45}, Place{52.37, 4.9}
	if d := Estimate(ams, []Place{london}); d < 3*time.Millisecond || d > 8*time.Millisecond {
		t.Errorf("to London it is %s", d)
	}
	if d := Estimate(ams, []Place{here, here, london}); d != time.Microsecond {
		t.Errorf("the median client is in town, and it is %s", d)
	}
	if d := Estimate(ams, nil); d != 0 {
		t.Errorf("to nobody it is %s", d)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("a file that is not there: %v", err)
	}
	path := filepath.Join(dir, "text")
	if err := os.WriteFile(path, []byte("no database"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a file of another kind: %v", err)
	}
}

// Whatever the file holds, nothing crashes and no place is beyond the earth.
func FuzzDatabase(f *testing.F) {
	f.Add(world, uint32(0xc0000201))
	f.Add(world[:len(world)-9], uint32(0xc0000201))
	for i := range 8 {
		damaged := slices.Clone(world)
		damaged[i*len(world)/8] ^= 0xff
		f.Add(damaged, uint32(0xc0000280))
	}
	f.Fuzz(func(t *testing.T, b []byte, a uint32) {
		db, err := parse(b)
		if err != nil {
			return
		}
		p, ok := db.Find(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, a))))
		if ok && (math.Abs(p.Lat) > 90 || math.Abs(p.Lon) > 180) {
			t.Errorf("a place beyond the earth: %v", p)
		}
	})
}
