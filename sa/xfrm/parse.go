package xfrm

import (
	"fmt"
	"net/netip"

	"github.com/shadowcast/shadowcast/sa"
)

// parseSA reads struct xfrm_usersa_info and its attributes.
func parseSA(b []byte) (State, error) {
	if len(b) < saInfoLen {
		return State{}, fmt.Errorf("decode SA: %w", errTruncated)
	}
	s, err := parseSAInfo(b)
	if err != nil {
		return State{}, fmt.Errorf("decode SA: %w", err)
	}
	if err := s.parseAttrs(b[saInfoLen:]); err != nil {
		return State{}, fmt.Errorf("decode SA %s: %w", s.ID, err)
	}
	return s, nil
}

func parseSAInfo(b []byte) (s State, err error) {
	s.Family = ne.Uint16(b[212:])
	if s.Dst, err = parseAddr(s.Family, b[56:72]); err != nil {
		return s, err
	}
	if s.Src, err = parseAddr(s.Family, b[80:96]); err != nil {
		return s, err
	}
	s.SPI = sa.SPIFromWire(b[72:])
	s.Proto = b[76]
	s.HardPackets = ne.Uint64(b[120:])
	s.Bytes, s.Packets = ne.Uint64(b[160:]), ne.Uint64(b[168:])
	s.Errors = Errors{Window: ne.Uint32(b[192:]), Replay: ne.Uint32(b[196:]), Integrity: ne.Uint32(b[200:])}
	s.Reqid = ne.Uint32(b[208:])
	s.Window = uint32(b[215])
	s.ESN = b[216]&flagESN != 0
	return s, nil
}

// parseAE reads struct xfrm_aevent_id and its attributes. Only the identity,
// the replay state and the counters are set; ESN is not in the message.
func parseAE(b []byte) (s State, cause Cause, err error) {
	if len(b) < aeIDLen {
		return s, 0, fmt.Errorf("decode replay notification: %w", errTruncated)
	}
	if s, err = parseID(b); err != nil {
		return s, 0, fmt.Errorf("decode replay notification: %w", err)
	}
	if s.Src, err = parseAddr(s.Family, b[24:40]); err != nil {
		return s, 0, fmt.Errorf("decode replay notification: %w", err)
	}
	s.Reqid = ne.Uint32(b[44:])
	if err := s.parseAttrs(b[aeIDLen:]); err != nil {
		return s, 0, fmt.Errorf("decode replay notification of %s: %w", s.ID, err)
	}
	return s, Cause(ne.Uint32(b[40:])) & causeMask, nil
}

// parseID reads struct xfrm_usersa_id.
func parseID(b []byte) (s State, err error) {
	if len(b) < saIDLen {
		return s, errTruncated
	}
	s.Family = ne.Uint16(b[20:])
	s.SPI, s.Proto = sa.SPIFromWire(b[16:]), b[22]
	s.Dst, err = parseAddr(s.Family, b[:16])
	return s, err
}

// parseAttrs sets what the attributes carry. Attributes that are not named
// here, the keys among them, are skipped where they lie.
func (s *State) parseAttrs(b []byte) error {
	return attributes(b, func(typ uint16, v []byte) error {
		switch typ {
		case attrReplay:
			if len(v) < 12 {
				return fmt.Errorf("XFRMA_REPLAY_VAL has %d octets, want 12", len(v))
			}
			if s.ReplayAttr == ReplayESNVal {
				return nil // the kernel uses the other one
			}
			s.ReplayAttr = ReplayVal
			s.OSeq, s.Seq = uint64(ne.Uint32(v)), uint64(ne.Uint32(v[4:]))
			s.Bitmap = []uint32{ne.Uint32(v[8:])}
		case attrReplayESN:
			return s.parseESN(v)
		case attrMark:
			if len(v) < 8 {
				return fmt.Errorf("XFRMA_MARK has %d octets, want 8", len(v))
			}
			if m := (Mark{ne.Uint32(v), ne.Uint32(v[4:])}); m != (Mark{}) {
				s.Mark = &m
			}
		case attrEncap:
			if len(v) < 6 {
				return fmt.Errorf("XFRMA_ENCAP has %d octets, want 24", len(v))
			}
			s.Encap = &Encap{Type: ne.Uint16(v), SrcPort: be.Uint16(v[2:]), DstPort: be.Uint16(v[4:])}
		case attrLifetime:
			if len(v) < 16 {
				return fmt.Errorf("XFRMA_LTIME_VAL has %d octets, want 32", len(v))
			}
			s.Bytes, s.Packets = ne.Uint64(v), ne.Uint64(v[8:])
		}
		return nil
	})
}

func (s *State) parseESN(v []byte) error {
	if len(v) < esnHdrLen {
		return fmt.Errorf("XFRMA_REPLAY_ESN_VAL has %d octets, want at least %d", len(v), esnHdrLen)
	}
	n, window := ne.Uint32(v), ne.Uint32(v[20:])
	if n > maxBmpLen || len(v) < esnHdrLen+4*int(n) {
		return fmt.Errorf("XFRMA_REPLAY_ESN_VAL claims a bitmap of %d words in %d octets", n, len(v))
	}
	if window > n*32 {
		return fmt.Errorf("XFRMA_REPLAY_ESN_VAL claims a window of %d in a bitmap of %d words", window, n)
	}
	s.ReplayAttr, s.Window = ReplayESNVal, window
	s.OSeq = uint64(ne.Uint32(v[12:]))<<32 | uint64(ne.Uint32(v[4:]))
	s.Seq = uint64(ne.Uint32(v[16:]))<<32 | uint64(ne.Uint32(v[8:]))
	s.Bitmap = make([]uint32, n)
	for i := range s.Bitmap {
		s.Bitmap[i] = ne.Uint32(v[esnHdrLen+4*i:])
	}
	return nil
}

func parseAddr(family uint16, b []byte) (netip.Addr, error) {
	switch family {
	case familyIPv4:
		return netip.AddrFrom4([4]byte(b[:4])), nil
	case familyIPv6:
		return netip.AddrFrom16([16]byte(b[:16])), nil
	}
	return netip.Addr{}, fmt.Errorf("address family %d is neither IPv4 nor IPv6", family)
}
