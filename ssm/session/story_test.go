package session

import (
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// Each story is an exchange that the owner has begun when it dies. The twin has
// been fed what was committed before; the question is what the new owner tells
// its charon, and when.
func TestCrashStories(t *testing.T) {
	r := ref(ikeID(1), false)
	mine, theirs := ref(ikeID(2), true), ref(ikeID(2), false)
	const M = time.Millisecond
	type want struct {
		feed       []charon.MsgType
		reactivate bool
		pending    int
		midI, midR uint32
		kids       []sa.SPI
		live       sa.IKEID
	}
	childRekey := []charon.Message{midR(r, 3), childAdd(r, false, inSPI(20))}
	ikeRekey := []charon.Message{midR(r, 3), ikeAdd(theirs, &r), ikeDelete(r), ikeUpdate(theirs, "203.0.113.9:40000")}
	base := []sa.SPI{inSPI(1)}
	both := []sa.SPI{inSPI(1), inSPI(20)}
	no := []charon.MsgType{}
	cases := []struct {
		name   string
		before []charon.Message      // the owner's last messages
		seen   func(w *owner)        // what the owner saw besides
		after  func(w *owner) Output // at the new owner
		want   want
	}{
		{
			name: "client's DPD: repeated", before: []charon.Message{midR(r, 3)},
			after: func(w *owner) Output { return w.header(request(r.ID, 2, w.now)) },
			want:  want{no, false, 0, 0, 2, base, r.ID},
		}, {
			name: "client's DPD: it goes on", before: []charon.Message{midR(r, 3)},
			after: func(w *owner) Output { return w.header(request(r.ID, 3, w.now)) },
			want:  want{[]charon.MsgType{charon.MIDResponder}, false, 0, 0, 3, base, r.ID},
		}, {
			name: "client's DPD: silence", before: []charon.Message{midR(r, 3)},
			after: func(w *owner) Output { w.tick(QuietTime - M); return w.tick(M) },
			want:  want{[]charon.MsgType{charon.MIDResponder}, false, 0, 0, 3, base, r.ID},
		}, {
			name: "client's DPD: too early to tell", before: []charon.Message{midR(r, 3)},
			after: func(w *owner) Output { return w.tick(QuietTime - M) },
			want:  want{no, false, 1, 0, 2, base, r.ID},
		}, {
			name: "client's DPD: charon is faster than the ring", before: []charon.Message{midR(r, 3)},
			after: func(w *owner) Output { o := w.apply(midR(r, 3)); o.merge(w.header(request(r.ID, 2, w.now))); return o },
			want:  want{no, false, 1, 0, 2, base, r.ID},
		}, {
			name: "client rekeys a child: repeated", before: childRekey,
			after: func(w *owner) Output {
				o := w.header(request(r.ID, 2, w.now))
				o.merge(w.apply(midR(r, 3), childAdd(r, false, inSPI(21)))) // processed anew
				o.merge(w.header(request(r.ID, 3, w.now)))
				return o
			},
			want: want{no, false, 0, 0, 3, []sa.SPI{inSPI(1), inSPI(21)}, r.ID},
		}, {
			name: "client rekeys a child: it goes on", before: childRekey,
			after: func(w *owner) Output { return w.header(request(r.ID, 3, w.now)) },
			want:  want{[]charon.MsgType{charon.ChildAdd, charon.MIDResponder}, false, 0, 0, 3, both, r.ID},
		}, {
			name: "client rekeys a child: it uses it", before: childRekey,
			after: func(w *owner) Output { return w.take(w.ESPSeen(inSPI(20))) },
			want:  want{[]charon.MsgType{charon.ChildAdd, charon.MIDResponder}, false, 0, 0, 3, both, r.ID},
		}, {
			name: "client rekeys the IKE_SA: repeated", before: ikeRekey,
			after: func(w *owner) Output {
				o := w.header(request(r.ID, 2, w.now))
				n := ref(ikeID(3), false)
				o.merge(w.apply(midR(r, 3), ikeAdd(n, &r), ikeDelete(r), ikeUpdate(n, "203.0.113.9:40000"), midR(n, 1)))
				o.merge(w.header(request(n.ID, 1, w.now)))
				return o
			},
			want: want{no, false, 0, 0, 1, base, ikeID(3)},
		}, {
			name: "client rekeys the IKE_SA: it deletes the old one", before: ikeRekey,
			after: func(w *owner) Output { return w.header(request(r.ID, 3, w.now)) },
			want:  want{[]charon.MsgType{charon.IKEAdd, charon.IKEUpdate}, true, 0, 0, 0, base, theirs.ID},
		}, {
			name: "client rekeys the IKE_SA: it uses it", before: ikeRekey,
			after: func(w *owner) Output { return w.header(request(theirs.ID, 0, w.now)) },
			want:  want{[]charon.MsgType{charon.IKEAdd, charon.IKEUpdate}, true, 0, 0, 0, base, theirs.ID},
		}, {
			name: "client rekeyed the IKE_SA and deleted the old one before", before: append(ikeRekey[:4:4], midR(r, 4)),
			after: func(w *owner) Output { return w.tick(time.Second) },
			want:  want{no, false, 0, 0, 0, base, theirs.ID},
		}, {
			name: "our DPD: nothing asked since", before: []charon.Message{midI(r, 1)},
			after: func(w *owner) Output { return w.tick(time.Minute) },
			want:  want{no, false, 1, 0, 2, base, r.ID},
		}, {
			name: "our DPD: answered after the takeover", before: []charon.Message{midI(r, 1)},
			after: func(w *owner) Output { return w.header(response(r.ID, 0, w.now)) },
			want:  want{[]charon.MsgType{charon.MIDInitiator}, false, 0, 1, 2, base, r.ID},
		}, {
			name: "our DPD: asked again, answered", before: []charon.Message{midI(r, 1)},
			after: func(w *owner) Output {
				o := w.apply(midI(r, 1))
				o.merge(w.tick(2 * time.Second))
				o.merge(w.header(response(r.ID, 0, w.now)))
				o.merge(w.tick(time.Minute))
				return o
			},
			want: want{no, false, 0, 1, 2, base, r.ID},
		}, {
			name: "our DPD: asked again, not answered", before: []charon.Message{midI(r, 1)},
			after: func(w *owner) Output {
				o := w.apply(midI(r, 1))
				o.merge(w.tick(defaultRetransmit + retransmitSlack - M))
				if len(o.Feed) != 0 {
					w.t.Error("skipped before the retransmission could be answered")
				}
				o.merge(w.tick(M))
				o.merge(w.tick(time.Minute))
				return o
			},
			want: want{[]charon.MsgType{charon.MIDInitiator}, false, 0, 1, 2, base, r.ID},
		}, {
			name: "our DPD was answered before", before: []charon.Message{midI(r, 1)},
			seen:  func(w *owner) { w.header(response(r.ID, 0, w.now)) },
			after: func(w *owner) Output { o := w.apply(midI(r, 2)); o.merge(w.tick(time.Minute)); return o },
			want:  want{no, false, 1, 1, 2, base, r.ID},
		}, {
			name: "our child rekeying: request lost", before: []charon.Message{midI(r, 1)},
			after: func(w *owner) Output {
				o := w.apply(midI(r, 1), childAdd(r, true, inSPI(22))) // charon rekeys again
				o.merge(w.tick(time.Minute))
				return o
			},
			want: want{no, false, 0, 1, 2, []sa.SPI{inSPI(1), inSPI(22)}, r.ID},
		}, {
			name: "our child rekeying: done, header not seen", before: []charon.Message{midI(r, 1), childAdd(r, true, inSPI(20))},
			after: func(w *owner) Output { return w.tick(time.Minute) },
			want:  want{no, false, 0, 1, 2, both, r.ID},
		}, {
			name: "our child rekeying: answered, charon died before", before: []charon.Message{midI(r, 1)},
			seen:  func(w *owner) { w.header(response(r.ID, 0, w.now)) },
			after: func(w *owner) Output { return w.tick(time.Minute) },
			want:  want{no, false, 0, 1, 2, base, r.ID},
		}, {
			name: "our IKE rekeying: request lost", before: []charon.Message{midI(r, 1)},
			after: func(w *owner) Output {
				n := ref(ikeID(3), true)
				return w.apply(midI(r, 1), ikeAdd(n, &r), ikeDelete(r), ikeUpdate(n, "203.0.113.9:40000"))
			},
			want: want{no, false, 0, 0, 0, base, ikeID(3)},
		}, {
			name:   "our IKE rekeying: done, header not seen",
			before: []charon.Message{midI(r, 1), ikeAdd(mine, &r), ikeDelete(r), ikeUpdate(mine, "203.0.113.9:40000"), midI(r, 2)},
			after:  func(w *owner) Output { return w.tick(time.Minute) },
			want:   want{no, false, 0, 0, 0, base, mine.ID},
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newOwner(t)
			w.connect(1)
			w.apply(c.before...)
			if c.seen != nil {
				c.seen(w)
			}
			n := w.succeed()
			fed := NewFeeder()
			fed.Adopted(n.doc(r))
			o := c.after(n)
			equal(t, "feed", append([]charon.MsgType{}, types(o.Feed)...), c.want.feed)
			d := n.doc(r)
			equal(t, "children", spis(d), c.want.kids)
			g := d.Live()
			if o.Reactivate != c.want.reactivate || len(d.Pending) != c.want.pending || g.MIDInitiator != c.want.midI || g.MIDResponder != c.want.midR || g.ID != c.want.live {
				t.Errorf("reactivate %v, pending %d, mids %d/%d, live %s", o.Reactivate, len(d.Pending), g.MIDInitiator, g.MIDResponder, g.ID)
			}
		})
	}
}

