package peer

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strconv"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/shadowcast/shadowcast/sa"
)

const (
	// Version is the version of the datagram format.
	Version = 1
	// MaxPayload bounds the payload of a datagram, in octets: with every header
	// it stays below an Ethernet MTU.
	MaxPayload = 1200
	// MaxName bounds the length of an appliance's name, in octets.
	MaxName = 63
	// MinKey is the least length of the fleet key, in octets.
	MinKey = 32

	fixedHeader = 20
	echoSize    = 24
	nonceSize   = chacha20poly1305.NonceSizeX
	tagSize     = chacha20poly1305.Overhead
	maxDatagram = fixedHeader + MaxName + nonceSize + echoSize + MaxPayload + tagSize
	keyInfo     = "shadowcast peer datagram v1"
)

// Kind tells the receiver what a payload is. Kinds above 0 belong to the caller.
type Kind uint8

// kindEcho is the empty datagram that only carries echo fields.
const kindEcho Kind = 0

// Reason says why a datagram was refused.
type Reason uint8

// The reasons. accepted is not one: it is the zero value.
const (
	accepted             Reason = iota
	ReasonTruncated             // shorter than its own headers
	ReasonOversized             // longer than any valid datagram
	ReasonVersion               // another version of the format
	ReasonHeader                // header fields out of range
	ReasonUnknownSender         // no peer of that name is configured
	ReasonOldIncarnation        // a newer incarnation of the sender was heard
	ReasonReplayed              // repeated, or older than the window
	ReasonAuthentication        // another fleet key, another receiver, or altered
	ReasonMalformed             // authentic, but its echo fields cannot be
	ReasonUnconfirmed           // not yet shown to be no recording
	reasons
)

var reasonNames = [reasons]string{
	"accepted", "truncated", "oversized", "version", "header", "unknown sender",
	"old incarnation", "replayed", "authentication", "malformed", "unconfirmed",
}

func (r Reason) String() string {
	if r < reasons {
		return reasonNames[r]
	}
	return "reason " + strconv.Itoa(int(r))
}

// Refused counts refused datagrams by Reason.
type Refused [reasons]uint64

// Total is the number of refused datagrams.
func (r Refused) Total() (n uint64) {
	for _, c := range r {
		n += c
	}
	return n
}

// Map returns the counts that are not zero, by name of the reason.
func (r Refused) Map() map[string]uint64 {
	m := map[string]uint64{}
	for i, c := range r {
		if c != 0 {
			m[Reason(i).String()] = c
		}
	}
	return m
}

// header is the part of a datagram that is not encrypted.
type header struct {
	kind        Kind
	incarnation uint64
	seq         uint64
	sender      []byte // into the datagram
}

// parse reads the header of b. The sender is set whenever it could be read,
// also where the datagram is refused. rest is nonce and sealed part.
func parse(b []byte) (h header, rest []byte, r Reason) {
	if len(b) > maxDatagram {
		return h, nil, ReasonOversized
	}
	if len(b) < fixedHeader {
		return h, nil, ReasonTruncated
	}
	n := int(b[2])
	if n > 0 && n <= MaxName && len(b) >= fixedHeader+n {
		h.sender = b[fixedHeader : fixedHeader+n]
	}
	if b[0] != Version {
		return h, nil, ReasonVersion
	}
	if n == 0 || n > MaxName || b[3] != 0 {
		return h, nil, ReasonHeader
	}
	if len(b) < fixedHeader+n+nonceSize+echoSize+tagSize {
		return h, nil, ReasonTruncated
	}
	h.kind = Kind(b[1])
	h.incarnation = binary.BigEndian.Uint64(b[4:])
	h.seq = binary.BigEndian.Uint64(b[12:])
	if h.incarnation == 0 || h.seq == 0 {
		return h, nil, ReasonHeader
	}
	return h, b[fixedHeader+n:], accepted
}

// appendHeader writes the unencrypted header.
func appendHeader(b []byte, kind Kind, sender string, incarnation, seq uint64) []byte {
	b = append(b, Version, byte(kind), byte(len(sender)), 0)
	b = binary.BigEndian.AppendUint64(b, incarnation)
	b = binary.BigEndian.AppendUint64(b, seq)
	return append(b, sender...)
}

// echo is what a datagram tells its receiver about the receiver's own ones.
type echo struct {
	incarnation uint64
	seq         uint64
	holdMicros  uint32
	received    uint32
}

func (e echo) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, e.incarnation)
	b = binary.BigEndian.AppendUint64(b, e.seq)
	b = binary.BigEndian.AppendUint32(b, e.holdMicros)
	return binary.BigEndian.AppendUint32(b, e.received)
}

func parseEcho(b []byte) echo {
	return echo{
		incarnation: binary.BigEndian.Uint64(b),
		seq:         binary.BigEndian.Uint64(b[8:]),
		holdMicros:  binary.BigEndian.Uint32(b[16:]),
		received:    binary.BigEndian.Uint32(b[20:]),
	}
}

// newAEAD derives the datagram key from the fleet key.
func newAEAD(fleet sa.Key) (cipher.AEAD, error) {
	if len(fleet) < MinKey {
		return nil, fmt.Errorf("use fleet key: %d octets, want at least %d", len(fleet), MinKey)
	}
	key, err := hkdf.Key(sha256.New, fleet, nil, keyInfo, chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("derive datagram key: %w", err)
	}
	aead, err := chacha20poly1305.NewX(key)
	clear(key)
	if err != nil {
		return nil, fmt.Errorf("set up datagram cipher: %w", err)
	}
	return aead, nil
}
