package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/ssm/audit"
	"github.com/shadowcast/shadowcast/ssm/session"
)

const (
	// confirmAfter is when a look that found differences is repeated: charon, the
	// kernel and the documents are read at different moments.
	confirmAfter = 5 * time.Second
	// auditShare keeps the looks' own time below one part in so many.
	auditShare = 200
	// repairAgain is how long a session that was repaired is left alone.
	repairAgain = 10 * time.Minute
)

// auditor compares what charon, the kernel and the documents say of a slot, slowly,
// and repairs one session at a time without touching the others (rule 11).
type auditor struct {
	next     time.Time
	looking  bool
	seen     []audit.Difference   // by the last look
	repaired map[string]time.Time // differences
	enforced map[string]time.Time // overdue SAs
	strays   int                  // as last told
}

// auditDue begins a look when it is time. The first one follows soon after a slot
// got its role: a takeover emits no vici events (rule 9).
func (r *slotRuntime) auditDue(now time.Time) {
	every := r.a.cfg.Fleet.Handover.AuditInterval
	if every == 0 || r.vici == nil {
		return
	}
	if r.audit.next.IsZero() {
		r.audit.next = now.Add(min(every, 3*confirmAfter))
	}
	if r.audit.looking || now.Before(r.audit.next) || r.rekeys != nil && now.Before(r.rekeys.paused) {
		return
	}
	if r.mode == modeShadow && (!r.twin.whole || r.twin.open.len() > 0 || !r.link.Idle()) {
		return // it is being fed: the twin's own repair looks after it
	}
	v := audit.View{Docs: r.documents(), Committed: r.mode == modeShadow}
	if len(v.Docs) == 0 && r.mode != modeOwner {
		r.audit.next = now.Add(every)
		return
	}
	r.audit.looking = true
	mode, vici, before := r.mode, r.vici, time.Now()
	r.group.Go(func() error {
		err := r.look(&v, vici)
		took := time.Since(before)
		r.do(func() {
			r.audit.looking = false
			now := time.Now()
			r.audit.next = now.Add(max(every, auditShare*took))
			if r.mode != mode || r.vici != vici {
				r.audit.seen = nil
				return
			}
			if err != nil {
				r.a.problem(r.n, "compare charon, the kernel and memory", ignore(err, r.ctx))
				return
			}
			r.looked(v, now)
		})
		return nil
	})
}

// look reads charon and the kernel.
func (r *slotRuntime) look(v *audit.View, vici *charon.Vici) (err error) {
	ctx, cancel := context.WithTimeout(r.ctx, time.Minute)
	defer cancel()
	if v.Charon, err = vici.ListSAs(ctx, true); err != nil {
		return err
	}
	states, err := r.kern.Dump()
	for _, s := range states {
		v.Kernel = append(v.Kernel, audit.SA{SPI: s.SPI, In: r.inbound(s)})
	}
	return err
}

// looked digests a look.
func (r *slotRuntime) looked(v audit.View, now time.Time) {
	found := audit.Compare(v)
	sure := audit.Confirm(r.audit.seen, found)
	fresh := len(found) > len(sure)
	r.audit.seen = found
	forget(r.audit.repaired, now, repairAgain)
	if d, ok := audit.Choose(sure, func(d audit.Difference) bool { _, done := r.audit.repaired[d.String()]; return done }); ok {
		r.repair(d, v, now)
		fresh = true // the next one, or whether it helped
	}
	r.tellStrays(sure)
	if fresh {
		r.audit.next = now.Add(confirmAfter)
	}
	if r.mode == modeOwner {
		r.keepLifetimes(v, now)
	}
}

func forget(m map[string]time.Time, now time.Time, after time.Duration) {
	for k, at := range m {
		if now.Sub(at) > after {
			delete(m, k)
		}
	}
}

