package charon

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// Version is the protocol version of the `ha` plugin, the first byte of every
// datagram.
type Version uint8

// The versions this package speaks.
const (
	V3 Version = 3 // strongSwan 5.9
	V4 Version = 4 // strongSwan 6.0.1, as heard from it
	V5 Version = 5 // later ones, by their source; attributes as in version 4
)

// Versions are those that this package speaks, in order.
var Versions = []Version{V3, V4, V5}

// Valid reports whether v is a version this package speaks.
func (v Version) Valid() bool { return slices.Contains(Versions, v) }

func (v Version) String() string { return fmt.Sprintf("v%d", uint8(v)) }

func (v Version) check() error {
	if !v.Valid() {
		return fmt.Errorf("unknown HA protocol version %d (known: 3 of strongSwan 5.9, 4 and 5 of strongSwan 6)", uint8(v))
	}
	return nil
}

// VersionOf returns the HA protocol version that a strongSwan release speaks;
// release is the `version` of vici's version command, e.g. "5.9.8". Where a release 6
// speaks another one its first datagram says so (Link.Run).
func VersionOf(release string) (Version, error) {
	switch {
	case strings.HasPrefix(release, "5.9."):
		return V3, nil
	case release == "6.0.0", release == "6.0.1":
		return V4, nil
	case strings.HasPrefix(release, "6."):
		return V5, nil
	}
	return 0, fmt.Errorf("unknown strongSwan release %q (known: 5.9.x, 6.x)", release)
}

// MsgType is the type of a datagram. The numbers are the same in all versions.
type MsgType uint8

// Message types.
const (
	IKEAdd       MsgType = 1
	IKEUpdate    MsgType = 2
	MIDInitiator MsgType = 3
	MIDResponder MsgType = 4
	IKEDelete    MsgType = 5
	ChildAdd     MsgType = 6
	ChildDelete  MsgType = 7
	SegmentDrop  MsgType = 8
	SegmentTake  MsgType = 9
	Status       MsgType = 10
	Resync       MsgType = 11
	IKEIV        MsgType = 12
)

var msgNames = [...]string{
	IKEAdd: "IKE_ADD", IKEUpdate: "IKE_UPDATE", MIDInitiator: "MID_INITIATOR", MIDResponder: "MID_RESPONDER",
	IKEDelete: "IKE_DELETE", ChildAdd: "CHILD_ADD", ChildDelete: "CHILD_DELETE", SegmentDrop: "SEGMENT_DROP",
	SegmentTake: "SEGMENT_TAKE", Status: "STATUS", Resync: "RESYNC", IKEIV: "IKE_IV",
}

// Valid reports whether t is a known type.
func (t MsgType) Valid() bool { return t >= IKEAdd && t <= IKEIV }

func (t MsgType) String() string {
	if !t.Valid() {
		return fmt.Sprintf("type %d", uint8(t))
	}
	return msgNames[t]
}

// Control reports whether t speaks about segments rather than about one IKE_SA:
// such messages are between a daemon and its own charon and are never relayed.
func (t MsgType) Control() bool { return t >= SegmentDrop && t <= Resync }

// Message is one datagram. Attributes keep their order and may repeat
// (PEER_ADDR, LOCAL_TS, REMOTE_TS do).
type Message struct {
	Version Version
	Type    MsgType
	Attrs   []Attr
}

// MaxDatagram is the longest datagram Encode returns: charon's receive buffer
// as Conf sets it (`buflen`). charon cuts off what is longer.
const MaxDatagram = 8192

var errShort = errors.New("datagram is shorter than its 2-byte header")

