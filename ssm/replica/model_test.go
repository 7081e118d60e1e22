package replica

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/shadowcast/shadowcast/sa"
)

// far is a shadow in the model: what it has applied, and messages on their way.
type far struct {
	c       *cursor
	up      bool // connected
	docs    map[string]Hash
	epochOK bool // it may resume at seq
	seq     uint64
	flight  []func() uint64 // applies one message, returns what it acknowledges
	acks    []uint64
}

// TestStateAgainstModel drives the state with changes, deliveries in order,
// losses of the stream, shadows without memory, changes of selection and few
// tombstones. Once everything is delivered, each shadow must hold exactly what
// it should, and the bookkeeping must agree with a recount.
func TestStateAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newState(rapid.IntRange(0, 4).Draw(t, "tombstones"))
		now := time.Unix(1, 0)
		docs := map[string]Hash{}
		wants := map[string]uint8{}
		fars := []*far{{}, {}, {}}
		for _, f := range fars {
			f.c, f.docs = s.addCursor(now), map[string]Hash{}
		}
		id := rapid.Custom(func(t *rapid.T) string { return fmt.Sprint("s", rapid.IntRange(0, 9).Draw(t, "id")) })

		connect := func(f *far) {
			f.up, f.flight, f.acks = true, nil, nil
			if f.epochOK && s.resume(f.c, f.seq, now) {
				return
			}
			have := map[string]Hash{}
			for id, h := range f.docs {
				have[id] = h
			}
			f.epochOK = false
			strays := s.begin(f.c, have, now)
			f.flight = append(f.flight, func() uint64 {
				for _, id := range strays {
					delete(f.docs, id)
				}
				f.seq = 0
				return 0
			})
		}
		send := func(f *far) bool {
			if s.lost(f.c) {
				f.up = false
				connect(f)
				return true
			}
			var o outbox
			s.collect(f.c, &o)
			if o.used > 0 {
				upto := o.msg.Upto
				f.flight = append(f.flight, func() uint64 {
					for _, c := range o.msg.Changes {
						if c.Delete {
							delete(f.docs, c.Id)
						} else {
							f.docs[c.Id] = Hash(c.Hash)
						}
					}
					f.seq = upto
					return upto
				})
				return true
			}
			if s.endSnapshot(f.c) {
				base := f.c.base
				f.flight = append(f.flight, func() uint64 { f.epochOK, f.seq = true, base; return base })
				return true
			}
			if !f.c.snapshot && f.c.sentSeq > f.c.ackedSeq && f.c.ackedSeq >= f.c.flightSeq {
				if err := s.ack(f.c, f.c.sentSeq, now); err != nil {
					t.Fatal(err)
				}
			}
			return !s.caughtUp(f.c)
		}
		deliver := func(f *far) {
			if len(f.flight) > 0 {
				f.acks = append(f.acks, f.flight[0]())
				f.flight = f.flight[1:]
			}
		}
		ack := func(f *far) {
			if len(f.acks) > 0 {
				if err := s.ack(f.c, f.acks[0], now); err != nil {
					t.Fatal(err)
				}
				f.acks = f.acks[1:]
			}
		}
		check := func() {
			n, last := 0, uint64(0)
			for e := s.ring.next; e != &s.ring; e = e.next {
				if n++; e.seq <= last || s.entries[e.id] != e || e.next.prev != e {
					t.Fatalf("order broken at %s seq %d after %d", e.id, e.seq, last)
				}
				last = e.seq
			}
			if n != s.length || n != len(s.entries) || s.live != len(docs) {
				t.Fatalf("%d in order, %d counted, %d entries, %d live of %d", n, s.length, len(s.entries), s.live, len(docs))
			}
			for i, f := range fars {
				pending, sessions := 0, 0
				var d Digest
				for e := s.ring.next; e != &s.ring; e = e.next {
					if e.seq > f.c.ackedSeq {
						pending++
					}
					if !e.deleted && e.want&f.c.bit != 0 {
						d.Toggle(e.id, e.hash)
						sessions++
					}
				}
				if pending != f.c.pending || sessions != f.c.sessions || d != f.c.digest {
					t.Fatalf("shadow %d: pending %d counted %d, sessions %d counted %d, digest %v counted %v",
						i, pending, f.c.pending, sessions, f.c.sessions, d, f.c.digest)
				}
				if (f.c.pending == 0) != f.c.behind.IsZero() {
					t.Fatalf("shadow %d: %d pending, behind since %v", i, f.c.pending, f.c.behind)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { now = now.Add(time.Millisecond); check() },
			"put": func(t *rapid.T) {
				id, h, want := id.Draw(t, "id"), Hash{byte(rapid.IntRange(0, 3).Draw(t, "doc"))}, uint8(rapid.IntRange(0, 7).Draw(t, "want"))
				s.put(id, []byte{1}, h, want, now)
				docs[id], wants[id] = h, want
			},
			"delete": func(t *rapid.T) {
				id := id.Draw(t, "id")
				if _, ok := docs[id]; ok != s.remove(id, now) {
					t.Fatal("remove disagrees")
				}
				delete(docs, id)
				delete(wants, id)
			},
			"select": func(t *rapid.T) {
				id, want := id.Draw(t, "id"), uint8(rapid.IntRange(0, 7).Draw(t, "want"))
				if e := s.entries[id]; e != nil && !e.deleted {
					s.retarget(e, want, now)
					wants[id] = want
				}
			},
			"connect": func(t *rapid.T) {
				f := rapid.SampledFrom(fars).Draw(t, "shadow")
				f.up = false
				f.c.have = nil
				connect(f)
			},
			"deliver on the old stream, then lose it": func(t *rapid.T) {
				f := rapid.SampledFrom(fars).Draw(t, "shadow")
				deliver(f)
				f.up, f.flight, f.acks = false, nil, nil
			},
			"lose the memory": func(t *rapid.T) {
				f := rapid.SampledFrom(fars).Draw(t, "shadow")
				f.up, f.flight, f.acks, f.epochOK = false, nil, nil, false
				if rapid.Bool().Draw(t, "and the sessions") {
					f.docs = map[string]Hash{}
				}
			},
			"send": func(t *rapid.T) {
				if f := rapid.SampledFrom(fars).Draw(t, "shadow"); f.up {
					send(f)
				}
			},
			"deliver": func(t *rapid.T) { deliver(rapid.SampledFrom(fars).Draw(t, "shadow")) },
			"ack":     func(t *rapid.T) { ack(rapid.SampledFrom(fars).Draw(t, "shadow")) },
		})
		for i, f := range fars {
			if !f.up {
				connect(f)
			}
			for send(f) || len(f.flight)+len(f.acks) > 0 {
				deliver(f)
				ack(f)
			}
			check()
			if !s.reached(f.c, s.seq, 0) {
				t.Fatalf("shadow %d did not reach the end: acked %d of %d", i, f.c.ackedSeq, s.seq)
			}
			n := 0
			for id, h := range docs {
				if wants[id]&f.c.bit != 0 {
					if n++; f.docs[id] != h {
						t.Fatalf("shadow %d: %s is %v, want %v", i, id, f.docs[id], h)
					}
				}
			}
			if n != len(f.docs) {
				t.Fatalf("shadow %d holds %d sessions, want %d", i, len(f.docs), n)
			}
		}
	})
}

