package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/sa/slot"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/audit"
	"github.com/shadowcast/shadowcast/ssm/session"
)

const (
	// listWithin bounds how long charon may take to list what it holds.
	listWithin = 2 * time.Second
	// lookAgain is when what seems to be missing is looked for once more: charon's
	// announcement of it may have been under way.
	lookAgain = time.Second
	// unsureFor is how long after a refill or a resync charon may say what is known
	// already, or is about what has ended.
	unsureFor = 10 * time.Second
	// fillBatch bounds how many sessions are fed to an active charon before the slot's
	// other work gets its turn.
	fillBatch = 32
)

// readBack gets the sessions of a charon that went on while no daemon ran: from the
// shadows, compared with what charon holds now. What is missing then is asked of charon,
// at the price of rekeys.
func (r *slotRuntime) readBack(ask []ssm.Node) {
	r.gatherSessions(ask, func(g gathered) {
		r.listSessions(func(sas []charon.IKESA, err error) { r.adoptHeld(g, sas, err) })
	})
}

// listSessions asks charon for what it holds, for whoever owns the slot now.
func (r *slotRuntime) listSessions(then func([]charon.IKESA, error)) {
	x, pub, vici := r.refill, r.pub, r.vici
	r.group.Go(func() error {
		ctx, cancel := context.WithTimeout(r.ctx, listWithin)
		defer cancel()
		sas, err := vici.ListSAs(ctx, true)
		r.do(func() {
			if r.refill == x && r.pub == pub {
				then(sas, err)
			}
		})
		return nil
	})
}

// adoptHeld makes the ledger of what was read back and is still true, digests what
// happened since this daemon began, and only then lets the shadows be fed.
func (r *slotRuntime) adoptHeld(g gathered, sas []charon.IKESA, err error) {
	x := r.refill
	r.refill = nil
	r.unsure = time.Now().Add(unsureFor)
	r.a.problem(r.n, "read a session back", g.problem)
	if r.inst != x.inst {
		// The charon that held them is dead, and its SAs with it.
		g.docs, sas, err, x = nil, nil, nil, &refilling{}
	}
	held, ended := g.docs, []*session.Document(nil)
	if err == nil {
		held, ended = audit.Held(g.docs, sas)
	}
	out, aerr := r.ledger.Adopt(held)
	r.a.problem(r.n, "adopt the sessions that were read back", aerr)
	r.networks.reset(r.ledger.Docs())
	r.output(out)
	read, children := r.ledger.Len(), 0
	if err == nil {
		children = r.endChildren(sas)
	}
	r.followAll(sas)
	for _, f := range x.later {
		f()
	}
	for _, d := range r.ledger.Docs() {
		r.publish(d)
	}
	r.pub.Complete()
	if r.active {
		r.rekeyWorn()
		r.planTakenOver()
	}
	lacks := r.lacking(sas)
	if len(sas) > 0 || len(g.docs) > 0 || err != nil {
		r.a.events.Add(Entry{Slot: r.n, Kind: "refill", Warn: len(lacks) > 0 || err != nil || x.overflow > 0,
			Text: fmt.Sprintf("%d sessions were read back from %s; %d sessions and %d children of others had ended; %d that charon holds are missing",
				read, g.who(), len(ended), children, len(lacks)),
			Reason: "the daemon was restarted and its memory of them was gone"})
	}
	switch {
	case err != nil:
		// The audit compares later; until then nothing is ended or rekeyed.
		r.a.problem(r.n, "list the sessions of the adopted charon", err)
	case read == 0 && len(lacks) > 0:
		r.resync(fmt.Sprintf("%d are in no shadow's memory", len(lacks)))
	case len(lacks) > 0 || r.missed(x.heard) != nil || x.overflow > 0:
		r.lookAgain(lacks, x)
	}
}

// followAll learns which clients have moved (rule 6).
func (r *slotRuntime) followAll(sas []charon.IKESA) {
	at := map[sa.IKEID]netip.AddrPort{}
	for _, d := range r.ledger.Docs() {
		if a, err := netip.ParseAddr(d.ClientIP); err == nil {
			at[d.Live().ID] = netip.AddrPortFrom(a, d.Ports.ClientPort)
		}
	}
	for _, s := range sas {
		if was, ok := at[s.ID]; ok && s.Remote.IsValid() && s.Remote != was {
			r.moved(charon.Event{IKE: s, New: s})
		}
	}
}

// endChildren ends the children in the ledger that charon has no more, and returns their
// number.
func (r *slotRuntime) endChildren(sas []charon.IKESA) int {
	v := audit.View{Docs: r.ledger.Docs(), Charon: sas}
	n := 0
	for _, d := range audit.Compare(v) {
		if d.Kind == audit.CharonLacks && d.SPI != 0 {
			r.ended(d, v)
			n++
		}
	}
	return n
}