// tellStrays reports SAs that belong to nobody. They are left alone: nothing uses
// them, and the kernel ends them by their packet limit.
func (r *slotRuntime) tellStrays(sure []audit.Difference) {
	n := 0
	for _, d := range sure {
		if d.Kind == audit.Stray {
			n++
		}
	}
	if n != r.audit.strays && n > 0 {
		r.a.events.Add(Entry{Slot: r.n, Kind: "mismatch", Warn: true, Text: fmt.Sprintf("%d SAs in the kernel belong to no session", n)})
	}
	r.audit.strays = n
}

// repair mends one session.
func (r *slotRuntime) repair(d audit.Difference, v audit.View, now time.Time) {
	e := Entry{Slot: r.n, Kind: "mismatch", Warn: true, Reason: d.String()}
	done := d.String()
	defer func() { r.audit.repaired[done] = now }()
	if r.mode == modeShadow {
		e.Text = "the twin's copy of one session is fed again"
		r.a.events.Add(e)
		r.a.problem(r.n, "feed a session again", r.twin.mend(d, v, now))
		return
	}
	var act func(context.Context, *charon.Vici) (int, error)
	end := false
	switch {
	case d.Kind == audit.CharonLacks:
		e.Text = "a session, or child, that charon no longer has ends everywhere"
		if stillInKernel(d, v) {
			e.Text = "charon does not know a child whose SAs work: it is left alone"
		} else {
			end = true
		}
	case d.Kind == audit.MemoryLacks && d.SPI != 0 && !r.renewed(d.Session):
		// What told of the child was lost, and so were message IDs: a new IKE_SA
		// begins them anew and is announced whole, as the child is after it.
		done = renewal + d.Session
		e.Text = "the IKE_SA is rekeyed, which announces it to the shadows"
		act = func(ctx context.Context, v *charon.Vici) (int, error) {
			return v.RekeyIKE(ctx, charon.Target{ID: d.IKEUnique})
		}
	case d.SPI != 0:
		e.Text = "the child is rekeyed, which brings all three together"
		act = func(ctx context.Context, v *charon.Vici) (int, error) {
			return v.RekeyChild(ctx, charon.Target{ID: d.ChildUnique})
		}
	default:
		e.Text = "the IKE_SA is rekeyed, which announces it to the shadows"
		act = func(ctx context.Context, v *charon.Vici) (int, error) {
			return v.RekeyIKE(ctx, charon.Target{ID: d.IKEUnique})
		}
	}
	r.a.events.Add(e)
	if end {
		r.ended(d, v)
	}
	if act != nil {
		r.byVici("repair a session", act)
	}
}

// renewal names the rekey of a session's IKE_SA among what was repaired.
const renewal = "IKE_SA of session "

// renewed reports whether the session's IKE_SA was rekeyed lately to repair it.
func (r *slotRuntime) renewed(id string) bool {
	_, done := r.audit.repaired[renewal+id]
	return done
}

// byVici asks charon for something without waiting for it.
func (r *slotRuntime) byVici(what string, act func(context.Context, *charon.Vici) (int, error)) {
	vici := r.vici
	r.group.Go(func() error {
		n, err := act(r.ctx, vici)
		if err == nil && n == 0 {
			err = errors.New("charon has it no more")
		}
		r.a.problem(r.n, what, ignore(err, r.ctx))
		return nil
	})
}

// stillInKernel reports whether the inbound SA of what charon lacks exists.
func stillInKernel(d audit.Difference, v audit.View) bool {
	have := map[audit.SA]bool{}
	for _, s := range v.Kernel {
		have[s] = true
	}
	for _, doc := range v.Docs {
		if doc.SessionID != d.Session {
			continue
		}
		for _, c := range doc.Children {
			if (d.SPI == 0 || c.In == d.SPI) && have[audit.SA{SPI: c.In, In: true}] {
				return true
			}
		}
	}
	return false
}

// ended digests the end of a session or child whose announcement was lost.
func (r *slotRuntime) ended(d audit.Difference, v audit.View) {
	for _, doc := range v.Docs {
		if doc.SessionID != d.Session {
			continue
		}
		if m, ok := doc.Ended(d.SPI); ok {
			r.ownerMessage(m)
		}
	}
}

