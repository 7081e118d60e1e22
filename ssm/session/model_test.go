package session

import (
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"pgregory.net/rapid"
)

// world plays charon and its clients: it knows the truth that the ledger must
// arrive at, whatever part of the headers it gets to see.
type world struct {
	t    *rapid.T
	w    *owner
	all  []*client
	next uint64 // numbers IKE_SAs and children
}

type client struct {
	id         string
	ike        charon.IKERef
	midI, midR uint32 // next message IDs
	kids       []sa.SPI
	addr       string
}

func (x *world) number() uint64 { x.next++; return x.next }

// hear shows the ledger a header, or not.
func (x *world) hear(h Header) {
	if rapid.IntRange(0, 2).Draw(x.t, "hear") > 0 {
		h.FromInitiator = !h.FromInitiator
		x.w.header(h)
	}
}

// fromClient is an exchange that the client begins: its header is seen before,
// in between, after the messages, or never; sometimes the client repeats it.
func (x *world) fromClient(c *client, ms ...charon.Message) {
	h := Header{ID: c.ike.ID, MsgID: c.midR, FromInitiator: c.ike.Initiator, At: x.w.now}
	c.midR++
	ms = append([]charon.Message{midR(c.ike, c.midR)}, ms...)
	cut := rapid.IntRange(0, len(ms)).Draw(x.t, "cut")
	x.w.apply(ms[:cut]...)
	x.hear(h)
	x.w.apply(ms[cut:]...)
	if rapid.Bool().Draw(x.t, "repeat") {
		x.hear(h)
	}
}

func (x *world) fromGateway(c *client, ms ...charon.Message) {
	h := Header{ID: c.ike.ID, MsgID: c.midI, FromInitiator: c.ike.Initiator, Response: true, At: x.w.now}
	c.midI++
	ms = append([]charon.Message{midI(c.ike, c.midI)}, ms...)
	cut := rapid.IntRange(0, len(ms)).Draw(x.t, "cut")
	x.w.apply(ms[:cut]...)
	x.hear(h)
	x.w.apply(ms[cut:]...)
}

// addrOf gives a MOBIKE client a place.
func (x *world) addrOf() string {
	return fmt.Sprintf("203.0.113.%d:4500", rapid.IntRange(1, 5).Draw(x.t, "host"))
}

func (x *world) step() {
	op := rapid.IntRange(0, 13).Draw(x.t, "op")
	if len(x.all) == 0 || op == 0 {
		if len(x.all) < 4 {
			x.connect()
		}
		return
	}
	i := rapid.IntRange(0, len(x.all)-1).Draw(x.t, "client")
	c := x.all[i]
	newSPI := inSPI(uint32(x.number()))
	switch op {
	case 1:
		x.fromClient(c)
	case 2:
		x.fromGateway(c)
	case 3:
		c.kids = append(c.kids, newSPI)
		x.fromClient(c, childAdd(c.ike, false, newSPI))
	case 4:
		c.kids = append(c.kids, newSPI)
		x.fromGateway(c, childAdd(c.ike, true, newSPI))
	case 5, 6:
		x.rekey(c, op == 5)
	case 7:
		if len(c.kids) > 0 {
			k := rapid.IntRange(0, len(c.kids)-1).Draw(x.t, "kid")
			x.w.apply(childDelete(c.ike, c.kids[k]))
			c.kids = slices.Delete(c.kids, k, k+1)
		}
	case 8:
		c.addr = x.addrOf()
		x.w.take(must(x.w.Update(c.ike.ID, netip.AddrPort{}, netip.MustParseAddrPort(c.addr), x.w.now)))
	case 9:
		if len(c.kids) > 0 {
			x.w.take(x.w.ESPSeen(c.kids[rapid.IntRange(0, len(c.kids)-1).Draw(x.t, "esp")]))
		}
	case 10:
		x.w.tick(time.Duration(rapid.IntRange(1, 6).Draw(x.t, "seconds")) * time.Second)
	case 11: // a failed authentication
		r := ref(ikeID(x.number()), false)
		x.w.apply(ikeAdd(r, nil), midR(r, 2), ikeDelete(r))
	case 12: // a lost collision of rekeyings
		lost := ref(ikeID(x.number()), false)
		x.fromClient(c, ikeAdd(lost, &c.ike))
		x.rekey(c, false)
	case 13:
		if rapid.IntRange(0, 3).Draw(x.t, "end") == 0 {
			x.w.apply(ikeDelete(c.ike))
			x.all = slices.Delete(x.all, i, i+1)
		}
	}
}

func (x *world) connect() {
	n := x.number()
	r := ref(ikeID(n), rapid.IntRange(0, 3).Draw(x.t, "ours") == 0)
	c := &client{id: r.ID.String(), ike: r, midR: 2, addr: x.addrOf()}
	mid := midR(r, 2)
	if r.Initiator {
		c.midI, c.midR = 2, 0
		mid = midI(r, 2)
	}
	in := inSPI(uint32(n))
	c.kids = []sa.SPI{in}
	x.w.apply(ikeAdd(r, nil), mid, ikeUpdate(r, c.addr), childAdd(r, r.Initiator, in), vipUpdate(r, fmt.Sprintf("10.3.%d.%d", n>>8, n&255)))
	x.all = append(x.all, c)
}

func (x *world) rekey(c *client, byClient bool) {
	old, n := c.ike, ref(ikeID(x.number()), !byClient)
	ms := []charon.Message{ikeAdd(n, &old), ikeDelete(old), ikeUpdate(n, c.addr)}
	if byClient {
		x.fromClient(c, ms...)
		if rapid.Bool().Draw(x.t, "delete") { // the client deletes the old one
			c.midR++
			x.w.apply(midR(old, c.midR))
		}
	} else {
		x.fromGateway(c, ms...)
		c.midI++
		x.w.apply(midI(old, c.midI))
	}
	c.ike, c.midI, c.midR = n, 0, 0
	x.hear(Header{ID: n.ID, MsgID: 0, FromInitiator: n.Initiator, At: x.w.now})
}