// What the owner holds back while it lives, and what makes it let go.
func TestCommit(t *testing.T) {
	r, n := ref(ikeID(1), false), ref(ikeID(2), false)
	rekey := []charon.Message{midR(r, 3), ikeAdd(n, &r), ikeDelete(r), ikeUpdate(n, "203.0.113.9:40000")}
	child := []charon.Message{midR(r, 3), childAdd(r, false, inSPI(20))}
	cases := []struct {
		name    string
		early   []Header
		ms      []charon.Message
		then    func(w *owner)
		pending int
	}{
		{name: "child, nothing seen", ms: child, pending: 1},
		{name: "child, request itself seen", early: []Header{request(r.ID, 2, t0)}, ms: child, pending: 1},
		{name: "child, next header first", early: []Header{request(r.ID, 3, t0)}, ms: child},
		{name: "child, next header", ms: child, then: func(w *owner) { w.header(request(r.ID, 3, t0)) }},
		{name: "child, next message", ms: append(child[:2:2], midR(r, 4)), pending: 1},
		{name: "child, repeated request restarts the clock", ms: child, pending: 1, then: func(w *owner) {
			w.tick(9 * time.Second)
			w.header(request(r.ID, 2, w.now))
			w.tick(9 * time.Second)
		}},
		{name: "child, silence after the repetition", ms: child, then: func(w *owner) {
			w.header(request(r.ID, 2, at(9*time.Second)))
			w.tick(19 * time.Second)
		}},
		{name: "our answer is no request", ms: child, pending: 1, then: func(w *owner) { w.header(response(r.ID, 2, t0)) }},
		{name: "a header from afar", ms: child, pending: 1, then: func(w *owner) { w.header(request(r.ID, 4000, t0)) }},
		{name: "a header of ours thrown back", ms: child, pending: 1, then: func(w *owner) {
			h := request(r.ID, 3, t0)
			h.FromInitiator = false
			w.header(h)
		}},
		{name: "a new client's header", ms: child, pending: 1, then: func(w *owner) {
			w.header(Header{ID: sa.IKEID{Initiator: r.ID.Initiator}, Exchange: exchangeInit, FromInitiator: true, At: t0})
		}},
		{name: "ESP on the new child", ms: child, then: func(w *owner) { w.take(w.ESPSeen(inSPI(20))) }},
		{name: "ESP on the old child", ms: child, pending: 1, then: func(w *owner) { w.take(w.ESPSeen(inSPI(1))) }},
		{name: "IKE rekeying, nothing seen", ms: rekey, pending: 1},
		{name: "IKE rekeying, header on the new one first", early: []Header{request(n.ID, 0, t0)}, ms: rekey},
		{name: "IKE rekeying, header on the new one", ms: rekey, then: func(w *owner) { w.header(request(n.ID, 0, t0)) }},
		{name: "IKE rekeying, header on the old one", ms: rekey, then: func(w *owner) { w.header(request(r.ID, 3, t0)) }},
		{name: "IKE rekeying, message on the new one", ms: append(rekey[:4:4], midR(n, 1)), pending: 1},
		{name: "IKE rekeying, we ask on the new one", ms: append(rekey[:4:4], midI(n, 1)), pending: 2},
		{name: "IKE rekeying, answer on the new one", ms: append(rekey[:4:4], midI(n, 1)), then: func(w *owner) { w.header(response(n.ID, 0, t0)) }},
		{name: "IKE rekeying, our child on the new one", ms: append(rekey[:4:4], midI(n, 1), childAdd(n, true, inSPI(30)))},
		{name: "our request", ms: []charon.Message{midI(r, 1)}, pending: 1},
		{name: "our request, silence", ms: []charon.Message{midI(r, 1)}, pending: 1, then: func(w *owner) { w.tick(time.Hour) }},
		{name: "our request, answered", ms: []charon.Message{midI(r, 1)}, then: func(w *owner) { w.header(response(r.ID, 0, t0)) }},
		{name: "our request, answer first", early: []Header{response(r.ID, 0, t0)}, ms: []charon.Message{midI(r, 1)}},
		{name: "our request, the next one", ms: []charon.Message{midI(r, 1), midI(r, 2)}, pending: 1},
		{name: "both sides ask", ms: []charon.Message{midI(r, 1), midR(r, 3), childAdd(r, true, inSPI(30))}, pending: 1},
		{name: "the client's child is not ours", ms: []charon.Message{midR(r, 3), midI(r, 1), childAdd(r, false, inSPI(30))}, pending: 2},
		{name: "delete of a child seconds later", ms: []charon.Message{midR(r, 3), childDelete(r, inSPI(1))}, pending: 1},
		{name: "delete of a child that is pending", ms: append(child[:2:2], childDelete(r, inSPI(20))), pending: 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w := newOwner(t)
			w.connect(1)
			for _, h := range c.early {
				w.header(h)
			}
			w.apply(c.ms...)
			if c.then != nil {
				c.then(w)
			}
			d := w.doc(r)
			if len(d.Pending) != c.pending {
				t.Fatalf("%d pending exchanges, want %d: %+v", len(d.Pending), c.pending, d.Pending)
			}
			if _, err := Decode(must(d.EncodeSecret())); err != nil {
				t.Error(err)
			}
			if c.pending == 0 && len(w.Watches()) != 0 {
				t.Errorf("watches %v with nothing pending", w.Watches())
			}
		})
	}
}

