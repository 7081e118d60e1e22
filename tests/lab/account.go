package lab

import (
	"fmt"
	"slices"
	"time"
)

// account is one direction of a stream: when each packet was sent, in nanoseconds
// since the stream began, and what became of it, both by sequence number.
type account struct {
	sent []int64
	got  []receipt // at least as many as sent
}

// receipt is what the receiver knows of one packet. Its layout is that of the
// kernel's map (see receiver_linux.go).
type receipt struct {
	At        int64  // first receipt, nanoseconds; 0: none
	Dups      uint32 // further receipts
	Reordered uint32 // 1: came behind a packet with a higher number
}

// complete reports whether the last packet arrived.
func (a *account) complete() bool {
	n := len(a.sent)
	return n == 0 || a.got[n-1].At != 0
}

// settle is how long packets may be under way before they count as lost.
const settle = 500 * time.Millisecond

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
	var last, delay int64
	first := true
	for i, s := range a.sent {
		if s < from || s >= to {
			continue
		}
		d.Sent++
		g := a.got[i]
		d.Duplicates += int(g.Dups)
		d.Reordered += int(g.Reordered)
		if g.At == 0 {
			d.Lost++
			d.LostList = append(d.LostList, LostPacket{i, epoch.Add(time.Duration(s))})
			continue
		}
		d.Received++
		delay += g.At - s
		d.DelayMaxMS = max(d.DelayMaxMS, ms(g.At-s))
		// Behind a later packet: no gap of its own.
		if !first && g.At > last {
			d.MaxGapMS = max(d.MaxGapMS, ms(g.At-last))
		}
		if first || g.At > last {
			last, first = g.At, false
		}
	}
	if d.Received > 0 {
		d.DelayAvgMS = ms(delay / int64(d.Received))
	}
	return d
}

// first returns how long after t the first packet sent at or after t arrived; ok
// is false if none did.
func (a *account) first(t int64) (d time.Duration, ok bool) {
	best := int64(-1)
	for i, s := range a.sent {
		if g := a.got[i].At; s >= t && g != 0 && (best < 0 || g < best) {
			best = g
		}
	}
	return time.Duration(best - t), best >= 0
}

// outage returns how long after t the longest silence of the receiver ended; ok is
// false if it did not. Packets that slip through while a fault is being made (the
// cables of a machine are cut one after the other) do not end it. The last ones sent
// may still be under way: a silence that lasts counts from settle on.
func (a *account) outage(t int64) (d time.Duration, ok bool) {
	var at []int64
	last := t // when the last packet was sent
	for i, s := range a.sent {
		if s < t {
			continue
		}
		last = s
		if g := a.got[i].At; g != 0 {
			at = append(at, g)
		}
	}
	if len(at) == 0 {
		return 0, false
	}
	slices.Sort(at)
	prev, longest := t, int64(-1)
	for _, g := range at {
		if g-prev > longest {
			longest, d = g-prev, time.Duration(g-t)
		}
		prev = g
	}
	return d, last-prev <= max(longest, int64(settle))
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
		if a.got[i].At != 0 {
			k.Received++
		}
	}
	return b
}
