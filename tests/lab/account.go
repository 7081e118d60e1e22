package lab

import (
	"fmt"
	"time"
)

// account is one direction of a stream: when each packet was sent and first
// received, in nanoseconds since the stream began, by sequence number.
//
// The sender alone calls send, the receiver alone receive; they and report must
// not overlap (Stream holds a lock).
type account struct {
	sent     []int64
	got      []int64 // 0: not yet
	dups     []event // receipts of what had been received
	reorders []event // first receipts behind a higher number
	high     int     // highest number received, -1 for none
	received int     // different packets
	unknown  int     // numbers that were never sent
}

type event struct {
	at  int64
	seq int
}

func newAccount(n int) *account {
	return &account{sent: make([]int64, 0, n), got: make([]int64, 0, n), high: -1}
}

// send records that the next packet leaves at t and returns its number.
func (a *account) send(t int64) int {
	a.sent = append(a.sent, t)
	a.got = append(a.got, 0)
	return len(a.sent) - 1
}

// receive records the receipt of packet seq at t. A receipt at 0 counts as 1 ns.
func (a *account) receive(seq uint64, t int64) {
	if seq >= uint64(len(a.sent)) {
		a.unknown++
		return
	}
	i := int(seq)
	if a.got[i] != 0 {
		a.dups = append(a.dups, event{t, i})
		return
	}
	a.got[i] = max(t, 1)
	a.received++
	if i < a.high {
		a.reorders = append(a.reorders, event{t, i})
	} else {
		a.high = i
	}
}

// LostPacket is a packet that never arrived.
type LostPacket struct {
	Seq  int       `json:"seq"`
	Sent time.Time `json:"sent"`
}

// Direction is the account of the packets sent one way in a span of time.
type Direction struct {
	Sent       int          `json:"sent"`
	Received   int          `json:"received"`
	Lost       int          `json:"lost"`
	Duplicates int          `json:"duplicates"`
	Reordered  int          `json:"reordered"`
	MaxGapMS   float64      `json:"max_gap_ms"` // between two receipts in a row
	DelayMaxMS float64      `json:"delay_max_ms"`
	DelayAvgMS float64      `json:"delay_avg_ms"`
	LostList   []LostPacket `json:"lost_list,omitempty"`
}

func (d Direction) String() string {
	return fmt.Sprintf("sent %d lost %d dup %d reord %d gap %.1f ms", d.Sent, d.Lost, d.Duplicates, d.Reordered, d.MaxGapMS)
}

// report accounts for the packets sent in [from, to), nanoseconds since epoch.
// Duplicates and reorders count by their sending time too. The gap is measured
// over the receipts of these packets, in order of receipt.
func (a *account) report(epoch time.Time, from, to int64) Direction {
	var d Direction
	in := func(i int) bool { return a.sent[i] >= from && a.sent[i] < to }
	var last, delay int64
	first := true
	for i, s := range a.sent {
		if !in(i) {
			continue
		}
		d.Sent++
		g := a.got[i]
		if g == 0 {
			d.Lost++
			d.LostList = append(d.LostList, LostPacket{i, epoch.Add(time.Duration(s))})
			continue
		}
		d.Received++
		delay += g - s
		d.DelayMaxMS = max(d.DelayMaxMS, ms(g-s))
		// Behind a later packet: no gap of its own.
		if !first && g > last {
			d.MaxGapMS = max(d.MaxGapMS, ms(g-last))
		}
		if first || g > last {
			last, first = g, false
		}
	}
	if d.Received > 0 {
		d.DelayAvgMS = ms(delay / int64(d.Received))
	}
	for _, e := range a.dups {
		if in(e.seq) {
			d.Duplicates++
		}
	}
	for _, e := range a.reorders {
		if in(e.seq) {
			d.Reordered++
		}
	}
	return d
}

// outage returns how long after t the first packet sent at or after t arrived; ok
// is false if none did.
func (a *account) outage(t int64) (d time.Duration, ok bool) {
	best := int64(-1)
	for i, s := range a.sent {
		if g := a.got[i]; s >= t && g != 0 && (best < 0 || g < best) {
			best = g
		}
	}
	return time.Duration(best - t), best >= 0
}

func ms(ns int64) float64 { return float64(ns/1000) / 1000 }

// Bucket is one point of a timeline: packets sent in it, and how many of them
// arrived.
type Bucket struct {
	AtMS     int64 `json:"at_ms"` // since the beginning of the timeline
	Sent     int   `json:"sent"`
	Received int   `json:"received"`
}

// timeline sums the packets sent in [from, to) up in steps of width.
func (a *account) timeline(from, to int64, width time.Duration) []Bucket {
	if to <= from || width <= 0 {
		return nil
	}
	b := make([]Bucket, (to-from+int64(width)-1)/int64(width))
	for i := range b {
		b[i].AtMS = int64(i) * width.Milliseconds()
	}
	for i, s := range a.sent {
		if s < from || s >= to {
			continue
		}
		k := &b[(s-from)/int64(width)]
		k.Sent++
		if a.got[i] != 0 {
			k.Received++
		}
	}
	return b
}
