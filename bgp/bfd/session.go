package bfd

import "time"

// slowTx is the least transmit interval while a session is not up (RFC 5880
// section 6.8.3). Changes of state are sent at once, so it delays nothing but the
// first packet.
const slowTx = time.Second

// session is the state machine of RFC 5880 sections 6.2 and 6.8: pure, its clock
// is the argument.
type session struct {
	local    uint32        // our discriminator
	interval time.Duration // desired min TX while up, and required min RX
	mult     uint8

	state State
	diag  Diagnostic
	poll  bool // our new interval is not acknowledged yet

	// Of the neighbour's last packet.
	remote   uint32 // its discriminator; 0: not heard within the detection time
	remoteTx time.Duration
	remoteRx time.Duration

	deadline time.Time // end of the detection time; zero: nothing heard
	granted  bool      // the deadline was moved once because this process stood still
	next     time.Time // when to transmit
}

func newSession(local uint32, interval time.Duration, mult uint8, now time.Time) *session {
	// Until a packet says otherwise the neighbour receives anything (section 6.8.1:
	// bfd.RemoteMinRxInterval is initially 1).
	return &session{local: local, interval: interval, mult: mult, state: Down, remoteRx: time.Microsecond, next: now}
}

func (s *session) desiredTx() time.Duration {
	if s.state == Up {
		return s.interval
	}
	return max(s.interval, slowTx)
}

// packet is what to send now.
func (s *session) packet(final bool) packet {
	return packet{
		diag: s.diag, state: s.state, poll: s.poll && !final, final: final, mult: s.mult,
		my: s.local, your: s.remote, minTx: s.desiredTx(), minRx: s.interval,
	}
}

// receive takes in a packet and returns what to send at once, if anything.
func (s *session) receive(p packet, now time.Time) (answer []packet) {
	if p.your != 0 && p.your != s.local || s.state == AdminDown {
		return nil
	}
	s.remote, s.remoteTx, s.remoteRx = p.my, p.minTx, p.minRx
	if p.final {
		s.poll = false
	}
	s.deadline, s.granted = now.Add(time.Duration(p.mult)*max(s.interval, p.minTx)), false
	before := s.state
	switch {
	case p.state == AdminDown, p.state == Down && s.state == Up:
		if s.state != Down {
			s.set(Down, NeighborDown)
		}
	case s.state == Down && p.state == Down:
		s.set(Init, s.diag)
	case s.state == Down && p.state == Init, s.state == Init && p.state >= Init:
		s.set(Up, NoDiagnostic)
	}
	if p.poll {
		answer = append(answer, s.packet(true))
	}
	if s.state != before {
		answer = append(answer, s.packet(false))
		s.schedule(now, 1)
	}
	return answer
}

// set changes the state. A changed transmit interval starts a poll sequence
// (section 6.8.3).
func (s *session) set(to State, why Diagnostic) {
	was := s.desiredTx()
	s.state, s.diag = to, why
	if s.desiredTx() != was {
		s.poll = true
	}
}

// tick does what is due at now. random is in [0, 1): transmissions are jittered
// (section 6.8.7).
func (s *session) tick(now time.Time, random float64) (out []packet) {
	// Silence counts only while we run: what the neighbour sent while this process
	// stood still waits in the socket, and is read first.
	if !s.granted && !s.deadline.IsZero() && now.Sub(s.wake()) > s.interval {
		s.deadline, s.granted = later(s.deadline, now.Add(s.interval)), true
	}
	if !s.deadline.IsZero() && !now.Before(s.deadline) {
		s.deadline, s.remote = time.Time{}, 0
		if s.state == Init || s.state == Up {
			s.set(Down, DetectionExpired)
			s.next = now // tell at once
		}
	}
	if !now.Before(s.next) {
		// A neighbour whose required min RX interval is 0 wants no packets.
		if s.remoteRx > 0 {
			out = append(out, s.packet(false))
		}
		s.schedule(now, random)
	}
	return out
}

// schedule sets the next transmission: the negotiated interval less up to a
// quarter; less 10 to 25 per cent where one lost packet ends the session.
func (s *session) schedule(now time.Time, random float64) {
	most := 1.0
	if s.mult == 1 {
		most = 0.9
	}
	share := 0.75 + (most-0.75)*random
	s.next = now.Add(time.Duration(share * float64(max(s.desiredTx(), s.remoteRx))))
}

// wake is when tick has something to do.
func (s *session) wake() time.Time {
	if !s.deadline.IsZero() && s.deadline.Before(s.next) {
		return s.deadline
	}
	return s.next
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
