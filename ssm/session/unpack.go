package session

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// Unpack reads a document in the packed form, or in JSON as appliances of
// replication protocol 1 send it. The document keeps b: its attributes are parts of
// it. There is one packed form of a document; others are refused.
func Unpack(b []byte) (*Document, error) {
	if len(b) > 0 && b[0] == '{' {
		return Decode(b)
	}
	if len(b) > MaxSize {
		return nil, fmt.Errorf("unpack session: document has %d octets, at most %d are allowed", len(b), MaxSize)
	}
	u := unpacker{b: b}
	d := u.document()
	if u.err == nil && u.at != len(b) {
		u.fail(fmt.Errorf("%d octets follow the document", len(b)-u.at))
	}
	if u.err != nil {
		return nil, fmt.Errorf("unpack session: octet %d: %w", u.at, u.err)
	}
	if err := d.validate(); err != nil {
		return nil, fmt.Errorf("unpack session: %w", err)
	}
	return d, nil
}

// unpacker reads values from the front. The first failure sticks; what is read
// after it is zero.
type unpacker struct {
	b   []byte
	at  int
	err error
}

var errPackedShort = errors.New("document ends in the middle")

func (u *unpacker) fail(err error) {
	if u.err == nil {
		u.err = err
	}
}

// take returns the next n octets.
func (u *unpacker) take(n int) []byte {
	if u.err != nil || n > len(u.b)-u.at {
		u.fail(errPackedShort)
		return nil
	}
	v := u.b[u.at : u.at+n : u.at+n]
	u.at += n
	return v
}