func TestWatches(t *testing.T) {
	w := newOwner(t)
	r, _ := w.connect(1)
	q, _ := w.connect(2)
	w.apply(midR(r, 3), childAdd(r, false, inSPI(40)), midR(q, 3), childAdd(q, false, inSPI(30)))
	equal(t, "watches", w.Watches(), []sa.SPI{inSPI(30), inSPI(40)})
	w.take(w.ESPSeen(inSPI(30)))
	equal(t, "watches", w.Watches(), []sa.SPI{inSPI(40)})
	equal(t, "the other session", spis(w.doc(q)), []sa.SPI{inSPI(2), inSPI(30)})
}

func TestSuspect(t *testing.T) {
	cases := []struct {
		name string
		do   func(w *owner, r charon.IKERef)
		want bool
	}{
		{"nobody asked", func(*owner, charon.IKERef) {}, true},
		{"the client asked", func(w *owner, r charon.IKERef) { w.apply(midR(r, 3)) }, false},
		{"the client asked, by its header", func(w *owner, r charon.IKERef) { w.header(request(r.ID, 2, w.now)) }, false},
		{"the client asked something long ago", func(w *owner, r charon.IKERef) { w.apply(midR(r, 3)); w.tick(time.Minute) }, true},
		{"our DPD was not answered", func(w *owner, r charon.IKERef) { w.apply(midI(r, 1)); w.tick(time.Minute) }, true},
		{"our delete was answered", func(w *owner, r charon.IKERef) { w.apply(midI(r, 1)); w.header(response(r.ID, 0, w.now)) }, false},
		{"later", func(w *owner, r charon.IKERef) { w.tick(SuspectTime) }, false},
	}
	for _, c := range cases {
		w := newOwner(t)
		r, _ := w.connect(1)
		n := w.succeed()
		c.do(n, r)
		o := n.apply(ikeDelete(r))
		if len(o.Changes) == 0 || o.Changes[len(o.Changes)-1].Kind != Delete || o.Changes[len(o.Changes)-1].Suspect != c.want {
			t.Errorf("%s: %+v", c.name, o.Changes)
		}
	}
}

func TestAdoptRefuses(t *testing.T) {
	w := newOwner(t)
	_, d := w.connect(1)
	other := d.clone()
	other.Slot++
	twice := d.clone()
	twice.SessionID = "another"
	n := New(testSlot)
	if _, err := n.Adopt([]*Document{d, d, other, twice, {SessionID: "x"}}); err == nil || n.Len() != 1 {
		t.Errorf("adopted %d: %v", n.Len(), err)
	}
	if got, ok := n.Doc(d.SessionID); !ok || must(got.Digest()) != must(d.Digest()) || got.Rev != d.Rev {
		t.Error("the adopted document differs")
	}
}
