package peer

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/shadowcast/shadowcast/sa"
)

var testKey = sa.Key("0123456789abcdef0123456789abcdef")

func testLink(t testing.TB, self, name string, own uint64, key sa.Key) *link {
	t.Helper()
	aead, err := newAEAD(key)
	if err != nil {
		t.Fatal(err)
	}
	return &link{self: self, name: name, own: own, aead: aead}
}

// deliver opens a copy of b at l the way receive does.
func deliver(l *link, b []byte, now time.Duration) (opened, Reason) {
	h, rest, r := parse(bytes.Clone(b))
	if r != accepted {
		return opened{}, r
	}
	if string(h.sender) != l.name {
		return opened{}, ReasonUnknownSender
	}
	return l.open(h, rest, now)
}

// shake brings two links to the state where both are confirmed.
func shake(t testing.TB, a, b *link, now time.Duration) {
	t.Helper()
	for range 3 {
		deliver(b, a.seal(1, nil, now), now)
		deliver(a, b.seal(1, nil, now), now)
	}
	if !a.confirmed || !b.confirmed {
		t.Fatal("links not confirmed after three exchanges")
	}
}

func TestWindowAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w window
		heard := map[uint64]bool{}
		var top uint64
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			seq := rapid.OneOf(
				rapid.Uint64Range(1, 4096),
				rapid.Uint64Range(max(top, 50)-49, top+50),
				rapid.Uint64Range(top+1, top+3000),
			).Draw(t, "seq")
			want := seq > top || !heard[seq] && top-seq < windowSize
			if got := w.fresh(seq); got != want {
				t.Fatalf("fresh(%d) with top %d = %v, want %v", seq, top, got, want)
			}
			if want {
				w.add(seq)
				heard[seq], top = true, max(top, seq)
			}
		}
	})
}

func TestFirstContact(t *testing.T) {
	a, b := testLink(t, "ams", "fra", 100, testKey), testLink(t, "fra", "ams", 200, testKey)
	now := time.Second
	// a's claim finds b without memory: unconfirmed, and b answers.
	o, r := deliver(b, a.seal(2, []byte("claim"), now), now)
	if r != ReasonUnconfirmed || !o.answer {
		t.Fatalf("first datagram: %v, answer %v", r, o.answer)
	}
	// The answer confirms b at a, and a answers because b is new to it.
	o, r = deliver(a, b.seal(kindEcho, nil, now), now)
	if r != accepted || !o.answer || !a.confirmed {
		t.Fatalf("first answer: %v, answer %v, confirmed %v", r, o.answer, a.confirmed)
	}
	o, r = deliver(b, a.seal(kindEcho, nil, now), now)
	if r != accepted || o.answer || !b.confirmed {
		t.Fatalf("second answer: %v, answer %v, confirmed %v", r, o.answer, b.confirmed)
	}
	o, r = deliver(b, a.seal(2, []byte("claim"), now), now)
	if r != accepted || string(o.payload) != "claim" || !o.restarted {
		t.Fatalf("repeated claim: %v %q restarted %v", r, o.payload, o.restarted)
	}
	if o, _ = deliver(b, a.seal(2, nil, now), now); o.restarted {
		t.Fatal("second payload announced as a restart too")
	}
}

