package session

import (
	"errors"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// A successor that replaced its predecessor and is deleted before it came up
// takes the session with it; one that did not leaves the session alone.
func TestDeletedSuccessor(t *testing.T) {
	w := newOwner(t)
	r, _ := w.connect(1)
	n := ref(ikeID(2), true)
	if o := w.apply(midI(r, 1), ikeAdd(n, &r), ikeDelete(n)); len(o.Changes) != 1 || w.Len() != 1 {
		t.Fatalf("a failed rekeying: %v", o.Changes)
	}
	m := ref(ikeID(3), true)
	o := w.apply(ikeAdd(m, &r), ikeDelete(r), ikeDelete(m))
	if len(o.Changes) != 1 || o.Changes[0].Kind != Delete || w.Len() != 0 {
		t.Errorf("both gone: %v", o.Changes)
	}

	// A pending successor that charon gives up ends the session at once.
	r4, r5 := ref(ikeID(4), false), ref(ikeID(5), false)
	w.connect(4)
	w.apply(midR(r4, 3), ikeAdd(r5, &r4), ikeDelete(r4), ikeUpdate(r5, "203.0.113.9:40000"))
	if o := w.apply(ikeDelete(r4)); len(o.Changes) != 1 || o.Changes[0].Kind != Put {
		t.Errorf("repeated delete of a rekeyed IKE_SA: %v", o.Changes)
	}
	if o := w.apply(ikeDelete(r5)); len(o.Changes) != 1 || o.Changes[0].Kind.String() != "delete" {
		t.Errorf("delete of a pending successor: %v", o.Changes)
	}
}

// A rekeying whose IKE_SA nobody knows begins a session: better late than never.
func TestOrphan(t *testing.T) {
	w := newOwner(t)
	old, n := ref(ikeID(1), false), ref(ikeID(2), false)
	w.apply(ikeAdd(n, &old), ikeUpdate(n, "203.0.113.9:40000"))
	d := must(Decode(must(w.doc(n).EncodeSecret())))
	if d.IKE[0].RekeyOf == nil || *d.IKE[0].RekeyOf != old.ID {
		t.Errorf("lost its ancestor's name: %v", d.IKE[0].RekeyOf)
	}
	if o := w.apply(ikeDelete(old)); len(o.Changes) != 0 {
		t.Errorf("delete of the ancestor: %v", o.Changes)
	}
	if _, err := w.Apply(ikeAdd(old, nil), testBirth, w.now); !errors.Is(err, ErrDuplicate) {
		t.Errorf("the ancestor came after its successor: %v", err)
	}
}

// An adopted exchange that is dropped takes along what builds on it.
func TestDropNested(t *testing.T) {
	w := newOwner(t)
	r, _ := w.connect(1)
	n := ref(ikeID(2), false)
	w.apply(midR(r, 3), ikeAdd(n, &r), ikeDelete(r), ikeUpdate(n, "203.0.113.9:40000"), midI(n, 1))
	s := w.succeed()
	if o := s.header(request(r.ID, 2, s.now)); len(o.Feed) != 0 {
		t.Errorf("fed %v", o.Feed)
	}
	if d := s.doc(r); len(d.Pending) != 0 || d.Live().ID != r.ID || s.Stats().Dropped != 2 {
		t.Errorf("left %v", d.Pending)
	}
}

func TestBoundsOfPending(t *testing.T) {
	w := newOwner(t)
	r, _ := w.connect(1)
	w.apply(midR(r, 3))
	for n := uint32(0); n < MaxEffects+1; n++ {
		w.apply(childAdd(r, false, inSPI(100+n)))
	}
	if d := w.doc(r); len(d.Pending) != 0 || len(d.Children) != MaxEffects+2 {
		t.Errorf("%d pending, %d children", len(d.Pending), len(d.Children))
	}

	// What a half-open IKE_SA cannot hold is refused; coming up never is.
	h := ref(ikeID(500), false)
	w.apply(ikeAdd(h, nil))
	var err error
	for n := 0; n < MaxEffects && err == nil; n++ {
		_, err = w.Apply(vipUpdate(h, "10.3.0.9"), testBirth, w.now)
	}
	if !errors.Is(err, ErrLimit) {
		t.Errorf("held for ever: %v", err)
	}
	w.apply(ikeUpdate(h, "203.0.113.9:40000"))
	twin := newModel()
	twin.tell(must(NewFeeder().Diff(w.doc(h))))
	if diff := twin.differs([]*Document{w.doc(h)}); diff != "" {
		t.Error(diff)
	}

	e := early{byID: map[sa.IKEID]*earlyTrack{}}
	for n := uint64(0); n < maxEarly+10; n++ {
		e.note(request(ikeID(n), 1, t0))
		e.note(response(ikeID(n), 0, t0))
		e.note(request(ikeID(n), maxLead+1, t0))
	}
	if len(e.byID) != maxEarly || len(e.order) != maxEarly {
		t.Errorf("%d headers remembered", len(e.byID))
	}
	if x := e.take(ikeID(maxEarly)); x.req != 1 || x.rsp != 0 {
		t.Errorf("remembered %d, %d", x.req, x.rsp)
	}
	if e.expire(at(earlyTime)); len(e.byID)+len(e.order) != 0 {
		t.Errorf("%d headers never expire", len(e.byID))
	}

	for n := uint64(1000); n < 1000+maxHalves+5; n++ {
		w.apply(ikeAdd(ref(ikeID(n), false), nil))
	}
	if len(w.halves.order) != maxHalves || w.Stats().HalfOpen != 5 {
		t.Errorf("%d half open, %d given up", len(w.halves.order), w.Stats().HalfOpen)
	}
}

// Superseded IKE_SAs do not pile up over the years of a session.
func TestRetired(t *testing.T) {
	w := newOwner(t)
	r, _ := w.connect(1)
	w.apply(childDelete(r, inSPI(1)))
	live := r
	for n := uint64(2); n < 40; n++ {
		next := ref(ikeID(n), true)
		w.apply(midI(live, 1), ikeAdd(next, &live), ikeDelete(live), ikeUpdate(next, "203.0.113.9:40000"), midI(live, 2))
		live = next
	}
	if d := w.doc(r); len(w.byIKE) > maxRetired+2 || len(d.IKE) != 1 {
		t.Errorf("%d IKE_SAs known, %d generations", len(w.byIKE), len(d.IKE))
	}
}

func TestFeederRemove(t *testing.T) {
	w := newOwner(t)
	r, d := w.connect(1)
	f, twin := NewFeeder(), newModel()
	twin.tell(must(f.Diff(d)))
	equal(t, "fed", f.Fed(), []string{d.SessionID})
	twin.tell(f.Remove(d.SessionID))
	if f.Remove(d.SessionID) != nil || len(twin.ikes) != 0 || len(f.Fed()) != 0 {
		t.Error("not removed, or twice")
	}
	// Removed and fed again: as after a datagram that may have been lost.
	twin.tell(must(f.Diff(d)))
	if diff := twin.differs([]*Document{d}); diff != "" {
		t.Error(diff)
	}
	// A child of an ancestor, learnt after the successor: only a rebuild helps.
	n := ref(ikeID(2), true)
	w.apply(midI(r, 1), ikeAdd(n, &r), ikeDelete(r), ikeUpdate(n, "203.0.113.9:40000"))
	whole := w.doc(r)
	part := whole.clone()
	part.Children = nil
	part.prune()
	twin.tell(must(f.Diff(part)))
	ms := must(f.Diff(whole))
	equal(t, "rebuild", types(ms), []charon.MsgType{charon.IKEDelete, charon.IKEAdd, charon.IKEUpdate, charon.ChildAdd, charon.IKEAdd, charon.IKEUpdate})
	twin.tell(ms)
	if diff := twin.differs([]*Document{whole}); diff != "" {
		t.Error(diff)
	}
}

func BenchmarkApplyDPD(b *testing.B) {
	w := newOwner(b)
	var rs []charon.IKERef
	for n := uint64(1); n <= 4000; n++ {
		r, _ := w.connect(n)
		rs = append(rs, r)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		r := rs[i%len(rs)]
		if _, err := w.Apply(midR(r, uint32(3+i/len(rs))), testBirth, t0); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAdopt(b *testing.B) {
	w := newOwner(b)
	for n := uint64(1); n <= 4000; n++ {
		w.connect(n)
	}
	docs := w.Docs()
	for b.Loop() {
		l := New(testSlot)
		if _, err := l.Adopt(docs); err != nil {
			b.Fatal(err)
		}
		l.Takeover(t0.Add(time.Second))
	}
}

// What fuzzing found: each of these once led a twin astray.
func TestDishonestOrder(t *testing.T) {
	r1, r2 := ref(ikeID(1), false), ref(ikeID(2), false)
	n := ref(ikeID(3), true)
	flipped := ref(r1.ID, true)
	cases := []struct {
		name string
		ms   []charon.Message
	}{
		{"a child's SPI is taken while its IKE_SA is half open", []charon.Message{
			ikeAdd(r2, nil), childAdd(r2, false, inSPI(20)), childAdd(r1, false, inSPI(20)), ikeUpdate(r2, "203.0.113.9:1")}},
		{"an ancestor gets an inner address", []charon.Message{
			ikeAdd(n, &r1), ikeUpdate(n, "203.0.113.9:1"), vipUpdate(r1, "10.3.0.77"), childAdd(r1, false, inSPI(20))}},
		{"an IKE_SA comes after its successor", []charon.Message{
			ikeAdd(r2, nil), ikeAdd(n, &r2), ikeUpdate(n, "203.0.113.9:1"), ikeUpdate(r2, "203.0.113.9:1")}},
		{"an update contradicts the initiator flag", []charon.Message{vipUpdate(flipped, "10.3.0.77")}},
	}
	for _, c := range cases {
		w := newOwner(t)
		w.connect(1)
		fd, twin := NewFeeder(), newModel()
		for _, m := range c.ms {
			o, _ := w.Apply(m, testBirth, w.now)
			w.take(o)
			for _, d := range sortedDocs(w.last) {
				twin.tell(must(fd.Diff(must(Decode(must(d.EncodeSecret()))))))
			}
		}
		if diff := twin.differs(w.Docs()); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}
