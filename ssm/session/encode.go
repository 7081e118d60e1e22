package session

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// The wire* types fix names and order of the keys; decode.go reads the same.
type (
	wireDoc struct {
		V         int       `json:"v,omitempty"`
		SessionID string    `json:"session_id"`
		Slot      sa.Slot   `json:"slot,omitempty"`
		Tier      string    `json:"tier,omitempty"`
		Rev       uint64    `json:"rev,omitempty"`
		ClientIP  string    `json:"client_ip"`
		InnerIP   string    `json:"client_internal_ip"`
		Crypto    wireCrypt `json:"crypto_params"`
		ESP       wireESP   `json:"esp_params"`
		Seq       uint64    `json:"seq_number"`
		Ports     wirePorts `json:"port_data"`
		Sources   []string  `json:"source_ips"`
		IKE       []wireGen `json:"ike,omitempty"`
		Children  []wireKid `json:"children,omitempty"`
		Pending   []wireExc `json:"pending,omitempty"`
	}
	wireCrypt struct {
		Encryption string `json:"encryption_algorithm"`
		Exchange   string `json:"key_exchange"`
		Secret     string `json:"shared_secret"`
	}
	wireESP struct {
		Algorithm string `json:"esp_algorithm"`
		Key       string `json:"esp_key"`
	}
	wirePorts struct {
		Client uint16 `json:"client_port"`
		Server uint16 `json:"server_port"`
	}
	wireGen struct {
		ID        sa.IKEID     `json:"id"`
		Initiator bool         `json:"initiator"`
		Version   uint8        `json:"version"`
		RekeyOf   *sa.IKEID    `json:"rekey_of,omitempty"`
		Add       [][]wireAttr `json:"add"`
		Update    []wireAttr   `json:"update"`
		MIDI      uint32       `json:"mid_initiator"`
		MIDR      uint32       `json:"mid_responder"`
		RekeyAt   string       `json:"rekey_at,omitempty"`
		ReauthAt  string       `json:"reauth_at,omitempty"`
		Deleted   bool         `json:"deleted,omitempty"`
	}
	wireKid struct {
		IKE     sa.IKEID   `json:"ike"`
		In      sa.SPI     `json:"in_spi"`
		Out     sa.SPI     `json:"out_spi"`
		Base    sa.Ticket  `json:"b"`
		Tenure  sa.Ticket  `json:"tenure"`
		ESN     bool       `json:"esn"`
		Created string     `json:"created,omitempty"`
		RekeyAt string     `json:"rekey_at,omitempty"`
		LifeAt  string     `json:"life_at,omitempty"`
		Add     []wireAttr `json:"add"`
		InSeq   uint64     `json:"in_seq,omitempty"`
	}
	wireExc struct {
		IKE     sa.IKEID     `json:"ike"`
		By      Party        `json:"by"`
		MID     uint32       `json:"mid"`
		SeenAt  string       `json:"seen_at,omitempty"`
		Effects []wireEffect `json:"effects"`
	}
	wireEffect struct {
		Type   string     `json:"type"`
		At     string     `json:"at,omitempty"`
		Base   sa.Ticket  `json:"b,omitempty"`
		Tenure sa.Ticket  `json:"tenure,omitempty"`
		Attrs  []wireAttr `json:"attrs"`
	}
	wireAttr struct {
		T string `json:"t"`
		V string `json:"v"`
	}
)

// MarshalJSON renders the document with every secret redacted. Decode refuses
// the result unless the document has no secret.
func (d Document) MarshalJSON() ([]byte, error) { return d.encode(false) }

// EncodeSecret renders the document losslessly, key material included: for
// replication, and for the operator's explicit --reveal-keys. Equal documents
// give equal octets.
func (d *Document) EncodeSecret() ([]byte, error) {
	if d == nil {
		return nil, errors.New("encode session: no document")
	}
	b, err := d.encode(true)
	if err != nil {
		return nil, err
	}
	if len(b) > MaxSize {
		return nil, fmt.Errorf("encode session %s: document has %d bytes, at most %d are allowed", d.SessionID, len(b), MaxSize)
	}
	return b, nil
}

