// Package refusal counts what this appliance refused, by reason and by who sent
// it.
//
// It owns one bounded table. It never refuses anything itself, never judges who
// a sender really is (most refusals happen because that is unknown), and knows
// no reason: ssm/peer, ssm/replica and ssm name theirs. ssm/node calls Add for
// each refusal and shows the table to operators.
package refusal

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// Key is what is counted apart.
type Key struct {
	Channel string // where it came in: one of a few fixed words
	Reason  string // one of a few fixed words
	// Peer is the name that the sender gave itself, "" if none that could be one.
	// Unless Reason says otherwise it is not authentic.
	Peer string
	// Source is where it came from; the zero Addr where that is unknown, and in
	// the row that sums up those that were dropped from the table.
	Source netip.Addr
}

// Row is one line of the table.
type Row struct {
	Key
	Count       uint64
	Detail      string // of the last one, for people
	First, Last time.Time

	told time.Time
}

// Limits of the table and of what it says.
const (
	maxRows    = 256
	tellEvery  = time.Minute // per row
	tellBurst  = 10          // rows told of in tellWindow, whoever sends
	tellWindow = 10 * time.Second
	maxDetail  = 300 // octets
)

// Table is bounded: when it is full the row that was quiet for longest is added
// to the row of its channel and reason without a sender. Those are bounded by
// the number of reasons. No count is lost.
type Table struct {
	tell func(Row)

	mu     sync.Mutex
	rows   map[Key]*Row
	named  int // rows with a sender
	window time.Time
	burst  int
}

// New returns an empty table. tell is called for the first refusal of a row and
// then at most once a minute, and for at most 10 rows in 10 s, never concurrently
// with itself but from any goroutine that adds.
func New(tell func(Row)) *Table { return &Table{tell: tell, rows: map[Key]*Row{}} }

// Add counts one refusal.
func (t *Table) Add(k Key, detail string, now time.Time) {
	k.Source = k.Source.Unmap().WithZone("")
	if !printable(k.Peer) {
		k.Peer = ""
	}
	if len(detail) > maxDetail {
		detail = detail[:maxDetail]
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rows[k]
	if r == nil {
		r = t.insert(k, now)
	}
	r.Count++
	r.Last, r.Detail = now, strings.ToValidUTF8(detail, "?")
	if !r.told.IsZero() && now.Sub(r.told) < tellEvery {
		return
	}
	if now.Sub(t.window) >= tellWindow {
		t.window, t.burst = now, 0
	}
	if t.burst >= tellBurst {
		return
	}
	t.burst++
	r.told = now
	t.tell(*r)
}

// insert makes a row, and room for it.
func (t *Table) insert(k Key, now time.Time) *Row {
	named := k.Peer != "" || k.Source.IsValid()
	if named && t.named >= maxRows {
		var quiet *Row
		for _, r := range t.rows {
			if (r.Peer != "" || r.Source.IsValid()) && (quiet == nil || compare(*r, *quiet) < 0) {
				quiet = r
			}
		}
		sum := Key{Channel: quiet.Channel, Reason: quiet.Reason}
		if t.rows[sum] == nil {
			t.rows[sum] = &Row{Key: sum, First: quiet.First, told: quiet.told}
		}
		s := t.rows[sum]
		s.Count += quiet.Count
		if quiet.First.Before(s.First) {
			s.First = quiet.First
		}
		if quiet.Last.After(s.Last) {
			s.Last, s.Detail = quiet.Last, quiet.Detail
		}
		delete(t.rows, quiet.Key)
		t.named--
	}
	r := &Row{Key: k, First: now}
	t.rows[k] = r
	if named {
		t.named++
	}
	return r
}

// compare orders rows by their last refusal, then by key.
func compare(a, b Row) int {
	return cmp.Or(a.Last.Compare(b.Last), strings.Compare(a.Channel, b.Channel), strings.Compare(a.Reason, b.Reason),
		strings.Compare(a.Peer, b.Peer), a.Source.Compare(b.Source))
}

// printable reports whether s can be a name: 1 to 63 printable ASCII characters.
func printable(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 63
}

// Latest returns the row with the latest refusal under the name peer.
func (t *Table) Latest(peer string) (latest Row, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.rows {
		if r.Peer == peer && (!ok || compare(latest, *r) < 0) {
			latest, ok = *r, true
		}
	}
	return latest, ok
}

// Rows returns the table, the latest refusal first.
func (t *Table) Rows() []Row {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Row, 0, len(t.rows))
	for _, r := range t.rows {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b Row) int { return compare(b, a) })
	return out
}
