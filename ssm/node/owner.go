package node

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/sa/steer"
	"github.com/shadowcast/shadowcast/sa/xfrm"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/replica"
	"github.com/shadowcast/shadowcast/ssm/session"
)

// own makes this runtime the owner's, or moves the owner to a new ticket.
func (r *slotRuntime) own(x ssm.ActOwn) {
	r.ticket = x.Ticket
	r.birth = sa.Birth{Base: sa.BaseFor(x.Ticket, 0), Tenure: x.Ticket}
	first := r.mode != modeOwner
	r.a.replicas.receiver.Raise(r.n, x.Ticket, r.a.cfg.Node)
	if !first {
		r.a.problem(r.n, "renew the replication", r.pub.SetTicket(x.Ticket))
		r.feedShadows(x.Shadows) // one may have joined since
		r.rekeyWorn()
		return
	}
	if x.Takeover {
		r.a.routes.converge(r.ctx, packetsFirst)
	}
	if err := r.startPublisher(x); err != nil {
		r.a.problem(r.n, "publish to the shadows", err)
		return
	}
	r.mode, r.ledger = modeOwner, session.New(r.n, session.WithTier(r.a.tierOf))
	var out session.Output
	var ended []string
	if r.twin != nil {
		docs := r.twin.documents()
		ended = r.twin.lately(time.Now())
		r.late = r.twin.late()
		r.twin = nil
		var err error
		out, err = r.ledger.Adopt(docs)
		r.a.problem(r.n, "adopt the sessions", err)
	}
	if x.Takeover {
		r.ledger.Takeover(time.Now())
	}
	r.networks.reset(r.ledger.Docs())
	if r.a.unique != nil {
		r.unique = newUniqueSlot()
	}
	for _, d := range r.ledger.Docs() {
		r.publish(d)
	}
	r.output(out)
	switch {
	case r.refill != nil: // charon was adopted
		r.readBack(x.Ask)
	case len(x.Ask) > 0 && x.Takeover:
		r.refill = &refilling{}
		r.ledger.Await(ended...)
		r.gatherSessions(x.Ask, r.fillUp)
	default:
		r.pub.Complete()
	}
}

// packetsFirst bounds how long a takeover's bookkeeping (the ledger, the shadows'
// snapshot, charon's activation) waits for the routes that bring the packets.
const packetsFirst = 150 * time.Millisecond

// startPublisher begins the replication of a tenure: each has its own.
func (r *slotRuntime) startPublisher(x ssm.ActOwn) error {
	r.stopPublisher()
	pub, err := r.a.replicas.publisher(r.n, x.Ticket, r.selected)
	if err != nil {
		return err
	}
	r.fed, r.covers = x.Shadows, newCoverage(*r.a.tiers.Load())
	r.selects.Store(r.covers)
	r.cover(pub, time.Now())
	if err := errors.Join(pub.SetShadows(r.shadows(x.Shadows)), pub.SetConfig(r.a.connsDigest)); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(r.ctx)
	r.pub, r.unpub = pub, cancel
	r.published.Store(pub)
	r.group.Go(func() error {
		err := ignore(pub.Run(ctx), ctx)
		r.a.problem(r.n, "publish to the shadows", err)
		return nil
	})
	return nil
}

// shadows is where the appliances of ns are fed.
func (r *slotRuntime) shadows(ns []ssm.Node) []replica.Shadow {
	out := make([]replica.Shadow, 0, len(ns))
	for _, n := range ns {
		out = append(out, replica.Shadow{Name: string(n), Addr: r.a.appliance(string(n)).Replication()})
	}
	return out
}

// feedShadows changes whom an owner feeds. Those that stay keep their streams.
func (r *slotRuntime) feedShadows(ns []ssm.Node) {
	if r.mode == modeOwner {
		r.fed = ns
		r.cover(r.pub, time.Now())
		r.a.problem(r.n, "change whom sessions are published to", r.pub.SetShadows(r.shadows(ns)))
	}
}

func (r *slotRuntime) stopPublisher() {
	if r.pub == nil {
		return
	}
	r.unpub()
	r.pub, r.unpub = nil, nil
	r.published.Store(nil)
}

// forgetSuspects ends the sessions whose deletion was doubted long enough.
func (r *slotRuntime) forgetSuspects(now time.Time) {
	for id, since := range r.suspects {
		if now.Sub(since) > session.SuspectTime {
			delete(r.suspects, id)
			r.unpublish(id)
		}
	}
}

// rekeyWorn asks charon to rekey the children whose blocks run out: their numbers
// have jumped with every takeover since their birth.
func (r *slotRuntime) rekeyWorn() {
	var worn []sa.SPI
	for _, d := range r.ledger.Docs() {
		for _, c := range d.Children {
			if c.Birth.NeedsRekey(r.ticket) {
				worn = append(worn, c.In)
			}
		}
	}
	if len(worn) > 0 {
		r.rekeyChildren("rekey children whose sequence blocks run out", worn)
	}
}

