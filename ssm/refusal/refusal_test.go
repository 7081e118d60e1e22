package refusal

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestCountsApart(t *testing.T) {
	var told []Row
	x := New(func(r Row) { told = append(told, r) })
	ams, fra := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	x.Add(Key{"probe", "replayed", "ams", ams}, "first", t0)
	x.Add(Key{"probe", "replayed", "ams", netip.MustParseAddr("::ffff:192.0.2.1")}, "second", t0.Add(time.Second))
	x.Add(Key{"probe", "replayed", "ams", fra}, "", t0)
	x.Add(Key{"replication", "wrong name", "a\nb", fra}, "line\xff", t0)
	rows := x.Rows()
	if len(rows) != 3 || rows[0].Count != 2 || rows[0].Detail != "second" || !rows[0].First.Equal(t0) || rows[0].Source != ams {
		t.Fatalf("rows %+v", rows)
	}
	for _, r := range rows {
		if r.Channel == "replication" && (r.Peer != "" || r.Detail != "line?") {
			t.Errorf("unprintable text was kept: %+v", r)
		}
	}
	if r, ok := x.Latest("ams"); !ok || r.Source != ams || r.Detail != "second" {
		t.Errorf("latest of ams: %+v", r)
	}
	if r, ok := x.Latest("lhr"); ok {
		t.Errorf("latest of lhr: %+v, want none", r)
	}
	if len(told) != 3 {
		t.Fatalf("told of %d rows, want each once", len(told))
	}
	x.Add(Key{"probe", "replayed", "ams", ams}, "", t0.Add(time.Minute))
	if len(told) != 4 || told[3].Count != 3 {
		t.Fatalf("told %+v, want the row again after a minute with 3", told)
	}
}

// Whoever invents senders fills neither the memory nor the log.
func TestFlood(t *testing.T) {
	told := 0
	x := New(func(Row) { told++ })
	const n = 5000
	for i := range n {
		x.Add(Key{"probe", "unknown sender", fmt.Sprint("m", i), netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}, "", t0.Add(time.Duration(i)*time.Microsecond))
	}
	if rows := x.Rows(); len(rows) != maxRows+1 {
		t.Fatalf("%d rows, want %d and a sum", len(rows), maxRows)
	}
	if told != tellBurst {
		t.Fatalf("told %d times in one window, want %d", told, tellBurst)
	}
}

// No count is lost, whatever was dropped.
func TestTotalsAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := New(func(Row) {})
		want := map[string]uint64{}
		steps := rapid.SliceOfN(rapid.IntRange(0, 1200), 1, 1500).Draw(t, "senders")
		for i, s := range steps {
			k := Key{"c" + fmt.Sprint(s%2), "r" + fmt.Sprint(s%3), strings.Repeat("p", s%3), netip.AddrFrom4([4]byte{10, 0, byte(s >> 8), byte(s)})}
			x.Add(k, "", t0.Add(time.Duration(i)*time.Second))
			want[k.Channel+k.Reason]++
		}
		got := map[string]uint64{}
		for _, r := range x.Rows() {
			got[r.Channel+r.Reason] += r.Count
			if r.First.After(r.Last) {
				t.Fatalf("first after last: %+v", r)
			}
		}
		for k, n := range want {
			if got[k] != n {
				t.Fatalf("%s counts %d, want %d", k, got[k], n)
			}
		}
	})
}
