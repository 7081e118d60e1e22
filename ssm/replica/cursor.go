package replica

import (
	"fmt"
	"time"

	peerv1 "github.com/shadowcast/shadowcast/api/peer/v1"
)

// resume puts the cursor behind the change seq, which the shadow says it has
// applied, and reports false where an inventory is needed instead.
func (s *state) resume(c *cursor, seq uint64, now time.Time) bool {
	if seq < s.floor || seq > s.seq {
		return false
	}
	p, n := s.ring.prev, 0
	for ; p != &s.ring && p.seq > seq; p = p.prev {
		p.had |= c.bit // it may have been sent: a deletion must not be left out
		n++
	}
	c.sent, c.acked, c.sentSeq, c.ackedSeq, c.flightSeq, c.pending = p, p, seq, seq, seq, n
	c.snapshot, c.have = false, nil
	c.settle(s, now)
	// Samples in flight may be lost.
	c.ssentSeq, c.sinflight = c.sackSeq, nil
	c.ssent = s.sring.prev
	for c.ssent != &s.sring && c.ssent.seq > c.sackSeq {
		c.ssent = c.ssent.prev
	}
	s.dropTombs()
	return true
}

// begin starts a snapshot: the shadow holds have. It returns what the shadow
// must delete.
func (s *state) begin(c *cursor, have map[string]Hash, now time.Time) (strays []string) {
	for _, e := range s.entries {
		e.had &^= c.bit
	}
	for id := range have {
		e := s.entries[id]
		if e == nil || e.want&c.bit == 0 {
			strays = append(strays, id)
			delete(have, id)
			continue
		}
		e.had |= c.bit
	}
	c.have, c.snapshot, c.base = have, true, s.seq
	c.sent, c.acked, c.sentSeq, c.ackedSeq, c.flightSeq, c.pending = &s.ring, &s.ring, 0, 0, 0, s.length
	if c.behind.IsZero() && c.pending > 0 {
		c.behind = now
	}
	c.ssent, c.ssentSeq, c.sackSeq, c.sinflight = &s.sring, 0, 0, nil
	c.snapshots++
	return strays
}

// lost reports that changes the shadow was never sent are gone from the order.
func (s *state) lost(c *cursor) bool {
	reached := c.sentSeq
	if c.snapshot {
		reached = max(reached, c.base)
	}
	return s.floor > reached
}

// caughtUp reports that nothing is left to be sent.
func (s *state) caughtUp(c *cursor) bool { return c.sent.next == &s.ring && !c.snapshot }

// collect appends the next changes for the shadow to out and moves the cursor
// past them. More may follow.
func (s *state) collect(c *cursor, out *outbox) {
	for n := 0; n < scanItems && !out.full(); n++ {
		e := c.sent.next
		if e == &s.ring || c.snapshot && e.seq > c.base {
			break
		}
		c.sent, c.sentSeq = e, e.seq
		if e.want&c.bit != 0 {
			if h, ok := c.have[e.id]; !ok || h != e.hash {
				out.put(e)
			}
			e.had |= c.bit
		} else if e.had&c.bit != 0 {
			out.remove(e.id, e.seq)
			e.had &^= c.bit
		}
	}
	if out.used > 0 {
		c.flightSeq, out.msg.Upto = c.sentSeq, c.sentSeq
	}
}

// endSnapshot reports whether the snapshot is sent whole, and then ends it.
func (s *state) endSnapshot(c *cursor) bool {
	if !c.snapshot || c.sent.next != &s.ring && c.sent.next.seq <= c.base {
		return false
	}
	c.snapshot, c.have = false, nil
	c.sentSeq = max(c.sentSeq, c.base)
	c.flightSeq = c.sentSeq
	return true
}

// ack moves the place up to which everything is acknowledged.
func (s *state) ack(c *cursor, upto uint64, now time.Time) error {
	if upto > c.sentSeq {
		return fmt.Errorf("acknowledges change %d, the last one sent is %d", upto, c.sentSeq)
	}
	if upto >= c.flightSeq && !c.snapshot {
		upto = c.sentSeq // what was passed since the last message was not for this shadow
	}
	if upto <= c.ackedSeq {
		return nil
	}
	for n := c.acked.next; n != &s.ring && n.seq <= upto; n = n.next {
		c.acked = n
		c.pending--
	}
	c.ackedSeq = upto
	c.settle(s, now)
	s.dropTombs()
	return nil
}

// settle brings behind up to date after ackedSeq moved.
func (c *cursor) settle(s *state, now time.Time) {
	if c.pending == 0 {
		c.behind = time.Time{}
		return
	}
	if at, ok := s.marks.at(c.ackedSeq + 1); ok && (c.behind.IsZero() || at.After(c.behind)) {
		c.behind = at
	}
	if c.behind.IsZero() {
		c.behind = now
	}
}

// reached reports whether every change up to seq is acknowledged.
func (s *state) reached(c *cursor, seq, sseq uint64) bool {
	n := c.acked.next
	return !c.snapshot && (n == &s.ring || n.seq > seq) && c.sackSeq >= sseq
}

// outbox collects the changes of one message. Its messages are used again.
type outbox struct {
	msg   peerv1.Changes
	slab  []peerv1.Change
	hash  []Hash
	used  int
	bytes int
}

func (o *outbox) reset() {
	clear(o.msg.Changes) // the documents are not ours to keep
	for i := range o.slab[:o.used] {
		o.slab[i].Doc, o.slab[i].Hash, o.slab[i].Id = nil, nil, ""
	}
	o.msg.Changes, o.msg.Upto, o.used, o.bytes = o.msg.Changes[:0], 0, 0, 0
}

func (o *outbox) full() bool { return o.used == batchItems || o.bytes >= batchBytes }

func (o *outbox) next() *peerv1.Change {
	if o.slab == nil {
		o.slab, o.hash = make([]peerv1.Change, batchItems), make([]Hash, batchItems)
	}
	c := &o.slab[o.used]
	o.used++
	o.msg.Changes = append(o.msg.Changes, c)
	return c
}

func (o *outbox) put(e *entry) {
	c := o.next()
	// The document is immutable. The hash is copied: its entry may change while
	// the message is being encoded.
	h := &o.hash[o.used-1]
	*h = e.hash
	c.Seq, c.Id, c.Delete, c.Hash, c.Doc = e.seq, e.id, false, h[:], e.doc
	o.bytes += len(e.doc) + len(e.id) + 64
}

func (o *outbox) remove(id string, seq uint64) {
	c := o.next()
	c.Seq, c.Id, c.Delete, c.Hash, c.Doc = seq, id, true, nil, nil
	o.bytes += len(id) + 64
}
