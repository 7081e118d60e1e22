package peer

import (
	"crypto/cipher"
	"crypto/rand"
	"math"
	"net/netip"
	"sync"
	"time"
)

// answerEvery bounds how often a link answers by itself.
const answerEvery = 20 * time.Millisecond

// link is the state of one peer. It has no socket and no clock: now is the time
// since the transport was opened.
type link struct {
	self, name string
	own        uint64 // our incarnation
	aead       cipher.AEAD

	mu   sync.Mutex
	dest destination
	seq  uint64 // last sequence number sent to the peer

	incarnation uint64 // of the peer, 0 before first contact
	confirmed   bool   // the peer's incarnation has echoed ours
	announced   bool   // a payload of this incarnation was handed on
	win         window
	topAt       time.Duration // when win.top arrived
	accepted    uint32        // datagrams of this incarnation
	est         estimator

	answered  time.Duration // when the link last answered by itself
	source    netip.AddrPort
	lastHeard time.Time

	sent, received, sendErrors uint64
	refused                    Refused
	moved                      time.Duration // when a change of the source was last logged

	out [maxDatagram]byte
	ad  [fixedHeader + 2*MaxName]byte
}

// seal returns a datagram of the given kind, valid until the next call. The
// caller holds l.mu.
func (l *link) seal(kind Kind, payload []byte, now time.Duration) []byte {
	l.seq++
	b := appendHeader(l.out[:0], kind, l.self, l.own, l.seq)
	ad := append(append(l.ad[:0], b...), l.name...)
	nonce := l.out[len(b) : len(b)+nonceSize]
	rand.Read(nonce) // never fails
	b = l.out[:len(b)+nonceSize]
	x := echo{}
	if l.incarnation != 0 {
		hold := max(now-l.topAt, 0).Microseconds()
		x = echo{l.incarnation, l.win.top, uint32(min(hold, math.MaxUint32)), l.accepted}
	}
	plain := append(x.append(b), payload...)[len(b):]
	l.est.sending(l.seq, now)
	return l.aead.Seal(b, nonce, plain, ad)
}

// opened is what open made of an accepted datagram.
type opened struct {
	payload   []byte // into the datagram
	restarted bool   // first payload of this incarnation
	answer    bool   // an empty echo should go out
}

// open authenticates the datagram with header h and the rest after it, which it
// decrypts in place. The caller holds l.mu.
func (l *link) open(h header, rest []byte, now time.Duration) (o opened, r Reason) {
	switch {
	case h.incarnation < l.incarnation:
		return o, ReasonOldIncarnation
	case h.incarnation == l.incarnation && !l.win.fresh(h.seq):
		return o, ReasonReplayed
	}
	ad := appendHeader(l.ad[:0], h.kind, l.name, h.incarnation, h.seq)
	ad = append(ad, l.self...)
	sealed := rest[nonceSize:]
	plain, err := l.aead.Open(sealed[:0], rest[:nonceSize], sealed, ad)
	if err != nil {
		return o, ReasonAuthentication
	}
	x := parseEcho(plain)
	ours := x.incarnation == l.own
	if ours && (x.seq == 0 || x.seq > l.seq) || h.kind == kindEcho && len(plain) != echoSize {
		return o, ReasonMalformed
	}
	if h.incarnation > l.incarnation {
		l.incarnation, l.confirmed, l.announced = h.incarnation, false, false
		l.win, l.accepted = window{}, 0
		l.est.restart(h.seq)
		o.answer = true
	}
	if h.seq > l.win.top {
		l.topAt = now
	}
	l.win.add(h.seq)
	l.accepted++
	l.est.heard(&l.win)
	if ours {
		l.est.heardEcho(x, now)
		l.confirmed = true
	}
	if !l.confirmed {
		r, o.answer = ReasonUnconfirmed, true
	}
	if o.answer {
		o.answer = l.answered == 0 || now-l.answered >= answerEvery
		if o.answer {
			l.answered = now
		}
	}
	if r == accepted && h.kind != kindEcho {
		o.restarted, l.announced = !l.announced, true
	}
	o.payload = plain[echoSize:]
	return o, r
}

// Stats is what is known about one peer.
type Stats struct {
	Name        string
	Addr        netip.AddrPort // configured; answers go there
	Source      netip.AddrPort // of the last authentic datagram
	Incarnation uint64         // 0 before first contact
	Confirmed   bool           // the peer also hears us
	LastHeard   time.Time      // last authentic datagram; zero for never

	RTT     time.Duration // smoothed (gain 1/8), without the peer's hold time
	LastRTT time.Duration // last sample
	MinRTT  time.Duration // least sample since the transport was opened
	Jitter  time.Duration // mean difference of successive samples (gain 1/16)
	Samples uint64        // round-trip samples taken
	LossIn  float64       // share lost from the peer to us, 0..1 (gain 1/32 a datagram)
	LossOut float64       // share lost from us to the peer, as its echoes tell

	Sent       uint64
	SendErrors uint64 // the socket did not take it
	Received   uint64 // accepted
	// Refused counts what was refused under this peer's name. Who wrote it is
	// unknown: the name is not authentic then.
	Refused Refused
}

// stats copies the state. The caller holds l.mu.
func (l *link) stats() Stats {
	return Stats{
		Name: l.name, Addr: l.dest.addr, Source: l.source,
		Incarnation: l.incarnation, Confirmed: l.confirmed, LastHeard: l.lastHeard,
		RTT: l.est.rtt, LastRTT: l.est.last, MinRTT: l.est.min, Jitter: l.est.jitter,
		Samples: l.est.samples, LossIn: l.est.lossIn, LossOut: l.est.lossOut,
		Sent: l.sent, SendErrors: l.sendErrors, Received: l.received, Refused: l.refused,
	}
}