func TestRefusals(t *testing.T) {
	const now = time.Second
	foreign := sa.Key("fedcba9876543210fedcba9876543210")
	tests := []struct {
		name string
		make func(a, b *link) []byte
		want Reason
	}{
		{"empty", func(a, b *link) []byte { return nil }, ReasonTruncated},
		{"header only", func(a, b *link) []byte { return a.seal(1, nil, now)[:23] }, ReasonTruncated},
		{"cut in the tag", func(a, b *link) []byte { d := a.seal(1, nil, now); return d[:len(d)-1] }, ReasonTruncated},
		{"cut in the payload", func(a, b *link) []byte { d := a.seal(1, []byte("abc"), now); return d[:len(d)-1] }, ReasonAuthentication},
		{"oversized", func(a, b *link) []byte { return make([]byte, maxDatagram+1) }, ReasonOversized},
		{"old version", func(a, b *link) []byte { d := a.seal(1, nil, now); d[0] = 0; return d }, ReasonVersion},
		{"new version", func(a, b *link) []byte { d := a.seal(1, nil, now); d[0] = 2; return d }, ReasonVersion},
		{"reserved octet", func(a, b *link) []byte { d := a.seal(1, nil, now); d[3] = 1; return d }, ReasonHeader},
		{"no name", func(a, b *link) []byte { d := a.seal(1, nil, now); d[2] = 0; return d }, ReasonHeader},
		{"long name", func(a, b *link) []byte { d := a.seal(1, nil, now); d[2] = 64; return d }, ReasonHeader},
		{"sequence 0", func(a, b *link) []byte { d := a.seal(1, nil, now); clear(d[12:20]); return d }, ReasonHeader},
		{"incarnation 0", func(a, b *link) []byte { d := a.seal(1, nil, now); clear(d[4:12]); return d }, ReasonHeader},
		{"kind altered", func(a, b *link) []byte { d := a.seal(1, nil, now); d[1] = 9; return d }, ReasonAuthentication},
		{"sequence altered", func(a, b *link) []byte { d := a.seal(1, nil, now); d[19]++; return d }, ReasonAuthentication},
		{"incarnation altered", func(a, b *link) []byte { d := a.seal(1, nil, now); d[11]++; return d }, ReasonAuthentication},
		{"payload altered", func(a, b *link) []byte { d := a.seal(1, []byte("x"), now); d[len(d)-17] ^= 1; return d }, ReasonAuthentication},
		{"foreign key", func(a, b *link) []byte {
			return testLink(t, "ams", "fra", 101, foreign).seal(1, nil, now)
		}, ReasonAuthentication},
		{"meant for another", func(a, b *link) []byte {
			return testLink(t, "ams", "lhr", 101, testKey).seal(1, nil, now)
		}, ReasonAuthentication},
		{"reflected", func(a, b *link) []byte { return b.seal(1, nil, now) }, ReasonUnknownSender},
		{"replayed", func(a, b *link) []byte { d := a.seal(1, nil, now); deliver(b, d, now); return d }, ReasonReplayed},
		{"older than the window", func(a, b *link) []byte {
			d := bytes.Clone(a.seal(1, nil, now))
			a.seq += windowSize
			deliver(b, a.seal(1, nil, now), now)
			return d
		}, ReasonReplayed},
		{"old incarnation", func(a, b *link) []byte {
			return testLink(t, "ams", "fra", 99, testKey).seal(1, nil, now)
		}, ReasonOldIncarnation},
		{"new incarnation, not confirmed", func(a, b *link) []byte {
			return testLink(t, "ams", "fra", 101, testKey).seal(1, nil, now)
		}, ReasonUnconfirmed},
		{"echo of what was never sent", func(a, b *link) []byte {
			a.win.top = b.seq + 1
			return a.seal(1, nil, now)
		}, ReasonMalformed},
		{"echo with a payload", func(a, b *link) []byte { return a.seal(kindEcho, []byte("x"), now) }, ReasonMalformed},
		{"largest payload", func(a, b *link) []byte { return a.seal(1, make([]byte, MaxPayload), now) }, accepted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, b := testLink(t, "ams", "fra", 100, testKey), testLink(t, "fra", "ams", 200, testKey)
			shake(t, a, b, now)
			if _, got := deliver(b, tt.make(a, b), now); got != tt.want {
				t.Fatalf("got %v, want %v", got, tt.want)
			}
			if tt.want == ReasonUnconfirmed {
				return
			}
			if _, got := deliver(b, a.seal(1, []byte("ok"), now), now); got != accepted && tt.name != "echo of what was never sent" {
				t.Fatalf("a good datagram afterwards: %v", got)
			}
		})
	}
}

// A recording of everything that was ever sent must not pass at a receiver that
// has lost its memory.
func TestRecordingAfterRestart(t *testing.T) {
	a, b := testLink(t, "ams", "fra", 100, testKey), testLink(t, "fra", "ams", 200, testKey)
	shake(t, a, b, time.Second)
	var recording [][]byte
	for range 50 {
		recording = append(recording, bytes.Clone(a.seal(1, []byte("alive"), time.Second)))
	}
	b2 := testLink(t, "fra", "ams", 201, testKey)
	for i, d := range recording {
		if _, r := deliver(b2, d, time.Second); r != ReasonUnconfirmed {
			t.Fatalf("recorded datagram %d: %v, want unconfirmed", i, r)
		}
	}
	// The real peer, restarted too, is heard all the same.
	a2 := testLink(t, "ams", "fra", 102, testKey)
	shake(t, a2, b2, 2*time.Second)
	if _, r := deliver(b2, recording[0], 2*time.Second); r != ReasonOldIncarnation {
		t.Fatalf("recording afterwards: %v, want old incarnation", r)
	}
}

