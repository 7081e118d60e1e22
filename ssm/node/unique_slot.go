package node

import (
	"context"
	"fmt"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/ssm/replica"
	"github.com/shadowcast/shadowcast/ssm/session"
)

const (
	// renewsFor is how long a session goes on whose client has a new one from the same
	// address and port: it may authenticate anew and still use the old one. As charon.
	renewsFor = 10 * time.Second
	// Attempts to have charon end a session.
	dismissTries = 5
	dismissAgain = 2 * time.Second
	// dismissTold is how many ended sessions of one go get an event of their own.
	dismissTold = 8
)

// uniqueSlot are the sessions of an owned slot whose clients may have only one. The goroutine
// of the slot's runtime owns it.
type uniqueSlot struct {
	byID map[string]uniqueSession
	by   map[replica.Hash]map[string]bool // sessions, by identity
	// leaving are those that end for it, or have been asked to.
	leaving map[string]*dismissal
	busy    bool // charon is being asked
}

type uniqueSession struct {
	replica.Newcomer // without its time
	ip               string
	port             uint16
}

// dismissal says why a session ends.
type dismissal struct {
	policy replica.Unique
	rival  string // the session that stays
	slot   sa.Slot
	at     string // its owner, as far as is known
	due    time.Time
	asked  bool // charon was
	tries  int
}

func newUniqueSlot() *uniqueSlot {
	return &uniqueSlot{byID: map[string]uniqueSession{}, by: map[replica.Hash]map[string]bool{}, leaving: map[string]*dismissal{}}
}

// note takes a session of the slot, new or changed, and returns whether it was not here.
func (x *uniqueSlot) note(u *uniques, d *session.Document) (uniqueSession, bool) {
	was, here := x.byID[d.SessionID]
	if here && was.ip == d.ClientIP && was.port == d.Ports.ClientPort {
		return was, false
	}
	n, ok := u.newcomer(d)
	if !ok {
		return uniqueSession{}, false
	}
	if here && was.Identity != n.Identity { // it went to another address family
		x.drop(was)
	}
	s := uniqueSession{n, d.ClientIP, d.Ports.ClientPort}
	x.byID[n.ID] = s
	if x.by[n.Identity] == nil {
		x.by[n.Identity] = map[string]bool{}
	}
	x.by[n.Identity][n.ID] = true
	return s, !here
}

func (x *uniqueSlot) forget(id string) {
	if s, here := x.byID[id]; here {
		x.drop(s)
		delete(x.byID, id)
	}
	delete(x.leaving, id)
}

func (x *uniqueSlot) drop(s uniqueSession) {
	delete(x.by[s.Identity], s.ID)
	if len(x.by[s.Identity]) == 0 {
		delete(x.by, s.Identity)
	}
}

// askAgain forgets what charon was asked: another one holds the sessions now.
func (x *uniqueSlot) askAgain() {
	for _, d := range x.leaving {
		d.asked = false
	}
}

// dismissed reports whether charon was asked to end a session: its end is no suspect's.
func (r *slotRuntime) dismissed(id string) bool {
	return r.unique != nil && r.unique.leaving[id] != nil && r.unique.leaving[id].asked
}

// newcomers remembers and returns the new sessions among what the ledger made of a
// datagram of charon. A session that charon sends again, or tells of by the rekey of an
// IKE_SA that nobody knew, is none.
func (r *slotRuntime) newcomers(cs []session.Change, now time.Time) (out []replica.Newcomer) {
	if r.unique == nil || now.Before(r.recalled) {
		return nil
	}
	for _, c := range cs {
		if c.Kind != session.Put || c.Doc.Rev != 1 || c.Doc.Live().RekeyOf != nil {
			continue
		}
		if n, ok := r.a.unique.newcomer(c.Doc); ok {
			n.Established = now.Round(0)
			out = append(out, n)
		}
	}
	if len(out) > 0 {
		r.a.unique.remember(r.a.cfg.Node, now, out...)
	}
	return out
}

// noteUnique keeps up with a session of the slot. One that comes with the slot, or back from a
// shadow, may be older than what was announced meanwhile.
func (r *slotRuntime) noteUnique(d *session.Document) {
	if r.unique == nil {
		return
	}
	s, arrived := r.unique.note(r.a.unique, d)
	if !arrived {
		return
	}
	for _, n := range r.a.unique.remembered(s.Identity) {
		r.judge(s, n.at, n.Newcomer)
	}
}

// rivals are the sessions here that exclude some of ns, new sessions of the owner at. Those
// that are to make room for one of ns are ended.
func (r *slotRuntime) rivals(at string, ns []replica.Newcomer) (stay []replica.Incumbent) {
	if r.mode != modeOwner || r.unique == nil {
		return nil
	}
	for _, n := range ns {
		for id := range r.unique.by[n.Identity] {
			if r.judge(r.unique.byID[id], at, n) {
				stay = append(stay, replica.Incumbent{Newcomer: n.ID, Slot: r.n, ID: id})
				break
			}
		}
	}
	return stay
}

