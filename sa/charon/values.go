package charon

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/shadowcast/shadowcast/sa"
)

// IKERef is the value of IKE_ID and REKEY_ID.
type IKERef struct {
	ID        sa.IKEID
	Initiator bool  // the sending gateway initiated this IKE_SA
	Version   uint8 // IKE version as charon writes it (2)
}

// Identity is the value of LOCAL_ID, REMOTE_ID and EAP_ID: an ID type of
// RFC 7296 section 3.5 and its data.
type Identity struct {
	Type uint8
	Data []byte
}

// TS is the value of LOCAL_TS and REMOTE_TS (RFC 7296 section 3.13.1).
type TS struct {
	Proto            uint8
	FromPort, ToPort uint16
	Dynamic          bool
	From, To         netip.Addr
}

// NewIKERef encodes IKE_ID or REKEY_ID.
func NewIKERef(t AttrType, r IKERef) Attr {
	v := make([]byte, ikeLen)
	v[0] = r.Version
	binary.BigEndian.PutUint64(v[1:], uint64(r.ID.Initiator))
	binary.BigEndian.PutUint64(v[9:], uint64(r.ID.Responder))
	v[17] = boolByte(r.Initiator)
	return Attr{t, v}
}

// NewIdentity encodes an identity; data beyond 255 octets cannot travel.
func NewIdentity(t AttrType, id Identity) (Attr, error) {
	if len(id.Data) > 255 {
		return Attr{}, fmt.Errorf("encode %s: identity has %d bytes, at most 255 fit", t, len(id.Data))
	}
	return Attr{t, append([]byte{id.Type, byte(len(id.Data))}, id.Data...)}, nil
}

// NewAddr encodes an address with its port (0 for inner addresses).
func NewAddr(t AttrType, a netip.AddrPort) (Attr, error) {
	ip := a.Addr().Unmap()
	if !ip.IsValid() || ip.Zone() != "" {
		return Attr{}, fmt.Errorf("encode %s: %q is no plain IP address", t, a.Addr())
	}
	v := binary.BigEndian.AppendUint16(nil, a.Port())
	v = append(v, map[bool]byte{true: familyIPv4, false: familyIPv6}[ip.Is4()])
	return Attr{t, append(v, ip.AsSlice()...)}, nil
}

// NewU8 encodes INITIATOR, MODE, IPCOMP or IKE_VERSION.
func NewU8(t AttrType, v uint8) Attr { return Attr{t, []byte{v}} }

// NewU16 encodes a 16-bit number.
func NewU16(t AttrType, v uint16) Attr { return Attr{t, binary.BigEndian.AppendUint16(nil, v)} }

// NewU32 encodes CONDITIONS, EXTENSIONS or MID.
func NewU32(t AttrType, v uint32) Attr { return Attr{t, binary.BigEndian.AppendUint32(nil, v)} }

// NewSPI encodes IN_SPI or OUT_SPI.
func NewSPI(t AttrType, s sa.SPI) Attr {
	return Attr{t, binary.LittleEndian.AppendUint32(nil, uint32(s))}
}

// NewName encodes CONFIG_NAME.
func NewName(t AttrType, name string) (Attr, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return Attr{}, fmt.Errorf("encode %s: name %q contains a NUL", t, name)
	}
	return Attr{t, append([]byte(name), 0)}, nil
}

// NewChunk encodes an octet string: a nonce, a secret, a DH value.
func NewChunk(t AttrType, data []byte) (Attr, error) {
	if len(data) > 0xffff {
		return Attr{}, fmt.Errorf("encode %s: %d bytes, at most 65535 fit", t, len(data))
	}
	v := make([]byte, 2, 2+len(data))
	binary.BigEndian.PutUint16(v, uint16(len(data)))
	return Attr{t, append(v, data...)}, nil
}

// NewTS encodes a traffic selector.
func NewTS(t AttrType, ts TS) (Attr, error) {
	from, to := ts.From.Unmap(), ts.To.Unmap()
	if !from.IsValid() || !to.IsValid() || from.Is4() != to.Is4() {
		return Attr{}, fmt.Errorf("encode %s: %q-%q is no range of one address family", t, ts.From, ts.To)
	}
	v := []byte{map[bool]byte{true: tsIPv4, false: tsIPv6}[from.Is4()], ts.Proto}
	v = binary.BigEndian.AppendUint16(v, ts.FromPort)
	v = binary.BigEndian.AppendUint16(v, ts.ToPort)
	v = append(v, boolByte(ts.Dynamic))
	return Attr{t, append(append(v, from.AsSlice()...), to.AsSlice()...)}, nil
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func (a Attr) want(k ...kind) error {
	for _, k := range k {
		if a.Type.kind() == k {
			if err := a.check(); err != nil {
				return fmt.Errorf("read %s: %w", a.Type, err)
			}
			return nil
		}
	}
	return fmt.Errorf("read %s: it is no %s", a.Type, k[0])
}

// IKERef reads IKE_ID or REKEY_ID.
func (a Attr) IKERef() (IKERef, error) {
	if err := a.want(kindIKE); err != nil {
		return IKERef{}, err
	}
	v := a.Value
	return IKERef{
		Version: v[0],
		ID: sa.IKEID{
			Initiator: sa.IKESPI(binary.BigEndian.Uint64(v[1:])),
			Responder: sa.IKESPI(binary.BigEndian.Uint64(v[9:])),
		},
		Initiator: v[17] != 0,
	}, nil
}

// Identity reads LOCAL_ID, REMOTE_ID or EAP_ID. Data aliases the value.
func (a Attr) Identity() (Identity, error) {
	if err := a.want(kindIdentity); err != nil {
		return Identity{}, err
	}
	return Identity{Type: a.Value[0], Data: a.Value[2:]}, nil
}

// Addr reads an address.
func (a Attr) Addr() (netip.AddrPort, error) {
	if err := a.want(kindAddr); err != nil {
		return netip.AddrPort{}, err
	}
	ip, _ := netip.AddrFromSlice(a.Value[3:])
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(a.Value)), nil
}