// TestModel: whatever happens, the ledger's documents decode, the twin of a
// shadow that gets them late and coalesced holds their committed content and
// was never told anything it must not be told, and in the end that is the truth.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newOwner(t)
		x := &world{t: t, w: w}
		f, twin := NewFeeder(), newModel()
		delivered := map[string]*Document{}
		deliver := func() {
			for _, id := range f.Fed() {
				if w.last[id] == nil {
					twin.tell(f.Remove(id))
				}
			}
			delivered = map[string]*Document{}
			for _, d := range sortedDocs(w.last) {
				b := must(d.EncodeSecret())
				back, err := Decode(b)
				if err != nil {
					t.Fatalf("%v: %s", err, b)
				}
				if !reflect.DeepEqual(back, d) {
					t.Fatalf("decoding changed\n%s\nto\n%s", b, must(back.EncodeSecret()))
				}
				delivered[d.SessionID] = back
				twin.tell(must(f.Diff(back)))
			}
			if diff := twin.differs(sortedDocs(delivered)); diff != "" {
				t.Fatal(diff)
			}
			told := twin.told
			for _, d := range delivered {
				twin.tell(must(f.Diff(d)))
			}
			if twin.told != told {
				t.Fatal("the twin was told what it knows")
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			x.step()
			if rapid.IntRange(0, 4).Draw(t, "deliver") == 0 {
				deliver()
			}
		}
		w.tick(QuietTime)
		w.tick(halfOpenTime)
		deliver()

		scratch := newModel()
		scratch.tell(must(NewFeeder().Refeed(w.Docs())))
		if diff := scratch.differs(w.Docs()); diff != "" {
			t.Fatalf("refed twin: %s", diff)
		}
		x.compare(w)
		if got := len(w.Docs()); got != w.Len() || len(w.halves.order) != 0 || len(w.Watches()) != 0 {
			t.Fatalf("%d documents of %d sessions, %d half open, watches %v", got, w.Len(), len(w.halves.order), w.Watches())
		}
	})
}

// compare checks the quiet ledger against the truth.
func (x *world) compare(w *owner) {
	if w.Len() != len(x.all) {
		x.t.Fatalf("%d sessions, want %d", w.Len(), len(x.all))
	}
	for _, c := range x.all {
		d, ok := w.Doc(c.id)
		if !ok {
			x.t.Fatalf("session %s is gone", c.id)
		}
		kids := spis(d)
		slices.Sort(kids)
		want := slices.Sorted(slices.Values(c.kids))
		g := d.Live()
		if g.ID != c.ike.ID || !slices.Equal(kids, want) || g.MIDResponder != c.midR || d.ClientIP+":4500" != c.addr || d.ClientInternalIP == "" {
			x.t.Fatalf("session %s: live %s, want %s; children %v, want %v; MID %d, want %d; at %s, want %s; inner %q",
				c.id, g.ID, c.ike.ID, kids, want, g.MIDResponder, c.midR, d.ClientIP, c.addr, d.ClientInternalIP)
		}
		open := len(d.Pending)
		if g.MIDInitiator+uint32(open) != c.midI || open > 1 {
			x.t.Fatalf("our MID %d with %d pending, want %d", g.MIDInitiator, open, c.midI)
		}
		for _, i := range d.IKE[:len(d.IKE)-1] {
			if !i.Deleted {
				x.t.Fatalf("ancestor %s is not deleted", i.ID)
			}
		}
	}
}

// TestModelTakeover: a twin that becomes active with exchanges pending is told
// exactly what its ledger commits.
func TestModelTakeover(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newOwner(t)
		x := &world{t: t, w: w}
		for range rapid.IntRange(5, 40).Draw(t, "steps") {
			x.step()
		}
		twin := newModel()
		twin.tell(must(NewFeeder().Refeed(w.Docs())))
		n := w.succeed()
		step := func(o Output) {
			twin.tell(o.Feed)
			if diff := twin.differs(n.Docs()); diff != "" {
				t.Fatal(diff)
			}
			added := slices.ContainsFunc(o.Feed, func(m charon.Message) bool { return m.Type == charon.IKEAdd })
			if added && !o.Reactivate {
				t.Fatal("a fed IKE_SA stays passive")
			}
		}
		for _, id := range slices.Sorted(maps.Keys(n.last)) {
			d := n.last[id]
			for _, e := range d.Pending {
				switch rapid.IntRange(0, 4).Draw(t, "sign") {
				case 0: // repeated
					g := d.generation(e.IKE)
					h := Header{ID: e.IKE, MsgID: e.MID, At: n.now, FromInitiator: g == nil || !g.Initiator, Response: e.By == Gateway}
					step(n.header(h))
				case 1: // the next one
					step(n.header(Header{ID: e.IKE, MsgID: e.MID + 1, At: n.now, FromInitiator: !d.Live().Initiator}))
				case 2:
					for _, f := range e.Effects {
						if in, err := f.Attrs.spi(charon.InSPI); err == nil {
							step(n.take(n.ESPSeen(in)))
						}
					}
				case 3:
					step(n.tick(3 * time.Second))
				}
			}
		}
		step(n.tick(QuietTime))
		for _, d := range n.Docs() {
			for _, e := range d.Pending {
				if e.By == Client {
					t.Fatalf("exchange %d of the client is pending for ever", e.MID)
				}
			}
		}
	})
}
