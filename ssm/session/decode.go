package session

import (
	"encoding/base64"
	"fmt"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// Bounds of a document. A Ledger never makes one that exceeds them.
const (
	MaxSize        = 1 << 20 // bytes of JSON
	MaxGenerations = 64
	MaxChildren    = 256
	MaxPending     = 64
	MaxEffects     = 64  // of one exchange
	maxAdds        = 8   // IKE_ADDs of one generation
	maxAttrs       = 256 // of one list
	maxText        = 1024
	maxSources     = 256
)

// Decode reads a document. It refuses unknown versions and keys, redacted
// secrets, and content that contradicts itself; errors name the JSON path. A
// document without "v" must have the fields of the specification and no others.
func Decode(b []byte) (*Document, error) {
	n, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("decode session: %w", err)
	}
	r := &reader{}
	d := r.document(n)
	if r.err == nil && !d.External() {
		r.err = d.validate()
	}
	if r.err != nil {
		return nil, fmt.Errorf("decode session: %w", r.err)
	}
	return d, nil
}

func (r *reader) document(n node) *Document {
	o := r.object("$", n)
	d := &Document{}
	if o.has("v") {
		if d.V = int(o.uint("v", 31)); d.V != Version {
			r.fail("$.v", "unknown document version %d (known: %d)", d.V, Version)
			return d
		}
		d.Slot = sa.Slot(o.uint("slot", 16))
		if o.has("tier") {
			d.Tier = o.text("tier", maxText)
		}
		if o.has("rev") {
			d.Rev = o.uint("rev", 64)
		}
		o.list("ike", MaxGenerations, func(p string, n node) { d.IKE = append(d.IKE, r.generation(p, n)) })
		if o.has("children") {
			o.list("children", MaxChildren, func(p string, n node) { d.Children = append(d.Children, r.child(p, n)) })
		}
		if o.has("pending") {
			o.list("pending", MaxPending, func(p string, n node) { d.Pending = append(d.Pending, r.exchange(p, n)) })
		}
	}
	r.summary(o, d)
	o.close()
	return d
}

// summary reads the fields of the specification.
func (r *reader) summary(o *object, d *Document) {
	d.SessionID = o.text("session_id", maxText)
	d.ClientIP = o.text("client_ip", maxText)
	d.ClientInternalIP = o.text("client_internal_ip", maxText)
	c := o.object("crypto_params")
	d.Crypto = CryptoParams{c.text("encryption_algorithm", maxText), c.text("key_exchange", maxText), c.secret("shared_secret", d.V)}
	c.close()
	e := o.object("esp_params")
	d.ESP = ESPParams{e.text("esp_algorithm", maxText), e.secret("esp_key", d.V)}
	e.close()
	d.SeqNumber = o.uint("seq_number", 64)
	p := o.object("port_data")
	d.Ports = PortData{uint16(p.uint("client_port", 16)), uint16(p.uint("server_port", 16))}
	p.close()
	o.list("source_ips", maxSources, func(path string, n node) {
		s, ok := n.(string)
		if !ok || len(s) > maxText {
			r.fail(path, "is no address")
		}
		d.SourceIPs = append(d.SourceIPs, s)
	})
}

// secret reads base64, in external documents (v 0) any text.
func (o *object) secret(key string, v int) Secret {
	if v == 0 {
		s := o.text(key, charon.MaxDatagram)
		if s == redacted {
			o.r.fail(o.at(key), "is redacted: only the output of EncodeSecret can be decoded")
		}
		return Secret(s)
	}
	return Secret(base64.StdEncoding.EncodeToString(o.base64(key, charon.MaxDatagram)))
}

