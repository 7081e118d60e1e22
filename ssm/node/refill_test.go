package node

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/operator"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/sa/slot"
	"github.com/shadowcast/shadowcast/sa/steer"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/replica"
	"github.com/shadowcast/shadowcast/ssm/session"
)

// refillBench is the runtime of an owner's slot 7 without charon, kernel and shadows: what it would
// tell charon fails, and says so in an event.
type refillBench struct {
	*slotRuntime
	t *testing.T
}

func newRefillBench(t *testing.T) *refillBench {
	t.Helper()
	a := &Appliance{cfg: &config.Config{Node: "ams"}, log: slog.New(slog.DiscardHandler), events: &journal{log: operator.NewEvents("ams", 1000, slog.New(slog.DiscardHandler))},
		host: &slot.Host{}, steer: nil}
	a.cfg.RunDir = t.TempDir()
	a.tiers.Store(&config.Tiers{})
	b := &refillBench{newRuntime(a, config.Slot{Number: 7}), t}
	b.group, b.ctx = errgroup.WithContext(t.Context())
	b.link = &charon.Link{}
	b.mode, b.ticket = modeOwner, 9
	b.networks.route = func([]netip.Prefix) error { return nil }
	b.ledger = session.New(7)
	pub, err := replica.NewPublisher(replica.PublisherConfig{Slot: 7, Ticket: 9, Self: "ams", Incarnation: 1, TLS: func(string) *tls.Config { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	b.pub = pub
	return b
}

// told are the events of a kind, joined.
func (b *refillBench) told(kind string) string {
	evs, _, _ := b.a.events.log.After(0, 1000)
	var out []string
	for _, e := range evs {
		if e.Kind == kind {
			out = append(out, e.Message)
		}
	}
	return strings.Join(out, "\n")
}

func (b *refillBench) want(kind, text string) {
	b.t.Helper()
	if got := b.told(kind); text == "" && got != "" || !strings.Contains(got, text) {
		b.t.Errorf("%s events %q, want %q", kind, got, text)
	}
}

// settled is a session without pending exchanges.
func settled(t *testing.T, rev uint64) *session.Document {
	d := goldenDoc(t, rev)
	d.Pending = nil
	return d
}

// heldBy is what charon lists of documents.
func heldBy(docs ...*session.Document) (out []charon.IKESA) {
	for i, d := range docs {
		s := charon.IKESA{ID: d.Live().ID, UniqueID: uint32(i + 1), State: "ESTABLISHED"}
		for _, c := range d.Children {
			s.Children = append(s.Children, charon.ChildSA{In: c.In, Out: c.Out, UniqueID: uint32(c.In), State: "INSTALLED"})
		}
		out = append(out, s)
	}
	return out
}

func (b *refillBench) adopting() *refilling {
	b.refill = newReadBack(nil)
	return b.refill
}

func TestReadBackMatchesCharon(t *testing.T) {
	d := settled(t, 5)
	b := newRefillBench(t)
	b.adopting()
	b.adoptHeld(gathered{docs: []*session.Document{d}, answered: []string{"fra"}}, heldBy(d), nil)
	if got, ok := b.ledger.Doc(d.SessionID); !ok || got.Rev != 5 || b.pub.Len() != 1 || b.refill != nil {
		t.Fatalf("ledger %v, %d published", b.ledger.Docs(), b.pub.Len())
	}
	b.want("refill", "1 sessions were read back from fra; 0 sessions and 0 children of others had ended; 0 that charon holds are missing")
	b.want("resync", "")
	b.want("error", "")
}

// What charon holds no more has ended, in whole or in part, and is not told any more.
func TestReadBackOfWhatHasEnded(t *testing.T) {
	d := settled(t, 5)
	b := newRefillBench(t)
	b.adopting()
	b.adoptHeld(gathered{docs: []*session.Document{d}, answered: []string{"fra"}}, nil, nil)
	if b.ledger.Len() != 0 || b.pub.Len() != 0 {
		t.Errorf("%d sessions, %d published", b.ledger.Len(), b.pub.Len())
	}
	b.want("refill", "0 sessions were read back from fra; 1 sessions and 0 children")
	b.want("resync", "")

	b = newRefillBench(t)
	b.adopting()
	sas := heldBy(d)
	sas[0].Children = sas[0].Children[1:]
	b.adoptHeld(gathered{docs: []*session.Document{d}, answered: []string{"fra"}}, sas, nil)
	got, _ := b.ledger.Doc(d.SessionID)
	if len(d.Children) < 2 || len(got.Children) != len(d.Children)-1 || got.Children[0].In != d.Children[1].In || got.Rev <= 5 {
		t.Errorf("children %d of %d, rev %d", len(got.Children), len(d.Children), got.Rev)
	}
	b.want("refill", "1 sessions were read back from fra; 0 sessions and 1 children")
	b.want("error", "")
}

// Nobody has anything: charon must tell all it has.
func TestReadBackOfNothing(t *testing.T) {
	d := settled(t, 5)
	b := newRefillBench(t)
	b.adopting()
	b.adoptHeld(gathered{silent: []string{"fra (no answer in time)"}}, heldBy(d), nil)
	b.want("refill", "0 sessions were read back from nobody; not from fra (no answer in time)")
	b.want("resync", "charon sends its sessions again")

	b = newRefillBench(t) // charon has nothing either
	b.adopting()
	b.adoptHeld(gathered{}, nil, nil)
	b.want("resync", "")
	b.want("refill", "")
}

// Without charon's list nothing is ended and nothing rekeyed.
func TestReadBackWithoutList(t *testing.T) {
	d := settled(t, 5)
	b := newRefillBench(t)
	b.adopting()
	b.adoptHeld(gathered{docs: []*session.Document{d}, answered: []string{"fra"}}, nil, context.DeadlineExceeded)
	if b.ledger.Len() != 1 || b.pub.Len() != 1 {
		t.Errorf("%d sessions, %d published", b.ledger.Len(), b.pub.Len())
	}
	b.want("resync", "")
	b.want("error", "list the sessions of the adopted charon failed")
}

// A charon that died since has nothing, whatever the shadows hold of it: its SAs' sequence
// numbers are lost.
func TestReadBackOfADeadCharon(t *testing.T) {
	d := settled(t, 5)
	b := newRefillBench(t)
	x := newReadBack(&charon.Instance{})
	b.refill = x
	b.ownerMessage(session.EndOf(d.Live().ID, false))
	b.adoptHeld(gathered{docs: []*session.Document{d}, answered: []string{"fra"}}, heldBy(d), nil)
	if b.ledger.Len() != 0 || b.pub.Len() != 0 {
		t.Errorf("%d sessions, %d published", b.ledger.Len(), b.pub.Len())
	}
	b.want("resync", "")
}

// What charon and the client say while the sessions are awaited is digested when they are
// here.
func TestReadBackKeepsWhatIsSaid(t *testing.T) {
	d := settled(t, 5)
	b := newRefillBench(t)
	b.mode = modeIdle // between the adoption of charon and that of the slot
	b.adopting()
	b.fromCharon(session.EndOf(d.Live().ID, d.Live().Initiator))
	b.fromCharon(session.EndOf(sa.IKEID{Initiator: 1, Responder: 2}, false)) // of a session that nobody knows
	b.mode = modeOwner
	b.adoptHeld(gathered{docs: []*session.Document{d}, answered: []string{"fra"}}, heldBy(d), nil)
	if b.ledger.Len() != 0 || b.pub.Len() != 0 {
		t.Errorf("%d sessions, %d published: the end was forgotten", b.ledger.Len(), b.pub.Len())
	}
	b.want("error", "")
}

// Something that the shadows lack, or a client that was seen in exchanges that nobody
// announced, is looked for again before a rekey.
func TestReadBackOfAPart(t *testing.T) {
	d := settled(t, 5)
	more := heldBy(d)
	more[0].Children = append(more[0].Children, charon.ChildSA{In: 0x7000f0, Out: 5, UniqueID: 9, State: "INSTALLED"})
	other := append(heldBy(d), charon.IKESA{ID: sa.IKEID{Initiator: 1, Responder: 2}, UniqueID: 8, State: "ESTABLISHED"})
	live := d.Live()
	flags := uint8(ikeInitiator)
	if live.Initiator {
		flags = 0
	}
	for name, x := range map[string]struct {
		sas    []charon.IKESA
		mid    uint32
		renew  bool
		resync bool
	}{
		"all there":             {heldBy(d), live.MIDResponder - 1, false, false},
		"a child more":          {more, 0, true, false},
		"an IKE_SA more":        {other, 0, false, true},
		"exchanges in the dark": {heldBy(d), live.MIDResponder + 20, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newRefillBench(t)
			y := b.adopting()
			b.fromSteering(steer.Event{Kind: steer.EventIKE, Slot: 7, IKE: live.ID, MessageID: x.mid, Exchange: 37, Flags: flags})
			vici, over := context.WithCancel(t.Context())
			over() // what is asked of charon ends at once
			b.group, b.ctx = errgroup.WithContext(vici)
			b.vici = charon.NewVici(t.TempDir() + "/vici")
			b.adoptHeld(gathered{docs: []*session.Document{d}, answered: []string{"fra"}}, x.sas, nil)
			b.want("resync", "")
			lacks := b.lacking(x.sas)
			if (len(lacks) > 0) != (len(x.sas) > 1 || len(x.sas[0].Children) > len(d.Children)) {
				t.Errorf("lacks %v", lacks)
			}
			b.announceMissing(lacks, y, x.sas)
			if x.renew {
				b.want("refill", "1 IKE_SAs are rekeyed")
			} else if strings.Contains(b.told("refill"), "are rekeyed") {
				t.Error("an IKE_SA is rekeyed")
			}
			if x.resync {
				b.want("resync", "charon sends its sessions again")
			} else {
				b.want("resync", "")
			}
			if err := b.group.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Everything beyond a bound is forgotten, and known to be.
func TestReadBackIsBounded(t *testing.T) {
	b := newRefillBench(t)
	x := b.adopting()
	for range laterMost + 3 {
		b.fromCharon(charon.Message{})
	}
	if len(x.later) != laterMost || x.overflow != 3 {
		t.Errorf("%d kept, %d too many", len(x.later), x.overflow)
	}
}

// bare is a session without children: nothing of it is in the kernel.
func bare(t *testing.T, rev uint64) *session.Document {
	d := settled(t, rev)
	d.Children = nil
	return d
}

// taking is a new owner that awaits what others hold.
func taking(t *testing.T, ended []string, docs ...*session.Document) *refillBench {
	b := newRefillBench(t)
	if _, err := b.ledger.Adopt(docs); err != nil {
		t.Fatal(err)
	}
	b.ledger.Takeover(time.Now())
	for _, d := range docs {
		b.publish(d)
	}
	b.refill = &refilling{}
	b.ledger.Await(ended...)
	return b
}

func TestFillUp(t *testing.T) {
	d := bare(t, 5)
	g := gathered{docs: []*session.Document{d}, answered: []string{"fra", "lhr"}}
	b := taking(t, nil)
	b.fillUp(g)
	if got, ok := b.ledger.Doc(d.SessionID); !ok || got.Rev != 5 || b.pub.Len() != 1 || b.refill != nil {
		t.Errorf("%d sessions, %d published", b.ledger.Len(), b.pub.Len())
	}
	b.want("refill", "1 sessions that were missing here and 0 newer ones of 1 come from fra, lhr; 0 have ended or changed here, 0 are refused")
	b.want("error", "feed sessions of another shadow failed")
	if err := b.ledger.Lacks(bare(t, 6)); err == nil {
		t.Error("something is still awaited")
	}
}

func TestFillUpLeavesAlone(t *testing.T) {
	d := bare(t, 5)
	for name, x := range map[string]struct {
		b    *refillBench
		g    gathered
		want string
		held int
	}{
		"nobody answers": {taking(t, nil, d), gathered{silent: []string{"fra (no answer in time)"}}, "of 0 come from nobody; not from fra", 1},
		"the same":       {taking(t, nil, d), gathered{docs: []*session.Document{bare(t, 5)}}, "0 sessions that were missing here and 0 newer ones of 1", 1},
		"older":          {taking(t, nil, d), gathered{docs: []*session.Document{bare(t, 4)}}, "0 sessions that were missing here and 0 newer ones of 1", 1},
		"ended before":   {taking(t, []string{d.SessionID}), gathered{docs: []*session.Document{d}}, "1 have ended or changed here", 0},
		"ended since": {func() *refillBench {
			b := taking(t, nil, d)
			b.ownerMessage(session.EndOf(d.Live().ID, d.Live().Initiator))
			return b
		}(), gathered{docs: []*session.Document{bare(t, 8)}}, "1 have ended or changed here", 0},
		"malformed": {taking(t, nil, d), gathered{bad: 2}, "2 are refused", 1},
	} {
		t.Run(name, func(t *testing.T) {
			x.b.fillUp(x.g)
			if x.b.ledger.Len() != x.held || x.b.refill != nil {
				t.Errorf("%d sessions", x.b.ledger.Len())
			}
			x.b.want("refill", x.want)
			x.b.want("error", "")
		})
	}
}

// An SA that cannot be barred is not installed, and the shadows are not left with what
// nobody serves.
func TestFillUpBarsFirst(t *testing.T) {
	d := settled(t, 5)
	b := taking(t, nil)
	b.fillUp(gathered{docs: []*session.Document{d}, answered: []string{"fra"}}) // the host has no slot 7
	if b.ledger.Len() != 0 || b.pub.Len() != 0 || len(b.late) != 0 {
		t.Errorf("%d sessions, %d published", b.ledger.Len(), b.pub.Len())
	}
	b.want("error", "bar the SAs of session "+d.SessionID+" failed")
	if strings.Contains(b.told("error"), "feed") {
		t.Error("charon was fed")
	}
}

func TestExpect(t *testing.T) {
	d := settled(t, 5)
	for i := range d.Children {
		d.Children[i].Birth, d.Children[i].InSeq = sa.Birth{Base: 3, Tenure: 3}, 77
	}
	d.Children[0].Birth = sa.Birth{Base: 9, Tenure: 8} // ticket 9 must not send in it
	b := newRefillBench(t)
	b.expect(d, d.Children)
	if len(b.late) != len(d.Children)-1 || len(b.lateIn) != len(d.Children) || b.lateIn[d.Children[0].In] != 77 {
		t.Errorf("late %v, inbound %v", b.late, b.lateIn)
	}
	for o := range b.late {
		if o.SPI == d.Children[0].Out || o.Dst.String() != d.ClientIP {
			t.Errorf("expects %v", o)
		}
	}
}

// A session that the owner ended lately does not come back from a shadow that was behind.
func TestTwinRemembersTheEnds(t *testing.T) {
	d := bare(t, 5)
	b := newRefillBench(t)
	b.twin = newTwin(b.slotRuntime)
	now := time.Now()
	if _, err := b.twin.put(d, replica.Hash{1}); err != nil {
		t.Fatal(err)
	}
	b.twin.remove(d.SessionID)
	if got := b.twin.lately(now); !slices.Equal(got, []string{d.SessionID}) {
		t.Errorf("ended %v", got)
	}
	b.a.tiers.Store(&testTiers)
	if got := b.twin.lately(now); len(got) != 0 {
		t.Errorf("ended %v although it may be kept elsewhere", got)
	}
	b.a.tiers.Store(&config.Tiers{})
	if got := b.twin.lately(now.Add(goneFor + time.Second)); len(got) != 0 {
		t.Errorf("still remembered: %v", got)
	}
}

// A member may join between two ticks of the core and the owner renew its ticket then:
// the new tenure says whom to feed, and the publisher must hear of it.
func TestRenewedOwnerFeedsWhoJoined(t *testing.T) {
	b := newRefillBench(t)
	b.a.cfg.Fleet.Appliances = []config.Appliance{{Name: "ams"}, {Name: "fra", Address: netip.MustParseAddr("192.0.2.12"), ReplicationPort: 4501}, {Name: "lhr", Address: netip.MustParseAddr("192.0.2.13"), ReplicationPort: 4501}}
	receiver, err := replica.NewReceiver(replica.ReceiverConfig{Self: "ams", Sink: sink{b.a}, Logger: b.log,
		Authority: func(sa.Slot, string, sa.Ticket) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	b.a.replicas = &replicas{receiver: receiver}
	fed := func() (out []string) {
		for _, s := range b.pub.Status() {
			out = append(out, s.Name)
		}
		slices.Sort(out)
		return out
	}
	b.feedShadows([]ssm.Node{"fra"})
	if got := fed(); !slices.Equal(got, []string{"fra"}) {
		t.Fatalf("fed are %v", got)
	}
	b.own(ssm.ActOwn{Slot: 7, Ticket: 11, Shadows: []ssm.Node{"fra", "lhr"}})
	if got := fed(); !slices.Equal(got, []string{"fra", "lhr"}) || b.ticket != 11 {
		t.Errorf("under ticket %d fed are %v, want fra and lhr under 11", b.ticket, got)
	}
}

// A child that charon is fed when an exchange of the former owner turns out to be complete
// appears in that owner's block, in which it may have sent: it is barred and moved.
func TestFedChildrenAreMovedToOurBlock(t *testing.T) {
	b := newRefillBench(t)
	d := settled(t, 1)
	c := d.Children[0]
	o := session.Output{Changes: []session.Change{{Doc: d}},
		Feed: []charon.Message{{Type: charon.IKEUpdate}, {Type: charon.ChildAdd, Attrs: []charon.Attr{charon.NewSPI(charon.InSPI, c.In)}}}}
	b.barFed(o)
	at := slot.Outbound{SPI: c.Out, Dst: netip.MustParseAddr(d.ClientIP)}
	if birth, ok := b.late[at]; !ok || birth != c.Birth || len(b.late) != 1 {
		t.Errorf("late are %v, want %v born at %+v", b.late, at, c.Birth)
	}
	if _, ok := b.lateIn[c.In]; !ok {
		t.Error("its inbound SA would begin with an empty window")
	}
	// This bench has no fence: that it was asked for shows in the failure.
	b.want("error", "bar the SAs of a completed exchange")
	b.late = map[slot.Outbound]sa.Birth{}
	b.barFed(session.Output{Changes: []session.Change{{Doc: d}}, Feed: []charon.Message{{Type: charon.MIDResponder}}})
	if len(b.late) != 0 {
		t.Errorf("late are %v although no child was fed", b.late)
	}
}