// Digest is a hash over the committed content. Owner and shadow compare it: it
// leaves out what may differ between them at any moment (rev, pending exchanges,
// samples of sequence numbers).
func (d *Document) Digest() ([sha256.Size]byte, error) {
	c := d.clone()
	c.Rev, c.SeqNumber, c.Pending = 0, 0, nil
	for i := range c.Children {
		c.Children[i].InSeq = 0
	}
	b, err := c.encode(true)
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("digest session %s: %w", d.SessionID, err)
	}
	return sha256.Sum256(b), nil
}

func (d *Document) encode(reveal bool) ([]byte, error) {
	w := wireDoc{
		V: d.V, SessionID: d.SessionID, Slot: d.Slot, Tier: d.Tier, Rev: d.Rev,
		ClientIP: d.ClientIP, InnerIP: d.ClientInternalIP,
		Crypto: wireCrypt{d.Crypto.EncryptionAlgorithm, d.Crypto.KeyExchange, d.Crypto.SharedSecret.wire(reveal)},
		ESP:    wireESP{d.ESP.Algorithm, d.ESP.Key.wire(reveal)},
		Seq:    d.SeqNumber,
		Ports:  wirePorts{d.Ports.ClientPort, d.Ports.ServerPort},
		// an absent list is written as [], the key is part of the specification
		Sources: append([]string{}, d.SourceIPs...),
	}
	for _, g := range d.IKE {
		x := wireGen{
			ID: g.ID, Initiator: g.Initiator, Version: g.Version, RekeyOf: g.RekeyOf,
			Update: wireAttrs(g.Update, reveal), MIDI: g.MIDInitiator, MIDR: g.MIDResponder,
			RekeyAt: wireTime(g.RekeyAt), ReauthAt: wireTime(g.ReauthAt), Deleted: g.Deleted,
		}
		for _, a := range g.Add {
			x.Add = append(x.Add, wireAttrs(a, reveal))
		}
		w.IKE = append(w.IKE, x)
	}
	for _, c := range d.Children {
		w.Children = append(w.Children, wireKid{
			IKE: c.IKE, In: c.In, Out: c.Out, Base: c.Birth.Base, Tenure: c.Birth.Tenure, ESN: c.ESN,
			Created: wireTime(c.Created), RekeyAt: wireTime(c.RekeyAt), LifeAt: wireTime(c.LifeAt),
			Add: wireAttrs(c.Add, reveal), InSeq: c.InSeq,
		})
	}
	for _, e := range d.Pending {
		x := wireExc{IKE: e.IKE, By: e.By, MID: e.MID, SeenAt: wireTime(e.SeenAt), Effects: []wireEffect{}}
		for _, f := range e.Effects {
			x.Effects = append(x.Effects, wireEffect{
				Type: f.Type.String(), At: wireTime(f.At), Base: f.Birth.Base, Tenure: f.Birth.Tenure,
				Attrs: wireAttrs(f.Attrs, reveal),
			})
		}
		w.Pending = append(w.Pending, x)
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(w); err != nil {
		return nil, fmt.Errorf("encode session %s: %w", d.SessionID, err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte{'\n'}), nil
}

func (s Secret) wire(reveal bool) string {
	if reveal {
		return string(s)
	}
	return s.shown()
}

func wireAttrs(as Attrs, reveal bool) []wireAttr {
	out := make([]wireAttr, 0, len(as))
	for _, a := range as {
		out = append(out, wireAttr{a.Type.String(), wireValue(a, reveal)})
	}
	return out
}

func wireValue(a charon.Attr, reveal bool) string {
	if a.Secret() && !reveal {
		return redacted
	}
	return base64.StdEncoding.EncodeToString(a.Value)
}

func wireTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339Nano)
}