func TestSamples(t *testing.T) {
	s := newState(10)
	now := time.Unix(1, 0)
	c := s.addCursor(now)
	dst := netip.MustParseAddr("192.0.2.1")
	s.put("a", []byte{1}, Hash{1}, c.bit, now)
	s.put("not for it", []byte{1}, Hash{1}, 0, now)
	one := func(session string, spi sa.SPI, seq uint64) int {
		return s.addSamples([]Sample{{Session: session, SPI: spi, Dst: dst, InSeq: seq}}, now)
	}
	if one("unknown", 1, 1) != 1 {
		t.Fatal("a sample of an unknown session was kept")
	}
	one("a", 1, 5)
	one("a", 1, 6)
	one("not for it", 2, 7)
	one("", 3, 8)
	m := s.collectSamples(c, now.Add(time.Second))
	if len(m.Samples) != 2 || m.Samples[0].InSeq != 6 || m.Samples[1].InSeq != 8 || m.AgeMicros != 1e6 {
		t.Fatalf("batch %v", m)
	}
	if s.collectSamples(c, now) != nil {
		t.Fatal("sent twice")
	}
	s.ackSamples(c, m.Seq+1)
	if !c.sampledAt.IsZero() {
		t.Fatal("took an acknowledgement of what was never sent")
	}
	s.ackSamples(c, m.Seq)
	if c.sampledAt != now {
		t.Fatalf("sampled at %v, want %v", c.sampledAt, now)
	}
	later := now.Add(time.Second)
	s.addSamples(nil, later)
	if m = s.collectSamples(c, later); m == nil || len(m.Samples) != 0 {
		t.Fatalf("an empty call gave %v", m)
	}
	s.ackSamples(c, m.Seq)
	if c.sampledAt != later {
		t.Fatal("an empty call did not renew the age")
	}
	// Both kinds are bounded, and a session's samples end with it.
	for i := range 10 * MaxSamples {
		one("a", sa.SPI(1000+i), 1)
		one("", sa.SPI(5000+i), 1)
	}
	if n := len(s.entries["a"].samples); n != MaxSamples {
		t.Fatalf("%d samples of a session, want %d", n, MaxSamples)
	}
	if s.loose > MaxSamples+4*s.live {
		t.Fatalf("%d samples without a session", s.loose)
	}
	s.remove("a", now)
	s.remove("not for it", now)
	one("", 3, 9)
	n := 0
	for x := s.sring.next; x != &s.sring; x = x.next {
		n++
	}
	if n != s.loose || n != len(s.samples) || n > MaxSamples {
		t.Fatalf("%d samples in order, %d without a session, %d known", n, s.loose, len(s.samples))
	}
}
