package bfd

import (
	"encoding/binary"
	"fmt"
	"time"
)

// State is the state of a session (RFC 5880 section 4.1).
type State uint8

// The states, as on the wire.
const (
	AdminDown State = iota
	Down
	Init
	Up
)

func (s State) String() string {
	return [...]string{"admin_down", "down", "init", "up"}[s&3]
}

// Diagnostic says why a session went down last (RFC 5880 section 4.1).
type Diagnostic uint8

// The diagnostics that this package sends; neighbours may send others.
const (
	NoDiagnostic       Diagnostic = 0
	DetectionExpired   Diagnostic = 1
	NeighborDown       Diagnostic = 3
	AdministrativeDown Diagnostic = 7
)

func (d Diagnostic) String() string {
	names := [...]string{"no diagnostic", "control detection time expired", "echo function failed", "neighbor signaled session down",
		"forwarding plane reset", "path down", "concatenated path down", "administratively down", "reverse concatenated path down"}
	if int(d) < len(names) {
		return names[d]
	}
	return fmt.Sprintf("diagnostic %d", uint8(d))
}

// packet is a BFD control packet without authentication (RFC 5880 section 4.1):
//
//	octet 0  version (3 bits), diagnostic (5)
//	      1  state (2 bits), P, F, C, A, D, M
//	      2  detect mult
//	      3  length, 24
//	   4..7  my discriminator
//	  8..11  your discriminator
//	 12..15  desired min TX interval, microseconds
//	 16..19  required min RX interval, microseconds
//	 20..23  required min echo RX interval, microseconds: 0, there is no echo
type packet struct {
	diag        Diagnostic
	state       State
	poll, final bool
	mult        uint8
	my, your    uint32
	minTx       time.Duration
	minRx       time.Duration
}

const (
	packetLen = 24
	version   = 1
	flagPoll  = 0x20
	flagFinal = 0x10
	flagAuth  = 0x04
	flagMulti = 0x01
)

func (p packet) marshal() []byte {
	b := make([]byte, packetLen)
	b[0] = version<<5 | byte(p.diag)&0x1f
	b[1] = byte(p.state) << 6
	if p.poll {
		b[1] |= flagPoll
	}
	if p.final {
		b[1] |= flagFinal
	}
	b[2], b[3] = p.mult, packetLen
	binary.BigEndian.PutUint32(b[4:], p.my)
	binary.BigEndian.PutUint32(b[8:], p.your)
	binary.BigEndian.PutUint32(b[12:], uint32(p.minTx/time.Microsecond))
	binary.BigEndian.PutUint32(b[16:], uint32(p.minRx/time.Microsecond))
	return b
}

// parse applies the checks of RFC 5880 section 6.8.6 that need no session.
func parse(b []byte) (packet, error) {
	switch {
	case len(b) < packetLen:
		return packet{}, fmt.Errorf("%d octets, want at least %d", len(b), packetLen)
	case b[0]>>5 != version:
		return packet{}, fmt.Errorf("version %d, want %d", b[0]>>5, version)
	case int(b[3]) < packetLen || int(b[3]) > len(b):
		return packet{}, fmt.Errorf("length %d of %d octets", b[3], len(b))
	case b[2] == 0:
		return packet{}, fmt.Errorf("detect mult 0")
	case b[1]&flagMulti != 0:
		return packet{}, fmt.Errorf("multipoint bit set")
	case b[1]&flagAuth != 0:
		return packet{}, fmt.Errorf("authentication, none is configured")
	}
	us := func(i int) time.Duration { return time.Duration(binary.BigEndian.Uint32(b[i:])) * time.Microsecond }
	p := packet{
		diag: Diagnostic(b[0] & 0x1f), state: State(b[1] >> 6), poll: b[1]&flagPoll != 0, final: b[1]&flagFinal != 0, mult: b[2],
		my: binary.BigEndian.Uint32(b[4:]), your: binary.BigEndian.Uint32(b[8:]), minTx: us(12), minRx: us(16),
	}
	switch {
	case p.my == 0:
		return packet{}, fmt.Errorf("my discriminator 0")
	case p.your == 0 && p.state != Down && p.state != AdminDown:
		return packet{}, fmt.Errorf("your discriminator 0 in state %s", p.state)
	}
	return p, nil
}