// Virtual time: what the path does is what the estimators say.
func TestEstimators(t *testing.T) {
	tests := []struct {
		name            string
		out, back, hold time.Duration
		noise           time.Duration // added to each way, uniform
		lossOut         float64
		rtt, rttTol     time.Duration
		jitterMax       time.Duration
		lossTol         float64
	}{
		{"lan", 100 * time.Microsecond, 150 * time.Microsecond, 50 * time.Millisecond, 0, 0, 250 * time.Microsecond, 5 * time.Microsecond, 2 * time.Microsecond, 0},
		{"wan, uneven", 40 * time.Millisecond, 2 * time.Millisecond, 31 * time.Millisecond, 0, 0, 42 * time.Millisecond, 5 * time.Microsecond, 2 * time.Microsecond, 0},
		{"noisy", 10 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 4 * time.Millisecond, 0, 24 * time.Millisecond, 3 * time.Millisecond, 5 * time.Millisecond, 0},
		{"lossy", 10 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 0, .3, 20 * time.Millisecond, time.Millisecond, 2 * time.Microsecond, .2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(1, 2))
			noise := func() time.Duration {
				if tt.noise == 0 {
					return 0
				}
				return rand.N(tt.noise)
			}
			a, b := testLink(t, "ams", "fra", 100, testKey), testLink(t, "fra", "ams", 200, testKey)
			now := time.Second
			for range 2000 {
				d := bytes.Clone(a.seal(1, nil, now))
				heard := now + tt.out + noise()
				if rnd.Float64() >= tt.lossOut {
					deliver(b, d, heard)
				}
				answered := heard + tt.hold
				d = bytes.Clone(b.seal(1, nil, answered))
				now = answered + tt.back + noise()
				deliver(a, d, now)
			}
			s := a.stats()
			if d := (s.RTT - tt.rtt).Abs(); d > tt.rttTol {
				t.Errorf("rtt %v, want %v within %v", s.RTT, tt.rtt, tt.rttTol)
			}
			if s.MinRTT > s.RTT || s.Samples == 0 {
				t.Errorf("least rtt %v of %d samples, smoothed %v", s.MinRTT, s.Samples, s.RTT)
			}
			if s.Jitter > tt.jitterMax || tt.noise > 0 && s.Jitter < tt.noise/8 {
				t.Errorf("jitter %v, want at most %v", s.Jitter, tt.jitterMax)
			}
			if d := s.LossOut - tt.lossOut; d > tt.lossTol || d < -tt.lossTol {
				t.Errorf("loss to the peer %.3f, want %.2f", s.LossOut, tt.lossOut)
			}
			if in := b.stats().LossIn; in-tt.lossOut > tt.lossTol || tt.lossOut-in > tt.lossTol {
				t.Errorf("loss seen by the peer %.3f, want %.2f", in, tt.lossOut)
			}
			if s.LossIn != 0 {
				t.Errorf("loss from the peer %.3f, want 0", s.LossIn)
			}
		})
	}
}

func TestReorderingIsNoLoss(t *testing.T) {
	a, b := testLink(t, "ams", "fra", 100, testKey), testLink(t, "fra", "ams", 200, testKey)
	now := time.Second
	shake(t, a, b, now)
	for range 100 {
		first, second := bytes.Clone(a.seal(1, nil, now)), bytes.Clone(a.seal(1, nil, now))
		for _, d := range [][]byte{second, first} {
			if _, r := deliver(b, d, now); r != accepted {
				t.Fatal(r)
			}
		}
	}
	if l := b.stats().LossIn; l != 0 {
		t.Fatalf("loss %v, want 0", l)
	}
	// A gap longer than the window counts as loss at once and stays bounded.
	a.seq += 1 << 40
	deliver(b, a.seal(1, nil, now), now)
	if l := b.stats().LossIn; l < .99 || l > 1 {
		t.Fatalf("loss after a long gap %v, want 1", l)
	}
}

func FuzzOpen(f *testing.F) {
	a := testLink(f, "ams", "fra", 100, testKey)
	f.Add(bytes.Clone(a.seal(1, []byte("payload"), 0)), uint16(0), byte(0))
	f.Add(bytes.Clone(a.seal(kindEcho, nil, 0)), uint16(3), byte(1))
	f.Add([]byte{Version, 1, 3, 0}, uint16(0), byte(0))
	f.Fuzz(func(t *testing.T, raw []byte, at uint16, flip byte) {
		a, b := testLink(t, "ams", "fra", 100, testKey), testLink(t, "fra", "ams", 200, testKey)
		shake(t, a, b, time.Second)
		before := b.stats()
		if _, r := deliver(b, raw, time.Second); r == accepted && binary.BigEndian.Uint64(raw[4:]) != 100 {
			t.Fatal("accepted a datagram of a stranger")
		}
		if b.est.rtt != before.RTT {
			t.Fatal("a foreign datagram moved the estimators")
		}
		// A valid datagram with one octet altered never passes.
		d := bytes.Clone(a.seal(1, raw[:min(len(raw), MaxPayload)], time.Second))
		altered := bytes.Clone(d)
		altered[int(at)%len(d)] ^= flip
		if _, r := deliver(b, altered, time.Second); (r == accepted) != (flip == 0) {
			t.Fatalf("octet %d ^ %d: %v", int(at)%len(d), flip, r)
		}
	})
}

func BenchmarkSealOpen(b *testing.B) {
	x, y := testLink(b, "ams", "fra", 100, testKey), testLink(b, "fra", "ams", 200, testKey)
	shake(b, x, y, time.Second)
	payload := make([]byte, 400)
	b.ReportAllocs()
	for i := range b.N {
		now := time.Second + time.Duration(i)
		h, rest, _ := parse(x.seal(1, payload, now))
		if _, r := y.open(h, rest, now); r != accepted {
			b.Fatal(r)
		}
	}
}

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