func (r *slotRuntime) endOwner() {
	clear(r.suspects)
	r.rekeys = nil
	r.endRedirect()
	r.stopPublisher()
	if r.ledger != nil {
		r.rewatch(nil)
	}
	r.ledger, r.refill, r.active, r.unique = nil, nil, false, nil
	r.some.Store(nil)
	clear(r.late)
	clear(r.lateIn)
	r.sessions.Store(0)
}

func (r *slotRuntime) ownerMessage(m charon.Message) {
	if r.postpone(func() { r.ownerMessage(m) }) {
		return
	}
	now := time.Now()
	out, err := r.ledger.Apply(m, func() sa.Birth { return r.birth }, now)
	began := r.newcomers(out.Changes, now)
	r.output(out)
	if len(began) > 0 {
		r.a.unique.announce(r, began)
	}
	if err != nil && !r.known(err) {
		r.a.problem(r.n, "digest a datagram of charon", err)
	}
}

// known reports whether err is what is to be expected while charon repeats itself, or
// speaks of what ended while nobody listened.
func (r *slotRuntime) known(err error) bool {
	return time.Now().Before(r.unsure) && (errors.Is(err, session.ErrDuplicate) || errors.Is(err, session.ErrUnknownSA))
}

// ownerPacket learns from IKE headers and first ESP packets which exchanges the
// client has seen through (rule 7 of the charon link).
func (r *slotRuntime) ownerPacket(e steer.Event) {
	if e.Kind == steer.EventESP {
		if r.postpone(func() { r.ownerPacket(e) }) {
			return
		}
		delete(r.watched, e.SPI)
		r.output(r.ledger.ESPSeen(e.SPI))
		return
	}
	h := session.Header{ID: e.IKE, MsgID: e.MessageID, Exchange: e.Exchange, Response: e.Flags&ikeResponse != 0,
		FromInitiator: e.Flags&ikeInitiator != 0, At: time.Now()}
	if r.postpone(func() { r.output(r.ledger.Header(h)) }) {
		r.refill.hear(h)
		return
	}
	r.output(r.ledger.Header(h))
}

// Flags of the IKE header (RFC 7296 section 3.1).
const (
	ikeInitiator = 0x08
	ikeResponse  = 0x20
)

// output carries out what the ledger made of an input.
func (r *slotRuntime) output(o session.Output) {
	for _, c := range o.Changes {
		if c.Kind == session.Delete {
			r.log.Info("session ended", "session", c.ID, "suspect", c.Suspect)
			r.networks.forget(c.ID)
			wanted := r.dismissed(c.ID)
			if r.unique != nil {
				r.unique.forget(c.ID)
			}
			if c.Suspect && !wanted || r.a.alone.Load() {
				// It may be a false takeover's view of a client that is well
				// (rule 15), or that of an appliance which is cut off: the
				// shadows keep the session for now.
				r.suspects[c.ID] = time.Now()
				continue
			}
			r.unpublish(c.ID)
			continue
		}
		delete(r.suspects, c.Doc.SessionID)
		r.noteNetworks(c.Doc)
		r.publish(c.Doc)
	}
	r.routeNetworks()
	for _, c := range o.Conflicts {
		r.a.events.Add(Entry{Slot: r.n, Kind: "conflict", Warn: true, Text: "inner address " + c.Addr.String() + " is held twice",
			Reason: "sessions " + c.Session + " and " + c.Other})
	}
	if len(o.Feed) > 0 {
		r.barFed(o)
		r.a.problem(r.n, "feed a completed exchange to charon", r.sendCharon(o.Feed))
		if o.Reactivate {
			r.reactivate()
		}
	}
	r.sessions.Store(int64(r.ledger.Len()))
	if len(o.Changes) > 0 || len(r.watched) > 0 {
		r.rewatch(r.ledger.Watches())
	}
}

// reactivate makes charon serve IKE_SAs that it was fed while it was active.
func (r *slotRuntime) reactivate() {
	r.a.problem(r.n, "passivate charon", r.link.Passivate(r.ctx))
	r.activate()
}

func (r *slotRuntime) unpublish(id string) {
	r.pub.Delete(id)
	if r.unique != nil {
		r.unique.forget(id)
	}
	if r.covers != nil {
		r.covers.forget(id)
	}
}

func (r *slotRuntime) publish(d *session.Document) {
	r.noteUnique(d)
	if r.covers != nil {
		r.covers.note(d)
	}
	b, err := d.Pack()
	if err == nil {
		// The hash names the whole document, so that a change of what is
		// pending reaches the shadows too.
		err = r.pub.Put(d.SessionID, b, replica.HashOf(b))
	}
	r.a.problem(r.n, "publish session "+d.SessionID, err)
}

