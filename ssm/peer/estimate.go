package peer

import (
	"math"
	"time"
)

const (
	rttGain    = 1. / 8  // smoothed round trip (the gain of RFC 6298)
	jitterGain = 1. / 16 // the gain of RFC 3550 section 6.4.1
	lossGain   = 1. / 32 // per datagram
	// settle is how many later datagrams may overtake one before it counts as lost.
	settle = 4
	// maxHold is the longest hold time that still gives a round-trip sample:
	// the two clocks may run apart by 100 ppm.
	maxHold = 10 * time.Second
	// sentRing is how many of the last datagrams have their sending time remembered.
	sentRing = 256
)

// estimator turns echoes and gaps into round-trip time, jitter and loss.
type estimator struct {
	sent [sentRing]struct {
		seq uint64
		at  time.Duration
	}
	rtt, min, jitter, last time.Duration
	samples                uint64

	lossOut   float64
	echoed    uint64 // highest own sequence number that came back
	echoCount uint32 // datagrams the peer had accepted by then

	lossIn  float64
	settled uint64 // numbers of the peer up to here are counted in lossIn
}

// sending notes when seq went out.
func (e *estimator) sending(seq uint64, now time.Duration) {
	s := &e.sent[seq%sentRing]
	s.seq, s.at = seq, now
}

// restart forgets what belongs to the peer's previous incarnation. The path,
// and so its round-trip time, stays.
func (e *estimator) restart(first uint64) {
	e.settled = first - 1
	e.echoed, e.echoCount = 0, 0
}

// heardEcho takes the echo fields of a datagram that echo our own incarnation.
func (e *estimator) heardEcho(x echo, now time.Duration) {
	if x.seq <= e.echoed {
		return // an older echo, or the same again
	}
	if e.echoed != 0 {
		n := float64(x.seq - e.echoed)
		lost := 1 - float64(x.received-e.echoCount)/n
		lost = math.Min(1, math.Max(0, lost))
		e.lossOut += (lost - e.lossOut) * (1 - math.Pow(1-lossGain, n))
	}
	e.echoed, e.echoCount = x.seq, x.received

	s := e.sent[x.seq%sentRing]
	hold := time.Duration(x.holdMicros) * time.Microsecond
	if s.seq != x.seq || hold > maxHold {
		return
	}
	rtt := max(now-s.at-hold, 0)
	if e.samples == 0 {
		e.rtt, e.min = rtt, rtt
	} else {
		e.rtt += time.Duration(float64(rtt-e.rtt) * rttGain)
		e.jitter += time.Duration((math.Abs(float64(rtt-e.last)) - float64(e.jitter)) * jitterGain)
		e.min = min(e.min, rtt)
	}
	e.last = rtt
	e.samples++
}

// heard counts the peer's datagrams that have settled, now that w moved.
func (e *estimator) heard(w *window) {
	if w.top < settle {
		return
	}
	to := w.top - settle
	if e.settled < to && w.top-e.settled > windowSize {
		// Everything between is beyond the window and was not heard.
		e.lossIn += (1 - e.lossIn) * (1 - math.Pow(1-lossGain, float64(w.top-windowSize-e.settled)))
		e.settled = w.top - windowSize
	}
	for e.settled < to {
		e.settled++
		lost := 1.
		if w.has(e.settled) {
			lost = 0
		}
		e.lossIn += (lost - e.lossIn) * lossGain
	}
}