// lacking lists what charon holds and the ledger does not.
func (r *slotRuntime) lacking(sas []charon.IKESA) (out []audit.Difference) {
	for _, d := range audit.Compare(audit.View{Docs: r.ledger.Docs(), Charon: sas}) {
		if d.Kind == audit.MemoryLacks {
			out = append(out, d)
		}
	}
	return out
}

// missed are the IKE_SAs on which the client was seen in an exchange that nobody has
// announced: it took place while no daemon ran, and the message IDs here are behind.
func (r *slotRuntime) missed(heard map[heardKey]session.Header) map[sa.IKEID]bool {
	var out map[sa.IKEID]bool
	for k, h := range heard {
		if r.ledger.Missed(h) {
			if out == nil {
				out = map[sa.IKEID]bool{}
			}
			out[k.ike] = true
		}
	}
	return out
}

// lookAgain has what is missing for sure announced by charon, in the way that costs the
// clients least.
func (r *slotRuntime) lookAgain(before []audit.Difference, x *refilling) {
	pub := r.pub
	r.group.Go(func() error {
		select {
		case <-r.ctx.Done():
			return nil
		case <-time.After(lookAgain):
		}
		r.do(func() {
			if r.pub == pub && r.refill == nil {
				r.listSessions(func(sas []charon.IKESA, err error) {
					if err != nil {
						r.a.problem(r.n, "look again for what the shadows lacked", err)
						return
					}
					r.announceMissing(audit.Confirm(before, r.lacking(sas)), x, sas)
				})
			}
		})
		return nil
	})
}

// announceMissing asks charon for what nobody knows. An IKE_SA of which there is nothing
// needs RESYNC, since a rekey does not tell its inner addresses. Where it is a child, or
// message IDs, a new IKE_SA begins them anew and is announced whole; its children that
// are missing follow by the audit.
func (r *slotRuntime) announceMissing(lacks []audit.Difference, x *refilling, sas []charon.IKESA) {
	unknown := 0
	renew := r.missed(x.heard)
	if renew == nil {
		renew = map[sa.IKEID]bool{}
	}
	for _, d := range lacks {
		if d.SPI == 0 {
			unknown++
		} else {
			renew[d.IKE] = true
		}
	}
	if unknown > 0 || x.overflow > 0 {
		r.resync(fmt.Sprintf("%d are in no shadow's memory, %d messages were too many to keep", unknown, x.overflow))
		return
	}
	var unique []uint32
	now := time.Now()
	for _, s := range sas {
		if id, ok := r.ledger.SessionOfIKE(s.ID); ok && renew[s.ID] {
			unique = append(unique, s.UniqueID)
			r.audit.repaired[renewal+id] = now
		}
	}
	if len(unique) == 0 {
		return
	}
	r.audit.next = now.Add(confirmAfter)
	r.a.events.Add(Entry{Slot: r.n, Kind: "refill", Text: fmt.Sprintf("%d IKE_SAs are rekeyed, which announces them to the shadows", len(unique)),
		Reason: "their clients exchanged messages while no daemon ran"})
	r.renewIKE(unique)
}

// renewIKE asks charon to rekey IKE_SAs, so many in a second.
func (r *slotRuntime) renewIKE(unique []uint32) {
	vici := r.vici
	r.group.Go(func() error {
		var errs []error
		for i, u := range unique {
			if i > 0 && i%rekeyMost == 0 {
				select {
				case <-r.ctx.Done():
					return nil
				case <-time.After(rekeyBatch):
				}
			}
			_, err := vici.RekeyIKE(r.ctx, charon.Target{ID: u})
			errs = append(errs, err)
		}
		r.a.problem(r.n, "rekey IKE_SAs whose message IDs are not known", ignore(errors.Join(errs...), r.ctx))
		return nil
	})
}

// resync makes charon send all it has again and rekey every child with its client: the
// last resort.
func (r *slotRuntime) resync(why string) {
	r.unsure = time.Now().Add(unsureFor)
	r.recalled = r.unsure
	r.a.events.Add(Entry{Slot: r.n, Kind: "resync", Warn: true, Text: "charon sends its sessions again and rekeys their children",
		Reason: "the daemon was restarted and of the sessions that charon holds " + why})
	r.a.problem(r.n, "recall the sessions", r.link.Resync(r.ctx))
}