// Decode reads a datagram. The result does not alias b. Encode of the result
// gives b again, octet by octet.
func Decode(b []byte) (Message, error) {
	if len(b) < 2 {
		return Message{}, fmt.Errorf("decode HA message: %w (%d bytes)", errShort, len(b))
	}
	m := Message{Version: Version(b[0]), Type: MsgType(b[1])}
	if err := m.Version.check(); err != nil {
		return Message{}, fmt.Errorf("decode HA message: %w", err)
	}
	if !m.Type.Valid() {
		return Message{}, fmt.Errorf("decode HA message: unknown message type %d in version %d", b[1], b[0])
	}
	numbers := &symbols[m.Version]
	own := append([]byte(nil), b...)
	for off := 2; off < len(own); {
		t := numbers[own[off]]
		if t == 0 {
			return Message{}, fmt.Errorf("decode HA %s %s: unknown attribute number %#02x at offset %d", m.Version, m.Type, own[off], off)
		}
		rest := own[off+1:]
		n, err := t.kind().length(rest)
		if err != nil {
			return Message{}, fmt.Errorf("decode HA %s %s: %s at offset %d: %w", m.Version, m.Type, t, off, err)
		}
		m.Attrs = append(m.Attrs, Attr{Type: t, Value: rest[:n:n]})
		off += 1 + n
	}
	return m, nil
}

// Encode returns the datagram in m's own version.
func (m Message) Encode() ([]byte, error) {
	b, err := m.append(nil)
	if err != nil {
		return nil, fmt.Errorf("encode HA %s %s: %w", m.Version, m.Type, err)
	}
	return b, nil
}

// Check reports why Encode would fail.
func (m Message) Check() error {
	if _, err := m.check(); err != nil {
		return fmt.Errorf("encode HA %s %s: %w", m.Version, m.Type, err)
	}
	return nil
}

// check returns the length of the datagram.
func (m Message) check() (n int, err error) {
	if err := m.Version.check(); err != nil {
		return 0, err
	}
	if !m.Type.Valid() {
		return 0, fmt.Errorf("unknown message type %d", uint8(m.Type))
	}
	n = 2
	for _, a := range m.Attrs {
		n += 1 + len(a.Value)
	}
	if n > MaxDatagram {
		return 0, fmt.Errorf("message has %d bytes, charon receives at most %d", n, MaxDatagram)
	}
	for i, a := range m.Attrs {
		if _, ok := a.Type.Number(m.Version); !ok {
			return 0, fmt.Errorf("attribute %s (number %d in the list) does not exist in version %d", a.Type, i, uint8(m.Version))
		}
		if err := a.check(); err != nil {
			return 0, fmt.Errorf("attribute %s (number %d in the list): %w", a.Type, i, err)
		}
	}
	return n, nil
}

func (m Message) append(b []byte) ([]byte, error) {
	n, err := m.check()
	if err != nil {
		return nil, err
	}
	if b == nil {
		b = make([]byte, 0, n)
	}
	b = append(b, byte(m.Version), byte(m.Type))
	for _, a := range m.Attrs {
		num, _ := a.Type.Number(m.Version)
		b = append(append(b, num), a.Value...)
	}
	return b, nil
}

// As returns m as a message of version v. Values are shared with m; an attribute
// that v does not have is an error that names it, never dropped.
func (m Message) As(v Version) (Message, error) {
	if err := v.check(); err != nil {
		return Message{}, fmt.Errorf("translate HA message: %w", err)
	}
	if m.Version == v {
		return m, nil
	}
	for _, a := range m.Attrs {
		if _, ok := a.Type.Number(v); !ok {
			return Message{}, fmt.Errorf("translate HA %s from version %d: version %d has no attribute %s", m.Type, uint8(m.Version), uint8(v), a.Type)
		}
	}
	m.Version = v
	return m, nil
}

// Find returns the first attribute of type t.
func (m Message) Find(t AttrType) (Attr, bool) {
	for _, a := range m.Attrs {
		if a.Type == t {
			return a, true
		}
	}
	return Attr{}, false
}

// SA returns the IKE_SA that the message is about.
func (m Message) SA() (IKERef, error) {
	a, ok := m.Find(IKEID)
	if !ok {
		return IKERef{}, fmt.Errorf("read HA %s %s: no IKE_ID attribute", m.Version, m.Type)
	}
	return a.IKERef()
}

// String renders the message without key material.
func (m Message) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s %s", m.Version, m.Type)
	for _, a := range m.Attrs {
		s.WriteByte(' ')
		s.WriteString(a.String())
	}
	return s.String()
}

// Format renders the message without key material for every verb.
func (m Message) Format(f fmt.State, _ rune) { fmt.Fprint(f, m.String()) }

// LogValue renders the message without key material.
func (m Message) LogValue() slog.Value { return slog.StringValue(m.String()) }
