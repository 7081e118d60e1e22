package charon

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
)

// AttrType names an attribute independently of the protocol version. Its value
// is never on a wire; Number gives the wire number.
type AttrType uint8

// Attribute types, in the order in which version 5 numbers them from 1.
// Version 3 lacks AddSecret and AddKES and numbers the rest without gaps.
const (
	IKEID AttrType = iota + 1
	RekeyID
	LocalID
	RemoteID
	EAPID
	LocalAddr
	RemoteAddr
	ConfigName
	Conditions
	Extensions
	LocalVIP
	RemoteVIP
	PeerAddr
	Initiator
	NonceI
	NonceR
	Secret
	AddSecret
	OldSKD
	PRF
	OldPRF
	Encr
	EncrLen
	Integ
	DH
	AddKES
	Mode
	IPComp
	InSPI
	OutSPI
	InCPI
	OutCPI
	LocalTS
	RemoteTS
	MID
	Segment
	ESN
	IKEVersion
	LocalDH
	RemoteDH
	PSK
	IV
	AuthMethod
	numAttrs = iota + 1
)

// attrs gives name and encoding of every attribute type.
var attrs = [numAttrs]struct {
	name   string
	kind   kind
	secret bool
	late   bool // since strongSwan 6, version 4
}{
	IKEID:      {name: "IKE_ID", kind: kindIKE},
	RekeyID:    {name: "REKEY_ID", kind: kindIKE},
	LocalID:    {name: "LOCAL_ID", kind: kindIdentity},
	RemoteID:   {name: "REMOTE_ID", kind: kindIdentity},
	EAPID:      {name: "EAP_ID", kind: kindIdentity},
	LocalAddr:  {name: "LOCAL_ADDR", kind: kindAddr},
	RemoteAddr: {name: "REMOTE_ADDR", kind: kindAddr},
	ConfigName: {name: "CONFIG_NAME", kind: kindName},
	Conditions: {name: "CONDITIONS", kind: kindU32},
	Extensions: {name: "EXTENSIONS", kind: kindU32},
	LocalVIP:   {name: "LOCAL_VIP", kind: kindAddr},
	RemoteVIP:  {name: "REMOTE_VIP", kind: kindAddr},
	PeerAddr:   {name: "PEER_ADDR", kind: kindAddr},
	Initiator:  {name: "INITIATOR", kind: kindU8},
	NonceI:     {name: "NONCE_I", kind: kindChunk},
	NonceR:     {name: "NONCE_R", kind: kindChunk},
	Secret:     {name: "SECRET", kind: kindChunk, secret: true},
	AddSecret:  {name: "ADD_SECRET", kind: kindChunk, secret: true, late: true},
	OldSKD:     {name: "OLD_SKD", kind: kindChunk, secret: true},
	PRF:        {name: "PRF", kind: kindU16},
	OldPRF:     {name: "OLD_PRF", kind: kindU16},
	Encr:       {name: "ENCR", kind: kindU16},
	EncrLen:    {name: "ENCR_LEN", kind: kindU16},
	Integ:      {name: "INTEG", kind: kindU16},
	DH:         {name: "DH", kind: kindU16},
	AddKES:     {name: "ADD_KES", kind: kindChunk, late: true},
	Mode:       {name: "MODE", kind: kindU8},
	IPComp:     {name: "IPCOMP", kind: kindU8},
	InSPI:      {name: "IN_SPI", kind: kindSPI},
	OutSPI:     {name: "OUT_SPI", kind: kindSPI},
	InCPI:      {name: "IN_CPI", kind: kindU16},
	OutCPI:     {name: "OUT_CPI", kind: kindU16},
	LocalTS:    {name: "LOCAL_TS", kind: kindTS},
	RemoteTS:   {name: "REMOTE_TS", kind: kindTS},
	MID:        {name: "MID", kind: kindU32},
	Segment:    {name: "SEGMENT", kind: kindU16},
	ESN:        {name: "ESN", kind: kindU16},
	IKEVersion: {name: "IKE_VERSION", kind: kindU8},
	LocalDH:    {name: "LOCAL_DH", kind: kindChunk},
	RemoteDH:   {name: "REMOTE_DH", kind: kindChunk},
	PSK:        {name: "PSK", kind: kindChunk, secret: true},
	IV:         {name: "IV", kind: kindChunk, secret: true},
	AuthMethod: {name: "AUTH_METHOD", kind: kindU16},
}

// numbers and symbols translate between types and wire numbers, by version.
var (
	numbers [V5 + 1][numAttrs]byte
	symbols [V5 + 1][256]AttrType
	byName  = map[string]AttrType{}
)

func init() {
	next := map[Version]byte{}
	for t := IKEID; t < numAttrs; t++ {
		byName[attrs[t].name] = t
		for _, v := range Versions {
			if v < V4 && attrs[t].late {
				continue
			}
			next[v]++
			numbers[v][t], symbols[v][next[v]] = next[v], t
		}
	}
}

// Valid reports whether t is a known attribute type.
func (t AttrType) Valid() bool { return t >= IKEID && t < numAttrs }

