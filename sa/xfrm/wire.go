package xfrm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// Message types of linux/xfrm.h.
const (
	msgNewSA       = 0x10
	msgDelSA       = 0x11
	msgGetSA       = 0x12
	msgExpire      = 0x18
	msgUpdSA       = 0x1a
	msgFlushSA     = 0x1c
	msgFlushPolicy = 0x1d
	msgNewAE       = 0x1e
)

// Netlink header types and flags.
const (
	nlmError = 2
	nlmDone  = 3

	flagRequest  = 0x001
	flagAck      = 0x004
	flagDumpIntr = 0x010
	flagReplace  = 0x100 // on NEW requests
	flagDump     = 0x300 // on GET requests
)

// Attributes of linux/xfrm.h. XFRMA_ALG_* are deliberately absent.
const (
	attrEncap     = 4
	attrSA        = 6
	attrLifetime  = 9
	attrReplay    = 10
	attrMark      = 21
	attrReplayESN = 23
)

const (
	nlHdrLen   = 16
	saInfoLen  = 224
	saIDLen    = 24
	aeIDLen    = 48
	expireLen  = saInfoLen + 8
	esnHdrLen  = 24
	maxBmpLen  = 128 // XFRMA_REPLAY_ESN_MAX / 32
	flagESN    = 0x80
	familyIPv4 = 2
	familyIPv6 = 10
)

var (
	ne = binary.NativeEndian
	be = binary.BigEndian
)

var errTruncated = errors.New("message is truncated")

// message is one netlink message; body aliases the receive buffer.
type message struct {
	typ, flags uint16
	seq        uint32
	body       []byte
}

// nextMessage splits the first netlink message off b.
func nextMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) < nlHdrLen {
		return m, nil, errTruncated
	}
	n := ne.Uint32(b)
	if n < nlHdrLen || uint64(n) > uint64(len(b)) {
		return m, nil, fmt.Errorf("netlink message claims %d octets of %d", n, len(b))
	}
	m = message{typ: ne.Uint16(b[4:]), flags: ne.Uint16(b[6:]), seq: ne.Uint32(b[8:]), body: b[nlHdrLen:n]}
	return m, b[min(align4(int(n)), len(b)):], nil
}

// errno returns the error number of an NLMSG_ERROR or NLMSG_DONE body, 0 where
// there is none.
func (m message) errno() int {
	if len(m.body) < 4 {
		return 0
	}
	return -int(int32(ne.Uint32(m.body)))
}

// attributes calls f for each attribute in b until f fails.
func attributes(b []byte, f func(typ uint16, v []byte) error) error {
	for len(b) >= 4 {
		n := int(ne.Uint16(b))
		if n < 4 || n > len(b) {
			return fmt.Errorf("attribute claims %d octets of %d", n, len(b))
		}
		if err := f(ne.Uint16(b[2:])&0x3fff, b[4:n]); err != nil {
			return err
		}
		b = b[min(align4(n), len(b)):]
	}
	if len(b) != 0 {
		return errTruncated
	}
	return nil
}

func align4(n int) int { return (n + 3) &^ 3 }

// appendMessage appends a request with the given body.
func appendMessage(b []byte, typ, flags uint16, seq uint32, body []byte) []byte {
	var h [nlHdrLen]byte
	ne.PutUint32(h[0:], uint32(nlHdrLen+len(body)))
	ne.PutUint16(h[4:], typ)
	ne.PutUint16(h[6:], flags)
	ne.PutUint32(h[8:], seq)
	b = append(append(b, h[:]...), body...)
	return append(b, make([]byte, align4(len(body))-len(body))...)
}

func appendAttr(b []byte, typ uint16, v []byte) []byte {
	b = ne.AppendUint16(b, uint16(4+len(v)))
	b = ne.AppendUint16(b, typ)
	b = append(b, v...)
	return append(b, make([]byte, align4(len(v))-len(v))...)
}

// encodeID returns struct xfrm_usersa_id.
func encodeID(id ID) []byte {
	b := make([]byte, saIDLen)
	copy(b, id.Dst.AsSlice())
	be.PutUint32(b[16:], uint32(id.SPI))
	ne.PutUint16(b[20:], familyOf(id.Dst))
	b[22] = id.Proto
	return b
}

// encodeNewAE returns the body of the XFRM_MSG_NEWAE that gives the SA the
// replay state of s, in the attribute kind of s.
func encodeNewAE(s *State) []byte {
	b := make([]byte, aeIDLen, aeIDLen+esnHdrLen+4*len(s.Bitmap)+16)
	copy(b, encodeID(s.ID))
	copy(b[24:], s.Src.AsSlice())
	ne.PutUint32(b[44:], s.Reqid)
	if s.Mark != nil {
		b = appendAttr(b, attrMark, ne.AppendUint32(ne.AppendUint32(nil, s.Mark.Value), s.Mark.Mask))
	}
	if s.ReplayAttr == ReplayVal {
		v := ne.AppendUint32(nil, uint32(s.OSeq))
		v = ne.AppendUint32(v, uint32(s.Seq))
		v = ne.AppendUint32(v, s.Bitmap[0])
		return appendAttr(b, attrReplay, v)
	}
	v := make([]byte, 0, esnHdrLen+4*len(s.Bitmap))
	for _, w := range []uint32{uint32(len(s.Bitmap)), uint32(s.OSeq), uint32(s.Seq), uint32(s.OSeq >> 32), uint32(s.Seq >> 32), s.Window} {
		v = ne.AppendUint32(v, w)
	}
	for _, w := range s.Bitmap {
		v = ne.AppendUint32(v, w)
	}
	return appendAttr(b, attrReplayESN, v)
}

func familyOf(a netip.Addr) uint16 {
	if a.Is4() {
		return familyIPv4
	}
	return familyIPv6
}