// judge compares a session here with a new one elsewhere: the older one ends, or, where the
// policy is keep, excludes the new one, which is what judge reports. Within a slot
// charon does that.
func (r *slotRuntime) judge(s uniqueSession, at string, n replica.Newcomer) (stays bool) {
	if n.Slot == r.n || s.ID == n.ID || s.Policy != n.Policy || !r.a.unique.older(s.ID, n) {
		return false
	}
	same := s.Source == n.Source
	if n.Policy == replica.UniqueKeep {
		// The client may authenticate anew. One that is on its way out excludes nobody.
		return !same && r.unique.leaving[s.ID] == nil
	}
	due := time.Now()
	if same {
		due = due.Add(renewsFor)
	}
	r.dismiss(s.ID, dismissal{policy: n.Policy, rival: n.ID, slot: n.Slot, at: at, due: due})
	return false
}

// dismiss ends a session of this slot for good.
func (r *slotRuntime) dismiss(id string, d dismissal) {
	if r.unique.leaving[id] == nil {
		r.unique.leaving[id] = &d
		r.do(func() { r.endDismissed(time.Now()) }) // one go for all of a batch
	}
}

// viciEnds is what the end of a session asks charon; *charon.Vici.
type viciEnds interface {
	ListSAs(ctx context.Context, blocking bool) ([]charon.IKESA, error)
	TerminateIKE(ctx context.Context, t charon.Target, force bool, timeout time.Duration) error
}

// leaver is a session that charon is asked to end, and what an event tells of it.
type leaver struct {
	session, connection, identity string
	ike                           sa.IKEID
	dismissal
}

func (l leaver) event(n sa.Slot) Entry {
	e := Entry{Slot: n, Kind: "unique", Text: fmt.Sprintf("session %s of %s is ended: its client has a new one", l.session, l.identity)}
	goes := "began"
	if l.policy == replica.UniqueKeep {
		e.Text, goes = fmt.Sprintf("session %s of %s is ended: its client has one already", l.session, l.identity), "goes on"
	}
	e.Reason = fmt.Sprintf("connection %s has unique = %s; session %s %s in slot %d at %s", l.connection, l.policy, l.rival, goes, l.slot, l.at)
	return e
}

// endDismissed asks charon to end what is due. It asks as charon itself ends duplicates: the
// client is told, and the session is gone when it answers, or charon gives up.
func (r *slotRuntime) endDismissed(now time.Time) {
	x := r.unique
	if x == nil || x.busy || !r.active || r.refill != nil || len(x.leaving) == 0 {
		return
	}
	want := r.due(now)
	if len(want) == 0 {
		return
	}
	x.busy = true
	vici := r.vici
	r.group.Go(func() error {
		done, err := terminate(r.ctx, vici, want)
		r.do(func() { r.endedUnique(x, want, done, err) })
		return nil
	})
}

// due returns the sessions that end now, and notes that charon is asked to end them.
func (r *slotRuntime) due(now time.Time) (want []leaver) {
	x := r.unique
	for id, d := range x.leaving {
		if d.asked || now.Before(d.due) {
			continue
		}
		doc, here := r.ledger.Doc(id)
		if !here || doc.Live() == nil {
			x.forget(id)
			continue
		}
		d.asked = true
		connection, _, _ := doc.Client()
		want = append(want, leaver{id, connection, attrText(doc, charon.RemoteID), doc.Live().ID, *d})
	}
	return want
}

// terminate ends sessions and returns those that charon took the wish for.
func terminate(ctx context.Context, v viciEnds, want []leaver) (done map[string]bool, err error) {
	sas, err := v.ListSAs(ctx, true)
	if err != nil {
		return nil, err
	}
	at := map[sa.IKEID]uint32{}
	for _, s := range sas {
		at[s.ID] = s.UniqueID
	}
	done = map[string]bool{}
	for _, l := range want {
		id, here := at[l.ike]
		if !here {
			continue
		}
		if terr := v.TerminateIKE(ctx, charon.Target{ID: id}, false, -1); terr != nil {
			err = terr
			continue
		}
		done[l.session] = true
	}
	return done, err
}

// endedUnique tells what became of the sessions that charon was asked to end.
func (r *slotRuntime) endedUnique(x *uniqueSlot, want []leaver, done map[string]bool, err error) {
	x.busy = false
	var last *leaver
	told, more := 0, 0
	for _, l := range want {
		if done[l.session] {
			r.a.unique.count(l.policy)
			if told++; told <= dismissTold {
				r.a.events.Add(l.event(r.n))
			} else {
				more, last = more+1, &l
			}
			continue
		}
		d := x.leaving[l.session]
		if d == nil || r.unique != x {
			continue // it has ended, or the slot has another owner, who was told as well
		}
		// It was rekeyed this moment, or charon is too busy to listen.
		d.asked, d.due = false, time.Now().Add(dismissAgain)
		if d.tries++; d.tries >= dismissTries {
			delete(x.leaving, l.session)
			e := l.event(r.n)
			e.Warn, e.Text = true, fmt.Sprintf("session %s of %s goes on: charon does not end it %s", l.session, l.identity, errText(err))
			r.a.events.Add(e)
		}
	}
	if more > 0 {
		e := last.event(r.n)
		e.Text = fmt.Sprintf("%d more sessions are ended for new ones, or older ones, of their clients", more)
		r.a.events.Add(e)
	}
}
