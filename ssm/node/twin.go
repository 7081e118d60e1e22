package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/sa/xfrm"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/replica"
	"github.com/shadowcast/shadowcast/ssm/session"
)

// repairAfter is how long a fed child may be missing in the kernel before the
// twin is built again.
const repairAfter = 3 * time.Second

// stuckAfter is how long charon may leave what it was fed in its queue without
// installing anything before it counts as stuck.
const stuckAfter = 30 * time.Second

// installTime is how long charon may take to install a fed child before the
// twin counts as incomplete; a new session must not make it flap.
const installTime = 500 * time.Millisecond

// twin is the dormant copy of a slot: documents, what charon was fed of them,
// and which of the resulting SAs the kernel holds in the right block.
type twin struct {
	r      *slotRuntime
	feeder *session.Feeder
	docs   map[string]*session.Document
	hashes map[string]replica.Hash
	digest replica.Digest
	ticket sa.Ticket // whose block outbound SAs are preset to; 0 not yet

	children  map[sa.SPI]*twinChild // by inbound SPI
	bySession map[string][]*twinChild
	out       map[sa.SPI][]*twinChild
	open      backlog // not complete in the kernel
	samples   map[sa.SPI]replica.Sample
	unset     []*twinChild // installed, to be moved to our block: see flush
	toBar     []*twinChild // to be barred before charon is fed: see bar

	// gone are sessions that the owner has ended lately, and when.
	gone map[string]time.Time
	// refed are sessions that were fed again by themselves, and when.
	refed  map[string]time.Time
	skew   string // how our connections differ from the owner's
	whole  bool   // the owner's snapshot was applied
	ready  bool   // as last reported
	reason string
	behind bool // as told last
}

type twinChild struct {
	in, out sa.SPI
	birth   sa.Birth
	session string
	inID    xfrm.ID
	outID   xfrm.ID
	haveIn  bool
	haveOut bool
	preset  bool
	barred  bool      // the fence drops what its outbound SA sends
	client  string    // address in the name of the bar
	since   time.Time // when it last became incomplete
	// void: our ticket gives no block, because it was overtaken before the child was
	// born or because the owner did not know it; the next ticket will.
	void bool
}

func (c *twinChild) complete() bool { return c.haveIn && c.haveOut && (c.preset || c.void) }

func newTwin(r *slotRuntime) *twin {
	return &twin{r: r, feeder: session.NewFeeder(), docs: map[string]*session.Document{}, hashes: map[string]replica.Hash{}, children: map[sa.SPI]*twinChild{},
		bySession: map[string][]*twinChild{}, out: map[sa.SPI][]*twinChild{}, open: newBacklog(), samples: map[sa.SPI]replica.Sample{}, gone: map[string]time.Time{}, refed: map[string]time.Time{}}
}

// shadow makes this runtime a shadow's: with a fresh charon, or with the one
// that a planned move left passive.
func (r *slotRuntime) shadow(x ssm.ActShadow) {
	held := r.held
	r.held = nil
	r.endOwner()
	r.networks.reset(nil)
	r.mode, r.twin = modeShadow, newTwin(r)
	if x.Keep && r.inst != nil && r.inst.Alive() {
		err := r.twin.keep(held)
		if err == nil {
			r.a.post(ssm.EvSlotUp{Slot: r.n})
			return
		}
		r.a.events.Add(Entry{Slot: r.n, Kind: "repair", Text: "the twin is built from scratch", Reason: err.Error()})
		r.twin = newTwin(r)
	}
	r.a.problem(r.n, "unbar the SAs of an earlier twin", r.a.host.UnbarAll(r.n))
	r.a.replicas.receiver.Forget(r.n)
	r.a.replicas.receiver.SetReadiness(r.n, false, "twin is being built")
	r.rebuild()
}