// sendCharon sends messages in the protocol version of the local charon.
func (r *slotRuntime) sendCharon(ms []charon.Message) error {
	out := make([]charon.Message, 0, len(ms))
	var errs []error
	for _, m := range ms {
		v, err := m.As(r.link.Version())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, v)
	}
	return errors.Join(append(errs, r.link.Send(r.ctx, out...))...)
}

// rewatch tells steering which inbound SPIs would show an exchange complete.
func (r *slotRuntime) rewatch(want []sa.SPI) {
	var add, drop []sa.SPI
	for _, s := range want {
		if !r.watched[s] {
			add = append(add, s)
		}
	}
	for s := range r.watched {
		if !slices.Contains(want, s) {
			drop = append(drop, s)
		}
	}
	for _, s := range add {
		r.watched[s] = true
	}
	for _, s := range drop {
		delete(r.watched, s)
	}
	if len(add) > 0 {
		r.a.problem(r.n, "watch new SPIs", r.a.steer.Watch(add...))
	}
	if len(drop) > 0 {
		r.a.problem(r.n, "forget watched SPIs", r.a.steer.Unwatch(drop...))
	}
}

// ownerKernel passes replay samples of inbound SAs to the shadows.
func (r *slotRuntime) ownerKernel(e xfrm.Event) {
	switch e.Kind {
	case xfrm.NewSA:
		r.installedLate(e.State)
		r.arrivedLate(e.State)
	case xfrm.Replay:
		if r.inbound(e.State) {
			r.sample(e.State)
		}
	case xfrm.Overrun:
		r.sampleAll()
	}
}

// inbound reports whether s carries packets from a client: its SPI is ours.
func (r *slotRuntime) inbound(s xfrm.State) bool {
	return s.SPI.Slot() == r.n && slices.Contains(r.a.cfg.Fleet.VIPs, s.Dst)
}

func (r *slotRuntime) sample(ss ...xfrm.State) {
	batch := make([]replica.Sample, 0, len(ss))
	for _, s := range ss {
		id, ok := r.ledger.SessionOfSPI(s.SPI)
		if !ok || !r.ledger.Sample(s.SPI, s.Seq) {
			continue // of a child that is not committed yet
		}
		batch = append(batch, replica.Sample{Session: id, SPI: s.SPI, Dst: s.Dst, InSeq: s.Seq, Window: s.Window, Bitmap: s.Bitmap, ESNVal: s.ReplayAttr == xfrm.ReplayESNVal})
	}
	r.sampled = time.Now()
	r.pub.Replay(batch)
}

func (r *slotRuntime) sampleAll() {
	states, err := r.kern.Dump()
	if err != nil {
		r.a.problem(r.n, "sample the replay state", err)
		return
	}
	r.sample(slices.DeleteFunc(states, func(s xfrm.State) bool { return !r.inbound(s) })...)
}

// follows learns of address changes from charon, which the ha plugin does not
// report (rule 6).
func (r *slotRuntime) follows(ctx context.Context, v *charon.Vici) error {
	handle := func(e charon.Event) {
		if e.Kind != charon.EventIKEUpdate {
			return
		}
		r.do(func() {
			if r.mode == modeOwner || r.refill != nil {
				r.moved(e)
			}
		})
	}
	for {
		err := v.Events(ctx, nil, handle)
		if ctx.Err() != nil {
			return nil
		}
		// charon may be too busy to accept; its end is noticed elsewhere.
		r.log.Debug("vici events interrupted", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(viciRetry):
		}
	}
}

func (r *slotRuntime) moved(e charon.Event) {
	if r.postpone(func() { r.moved(e) }) {
		return
	}
	out, err := r.ledger.Update(e.IKE.ID, e.New.Local, e.New.Remote, time.Now())
	r.output(out)
	if err != nil && !r.known(err) {
		r.a.problem(r.n, "follow an address change", err)
	}
}

// viciRetry paces attempts to follow charon's events.
const viciRetry = 200 * time.Millisecond

// documents returns the sessions held here.
func (r *slotRuntime) documents() []*session.Document {
	switch r.mode {
	case modeOwner:
		return r.ledger.Docs()
	case modeShadow:
		return r.twin.documents()
	}
	return nil
}

// feed tells the local charon what is new in d.
func (r *slotRuntime) feed(f *session.Feeder, d *session.Document) error {
	ms, err := f.Diff(d)
	if err != nil {
		return err
	}
	return r.sendCharon(ms)
}

// clients returns a few public addresses of the slot's clients.
func (r *slotRuntime) clients() []netip.Addr {
	var out []netip.Addr
	for _, d := range r.documents() {
		if a, err := netip.ParseAddr(d.ClientIP); err == nil && !slices.Contains(out, a) {
			out = append(out, a)
		}
		if len(out) == 4 {
			break
		}
	}
	return out
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