// fillUp takes the sessions that the shadows held of the slot's former owner and that
// are missing here, or are older. It tells the shadows of them at once and feeds them to
// the active charon by and by.
func (r *slotRuntime) fillUp(g gathered) {
	r.a.problem(r.n, "take a session over from another shadow", g.problem)
	var take []*session.Document
	newer, past, refused := 0, 0, 0
	for _, d := range g.docs {
		switch err := r.ledger.Lacks(d); {
		case err == nil:
			if _, held := r.ledger.Doc(d.SessionID); held {
				newer++
			}
			take = append(take, d)
			r.publish(d)
		case errors.Is(err, session.ErrNoNews):
		case errors.Is(err, session.ErrEnded), errors.Is(err, session.ErrMovedOn):
			past++
		default:
			refused++
			r.log.Warn("session of another shadow refused", "session", d.SessionID, "reason", err)
		}
	}
	r.pub.Complete()
	r.a.events.Add(Entry{Slot: r.n, Kind: "refill", Warn: len(take) > 0 || refused > 0 || len(g.silent) > 0,
		Text: fmt.Sprintf("%d sessions that were missing here and %d newer ones of %d come from %s; %d have ended or changed here, %d are refused",
			len(take)-newer, newer, len(g.docs), g.who(), past, refused+g.bad),
		Reason: "another shadow of the former owner may have known more"})
	r.fill(take, false)
}

// fill feeds sessions to the active charon, a few at a time. again says that charon must
// be activated once more for those that were fed.
func (r *slotRuntime) fill(docs []*session.Document, again bool) {
	some := docs[:min(len(docs), fillBatch)]
	rest := docs[len(some):]
	var feed []charon.Message
	for _, d := range some {
		// Before charon hears of them: an SA appears in the first owner's block.
		if err := r.barNew(d); err != nil {
			r.a.problem(r.n, "bar the SAs of session "+d.SessionID, err)
			r.untake(d)
			continue
		}
		x, err := r.ledger.Refill(d, time.Now())
		if err != nil {
			r.log.Info("session of another shadow not taken", "session", d.SessionID, "reason", err)
			r.untake(d)
			continue
		}
		r.expect(d, x.New)
		feed, again = append(feed, x.Feed...), again || x.Reactivate
		r.output(session.Output{Changes: x.Changes, Conflicts: x.Conflicts})
	}
	if len(feed) > 0 {
		r.a.problem(r.n, "feed sessions of another shadow", r.sendCharon(feed))
	}
	x, pub := r.refill, r.pub
	if len(rest) > 0 {
		r.do(func() {
			if r.refill == x && r.pub == pub {
				r.fill(rest, again)
			}
		})
		return
	}
	r.refill = nil
	r.routeNetworks()
	r.ledger.Settle()
	if again && r.active {
		r.reactivate()
	}
}

// untake tells the shadows what is true here of a session that was announced to come.
func (r *slotRuntime) untake(d *session.Document) {
	if now, held := r.ledger.Doc(d.SessionID); held {
		r.publish(now)
	} else {
		r.unpublish(d.SessionID)
	}
}

// barNew makes the fence drop what the SAs of d that charon does not hold would send.
func (r *slotRuntime) barNew(d *session.Document) error {
	here := map[sa.SPI]bool{}
	if now, held := r.ledger.Doc(d.SessionID); held {
		for _, c := range now.Children {
			here[c.In] = true
		}
	}
	return r.bar(d, slices.DeleteFunc(slices.Clone(d.Children), func(c session.Child) bool { return here[c.In] }))
}

// bar makes the fence drop what these children of d would send.
func (r *slotRuntime) bar(d *session.Document, children []session.Child) error {
	if len(children) == 0 {
		return nil
	}
	client, err := netip.ParseAddr(d.ClientIP)
	if err != nil {
		return err
	}
	var out []slot.Outbound
	for _, c := range children {
		out = append(out, slot.Outbound{SPI: c.Out, Dst: client})
	}
	return r.a.host.Bar(r.n, out)
}

// barFed does so for the children that charon is fed now that the client has shown the
// former owner's exchange to be complete (rule 7), and notes them: they appear in that
// owner's block, in which it may have sent.
func (r *slotRuntime) barFed(o session.Output) {
	fed := map[sa.SPI]bool{}
	for _, m := range o.Feed {
		if a, ok := m.Find(charon.InSPI); ok && m.Type == charon.ChildAdd {
			if spi, err := a.SPI(); err == nil {
				fed[spi] = true
			}
		}
	}
	if len(fed) == 0 {
		return
	}
	for _, c := range o.Changes {
		if c.Doc == nil {
			continue
		}
		children := slices.DeleteFunc(slices.Clone(c.Doc.Children), func(x session.Child) bool { return !fed[x.In] })
		r.a.problem(r.n, "bar the SAs of a completed exchange", r.bar(c.Doc, children))
		r.expect(c.Doc, children)
	}
}

// expect notes children that charon is about to install: see installedLate. One in which
// our ticket has no block stays barred until its rekey.
func (r *slotRuntime) expect(d *session.Document, children []session.Child) {
	client, err := netip.ParseAddr(d.ClientIP)
	if err != nil {
		return // barNew has said so
	}
	for _, c := range children {
		r.lateIn[c.In] = c.InSeq
		if _, err := c.Birth.Block(r.ticket); err != nil {
			r.log.Warn("no block for an SA", "session", d.SessionID, "spi", c.Out, "err", err)
			continue
		}
		r.late[slot.Outbound{SPI: c.Out, Dst: client}] = c.Birth
	}
}