func (r *reader) generation(path string, n node) Generation {
	o := r.object(path, n)
	g := Generation{
		ID: o.ikeID("id"), Initiator: o.bool("initiator"), Version: uint8(o.uint("version", 8)),
		MIDInitiator: uint32(o.uint("mid_initiator", 32)), MIDResponder: uint32(o.uint("mid_responder", 32)),
	}
	if o.has("rekey_of") {
		id := o.ikeID("rekey_of")
		g.RekeyOf = &id
	}
	g.RekeyAt, g.ReauthAt = o.time("rekey_at"), o.time("reauth_at")
	if o.has("deleted") {
		g.Deleted = o.bool("deleted")
	}
	o.list("add", maxAdds, func(p string, n node) { g.Add = append(g.Add, r.attrs(p, n)) })
	g.Update = o.attrs("update")
	o.close()
	return g
}

func (r *reader) child(path string, n node) Child {
	o := r.object(path, n)
	c := Child{IKE: o.ikeID("ike"), ESN: o.bool("esn")}
	o.parseText("in_spi", &c.In)
	o.parseText("out_spi", &c.Out)
	c.Birth = sa.Birth{Base: sa.Ticket(o.uint("b", 64)), Tenure: sa.Ticket(o.uint("tenure", 64))}
	c.Created, c.RekeyAt, c.LifeAt = o.time("created"), o.time("rekey_at"), o.time("life_at")
	if o.has("in_seq") {
		c.InSeq = o.uint("in_seq", 64)
	}
	c.Add = o.attrs("add")
	o.close()
	return c
}

func (r *reader) exchange(path string, n node) Exchange {
	o := r.object(path, n)
	e := Exchange{IKE: o.ikeID("ike"), By: Party(o.text("by", 16)), MID: uint32(o.uint("mid", 32)), SeenAt: o.time("seen_at")}
	if e.By != Client && e.By != Gateway {
		r.fail(o.at("by"), "is %s, want %q or %q", clip(string(e.By)), Client, Gateway)
	}
	o.list("effects", MaxEffects, func(p string, n node) { e.Effects = append(e.Effects, r.effect(p, n)) })
	o.close()
	return e
}

// effects lists the messages that an exchange can cause.
var effects = map[string]charon.MsgType{}

func init() {
	for _, t := range []charon.MsgType{charon.IKEAdd, charon.IKEUpdate, charon.IKEDelete, charon.ChildAdd, charon.ChildDelete} {
		effects[t.String()] = t
	}
}

func (r *reader) effect(path string, n node) Effect {
	o := r.object(path, n)
	name := o.text("type", 32)
	e := Effect{Type: effects[name], At: o.time("at"), Attrs: o.attrs("attrs")}
	if e.Type == 0 {
		r.fail(o.at("type"), "%s is no effect of an exchange", clip(name))
	}
	if o.has("b") {
		e.Birth.Base = sa.Ticket(o.uint("b", 64))
	}
	if o.has("tenure") {
		e.Birth.Tenure = sa.Ticket(o.uint("tenure", 64))
	}
	o.close()
	return e
}

func (o *object) ikeID(key string) sa.IKEID {
	x := o.object(key)
	var id sa.IKEID
	x.parseText("spi_i", &id.Initiator)
	x.parseText("spi_r", &id.Responder)
	x.close()
	return id
}

func (o *object) attrs(key string) Attrs {
	n, ok := o.take(key)
	if !ok {
		return nil
	}
	return o.r.attrs(o.at(key), n)
}

func (r *reader) attrs(path string, n node) Attrs {
	l, ok := n.([]node)
	if !ok {
		r.fail(path, "is %s, want an array", typeName(n))
	}
	var out Attrs
	r.each(path, l, maxAttrs, func(p string, n node) {
		o := r.object(p, n)
		name := o.text("t", 64)
		t, err := charon.ParseAttrType(name)
		if err != nil {
			r.fail(o.at("t"), "unknown attribute %s", clip(name))
		}
		a := charon.Attr{Type: t, Value: o.base64("v", charon.MaxDatagram)}
		o.close()
		out = append(out, a)
	})
	return out
}
