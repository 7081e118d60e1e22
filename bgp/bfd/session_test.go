package bfd

import (
	"math/rand/v2"
	"testing"
	"time"
)

// wire joins two sessions in virtual time.
type wire struct {
	now    time.Time
	a, b   *session
	delay  time.Duration
	cut    bool
	flight []flight
	rand   *rand.Rand
}

type flight struct {
	at time.Time
	to *session
	p  packet
}

func newWire(a, b time.Duration, mult uint8) *wire {
	now := time.Unix(1000, 0)
	return &wire{now: now, a: newSession(1, a, mult, now), b: newSession(2, b, mult, now), delay: 5 * time.Millisecond, rand: rand.New(rand.NewPCG(1, 2))}
}

func (w *wire) other(s *session) *session {
	if s == w.a {
		return w.b
	}
	return w.a
}

func (w *wire) sent(from *session, ps []packet) {
	for _, p := range ps {
		if q, err := parse(p.marshal()); err != nil {
			panic(err)
		} else if !w.cut {
			w.flight = append(w.flight, flight{w.now.Add(w.delay), w.other(from), q})
		}
	}
}

// run plays d.
func (w *wire) run(d time.Duration) {
	for end := w.now.Add(d); ; {
		next, to := w.a.wake(), w.a
		if w.b.wake().Before(next) {
			next, to = w.b.wake(), w.b
		}
		if len(w.flight) > 0 && !w.flight[0].at.After(next) {
			next, to = w.flight[0].at, nil
		}
		if next.After(end) {
			w.now = end
			return
		}
		w.now = later(w.now, next)
		if to != nil {
			w.sent(to, to.tick(w.now, w.rand.Float64()))
			continue
		}
		f := w.flight[0]
		w.flight = w.flight[1:]
		w.sent(f.to, f.to.receive(f.p, w.now))
	}
}

func TestUpAndDown(t *testing.T) {
	for _, tc := range []struct {
		a, b time.Duration
		mult uint8
	}{{100 * time.Millisecond, 100 * time.Millisecond, 3}, {50 * time.Millisecond, 50 * time.Millisecond, 3}, {50 * time.Millisecond, 300 * time.Millisecond, 2}, {10 * time.Millisecond, 10 * time.Millisecond, 1}, {2 * time.Second, time.Second, 3}} {
		w := newWire(tc.a, tc.b, tc.mult)
		for round := range 20 {
			w.run(2500 * time.Millisecond)
			if w.a.state != Up || w.b.state != Up || w.a.remote != 2 || w.b.remote != 1 {
				t.Fatalf("%v, round %d: %s and %s after the link came back", tc, round, w.a.state, w.b.state)
			}
			w.run(5 * time.Second)
			if w.a.state != Up || w.b.state != Up || w.a.poll || w.b.poll {
				t.Fatalf("%v, round %d: %s and %s in peace, polls open %t %t", tc, round, w.a.state, w.b.state, w.a.poll, w.b.poll)
			}
			// Section 6.8.4: the remote multiplier times the slower of what we want
			// to receive and it wants to send.
			detect := time.Duration(tc.mult) * max(tc.a, tc.b)
			w.cut, w.flight = true, nil
			w.run(detect + time.Millisecond)
			if w.a.state != Down || w.b.state != Down || w.a.diag != DetectionExpired {
				t.Fatalf("%v, round %d: %s and %s %v after a cut", tc, round, w.a.state, w.b.state, detect)
			}
			w.run(time.Duration(w.rand.IntN(3000)) * time.Millisecond)
			w.cut = false
		}
	}
}

// TestOneWay: an end that is not heard goes down with its neighbour.
func TestOneWay(t *testing.T) {
	w := newWire(100*time.Millisecond, 100*time.Millisecond, 3)
	w.run(2 * time.Second)
	deaf := w.b
	for end := w.now.Add(time.Second); w.now.Before(end); {
		w.flight = deleteTo(w.flight, deaf)
		w.run(time.Millisecond)
	}
	if w.a.state == Up || w.b.state == Up || w.a.diag != NeighborDown || w.b.diag != DetectionExpired {
		t.Errorf("a %s (%s), b %s (%s)", w.a.state, w.a.diag, w.b.state, w.b.diag)
	}
}

func deleteTo(fs []flight, s *session) (out []flight) {
	for _, f := range fs {
		if f.to != s {
			out = append(out, f)
		}
	}
	return out
}

// TestTransitions is the state machine of RFC 5880 section 6.2.
func TestTransitions(t *testing.T) {
	for _, tc := range []struct{ have, got, want State }{
		{Down, AdminDown, Down}, {Down, Down, Init}, {Down, Init, Up}, {Down, Up, Down},
		{Init, AdminDown, Down}, {Init, Down, Init}, {Init, Init, Up}, {Init, Up, Up},
		{Up, AdminDown, Down}, {Up, Down, Down}, {Up, Init, Up}, {Up, Up, Up},
		{AdminDown, Down, AdminDown}, {AdminDown, Init, AdminDown}, {AdminDown, Up, AdminDown},
	} {
		now := time.Unix(1, 0)
		s := newSession(7, 100*time.Millisecond, 3, now)
		s.state = tc.have
		out := s.receive(packet{state: tc.got, mult: 3, my: 9, your: 7, minTx: time.Second, minRx: time.Second}, now)
		if s.state != tc.want {
			t.Errorf("%s, received %s: %s, want %s", tc.have, tc.got, s.state, tc.want)
		}
		if changed := tc.have != tc.want; changed != (len(out) == 1) || changed && out[0].state != tc.want {
			t.Errorf("%s, received %s: sends %v at once", tc.have, tc.got, out)
		}
	}
}