func (u *unpacker) octet() byte {
	if v := u.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (u *unpacker) bool() bool {
	v := u.octet()
	if v > 1 {
		u.fail(fmt.Errorf("%d is neither 0 nor 1", v))
	}
	return v == 1
}

// uint reads a number of at most the given bits, in its shortest spelling.
func (u *unpacker) uint(bits int) uint64 {
	if u.err != nil {
		return 0
	}
	v, n := binary.Uvarint(u.b[u.at:])
	switch {
	case n <= 0:
		u.fail(errPackedShort)
		return 0
	case n > 1 && u.b[u.at+n-1] == 0:
		u.fail(errors.New("a number is not in its shortest form"))
		return 0
	case bits < 64 && v>>bits != 0:
		u.fail(fmt.Errorf("%d has more than %d bits", v, bits))
		return 0
	}
	u.at += n
	return v
}

func (u *unpacker) count(what string, most int) int {
	n := u.uint(32)
	if n > uint64(most) {
		u.fail(fmt.Errorf("%d %s, at most %d are allowed", n, what, most))
		return 0
	}
	return int(n)
}

// text reads UTF-8: JSON, the other form of a document, knows no other text.
func (u *unpacker) text(what string) string {
	b := u.take(u.count("octets of "+what, maxText))
	if !utf8.Valid(b) {
		u.fail(fmt.Errorf("%s is not UTF-8", what))
		return ""
	}
	return intern(b)
}

func (u *unpacker) secret(what string) Secret {
	b := u.take(u.count("octets of "+what, charon.MaxDatagram))
	if len(b) == 0 {
		return ""
	}
	return Secret(base64.StdEncoding.EncodeToString(b))
}

func (u *unpacker) time() time.Time {
	sec := u.uint(64)
	if sec == 0 {
		return time.Time{}
	}
	nsec := u.uint(30)
	if sec > maxStamp-minStamp+1 || nsec >= 1e9 || sec == 1 && nsec == 0 {
		u.fail(errors.New("a time is out of range"))
		return time.Time{}
	}
	return time.Unix(int64(sec-1)+minStamp, int64(nsec)).UTC()
}

func (u *unpacker) ike() sa.IKEID {
	v := u.take(16)
	if v == nil {
		return sa.IKEID{}
	}
	return sa.IKEID{Initiator: sa.IKESPI(binary.BigEndian.Uint64(v)), Responder: sa.IKESPI(binary.BigEndian.Uint64(v[8:]))}
}

func (u *unpacker) spi() sa.SPI {
	if v := u.take(4); v != nil {
		return sa.SPI(binary.BigEndian.Uint32(v))
	}
	return 0
}

func (u *unpacker) attrs() Attrs {
	n := u.count("attributes", maxAttrs)
	if n == 0 || u.err != nil {
		return nil
	}
	// Each takes two octets at least: what is announced beyond that is a lie.
	if n > (len(u.b)-u.at)/2 {
		u.fail(errPackedShort)
		return nil
	}
	out := make(Attrs, n)
	for i := range out {
		t := charon.AttrType(u.octet())
		if !t.Valid() && u.err == nil {
			u.fail(fmt.Errorf("unknown attribute %d", uint8(t)))
		}
		out[i] = charon.Attr{Type: t, Value: u.take(u.count("octets", charon.MaxDatagram))}
	}
	return out
}

// list makes the n elements of a list that is announced; nil for none.
func list[T any](u *unpacker, what string, most int, read func(*T)) []T {
	n := u.count(what, most)
	if n == 0 || u.err != nil {
		return nil
	}
	if n > len(u.b)-u.at {
		u.fail(errPackedShort)
		return nil
	}
	out := make([]T, n)
	for i := range out {
		read(&out[i])
	}
	return out
}

func (u *unpacker) document() *Document {
	if v := u.octet(); v != packVersion && u.err == nil {
		u.fail(fmt.Errorf("unknown packed form %d (known: %d)", v, packVersion))
	}
	d := &Document{V: Version}
	d.SessionID = u.text("session id")
	d.Slot = sa.Slot(u.uint(16))
	d.Tier = u.text("tier")
	d.Rev = u.uint(64)
	d.ClientIP = u.text("client address")
	d.ClientInternalIP = u.text("inner address")
	d.Crypto.EncryptionAlgorithm = u.text("encryption algorithm")
	d.Crypto.KeyExchange = u.text("key exchange")
	d.Crypto.SharedSecret = u.secret("shared secret")
	d.ESP.Algorithm = u.text("ESP algorithm")
	d.ESP.Key = u.secret("ESP key")
	d.SeqNumber = u.uint(64)
	d.Ports = PortData{ClientPort: uint16(u.uint(16)), ServerPort: uint16(u.uint(16))}
	d.SourceIPs = list(u, "source addresses", maxSources, func(s *string) { *s = u.text("source address") })
	d.IKE = list(u, "IKE_SAs", MaxGenerations, u.generation)
	d.Children = list(u, "children", MaxChildren, u.child)
	d.Pending = list(u, "pending exchanges", MaxPending, u.exchange)
	// Text that occurs twice is kept once.
	if len(d.SourceIPs) > 0 && d.SourceIPs[0] == d.ClientIP {
		d.SourceIPs[0] = d.ClientIP
	}
	return d
}

func (u *unpacker) generation(g *Generation) {
	g.ID, g.Initiator, g.Version = u.ike(), u.bool(), u.octet()
	if u.bool() {
		id := u.ike()
		g.RekeyOf = &id
	}
	g.Add = list(u, "IKE_ADDs", maxAdds, func(a *Attrs) { *a = u.attrs() })
	g.Update = u.attrs()
	g.MIDInitiator, g.MIDResponder = uint32(u.uint(32)), uint32(u.uint(32))
	g.RekeyAt, g.ReauthAt = u.time(), u.time()
	g.Deleted = u.bool()
}

func (u *unpacker) child(c *Child) {
	c.IKE, c.In, c.Out = u.ike(), u.spi(), u.spi()
	c.Birth = sa.Birth{Base: sa.Ticket(u.uint(64)), Tenure: sa.Ticket(u.uint(64))}
	c.ESN = u.bool()
	c.Created, c.RekeyAt, c.LifeAt = u.time(), u.time(), u.time()
	c.Add = u.attrs()
	c.InSeq = u.uint(64)
}

func (u *unpacker) exchange(e *Exchange) {
	e.IKE = u.ike()
	if e.By = Client; u.bool() {
		e.By = Gateway
	}
	e.MID, e.SeenAt = uint32(u.uint(32)), u.time()
	e.Effects = list(u, "effects", MaxEffects, func(f *Effect) {
		f.Type = charon.MsgType(u.octet())
		if u.err == nil && effects[f.Type.String()] == 0 {
			u.fail(fmt.Errorf("%s is no effect of an exchange", f.Type))
		}
		f.At = u.time()
		f.Birth = sa.Birth{Base: sa.Ticket(u.uint(64)), Tenure: sa.Ticket(u.uint(64))}
		f.Attrs = u.attrs()
	})
}

// common holds texts that most documents share.
var common = map[string]string{}

func init() {
	for _, l := range []map[uint32]string{encrNames, integNames, groupNames} {
		for _, s := range l {
			common[s] = s
			for _, bits := range []string{"-128", "-192", "-256"} {
				common[s+bits] = s + bits
			}
		}
	}
	for _, c := range []string{"AES-CBC-128", "AES-CBC-256"} {
		for _, i := range integNames {
			common[c+"/"+i] = c + "/" + i
		}
	}
	for _, s := range []string{"basic", "standard", "premium"} {
		common[s] = s
	}
}

func intern(b []byte) string {
	if s, ok := common[string(b)]; ok {
		return s
	}
	return string(b)
}
