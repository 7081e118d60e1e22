package session

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

func spis(d *Document) []sa.SPI {
	out := []sa.SPI{}
	for _, c := range d.Children {
		out = append(out, c.In)
	}
	return out
}

func gens(d *Document) []sa.IKEID {
	out := []sa.IKEID{}
	for _, g := range d.IKE {
		out = append(out, g.ID)
	}
	return out
}

func equal[T comparable](t testing.TB, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func TestConnect(t *testing.T) {
	w := newOwner(t)
	r, d := w.connect(1)
	if d.Live().MIDResponder != 2 || d.Children[0].Birth != birth || !d.Children[0].ESN {
		t.Errorf("MID %d, birth %v, esn %v", d.Live().MIDResponder, d.Children[0].Birth, d.Children[0].ESN)
	}
	if d.ClientIP != "203.0.113.9" || d.ClientInternalIP != "10.3.0.1" || d.Ports != (PortData{40000, 4500}) ||
		d.Crypto.EncryptionAlgorithm != "AES-CBC-256" || d.Crypto.KeyExchange != "CURVE25519" || d.ESP.Algorithm != "AES-GCM-16-128" || d.ESP.Key != "" {
		t.Errorf("summary: %s %s %+v %+v %+v", d.ClientIP, d.ClientInternalIP, d.Ports, d.Crypto, d.ESP)
	}
	if id, ok := w.SessionOfIKE(r.ID); !ok || id != d.SessionID {
		t.Errorf("SessionOfIKE: %q %v", id, ok)
	}
	o := w.apply(ikeDelete(r))
	if len(o.Changes) != 1 || o.Changes[0].Kind != Delete || o.Changes[0].Suspect || w.Len() != 0 {
		t.Errorf("delete: %+v", o.Changes)
	}
	if len(w.byIKE)+len(w.bySPI)+len(w.vips)+len(w.busy) != 0 {
		t.Error("a deleted session left something behind")
	}
}

func TestHalfOpen(t *testing.T) {
	w := newOwner(t)
	r := ref(ikeID(1), false)
	if o := w.apply(ikeAdd(r, nil), midR(r, 2), midR(r, 3)); len(o.Changes) != 0 {
		t.Fatalf("half open, yet told: %v", o.Changes)
	}
	if o := w.apply(ikeDelete(r)); len(o.Changes) != 0 || w.Stats().HalfOpen != 1 {
		t.Errorf("failed authentication: %v, %+v", o.Changes, w.Stats())
	}
	r = ref(ikeID(2), false)
	w.apply(ikeAdd(r, nil))
	w.tick(halfOpenTime)
	if _, err := w.Apply(ikeUpdate(r, "203.0.113.9:500"), testBirth, w.now); !errors.Is(err, ErrUnknownSA) {
		t.Errorf("update of an expired half-open IKE_SA: %v", err)
	}
	// An update without connection does not bring it up; the order may differ.
	r = ref(ikeID(3), false)
	if o := w.apply(ikeAdd(r, nil), vipUpdate(r, "10.3.0.3"), childAdd(r, false, inSPI(3))); len(o.Changes) != 0 {
		t.Errorf("told without a connection: %v", o.Changes)
	}
	w.apply(ikeUpdate(r, "203.0.113.9:500"))
	if d := w.doc(r); d.ClientInternalIP != "10.3.0.3" || len(d.Children) != 1 || d.Children[0].Birth != birth {
		t.Errorf("held messages were lost: %+v", d.Children)
	}
}

func TestRefusals(t *testing.T) {
	w := newOwner(t)
	r, _ := w.connect(1)
	stranger := ref(ikeID(9), false)
	half := ref(ikeID(8), false)
	w.apply(ikeAdd(half, nil))
	broken := ikeDelete(r)
	broken.Attrs = nil
	noSPI := childAdd(r, false, inSPI(5))
	noSPI.Attrs = slices.DeleteFunc(noSPI.Attrs, func(a charon.Attr) bool { return a.Type == charon.OutSPI })
	initial := ref(sa.IKEID{Initiator: 5}, false)
	cases := []struct {
		name string
		m    charon.Message
		want error
	}{
		{"repeated IKE_ADD", ikeAdd(r, nil), ErrDuplicate},
		{"repeated half-open IKE_ADD", ikeAdd(half, nil), ErrDuplicate},
		{"repeated CHILD_ADD", childAdd(r, false, inSPI(1)), ErrDuplicate},
		{"repeated MID", midR(r, 2), ErrDuplicate},
		{"stranger's update", ikeUpdate(stranger, "203.0.113.9:1"), ErrUnknownSA},
		{"stranger's delete", ikeDelete(stranger), ErrUnknownSA},
		{"stranger's MID", midI(stranger, 1), ErrUnknownSA},
		{"stranger's child", childAdd(stranger, false, inSPI(9)), ErrUnknownSA},
		{"delete of a stranger's child", childDelete(r, inSPI(9)), ErrUnknownSA},
		{"no IKE_ID", broken, ErrMalformed},
		{"no OUT_SPI", noSPI, ErrMalformed},
		{"no responder SPI", ikeAdd(initial, nil), ErrMalformed},
		{"MID 0", midI(r, 0), ErrMalformed},
	}
	for _, c := range cases {
		o, err := w.Apply(c.m, testBirth, w.now)
		var re *RefusedError
		if !errors.Is(err, c.want) || !errors.As(err, &re) || re.Type != c.m.Type || len(o.Changes) != 0 {
			t.Errorf("%s: %v, changes %v", c.name, err, o.Changes)
		}
	}
	s := w.Stats()
	if s.Duplicates != 4 || s.Unknown != 5 || s.Malformed != 4 {
		t.Errorf("stats: %+v", s)
	}
	if o, err := w.Apply(charon.Message{Version: charon.V3, Type: charon.Status}, testBirth, w.now); err != nil || len(o.Changes) != 0 || w.Stats().Ignored != 1 {
		t.Errorf("STATUS: %v %v", o, err)
	}
}

// strongSwan 6 sends an IKE_ADD for each key exchange.
func TestSeveralAdds(t *testing.T) {
	w := newOwner(t)
	r := ref(ikeID(1), false)
	first, second := ikeAdd(r, nil), ikeAdd(r, nil)
	first.Version, second.Version = charon.V5, charon.V5
	second.Attrs = append(second.Attrs, chunk(charon.AddSecret, 1))
	w.apply(first, second)
	if _, err := w.Apply(second, testBirth, w.now); !errors.Is(err, ErrDuplicate) {
		t.Errorf("repeated IKE_ADD: %v", err)
	}
	w.apply(ikeUpdate(r, "203.0.113.9:500"))
	d := must(Decode(must(w.doc(r).EncodeSecret())))
	f := NewFeeder()
	equal(t, "feed", types(must(f.Diff(d))), []charon.MsgType{charon.IKEAdd, charon.IKEAdd, charon.IKEUpdate})
}

func TestAncestors(t *testing.T) {
	w := newOwner(t)
	r1, d := w.connect(1)
	id := d.SessionID
	rekey := func(old, n charon.IKERef) {
		w.apply(midI(old, w.doc(r1).Live().MIDInitiator+1), ikeAdd(n, &old), ikeDelete(old), ikeUpdate(n, "203.0.113.9:40000"))
	}
	r2, r3 := ref(ikeID(2), true), ref(ikeID(3), true)
	rekey(r1, r2)
	rekey(r2, r3)
	d = w.doc(r1)
	equal(t, "generations", gens(d), []sa.IKEID{r1.ID, r2.ID, r3.ID})
	if !d.IKE[0].Deleted || !d.IKE[1].Deleted || d.Live().Deleted || d.SessionID != id {
		t.Errorf("deleted: %v %v %v, id %s", d.IKE[0].Deleted, d.IKE[1].Deleted, d.Live().Deleted, d.SessionID)
	}
	if d.ClientInternalIP != "10.3.0.1" {
		t.Errorf("inner address %q did not outlive its ancestor", d.ClientInternalIP)
	}
	w.apply(midI(r3, 1), childAdd(r3, true, inSPI(50)))
	w.apply(childDelete(r3, inSPI(1))) // names the new IKE_SA, hangs on the first
	d = w.doc(r1)
	equal(t, "generations", gens(d), []sa.IKEID{r3.ID})
	equal(t, "children", spis(d), []sa.SPI{inSPI(50)})
	if d.ClientInternalIP != "10.3.0.1" {
		t.Errorf("inner address %q was lost with its ancestor", d.ClientInternalIP)
	}
	w.apply(ikeDelete(r3))
	if w.Len() != 0 {
		t.Error("delete of the live generation did not end the session")
	}
}

// A lost collision of rekeyings leaves a half-open IKE_SA; the end of a session
// whose successor never came up is told.
func TestRekeyCollision(t *testing.T) {
	w := newOwner(t)
	r1, _ := w.connect(1)
	mine, theirs := ref(ikeID(2), true), ref(ikeID(3), false)
	w.apply(midI(r1, 1), midR(r1, 3), ikeAdd(theirs, &r1), ikeAdd(mine, &r1), ikeDelete(r1), ikeUpdate(mine, "203.0.113.9:40000"))
	equal(t, "generations", gens(w.doc(r1)), []sa.IKEID{r1.ID, mine.ID})
	if len(w.halves.order) != 0 {
		t.Error("the loser is half open still")
	}

	r4, r5 := ref(ikeID(4), false), ref(ikeID(5), false)
	w.connect(4)
	if o := w.apply(midR(r4, 3), ikeAdd(r5, &r4), ikeDelete(r4)); slices.ContainsFunc(o.Changes, func(c Change) bool { return c.Kind == Delete }) {
		t.Fatal("a rekeying was taken for the end")
	}
	if o := w.tick(updateGrace); len(o.Changes) != 1 || o.Changes[0].Kind != Delete || o.Changes[0].ID != r4.ID.String() {
		t.Errorf("session without successor: %v", o.Changes)
	}
}

func TestUpdateAddress(t *testing.T) {
	w := newOwner(t)
	r, before := w.connect(1)
	remote := netip.MustParseAddrPort("192.0.2.77:1024")
	o, err := w.Update(r.ID, netip.AddrPort{}, remote, w.now)
	if err != nil || len(o.Changes) != 1 || o.Changes[0].Doc.ClientIP != "192.0.2.77" || o.Changes[0].Doc.Ports.ClientPort != 1024 {
		t.Fatalf("update: %v %v", o.Changes, err)
	}
	if again, err := w.Update(r.ID, netip.AddrPort{}, remote, w.now); err != nil || len(again.Changes) != 0 {
		t.Errorf("same address again: %v %v", again.Changes, err)
	}
	if _, err := w.Update(ikeID(99), netip.AddrPort{}, remote, w.now); !errors.Is(err, ErrUnknownSA) {
		t.Errorf("unknown IKE_SA: %v", err)
	}
	f := NewFeeder()
	f.Adopted(before)
	equal(t, "feed", types(must(f.Diff(o.Changes[0].Doc))), []charon.MsgType{charon.IKEUpdate, charon.ChildDelete, charon.ChildAdd})
}

func TestInnerAddressTwice(t *testing.T) {
	w := newOwner(t)
	r1, _ := w.connect(1)
	r2, _ := w.connect(2)
	o := w.apply(vipUpdate(r2, "10.3.0.1"))
	if len(o.Conflicts) != 1 || o.Conflicts[0].Other != r1.ID.String() || o.Conflicts[0].Session != r2.ID.String() {
		t.Fatalf("conflicts: %+v", o.Conflicts)
	}
	w.apply(ikeDelete(r1), ikeDelete(r2))
	r3, _ := w.connect(3)
	if o := w.apply(vipUpdate(r3, "10.3.0.1")); len(o.Conflicts) != 0 {
		t.Errorf("a freed address is still held: %+v", o.Conflicts)
	}
}

func TestSamplesAndDeadlines(t *testing.T) {
	w := newOwner(t)
	r, d := w.connect(1)
	digest := must(d.Digest())
	if !w.Sample(inSPI(1), 1<<33) || !w.Sample(inSPI(1), 5) || w.Sample(inSPI(9), 5) {
		t.Error("Sample did not tell known from unknown children")
	}
	got, _ := w.Doc(d.SessionID)
	if got.SeqNumber != 1<<33 || must(got.Digest()) != digest {
		t.Errorf("seq %d; a sample must not change the digest", got.SeqNumber)
	}
	o, err := w.Deadlines(inSPI(1), at(time.Hour), at(2*time.Hour))
	if err != nil || len(o.Changes) != 1 || !o.Changes[0].Doc.Children[0].LifeAt.Equal(at(2*time.Hour)) || must(o.Changes[0].Doc.Digest()) == digest {
		t.Errorf("deadlines: %v %v", o.Changes, err)
	}
	if _, err := w.Deadlines(inSPI(9), t0, t0); !errors.Is(err, ErrUnknownSA) {
		t.Errorf("unknown child: %v", err)
	}
	_ = r
}

func TestLimits(t *testing.T) {
	w := newOwner(t)
	r, _ := w.connect(1)
	var err error
	for n := uint32(100); n < 100+MaxChildren && err == nil; n++ {
		_, err = w.Apply(childAdd(r, false, inSPI(n)), testBirth, w.now)
	}
	if !errors.Is(err, ErrLimit) || w.Stats().Limits != 1 {
		t.Fatalf("child beyond the limit: %v", err)
	}
	d, _ := w.Doc(r.ID.String())
	if b, err := d.EncodeSecret(); err != nil || len(d.Children) != MaxChildren {
		t.Errorf("%d children, %d bytes: %v", len(d.Children), len(b), err)
	}
}