func TestReceiveRefuses(t *testing.T) {
	now := time.Unix(1, 0)
	s := newSession(7, 100*time.Millisecond, 3, now)
	s.state = Up
	if out := s.receive(packet{state: Down, mult: 3, my: 9, your: 8}, now); out != nil || s.state != Up || s.remote != 0 {
		t.Errorf("took a packet for another session: %s, %v", s.state, out)
	}
	// A restarted neighbour knows no discriminator of ours.
	if s.receive(packet{state: Down, mult: 3, my: 10}, now); s.state != Down || s.remote != 10 {
		t.Errorf("%s, remote %d", s.state, s.remote)
	}
}

func TestPoll(t *testing.T) {
	now := time.Unix(1, 0)
	s := newSession(7, 100*time.Millisecond, 3, now)
	s.state = Up
	out := s.receive(packet{state: Up, poll: true, mult: 3, my: 9, your: 7, minRx: time.Second}, now)
	if len(out) != 1 || !out[0].final || out[0].poll {
		t.Errorf("a poll draws %+v", out)
	}
	s.set(Down, NeighborDown)
	if out := s.tick(now, 0); len(out) != 1 || !out[0].poll || out[0].minTx != slowTx {
		t.Errorf("the changed interval is not polled for: %+v", out)
	}
	s.receive(packet{state: Down, final: true, mult: 3, my: 9, your: 7, minRx: time.Second}, now)
	if s.poll {
		t.Error("the poll goes on after its final")
	}
}

// TestStandstill: a process that did not run for a while reads what waits for it
// before it says that the neighbour is gone, once.
func TestStandstill(t *testing.T) {
	w := newWire(100*time.Millisecond, 100*time.Millisecond, 3)
	w.run(3 * time.Second)
	w.now = w.now.Add(2 * time.Second)
	if w.a.tick(w.now, 0.5); w.a.state != Up {
		t.Fatalf("%s at once after a standstill", w.a.state)
	}
	if w.a.tick(w.now.Add(100*time.Millisecond), 0.5); w.a.state != Down {
		t.Errorf("%s one interval later without a packet", w.a.state)
	}
}

func TestSilentNeighbor(t *testing.T) {
	now := time.Unix(1, 0)
	s := newSession(7, 100*time.Millisecond, 3, now)
	s.receive(packet{state: Down, mult: 3, my: 9, minTx: time.Second}, now)
	for range 50 {
		now = now.Add(50 * time.Millisecond)
		if out := s.tick(now, 0); len(out) != 0 {
			t.Fatalf("sent %+v to a neighbour whose required min RX interval is 0", out)
		}
	}
}

func TestJitter(t *testing.T) {
	now := time.Unix(1, 0)
	for _, tc := range []struct {
		mult     uint8
		lo, hi   float64
		interval time.Duration
	}{{3, 0.75, 1, 2 * time.Second}, {1, 0.75, 0.9, 2 * time.Second}} {
		s := newSession(7, tc.interval, tc.mult, now)
		for _, r := range []float64{0, 0.3, 0.999} {
			s.schedule(now, r)
			if d := s.next.Sub(now).Seconds() / tc.interval.Seconds(); d < tc.lo || d > tc.hi {
				t.Errorf("multiplier %d: transmits after %.3f of the interval, want %.2f to %.2f", tc.mult, d, tc.lo, tc.hi)
			}
		}
	}
}

func TestParse(t *testing.T) {
	good := packet{diag: NeighborDown, state: Init, poll: true, mult: 3, my: 1, your: 2, minTx: time.Second, minRx: 50 * time.Millisecond}
	if p, err := parse(good.marshal()); err != nil || p != good {
		t.Errorf("%+v, %v", p, err)
	}
	for name, mod := range map[string]func([]byte) []byte{
		"short":                 func(b []byte) []byte { return b[:23] },
		"version 0":             func(b []byte) []byte { b[0] &= 0x1f; return b },
		"length beyond the end": func(b []byte) []byte { b[3] = 25; return b },
		"length too small":      func(b []byte) []byte { b[3] = 23; return b },
		"mult 0":                func(b []byte) []byte { b[2] = 0; return b },
		"multipoint":            func(b []byte) []byte { b[1] |= flagMulti; return b },
		"authentication":        func(b []byte) []byte { b[1] |= flagAuth; return b },
		"my discriminator 0":    func(b []byte) []byte { clear(b[4:8]); return b },
		"your discriminator 0":  func(b []byte) []byte { clear(b[8:12]); return b },
	} {
		if p, err := parse(mod(good.marshal())); err == nil {
			t.Errorf("%s: taken as %+v", name, p)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(packet{state: Down, mult: 3, my: 1}.marshal())
	f.Add(packet{diag: 1, state: Up, final: true, mult: 255, my: 1<<32 - 1, your: 5, minTx: time.Second}.marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parse(b)
		if err != nil {
			return
		}
		if q, err := parse(p.marshal()); err != nil || q != p {
			t.Errorf("%+v became %+v, %v", p, q, err)
		}
		now := time.Unix(1, 0)
		s := newSession(max(p.your, 1), 100*time.Millisecond, 3, now)
		for _, x := range append(s.receive(p, now), s.tick(now, 0)...) {
			if _, err := parse(x.marshal()); err != nil {
				t.Errorf("%+v draws %+v: %v", p, x, err)
			}
		}
	})
}