// keep makes a twin of a charon that holds docs. Passivation is not complete by
// itself (rule 14): every IKE_SA must be passive and every child in the kernel.
func (t *twin) keep(docs []*session.Document) error {
	if t.r.outdated {
		return errors.New("charon runs with settings of before")
	}
	ctx, cancel := context.WithTimeout(t.r.ctx, 2*time.Second)
	defer cancel()
	sas, err := t.r.vici.ListSAs(ctx, true)
	if err != nil {
		return err
	}
	if open := notPassive(sas, docs); open != "" {
		return errors.New(open)
	}
	states, err := t.r.kern.Dump()
	if err != nil {
		return err
	}
	for _, d := range docs {
		b, err := d.Pack()
		if err != nil {
			return err
		}
		t.docs[d.SessionID] = d
		t.rehash(d.SessionID, replica.HashOf(b), true)
		t.index(d.SessionID, d.Children)
	}
	t.feeder.Adopted(docs...)
	t.bar()
	for _, s := range states {
		t.installed(s)
	}
	t.flush()
	if n := t.open.len(); n > 0 {
		return fmt.Errorf("%d children are missing in the kernel", n)
	}
	t.r.sessions.Store(int64(len(t.docs)))
	t.r.networks.reset(docs)
	t.r.routeNetworks()
	return nil
}

// notPassive names what keeps a passivated charon from being the twin of docs.
func notPassive(sas []charon.IKESA, docs []*session.Document) string {
	if len(sas) != len(docs) {
		return fmt.Sprintf("charon holds %d IKE_SAs, there are %d sessions", len(sas), len(docs))
	}
	live := map[sa.IKEID]bool{}
	for _, d := range docs {
		if g := d.Live(); g != nil && len(d.Pending) == 0 {
			live[g.ID] = true
		}
	}
	for _, s := range sas {
		if s.State != "PASSIVE" {
			return "IKE_SA " + s.ID.String() + " is " + strings.ToLower(s.State)
		}
		if !live[s.ID] {
			return "IKE_SA " + s.ID.String() + " is in the middle of an exchange or unknown"
		}
	}
	return ""
}

// follow runs when the slot got another owner; the twin stays, its snapshot is
// that of the old one until the new one's stream says otherwise.
func (r *slotRuntime) follow(same bool) {
	if r.mode == modeShadow && !same {
		r.twin.whole = false
		r.twin.judge()
	}
}

func (r *slotRuntime) preset(t sa.Ticket) {
	switch r.mode {
	case modeShadow:
		r.twin.presetAll(t)
	case modeOwner:
		r.renew(t)
	}
}

// renew moves an active owner's SAs to the block of a higher ticket. Packets
// may be sent meanwhile: the kernel keeps the higher number of the two.
func (r *slotRuntime) renew(t sa.Ticket) {
	states, err := r.kern.Dump()
	if err != nil {
		r.a.problem(r.n, "renew the ticket", err)
		return
	}
	births := map[sa.SPI]sa.Birth{}
	for _, d := range r.ledger.Docs() {
		for _, c := range d.Children {
			births[c.Out] = c.Birth
		}
	}
	var ws []xfrm.ReplayWrite
	for _, s := range states {
		b, ok := births[s.SPI]
		if r.inbound(s) || !ok {
			continue
		}
		if n, err := b.Block(t); err != nil {
			r.a.problem(r.n, "move SA "+s.SPI.String()+" to its new block", err)
		} else if n > 0 {
			ws = append(ws, xfrm.ReplayWrite{ID: s.ID, OSeq: sa.FirstSeq(n)})
		}
	}
	if _, err := r.kern.Write(ws); err != nil {
		r.a.problem(r.n, "renew the ticket", err)
		return
	}
	r.a.post(ssm.EvPreset{Slot: r.n, Ticket: t})
}

func (t *twin) documents() []*session.Document {
	return slices.SortedFunc(maps.Values(t.docs), func(a, b *session.Document) int {
		if a.SessionID < b.SessionID {
			return -1
		}
		return 1
	})
}

// goneFor is how long a twin remembers that a session has ended: longer than any other
// shadow that could claim may be behind.
const goneFor = 10 * time.Second

// lately returns the sessions that the owner has ended lately. Where sessions have tiers
// nothing tells an end from what this shadow need not hold any more.
func (t *twin) lately(now time.Time) []string {
	forget(t.gone, now, goneFor)
	if t.r.a.tiers.Load().Enabled() {
		return nil
	}
	return slices.Collect(maps.Keys(t.gone))
}

// put stores a document and returns what charon must be told of it.
func (t *twin) put(d *session.Document, h replica.Hash) ([]charon.Message, error) {
	old := t.docs[d.SessionID]
	t.docs[d.SessionID] = d
	delete(t.gone, d.SessionID)
	t.rehash(d.SessionID, h, true)
	t.index(d.SessionID, d.Children)
	if old != nil && old.ClientIP != d.ClientIP {
		// charon replaces the SAs of a client that has moved.
		for _, c := range t.bySession[d.SessionID] {
			t.unplaced(c)
			t.settle(c)
		}
	}
	t.r.sessions.Store(int64(len(t.docs)))
	t.r.noteNetworks(d)
	t.r.routeNetworks()
	return t.feeder.Diff(d)
}