func (t AttrType) String() string {
	if !t.Valid() {
		return fmt.Sprintf("attribute type %d", uint8(t))
	}
	return attrs[t].name
}

func (t AttrType) kind() kind {
	if !t.Valid() {
		return kindNone
	}
	return attrs[t].kind
}

// Number returns the wire number of t in version v; false if v lacks t.
func (t AttrType) Number(v Version) (byte, bool) {
	if !t.Valid() || !v.Valid() {
		return 0, false
	}
	n := numbers[v][t]
	return n, n != 0
}

// ParseAttrType reads a name as String prints it.
func ParseAttrType(s string) (AttrType, error) {
	t, ok := byName[s]
	if !ok {
		return 0, fmt.Errorf("parse HA attribute type: unknown name %q", s)
	}
	return t, nil
}

// MarshalText renders the name.
func (t AttrType) MarshalText() ([]byte, error) {
	if !t.Valid() {
		return nil, fmt.Errorf("render HA attribute type: unknown type %d", uint8(t))
	}
	return []byte(attrs[t].name), nil
}

// UnmarshalText reads a name.
func (t *AttrType) UnmarshalText(b []byte) error {
	v, err := ParseAttrType(string(b))
	if err != nil {
		return err
	}
	*t = v
	return nil
}

// Attr is one attribute. Value is exactly what follows the attribute number on
// the wire (length prefixes included), so it is lossless and the same in every
// version. Use the constructors and accessors of values.go to read it.
type Attr struct {
	Type  AttrType
	Value []byte
}

// Secret reports whether the value is key material (IV is, because charon sends
// it to continue a cipher stream).
func (a Attr) Secret() bool { return a.Type.Valid() && attrs[a.Type].secret }

// Format renders the attribute without key material for every verb.
func (a Attr) Format(f fmt.State, _ rune) { fmt.Fprint(f, a.String()) }

// LogValue renders the attribute without key material.
func (a Attr) LogValue() slog.Value { return slog.StringValue(a.String()) }

// MarshalJSON renders name and readable value, without key material. It is for
// people; what must be lossless carries Encode's octets or Value.
func (a Attr) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Type  string `json:"type"`
		Value string `json:"value"`
	}{a.Type.String(), a.valueString()})
}

// kind is the encoding of a value.
type kind uint8

const (
	kindNone kind = iota
	kindIKE
	kindIdentity
	kindAddr
	kindName
	kindU8
	kindU16
	kindU32
	kindSPI
	kindChunk
	kindTS
)

var kindNames = [...]string{"nothing", "IKE_SA id", "identity", "address", "name", "u8", "u16", "u32", "SPI", "octet string", "traffic selector"}

func (k kind) String() string { return kindNames[k] }

const (
	ikeLen     = 18
	familyIPv4 = 2
	familyIPv6 = 10
	tsIPv4     = 7
	tsIPv6     = 8
	tsHeader   = 7
)

var errTruncated = errors.New("value is truncated")

// length returns the number of octets that a value of kind k at the start of b
// occupies.
func (k kind) length(b []byte) (int, error) {
	n, head := 0, 0 // total length, and the octets needed to tell it
	switch k {
	case kindIKE:
		n = ikeLen
	case kindU8:
		n = 1
	case kindU16:
		n = 2
	case kindU32, kindSPI:
		n = 4
	case kindName:
		for i, c := range b {
			if c == 0 {
				return i + 1, nil
			}
		}
		return 0, fmt.Errorf("%w: name of %d bytes has no NUL at its end", errTruncated, len(b))
	case kindIdentity:
		if head = 2; len(b) >= head {
			n = head + int(b[1])
		}
	case kindChunk:
		if head = 2; len(b) >= head {
			n = head + int(binary.BigEndian.Uint16(b))
		}
	case kindAddr:
		if head = 3; len(b) >= head {
			size, err := familySize(b[2])
			if err != nil {
				return 0, err
			}
			n = head + size
		}
	case kindTS:
		if head = 1; len(b) >= head {
			switch b[0] {
			case tsIPv4:
				n = tsHeader + 2*4
			case tsIPv6:
				n = tsHeader + 2*16
			default:
				return 0, fmt.Errorf("unknown traffic selector type %d (known: 7 IPv4, 8 IPv6)", b[0])
			}
		}
	default:
		return 0, errors.New("unknown attribute type")
	}
	if len(b) < max(n, head) {
		return 0, fmt.Errorf("%w: %s needs %d bytes, %d are left", errTruncated, k, max(n, head), len(b))
	}
	return n, nil
}

func familySize(f byte) (int, error) {
	switch f {
	case familyIPv4:
		return 4, nil
	case familyIPv6:
		return 16, nil
	}
	return 0, fmt.Errorf("unknown address family %d (known: 2 IPv4, 10 IPv6)", f)
}

// check reports whether Value is exactly one value of a's kind.
func (a Attr) check() error {
	n, err := a.Type.kind().length(a.Value)
	if err != nil {
		return err
	}
	if n != len(a.Value) {
		return fmt.Errorf("value has %d bytes, its encoding says %d", len(a.Value), n)
	}
	return nil
}
