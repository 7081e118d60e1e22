package session

import (
	"errors"
	"slices"
	"testing"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// heir is a new owner that knew last of the sessions of w when it claimed, and awaits
// more of them; its charon is c.
func heir(t *testing.T, known []*Document, ended ...string) (*owner, *model) {
	t.Helper()
	n, c := newOwner(t), newModel()
	n.now = at(20)
	if _, err := n.Adopt(known); err != nil {
		t.Fatal(err)
	}
	c.tell(must(NewFeeder().Refeed(known)))
	n.Takeover(n.now)
	n.Await(ended...)
	return n, c
}

// fill takes a document and tells charon.
func (w *owner) fill(c *model, d *Document) (Fill, error) {
	w.t.Helper()
	x, err := w.Refill(must(Unpack(must(d.Pack()))), w.now)
	c.tell(x.Feed)
	w.take(x.Output)
	return x, err
}

func TestRefillBringsWhatIsMissing(t *testing.T) {
	w := newOwner(t)
	_, d1 := w.connect(1)
	_, d2 := w.connect(2)
	n, c := heir(t, []*Document{d1})
	if err := n.Lacks(d1); !errors.Is(err, ErrNoNews) {
		t.Errorf("what is here is lacking: %v", err)
	}
	x, err := n.fill(c, d2)
	if err != nil || !x.Reactivate || len(x.New) != 1 || x.New[0].In != inSPI(2) || len(x.Changes) != 1 || x.Changes[0].ID != d2.SessionID {
		t.Fatalf("refill: %+v, %v", x, err)
	}
	if got := c.differs(n.Docs()); got != "" {
		t.Error(got)
	}
	if _, err := n.fill(c, d2); !errors.Is(err, ErrNoNews) {
		t.Errorf("taken twice: %v", err)
	}
	n.Settle()
	if err := n.Lacks(d2); err == nil {
		t.Error("something lacks although nothing is awaited")
	}
}

// A shadow that was behind gets the child and the IKE_SA that came after what it knew;
// nothing that is installed is installed again.
func TestRefillBringsWhatIsNewer(t *testing.T) {
	w := newOwner(t)
	r, old := w.connect(1)
	w.apply(midR(r, 3), childAdd(r, false, inSPI(20)), midR(r, 4))
	kid := w.doc(r)
	theirs := ref(ikeID(2), false)
	w.apply(midR(r, 5), ikeAdd(theirs, &r), ikeDelete(r), ikeUpdate(theirs, "203.0.113.9:40000"))
	w.header(request(theirs.ID, 0, w.now))
	ike := w.doc(r)
	for name, x := range map[string]struct {
		d          *Document
		reactivate bool
		spis       []sa.SPI
		live       sa.IKEID
	}{
		"child": {kid, false, []sa.SPI{inSPI(1), inSPI(20)}, r.ID},
		"IKE":   {ike, true, []sa.SPI{inSPI(1), inSPI(20)}, theirs.ID},
	} {
		t.Run(name, func(t *testing.T) {
			n, c := heir(t, []*Document{old})
			n.Sample(inSPI(1), 77)
			got, err := n.fill(c, x.d)
			if err != nil || got.Reactivate != x.reactivate || len(got.New) != 1 || got.New[0].In != inSPI(20) {
				t.Fatalf("refill: %+v, %v", got, err)
			}
			d, _ := n.Doc(old.SessionID)
			equal(t, "children", spis(d), x.spis)
			if d.Live().ID != x.live || d.Rev != x.d.Rev || d.child(inSPI(1)).InSeq != 77 {
				t.Errorf("live %s, rev %d, sample %d", d.Live().ID, d.Rev, d.child(inSPI(1)).InSeq)
			}
			if got := c.differs(n.Docs()); got != "" {
				t.Error(got)
			}
		})
	}
}

// What is pending in a document that came later is the former owner's.
func TestRefillInheritsExchanges(t *testing.T) {
	w := newOwner(t)
	r, _ := w.connect(1)
	w.apply(midR(r, 3), childAdd(r, false, inSPI(20)))
	n, c := heir(t, nil)
	if _, err := n.fill(c, w.doc(r)); err != nil {
		t.Fatal(err)
	}
	if o := n.header(request(r.ID, 3, n.now)); !slices.Equal(types(o.Feed), []charon.MsgType{charon.ChildAdd, charon.MIDResponder}) {
		t.Errorf("fed %v", types(o.Feed))
	}
}

func TestRefillRefuses(t *testing.T) {
	w := newOwner(t)
	r, old := w.connect(1)
	_, other := w.connect(2)
	w.apply(midR(r, 3), midR(r, 4))
	newer := w.doc(r)
	moved := newOwner(t)
	moved.connect(1)
	moved.apply(midR(r, 3), ikeUpdate(r, "192.0.2.7:4500"), midR(r, 4))
	again := newOwner(t)
	again.connect(3)
	sameVIP := newOwner(t)
	r4 := ref(ikeID(4), false)
	sameVIP.apply(ikeAdd(r4, nil), midR(r4, 2), ikeUpdate(r4, "203.0.113.9:40000"), childAdd(r4, false, inSPI(4)), vipUpdate(r4, "10.3.0.1"))
	taken := other.clone()
	taken.SessionID, taken.Children[0].In = "another", inSPI(1)
	strange := other.clone()
	strange.Slot++
	for name, x := range map[string]struct {
		known []*Document
		ended []string
		first func(*owner)
		d     *Document
		want  error // nil: any
	}{
		"older":                       {[]*Document{newer}, nil, nil, old, ErrNoNews},
		"ended here":                  {[]*Document{old}, nil, func(n *owner) { n.apply(ikeDelete(r)) }, newer, ErrEnded},
		"ended before the claim":      {nil, []string{old.SessionID}, nil, old, ErrEnded},
		"went on here":                {[]*Document{old}, nil, func(n *owner) { n.apply(midR(r, 3)) }, newer, ErrMovedOn},
		"SAs that are installed":      {[]*Document{old}, nil, nil, moved.doc(r), nil},
		"inner address given to some": {[]*Document{sameVIP.doc(r4)}, nil, nil, old, nil},
		"SPI of another":              {[]*Document{old}, nil, nil, taken, ErrDuplicate},
		"another slot":                {nil, nil, nil, strange, nil},
		"nothing in it":               {nil, nil, nil, &Document{SessionID: "x", Slot: testSlot}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			n, _ := heir(t, x.known, x.ended...)
			if x.first != nil {
				x.first(n)
			}
			before := n.Docs()
			got, err := n.Refill(x.d, n.now)
			if err == nil || x.want != nil && !errors.Is(err, x.want) {
				t.Errorf("error %v, want %v", err, x.want)
			}
			after := n.Docs()
			if len(got.Feed) > 0 || len(after) != len(before) {
				t.Fatalf("fed %v, %d sessions, were %d", types(got.Feed), len(after), len(before))
			}
			for i := range after {
				if after[i].Rev != before[i].Rev {
					t.Errorf("session %s was changed", after[i].SessionID)
				}
			}
		})
	}
}

