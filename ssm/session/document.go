package session

import (
	"bytes"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// Version is the version of the documents this package writes.
const Version = 1

// Document is one session. Documents handed out by this package are immutable:
// they share attribute values with each other.
type Document struct {
	V         int // Version, or 0 in an external document
	SessionID string
	Slot      sa.Slot
	Tier      string
	Rev       uint64

	ClientIP         string
	ClientInternalIP string
	Crypto           CryptoParams
	ESP              ESPParams
	SeqNumber        uint64 // last inbound sequence number sampled, newest child
	Ports            PortData
	SourceIPs        []string

	IKE      []Generation
	Children []Child
	Pending  []Exchange
}

// CryptoParams is crypto_params of the specification.
type CryptoParams struct {
	EncryptionAlgorithm string
	KeyExchange         string
	SharedSecret        Secret
}

// ESPParams is esp_params of the specification. Key is empty in every document
// this package writes: see the package comment.
type ESPParams struct {
	Algorithm string
	Key       Secret
}

// PortData is port_data of the specification.
type PortData struct {
	ClientPort uint16
	ServerPort uint16
}

// Generation is one IKE_SA of the chain that rekeying forms.
type Generation struct {
	ID        sa.IKEID
	Initiator bool      // the gateway initiated this IKE_SA
	Version   uint8     // IKE version
	RekeyOf   *sa.IKEID // its predecessor, nil for the first

	// Add holds the IKE_ADDs in order: one from strongSwan 5.9, one for each
	// key exchange from strongSwan 6. Update holds all IKE_UPDATEs, merged.
	Add    []Attrs
	Update Attrs

	// Committed message IDs as charon counts them: that of the next request.
	MIDInitiator uint32
	MIDResponder uint32

	// When the owner's charon would rekey and reauthenticate it, zero if unknown
	// or never: activation in a twin starts charon's own timers anew (rule 8).
	RekeyAt  time.Time
	ReauthAt time.Time

	// Deleted marks an ancestor: its IKE_SA is gone, a child derives from it.
	Deleted bool
}

// Child is one CHILD_SA.
type Child struct {
	IKE     sa.IKEID // the generation it was derived under
	In, Out sa.SPI
	Birth   sa.Birth
	ESN     bool
	Created time.Time
	RekeyAt time.Time // original soft deadline, zero if unknown
	LifeAt  time.Time // original hard deadline, zero if unknown
	Add     Attrs
	InSeq   uint64 // last inbound sequence number sampled, seq_hi included
}

// Party names the side that began an exchange.
type Party string

// The parties.
const (
	Client  Party = "client"
	Gateway Party = "gateway"
)

// Exchange is an exchange the client has not shown to be complete.
type Exchange struct {
	IKE     sa.IKEID
	By      Party
	MID     uint32 // message ID of the request
	SeenAt  time.Time
	Effects []Effect
}

// Effect is one message that charon emitted as the result of an exchange.
type Effect struct {
	Type  charon.MsgType
	Attrs Attrs
	At    time.Time
	Birth sa.Birth // of the child, in a CHILD_ADD
}

// Attrs is an ordered list of attributes.
type Attrs []charon.Attr

func (a Attrs) message(t charon.MsgType) charon.Message {
	return charon.Message{Type: t, Attrs: a}
}

func (a Attrs) find(t charon.AttrType) (charon.Attr, bool) { return a.message(0).Find(t) }

func (a Attrs) has(t charon.AttrType) bool { _, ok := a.find(t); return ok }

func (a Attrs) only(types ...charon.AttrType) Attrs {
	var out Attrs
	for _, x := range a {
		if slices.Contains(types, x.Type) {
			out = append(out, x)
		}
	}
	return out
}

func (a Attrs) without(t charon.AttrType) Attrs {
	return slices.DeleteFunc(slices.Clone(a), func(x charon.Attr) bool { return x.Type == t })
}

func (a Attrs) equal(b Attrs) bool {
	return slices.EqualFunc(a, b, func(x, y charon.Attr) bool {
		return x.Type == y.Type && bytes.Equal(x.Value, y.Value)
	})
}

// merge returns a with every type that occurs in b replaced by b's values of
// that type: charon clears repeated attributes before it adds new ones.
func (a Attrs) merge(b Attrs) Attrs {
	out := make(Attrs, 0, len(a)+len(b))
	done := map[charon.AttrType]bool{}
	for _, x := range a {
		switch {
		case !b.has(x.Type):
			out = append(out, x)
		case !done[x.Type]:
			done[x.Type] = true
			out = append(out, b.only(x.Type)...)
		}
	}
	for _, x := range b {
		if !done[x.Type] {
			done[x.Type] = true
			out = append(out, b.only(x.Type)...)
		}
	}
	return out
}

// External reports whether the document comes from another system: it has the
// fields of the specification and nothing a session could be rebuilt from.
func (d *Document) External() bool { return d.V == 0 }

// Live returns the generation that carries the session, nil if there is none.
func (d *Document) Live() *Generation {
	if len(d.IKE) == 0 {
		return nil
	}
	return &d.IKE[len(d.IKE)-1]
}

func (d *Document) generation(id sa.IKEID) *Generation {
	for i := range d.IKE {
		if d.IKE[i].ID == id {
			return &d.IKE[i]
		}
	}
	return nil
}

func (d *Document) child(in sa.SPI) *Child {
	for i := range d.Children {
		if d.Children[i].In == in {
			return &d.Children[i]
		}
	}
	return nil
}

// clone returns a document whose lists can be changed; attributes are shared.
func (d *Document) clone() *Document {
	c := *d
	c.SourceIPs = fresh(d.SourceIPs)
	c.IKE = fresh(d.IKE)
	for i := range c.IKE {
		c.IKE[i].Add = fresh(c.IKE[i].Add)
	}
	c.Children = fresh(d.Children)
	c.Pending = fresh(d.Pending)
	for i := range c.Pending {
		c.Pending[i].Effects = fresh(c.Pending[i].Effects)
	}
	return &c
}

// stamp drops what a document cannot carry: location and monotonic reading.
func stamp(t time.Time) time.Time { return t.UTC().Round(0) }

// fresh copies a list; an empty one becomes nil, as Decode has it.
func fresh[T any](l []T) []T { return append([]T(nil), l...) }
