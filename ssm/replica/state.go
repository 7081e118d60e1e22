package replica

import (
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// state is what an owner must be able to send about one slot: every session
// once, in the order of its last change, and for each shadow two places in that
// order. It has no goroutine, lock or clock.
//
// The order is a ring of entries with rising seq. A change moves its entry to the
// end, so that what a shadow lacks is what follows its place, and a session that
// changed ten times meanwhile is sent once. Deleted sessions stay as tombstones
// until every shadow has them, or until there are too many; floor is the highest
// seq whose tombstone is gone, and a shadow behind it needs an inventory.
type state struct {
	entries map[string]*entry
	ring    entry  // ring.next is the oldest change, ring.prev the newest
	seq     uint64 // of the newest change
	length  int    // entries in the ring
	live    int    // of them sessions
	floor   uint64
	tombs   []tomb // oldest first; stale where the entry lives again
	maxDead int
	marks   marks

	samples map[sampleKey]*sample
	sring   sample
	sseq    uint64
	sampled time.Time // of the last call of addSamples
	unbound entry     // stands for the session of samples without one
	loose   int       // samples of unbound

	cursors [MaxShadows]*cursor
}

// entry is one session, or its tombstone.
type entry struct {
	id         string
	doc        []byte
	hash       Hash
	seq        uint64
	prev, next *entry
	want, had  uint8 // by cursor: should hold it; may hold it
	deleted    bool
	samples    []*sample
}

type tomb struct {
	e   *entry
	seq uint64
}

type sampleKey struct {
	spi sa.SPI
	dst [16]byte
}

// sample is the last state of one SA, in the order of sampling.
type sample struct {
	Sample
	of         *entry
	seq        uint64
	prev, next *sample
}

// cursor is what one shadow has been sent and has acknowledged.
type cursor struct {
	bit                uint8
	sent, acked        *entry // last of the ring, or the ring itself
	sentSeq, ackedSeq  uint64
	flightSeq          uint64          // of the last message; what was passed since needs no sending
	pending            int             // entries after acked
	behind             time.Time       // when the oldest change after acked was made; zero for none
	digest             Digest          // of what the shadow should hold
	sessions           int             // it should hold
	have               map[string]Hash // while a snapshot is sent: what need not be
	snapshot           bool
	base               uint64 // the snapshot brings the shadow to here
	ssent              *sample
	ssentSeq, sackSeq  uint64
	sinflight          []flight
	sampledAt          time.Time // of the newest samples that were acknowledged whole
	repairs, snapshots uint64
}

// flight is a batch of samples that was sent and brings a shadow up to date.
type flight struct {
	seq uint64
	at  time.Time
}

func newState(maxDead int) *state {
	s := &state{entries: map[string]*entry{}, samples: map[sampleKey]*sample{}, maxDead: maxDead}
	s.ring.prev, s.ring.next = &s.ring, &s.ring
	s.sring.prev, s.sring.next = &s.sring, &s.sring
	s.unbound.want = 0xff // whoever shadows the slot
	return s
}

// put makes doc the session's document and reports whether anything changed.
func (s *state) put(id string, doc []byte, h Hash, want uint8, now time.Time) bool {
	e := s.entries[id]
	switch {
	case e == nil:
		e = &entry{id: id}
		s.entries[id] = e
		s.live++
	case e.deleted:
		e.deleted = false
		s.unlink(e)
		s.live++
	case e.hash == h && e.want == want:
		return false
	default:
		s.count(e, -1)
		s.unlink(e)
	}
	e.doc, e.hash, e.want = doc, h, want
	s.count(e, 1)
	s.push(e, now)
	return true
}

// remove makes the session a tombstone and reports whether it was there.
func (s *state) remove(id string, now time.Time) bool {
	e := s.entries[id]
	if e == nil || e.deleted {
		return false
	}
	s.count(e, -1)
	s.unlink(e)
	for _, x := range e.samples {
		s.unlinkSample(x)
		delete(s.samples, x.key())
	}
	e.doc, e.hash, e.samples, e.want, e.deleted = nil, Hash{}, nil, 0, true
	s.live--
	s.push(e, now)
	s.tombs = append(s.tombs, tomb{e, e.seq})
	s.dropTombs()
	return true
}

// retarget sets who should hold a session and sends the difference.
func (s *state) retarget(e *entry, want uint8, now time.Time) {
	if e.deleted || e.want == want {
		return
	}
	s.count(e, -1)
	e.want = want
	s.count(e, 1)
	s.unlink(e)
	s.push(e, now)
}

// count adds e (by 1) to, or removes it (by -1) from, what those hold who should.
func (s *state) count(e *entry, by int) {
	if e.want == 0 {
		return
	}
	var d Digest
	d.Toggle(e.id, e.hash)
	for _, c := range s.cursors {
		if c != nil && e.want&c.bit != 0 {
			c.count(d, by)
		}
	}
}

func (c *cursor) count(d Digest, by int) {
	for i := range d {
		c.digest[i] ^= d[i]
	}
	c.sessions += by
}

// push appends e to the order as the newest change.
func (s *state) push(e *entry, now time.Time) {
	s.seq++
	e.seq = s.seq
	e.prev, e.next = s.ring.prev, &s.ring
	e.prev.next, s.ring.prev = e, e
	s.length++
	s.marks.add(e.seq, now)
	for _, c := range s.cursors {
		if c == nil {
			continue
		}
		c.pending++
		if c.behind.IsZero() {
			c.behind = now
		}
	}
}

// unlink takes e out of the order.
func (s *state) unlink(e *entry) {
	for _, c := range s.cursors {
		if c == nil {
			continue
		}
		if c.sent == e {
			c.sent = e.prev
		}
		if c.acked == e {
			c.acked = e.prev
		}
		if e.seq > c.ackedSeq {
			c.pending--
		}
	}
	e.prev.next, e.next.prev = e.next, e.prev
	e.prev, e.next = nil, nil
	s.length--
}

// dropTombs removes the tombstones that every shadow has, and the oldest where
// there are too many.
func (s *state) dropTombs() {
	least := s.seq
	for _, c := range s.cursors {
		if c != nil {
			least = min(least, c.ackedSeq)
		}
	}
	for len(s.tombs) > 0 {
		t := s.tombs[0]
		if t.e.deleted && t.e.seq == t.seq {
			if t.seq > least && len(s.tombs) <= s.maxDead {
				break
			}
			s.unlink(t.e)
			delete(s.entries, t.e.id)
			s.floor = t.seq
		}
		s.tombs[0] = tomb{}
		s.tombs = s.tombs[1:]
	}
	if len(s.tombs) == 0 {
		s.tombs = nil
	}
	for _, c := range s.cursors {
		if c != nil && c.pending == 0 {
			c.behind = time.Time{}
		}
	}
}

// addCursor makes room for a shadow; nil where all places are taken.
func (s *state) addCursor(now time.Time) *cursor {
	for i := range s.cursors {
		if s.cursors[i] != nil {
			continue
		}
		c := &cursor{bit: 1 << i, sent: &s.ring, acked: &s.ring, ssent: &s.sring, pending: s.length}
		if c.pending > 0 {
			c.behind = now
		}
		s.cursors[i] = c
		return c
	}
	return nil
}

// dropCursor forgets a shadow.
func (s *state) dropCursor(c *cursor) {
	for i := range s.cursors {
		if s.cursors[i] == c {
			s.cursors[i] = nil
		}
	}
	for _, e := range s.entries {
		e.want &^= c.bit
		e.had &^= c.bit
	}
	s.dropTombs()
}

// each calls f for every live session. f may retarget it.
func (s *state) each(f func(*entry)) {
	for _, e := range s.entries {
		if !e.deleted {
			f(e)
		}
	}
}

// aim sets who should hold every session from scratch, for a new cursor whose
// shadow has been sent nothing.
func (s *state) aim(c *cursor, wanted func(id string) bool) {
	s.each(func(e *entry) {
		if !wanted(e.id) {
			return
		}
		e.want |= c.bit
		var d Digest
		d.Toggle(e.id, e.hash)
		c.count(d, 1)
	})
}

// marks remembers when changes were made, coarsely, so that the age of the
// oldest change behind a place in the order is known without a time per entry.
type marks struct {
	m    [1024]mark
	next int
}

type mark struct {
	seq uint64
	at  time.Time
}

// markEvery bounds how finely marks are set.
const markEvery = 5 * time.Millisecond

func (m *marks) add(seq uint64, now time.Time) {
	last := &m.m[(m.next+len(m.m)-1)%len(m.m)]
	if last.seq != 0 && now.Sub(last.at) < markEvery {
		return
	}
	m.m[m.next] = mark{seq, now}
	m.next = (m.next + 1) % len(m.m)
}

// at returns a time at or shortly before the change seq was made; false where
// that is too long ago to be known.
func (m *marks) at(seq uint64) (time.Time, bool) {
	for i := 1; i <= len(m.m); i++ {
		k := m.m[(m.next+len(m.m)-i)%len(m.m)]
		if k.seq == 0 {
			break
		}
		if k.seq <= seq {
			return k.at, true
		}
	}
	return time.Time{}, false
}