// mend makes charon forget the session of d and feeds it again: nothing that is
// installed is ever added twice (rule 2).
func (t *twin) mend(d audit.Difference, v audit.View, now time.Time) error {
	if d.Session == "" {
		i := slices.IndexFunc(v.Charon, func(s charon.IKESA) bool { return s.ID == d.IKE })
		return t.r.sendCharon([]charon.Message{session.EndOf(d.IKE, v.Charon[i].Initiator)})
	}
	return t.refeed(d.Session, now)
}

// refeed replaces what charon holds of one session.
func (t *twin) refeed(id string, now time.Time) error {
	doc := t.docs[id]
	if doc == nil {
		return nil
	}
	ms := t.feeder.Remove(id)
	for _, c := range t.bySession[id] {
		// Its SAs go and come back; until then it is in no block of ours.
		t.unplaced(c)
		t.open.remove(c)
		t.open.add(c, now)
	}
	t.bar()
	again, err := t.feeder.Diff(doc)
	return errors.Join(err, t.r.sendCharon(append(ms, again...)))
}

// refeedMost is how many sessions are fed again one by one before the whole twin is
// built anew.
const refeedMost = 16

// refeedOpen feeds the sessions again whose children are missing in the kernel, if
// they are few and this was not tried lately.
func (t *twin) refeedOpen(now time.Time) bool {
	forget(t.refed, now, repairAgain)
	ids := map[string]bool{}
	for c := range t.open.open {
		if _, tried := t.refed[c.session]; tried {
			return false
		}
		if ids[c.session] = true; len(ids) > refeedMost {
			return false
		}
	}
	for id := range ids {
		t.refed[id] = now
		t.r.a.events.Add(Entry{Slot: t.r.n, Kind: "repair", Warn: true, Text: "the twin's copy of one session is fed again",
			Reason: "children of session " + id + " are missing in the kernel"})
		t.r.a.problem(t.r.n, "feed session "+id+" again", t.refeed(id, now))
	}
	return true
}

// keepLifetimes notes when charon means to renew what it created, and enforces it
// where a takeover has started charon's timers anew (rule 8).
func (r *slotRuntime) keepLifetimes(v audit.View, now time.Time) {
	for _, d := range audit.Schedule(v.Docs, v.Charon, now) {
		var out session.Output
		var err error
		if d.SPI == 0 {
			out, err = r.ledger.IKEDeadlines(d.IKE, d.RekeyAt, d.EndAt)
		} else {
			out, err = r.ledger.Deadlines(d.SPI, d.RekeyAt, d.EndAt)
		}
		if err == nil { // else it has ended meanwhile
			r.output(out)
		}
	}
	forget(r.audit.enforced, now, repairAgain)
	for _, o := range audit.Late(v.Docs, v.Charon, now) {
		key := fmt.Sprint(o.Act, o.IKE, o.SPI)
		if _, done := r.audit.enforced[key]; done {
			continue
		}
		if len(r.audit.enforced) >= rekeyMost {
			return // the others at the next looks
		}
		r.audit.enforced[key] = now
		r.a.events.Add(Entry{Slot: r.n, Kind: "lifetime", Text: "charon is asked to " + string(o.Act), Reason: o.String()})
		r.byVici(string(o.Act), func(ctx context.Context, v *charon.Vici) (int, error) { return enforce(ctx, v, o) })
	}
}

func enforce(ctx context.Context, v *charon.Vici, o audit.Overdue) (int, error) {
	t := charon.Target{ID: o.Unique}
	switch o.Act {
	case audit.ReauthIKE:
		return v.ReauthIKE(ctx, t)
	case audit.RekeyIKE:
		return v.RekeyIKE(ctx, t)
	case audit.RekeyChild:
		return v.RekeyChild(ctx, t)
	default:
		return 1, v.TerminateChild(ctx, t, -1)
	}
}
