package session

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// The packed form of a document: what appliances exchange and keep. It holds
// what EncodeSecret writes, in about a third of the octets, and reading it costs a
// fiftieth. docs/wire-formats.md has the layout.
const packVersion = 0x01

// maxStamp bounds the seconds of a time on both sides of 1970: years 1 to 9999.
const minStamp, maxStamp = -62135596800, 253402300799

// Pack renders the document losslessly, key material included, in the packed form.
// Equal documents give equal octets. Documents of other systems have none.
func (d *Document) Pack() ([]byte, error) {
	switch {
	case d == nil:
		return nil, errors.New("pack session: no document")
	case d.V != Version:
		return nil, fmt.Errorf("pack session %s: document version %d, want %d", d.SessionID, d.V, Version)
	}
	p := packer{b: make([]byte, 0, d.packedSize())}
	p.document(d)
	if p.err != nil {
		return nil, fmt.Errorf("pack session %s: %w", d.SessionID, p.err)
	}
	if len(p.b) > MaxSize {
		return nil, fmt.Errorf("pack session %s: document has %d octets, at most %d are allowed", d.SessionID, len(p.b), MaxSize)
	}
	return p.b, nil
}

// packedSize is an estimate from above, so that packing allocates once.
func (d *Document) packedSize() int {
	n := 256 + len(d.SessionID) + len(d.Crypto.SharedSecret)
	add := func(as Attrs) {
		for _, a := range as {
			n += 3 + len(a.Value)
		}
	}
	for _, g := range d.IKE {
		n += 64
		add(g.Update)
		for _, a := range g.Add {
			add(a)
		}
	}
	for _, c := range d.Children {
		n += 96
		add(c.Add)
	}
	for _, e := range d.Pending {
		n += 48
		for _, f := range e.Effects {
			n += 48
			add(f.Attrs)
		}
	}
	return n
}

type packer struct {
	b   []byte
	err error
}

func (p *packer) octet(v byte)    { p.b = append(p.b, v) }
func (p *packer) uint(v uint64)   { p.b = binary.AppendUvarint(p.b, v) }
func (p *packer) count(n int)     { p.uint(uint64(n)) }
func (p *packer) text(s string)   { p.count(len(s)); p.b = append(p.b, s...) }
func (p *packer) octets(v []byte) { p.count(len(v)); p.b = append(p.b, v...) }

func (p *packer) bool(v bool) {
	if v {
		p.octet(1)
	} else {
		p.octet(0)
	}
}

func (p *packer) secret(s Secret) {
	b, err := base64.StdEncoding.Strict().DecodeString(string(s))
	if err != nil && p.err == nil {
		p.err = errors.New("a secret is not base64")
	}
	p.octets(b)
}

// time writes 0 for none, else the seconds plus an offset that makes them positive.
func (p *packer) time(t time.Time) {
	if t.IsZero() {
		p.uint(0)
		return
	}
	p.uint(uint64(t.Unix()-minStamp) + 1)
	p.uint(uint64(t.Nanosecond()))
}

func (p *packer) ike(id sa.IKEID) {
	p.b = binary.BigEndian.AppendUint64(p.b, uint64(id.Initiator))
	p.b = binary.BigEndian.AppendUint64(p.b, uint64(id.Responder))
}

func (p *packer) attrs(as Attrs) {
	p.count(len(as))
	for _, a := range as {
		p.octet(byte(a.Type))
		p.octets(a.Value)
	}
}

func (p *packer) document(d *Document) {
	p.octet(packVersion)
	p.text(d.SessionID)
	p.uint(uint64(d.Slot))
	p.text(d.Tier)
	p.uint(d.Rev)
	p.text(d.ClientIP)
	p.text(d.ClientInternalIP)
	p.text(d.Crypto.EncryptionAlgorithm)
	p.text(d.Crypto.KeyExchange)
	p.secret(d.Crypto.SharedSecret)
	p.text(d.ESP.Algorithm)
	p.secret(d.ESP.Key)
	p.uint(d.SeqNumber)
	p.uint(uint64(d.Ports.ClientPort))
	p.uint(uint64(d.Ports.ServerPort))
	p.count(len(d.SourceIPs))
	for _, s := range d.SourceIPs {
		p.text(s)
	}
	p.count(len(d.IKE))
	for i := range d.IKE {
		p.generation(&d.IKE[i])
	}
	p.count(len(d.Children))
	for i := range d.Children {
		p.child(&d.Children[i])
	}
	p.count(len(d.Pending))
	for i := range d.Pending {
		p.exchange(&d.Pending[i])
	}
}

func (p *packer) generation(g *Generation) {
	p.ike(g.ID)
	p.bool(g.Initiator)
	p.octet(g.Version)
	p.bool(g.RekeyOf != nil)
	if g.RekeyOf != nil {
		p.ike(*g.RekeyOf)
	}
	p.count(len(g.Add))
	for _, a := range g.Add {
		p.attrs(a)
	}
	p.attrs(g.Update)
	p.uint(uint64(g.MIDInitiator))
	p.uint(uint64(g.MIDResponder))
	p.time(g.RekeyAt)
	p.time(g.ReauthAt)
	p.bool(g.Deleted)
}

func (p *packer) child(c *Child) {
	p.ike(c.IKE)
	p.b = binary.BigEndian.AppendUint32(p.b, uint32(c.In))
	p.b = binary.BigEndian.AppendUint32(p.b, uint32(c.Out))
	p.uint(uint64(c.Birth.Base))
	p.uint(uint64(c.Birth.Tenure))
	p.bool(c.ESN)
	p.time(c.Created)
	p.time(c.RekeyAt)
	p.time(c.LifeAt)
	p.attrs(c.Add)
	p.uint(c.InSeq)
}

func (p *packer) exchange(e *Exchange) {
	p.ike(e.IKE)
	p.bool(e.By == Gateway)
	p.uint(uint64(e.MID))
	p.time(e.SeenAt)
	p.count(len(e.Effects))
	for i := range e.Effects {
		f := &e.Effects[i]
		p.octet(byte(f.Type))
		p.time(f.At)
		p.uint(uint64(f.Birth.Base))
		p.uint(uint64(f.Birth.Tenure))
		p.attrs(f.Attrs)
	}
}