func TestMissed(t *testing.T) {
	w := newOwner(t)
	r, _ := w.connect(1)
	for name, x := range map[string]struct {
		h    Header
		want bool
	}{
		"request that was announced": {request(r.ID, 1, w.now), false},
		"the next one":               {request(r.ID, 2, w.now), true},
		"many later":                 {request(r.ID, 40, w.now), true},
		"answer to nothing":          {response(r.ID, 0, w.now), true},
		"unknown IKE_SA":             {request(ikeID(9), 5, w.now), false},
		"our own":                    {Header{ID: r.ID, MsgID: 9, Exchange: 37}, false},
		"IKE_SA_INIT":                {Header{ID: r.ID, MsgID: 9, Exchange: exchangeInit, FromInitiator: true}, false},
	} {
		if got := w.Missed(x.h); got != x.want {
			t.Errorf("%s: %t", name, got)
		}
	}
	w.apply(midR(r, 3))
	if w.Missed(request(r.ID, 2, w.now)) {
		t.Error("missed although it was announced since")
	}
}

func TestNewest(t *testing.T) {
	w := newOwner(t)
	r, old := w.connect(1)
	_, b := w.connect(2)
	w.apply(midR(r, 3), midR(r, 4))
	d := w.doc(r)
	for _, docs := range [][]*Document{{old, b, d}, {d, b, old}} {
		if got := Newest(docs); len(got) != 2 || got[0] != d || got[1] != b {
			t.Errorf("newest %v", got)
		}
	}
}