// remove forgets a session and returns what charon must be told of it.
func (t *twin) remove(id string) []charon.Message {
	if t.docs[id] == nil {
		return nil
	}
	delete(t.docs, id)
	t.gone[id] = time.Now()
	t.rehash(id, replica.Hash{}, false)
	t.index(id, nil)
	t.r.sessions.Store(int64(len(t.docs)))
	t.r.networks.forget(id)
	t.r.routeNetworks()
	return t.feeder.Remove(id)
}

// rehash keeps the inventory and its digest.
func (t *twin) rehash(id string, h replica.Hash, held bool) {
	if old, ok := t.hashes[id]; ok {
		t.digest.Toggle(id, old)
		delete(t.hashes, id)
	}
	if held {
		t.digest.Toggle(id, h)
		t.hashes[id] = h
	}
}

// index brings the children of one session up to date.
func (t *twin) index(id string, children []session.Child) {
	old := t.bySession[id]
	now := make([]*twinChild, 0, len(children))
	for _, c := range children {
		n := t.children[c.In]
		if n == nil {
			n = &twinChild{in: c.In, out: c.Out, birth: c.Birth, session: id}
			t.children[c.In] = n
			t.out[c.Out] = append(t.out[c.Out], n)
			t.open.add(n, time.Now())
			t.unplaced(n)
		}
		now = append(now, n)
	}
	for _, c := range old {
		if !slices.Contains(now, c) {
			t.drop(c)
		}
	}
	if t.bySession[id] = now; len(now) == 0 {
		delete(t.bySession, id)
	}
}

func (t *twin) drop(c *twinChild) {
	delete(t.children, c.in)
	t.unbar(c)
	t.open.remove(c)
	delete(t.samples, c.in)
	rest := slices.DeleteFunc(t.out[c.out], func(x *twinChild) bool { return x == c })
	if t.out[c.out] = rest; len(rest) == 0 {
		delete(t.out, c.out)
	}
}

// judge reports readiness when it changes.
func (t *twin) judge() {
	ready, reason := true, ""
	switch {
	case t.skew != "":
		ready, reason = false, t.skew
	case !t.whole:
		ready, reason = false, "the owner's snapshot is not complete"
	case len(t.open.late) > 0, t.open.age(time.Now()) > installTime:
		ready, reason = false, "children missing in the kernel"
	}
	behind, changed := t.open.len() > 0, ready != t.ready || reason != t.reason
	if changed || behind != t.behind {
		t.ready, t.reason, t.behind = ready, reason, behind
		t.r.a.post(ssm.EvTwin{Slot: t.r.n, Ready: ready, Behind: behind, Reason: reason})
	}
	if changed {
		t.r.a.replicas.receiver.SetReadiness(t.r.n, ready, reason)
	}
}

// tick repairs a twin whose kernel state does not come about: charon has taken
// everything it was fed and a child is still missing, or charon takes nothing.
func (t *twin) tick(now time.Time) {
	t.judge()
	forget(t.gone, now, goneFor)
	switch age := t.open.age(now); {
	case age < repairAfter:
		return
	case t.r.link.Idle():
	case now.Sub(t.open.progress) < stuckAfter && age < stuckAfter:
		return // charon is behind, not stuck
	}
	n := t.open.len()
	t.recount()
	if t.open.len() == 0 {
		return
	}
	if t.refeedOpen(now) {
		t.open.missed()
		return
	}
	t.r.a.events.Add(Entry{Slot: t.r.n, Kind: "repair", Warn: true, Text: "the twin is built again",
		Reason: fmt.Sprintf("%d children were fed and are missing in the kernel", n)})
	if err := t.r.startCharon(); err != nil {
		t.r.a.post(ssm.EvSlotDown{Slot: t.r.n, Reason: err.Error()})
		return
	}
	t.feeder = session.NewFeeder()
	t.open = newBacklog()
	t.forgetKernel()
	t.open.missed()
	for _, d := range t.documents() {
		t.r.a.problem(t.r.n, "feed session "+d.SessionID, t.r.feed(t.feeder, d))
	}
	t.judge()
}