// Uint reads a number of 8, 16 or 32 bits.
func (a Attr) Uint() (uint32, error) {
	if err := a.want(kindU32, kindU16, kindU8); err != nil {
		return 0, err
	}
	var n uint32
	for _, b := range a.Value {
		n = n<<8 | uint32(b)
	}
	return n, nil
}

// SPI reads IN_SPI or OUT_SPI.
func (a Attr) SPI() (sa.SPI, error) {
	if err := a.want(kindSPI); err != nil {
		return 0, err
	}
	return sa.SPI(binary.LittleEndian.Uint32(a.Value)), nil
}

// Name reads CONFIG_NAME.
func (a Attr) Name() (string, error) {
	if err := a.want(kindName); err != nil {
		return "", err
	}
	return string(a.Value[:len(a.Value)-1]), nil
}

// Chunk reads an octet string that is no key material (nonces, DH values). The
// result aliases the value.
func (a Attr) Chunk() ([]byte, error) {
	if err := a.want(kindChunk); err != nil {
		return nil, err
	}
	return a.Value[2:], nil
}

// Key reads an octet string as key material. The result aliases the value.
func (a Attr) Key() (sa.Key, error) {
	b, err := a.Chunk()
	return sa.Key(b), err
}

// TS reads LOCAL_TS or REMOTE_TS.
func (a Attr) TS() (TS, error) {
	if err := a.want(kindTS); err != nil {
		return TS{}, err
	}
	v, n := a.Value, (len(a.Value)-tsHeader)/2
	from, _ := netip.AddrFromSlice(v[tsHeader : tsHeader+n])
	to, _ := netip.AddrFromSlice(v[tsHeader+n:])
	return TS{
		Proto: v[1], FromPort: binary.BigEndian.Uint16(v[2:]), ToPort: binary.BigEndian.Uint16(v[4:]),
		Dynamic: v[6] != 0, From: from, To: to,
	}, nil
}

// String renders "NAME=value"; key material only by its length.
func (a Attr) String() string { return a.Type.String() + "=" + a.valueString() }

func (a Attr) valueString() string {
	if err := a.check(); err != nil {
		return fmt.Sprintf("malformed(%d bytes)", len(a.Value))
	}
	switch a.Type.kind() {
	case kindIKE:
		r, _ := a.IKERef()
		return fmt.Sprintf("%s/%s", r.ID, map[bool]string{true: "i", false: "r"}[r.Initiator])
	case kindIdentity:
		id, _ := a.Identity()
		return id.String()
	case kindAddr:
		ap, _ := a.Addr()
		return ap.String()
	case kindName:
		s, _ := a.Name()
		return fmt.Sprintf("%q", s)
	case kindSPI:
		s, _ := a.SPI()
		return s.String()
	case kindTS:
		ts, _ := a.TS()
		return ts.String()
	case kindChunk:
		if a.Secret() {
			return fmt.Sprintf("[redacted, %d bytes]", len(a.Value)-2)
		}
		return fmt.Sprintf("[%d bytes]", len(a.Value)-2)
	}
	n, _ := a.Uint()
	return fmt.Sprint(n)
}

// String renders the identity as strongSwan prints it where it is text; other
// types as "{type}#hex".
func (id Identity) String() string {
	switch id.Type {
	case 0:
		return "%any"
	case 1, 5: // ID_IPV4_ADDR, ID_IPV6_ADDR
		if a, ok := netip.AddrFromSlice(id.Data); ok {
			return a.String()
		}
	case 2, 3: // ID_FQDN, ID_RFC822_ADDR
		return strings.Trim(fmt.Sprintf("%q", id.Data), `"`)
	}
	return fmt.Sprintf("{%d}#%x", id.Type, id.Data)
}

// String renders "from-to[proto/ports]".
func (ts TS) String() string {
	s := ts.From.String() + "-" + ts.To.String()
	if ts.Proto != 0 || ts.FromPort != 0 || ts.ToPort != 0xffff {
		s += fmt.Sprintf("[%d/%d-%d]", ts.Proto, ts.FromPort, ts.ToPort)
	}
	if ts.Dynamic {
		s += "(dynamic)"
	}
	return s
}
