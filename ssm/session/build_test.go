package session

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// What charon would send, as values. The shapes (attributes and their order) are
// those of a strongSwan 5.9.8 connection.

const testSlot = sa.Slot(7)

var (
	t0    = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	birth = sa.Birth{Base: 3, Tenure: 2}
)

func testBirth() sa.Birth { return birth }

func at(d time.Duration) time.Time { return t0.Add(d) }

func ikeID(n uint64) sa.IKEID {
	return sa.IKEID{Initiator: sa.IKESPI(0x1100_0000_0000_0000 + n), Responder: sa.IKESPI(testSlot.IKELabel() + n)}
}

// ref returns the reference to an IKE_SA; ours: the gateway initiated it.
func ref(id sa.IKEID, ours bool) charon.IKERef {
	return charon.IKERef{ID: id, Initiator: ours, Version: 2}
}

func inSPI(n uint32) sa.SPI { return sa.SPI(uint32(testSlot)<<20 + n) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func chunk(t charon.AttrType, n uint64) charon.Attr {
	return must(charon.NewChunk(t, binary.BigEndian.AppendUint64(bytes.Repeat([]byte{0x80 | byte(t)}, 24), n)))
}

func msg(t charon.MsgType, as ...charon.Attr) charon.Message {
	return charon.Message{Version: charon.V3, Type: t, Attrs: as}
}

func ikeAdd(r charon.IKERef, old *charon.IKERef) charon.Message {
	n := uint64(r.ID.Initiator)
	as := []charon.Attr{charon.NewU8(charon.IKEVersion, 2), charon.NewIKERef(charon.IKEID, r)}
	if old != nil {
		as = append(as, charon.NewIKERef(charon.RekeyID, *old), charon.NewU16(charon.OldPRF, 5), chunk(charon.OldSKD, n))
	}
	return msg(charon.IKEAdd, append(as,
		chunk(charon.NonceI, n+1), chunk(charon.NonceR, n+2), chunk(charon.Secret, n+3),
		chunk(charon.LocalDH, n+4), chunk(charon.RemoteDH, n+5),
		charon.NewU16(charon.PRF, 5), charon.NewU16(charon.Encr, 12), charon.NewU16(charon.EncrLen, 256),
		charon.NewU16(charon.Integ, 12), charon.NewU16(charon.DH, 31), charon.NewU16(charon.AuthMethod, 2))...)
}

func addr(t charon.AttrType, s string) charon.Attr {
	return must(charon.NewAddr(t, netip.MustParseAddrPort(s)))
}

func ikeUpdate(r charon.IKERef, remote string) charon.Message {
	return msg(charon.IKEUpdate, charon.NewIKERef(charon.IKEID, r),
		must(charon.NewIdentity(charon.LocalID, charon.Identity{Type: 2, Data: []byte("gw.example")})),
		must(charon.NewIdentity(charon.RemoteID, charon.Identity{Type: 3, Data: []byte("c1@example")})),
		addr(charon.LocalAddr, "198.51.100.1:4500"), addr(charon.RemoteAddr, remote),
		charon.NewU32(charon.Conditions, 0x10), charon.NewU32(charon.Extensions, 0x24),
		must(charon.NewName(charon.ConfigName, "rw")), addr(charon.PeerAddr, remote))
}

func vipUpdate(r charon.IKERef, vip string) charon.Message {
	return msg(charon.IKEUpdate, charon.NewIKERef(charon.IKEID, r), addr(charon.RemoteVIP, vip+":0"))
}

func ikeDelete(r charon.IKERef) charon.Message {
	return msg(charon.IKEDelete, charon.NewIKERef(charon.IKEID, r))
}

func midI(r charon.IKERef, next uint32) charon.Message {
	return msg(charon.MIDInitiator, charon.NewIKERef(charon.IKEID, r), charon.NewU32(charon.MID, next))
}

func midR(r charon.IKERef, next uint32) charon.Message {
	return msg(charon.MIDResponder, charon.NewIKERef(charon.IKEID, r), charon.NewU32(charon.MID, next))
}

func childAdd(r charon.IKERef, ours bool, in sa.SPI) charon.Message {
	var i uint8
	if ours {
		i = 1
	}
	ts := func(t charon.AttrType, from, to string) charon.Attr {
		return must(charon.NewTS(t, charon.TS{ToPort: 65535, From: netip.MustParseAddr(from), To: netip.MustParseAddr(to)}))
	}
	return msg(charon.ChildAdd, charon.NewIKERef(charon.IKEID, r), charon.NewU8(charon.Initiator, i),
		charon.NewSPI(charon.InSPI, in), charon.NewSPI(charon.OutSPI, in^0xffff_0000),
		charon.NewU16(charon.InCPI, 0), charon.NewU16(charon.OutCPI, 0), charon.NewU8(charon.Mode, 2), charon.NewU8(charon.IPComp, 0),
		charon.NewU16(charon.Encr, 20), charon.NewU16(charon.EncrLen, 128), charon.NewU16(charon.ESN, 1),
		chunk(charon.NonceI, uint64(in)), chunk(charon.NonceR, uint64(in)+1),
		ts(charon.LocalTS, "10.99.0.0", "10.99.255.255"), ts(charon.RemoteTS, "10.3.0.1", "10.3.0.1"))
}

func childDelete(r charon.IKERef, in sa.SPI) charon.Message {
	return msg(charon.ChildDelete, charon.NewIKERef(charon.IKEID, r), charon.NewSPI(charon.InSPI, in))
}

// request and response are headers a client sends on an IKE_SA it initiated.
func request(id sa.IKEID, mid uint32, when time.Time) Header {
	return Header{ID: id, MsgID: mid, Exchange: 37, FromInitiator: true, At: when}
}

func response(id sa.IKEID, mid uint32, when time.Time) Header {
	return Header{ID: id, MsgID: mid, Exchange: 37, FromInitiator: true, Response: true, At: when}
}

// tester is what *testing.T and *rapid.T have in common.
type tester interface {
	Helper()
	Error(...any)
	Fatal(...any)
	Fatalf(string, ...any)
}

// owner is a Ledger under test.
type owner struct {
	*Ledger
	t    tester
	last map[string]*Document
	now  time.Time
}

func newOwner(t tester) *owner {
	return &owner{Ledger: New(testSlot), t: t, last: map[string]*Document{}, now: t0}
}

func (w *owner) take(o Output) Output {
	for _, c := range o.Changes {
		if c.Kind == Delete {
			delete(w.last, c.ID)
			continue
		}
		w.last[c.ID] = c.Doc
	}
	return o
}

func (w *owner) apply(ms ...charon.Message) Output {
	w.t.Helper()
	var all Output
	for _, m := range ms {
		b := must(m.Encode())
		o, err := w.Apply(must(charon.Decode(b)), testBirth, w.now)
		if err != nil {
			w.t.Fatalf("%s: %v", m, err)
		}
		all.merge(w.take(o))
	}
	return all
}

func (w *owner) header(h Header) Output { return w.take(w.Header(h)) }

func (w *owner) tick(d time.Duration) Output {
	w.now = w.now.Add(d)
	return w.take(w.Tick(w.now))
}

// connect brings up session n: IKE_SA n with child n.
func (w *owner) connect(n uint64) (charon.IKERef, *Document) {
	w.t.Helper()
	r := ref(ikeID(n), false)
	w.apply(ikeAdd(r, nil), midR(r, 2), ikeUpdate(r, "203.0.113.9:40000"), childAdd(r, false, inSPI(uint32(n))),
		vipUpdate(r, netip.AddrFrom4([4]byte{10, 3, byte(n >> 8), byte(n)}).String()))
	d := w.last[r.ID.String()]
	if d == nil || len(d.Pending) != 0 || len(d.Children) != 1 {
		w.t.Fatalf("connect: session is not committed: %v", d)
	}
	return r, d
}

// doc returns the last published document of the session that began with r.
func (w *owner) doc(r charon.IKERef) *Document {
	w.t.Helper()
	d := w.last[r.ID.String()]
	if d == nil {
		w.t.Fatalf("session %s is gone", r.ID)
	}
	return d
}

// succeed makes a new owner out of the last published documents.
func (w *owner) succeed() *owner {
	w.t.Helper()
	n := newOwner(w.t)
	n.now = w.now
	var docs []*Document
	for _, d := range w.last {
		docs = append(docs, must(Decode(must(d.EncodeSecret()))))
		n.last[d.SessionID] = d
	}
	if _, err := n.Adopt(docs); err != nil {
		w.t.Fatal(err)
	}
	n.Takeover(n.now)
	return n
}

func types(ms []charon.Message) []charon.MsgType {
	out := []charon.MsgType{}
	for _, m := range ms {
		out = append(out, m.Type)
	}
	return out
}
