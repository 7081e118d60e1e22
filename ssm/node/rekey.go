package node

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/ssm/session"
)

const (
	// rekeyDelay lets a takeover settle before the first child is rekeyed.
	rekeyDelay = 5 * time.Second
	// rekeyBatch paces the look at charon's SAs, which costs it time by their
	// number.
	rekeyBatch = time.Second
	// rekeyMost bounds a batch: that many exchanges a second leave charon's threads
	// and the clients' answers room.
	rekeyMost = 50
	// rekeyPause keeps rekeys away from a move that waits for quiet.
	rekeyPause = 15 * time.Second
)

// rekeyPlan rekeys the children that an owner took over, spread over a time. It
// is pure: due says which to ask for now.
type rekeyPlan struct {
	queue  []sa.SPI // inbound, most urgent first
	every  time.Duration
	next   time.Time // when the next batch may go
	began  time.Time
	asked  int
	paused time.Time // until then
}

// planRekeys lists the children of docs that were born under an earlier ticket
// than the owner's: those whose blocks run out first, then the oldest.
func planRekeys(docs []*session.Document, ticket sa.Ticket, spread time.Duration, now time.Time) *rekeyPlan {
	type child struct {
		in    sa.SPI
		birth sa.Birth
		at    time.Time
	}
	var cs []child
	for _, d := range docs {
		for _, c := range d.Children {
			if c.Birth.Tenure < ticket {
				cs = append(cs, child{c.In, c.Birth, c.Created})
			}
		}
	}
	slices.SortFunc(cs, func(a, b child) int {
		if x, y := a.birth.NeedsRekey(ticket), b.birth.NeedsRekey(ticket); x != y {
			if x {
				return -1
			}
			return 1
		}
		return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.in, b.in))
	})
	p := &rekeyPlan{began: now.Add(rekeyDelay), next: now.Add(rekeyDelay)}
	for _, c := range cs {
		p.queue = append(p.queue, c.in)
	}
	if len(cs) > 0 {
		p.every = spread / time.Duration(len(cs))
	}
	return p
}

// due returns the children to rekey now; alive tells which still exist.
func (p *rekeyPlan) due(now time.Time, alive func(sa.SPI) bool) []sa.SPI {
	if len(p.queue) == 0 || now.Before(p.next) || now.Before(p.paused) {
		return nil
	}
	p.next = now.Add(rekeyBatch)
	want := len(p.queue)
	if p.every > 0 {
		want = int(now.Sub(p.began)/p.every) + 1 - p.asked
	}
	var out []sa.SPI
	for len(p.queue) > 0 && want > 0 && len(out) < rekeyMost {
		in := p.queue[0]
		p.queue = p.queue[1:]
		p.asked++
		want--
		if alive(in) {
			out = append(out, in)
		}
	}
	return out
}

// pause keeps the plan quiet for a while; what falls due meanwhile comes later, at
// the same pace.
func (p *rekeyPlan) pause(now time.Time) {
	until := now.Add(rekeyPause)
	p.began = p.began.Add(until.Sub(later(now, p.paused)))
	p.paused = until
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// rekeySpread is the time over which a slot's children are rekeyed. Activation
// starts the DPD timers of all IKE_SAs at once, so those of idle clients would all
// fire dpd_delay later, and again and again; an exchange of each session before
// that moves its timer to a moment of its own.
func rekeySpread(configured, dpd time.Duration) time.Duration {
	if configured == 0 || dpd == 0 {
		return configured
	}
	return min(configured, max(dpd-rekeyDelay-rekeyBatch, rekeyBatch))
}

// planTakenOver begins the gradual rekey of a slot that was taken over. The IKE
// plane may lag: nothing waits for it.
func (r *slotRuntime) planTakenOver() {
	spread := rekeySpread(r.a.cfg.Fleet.Handover.RekeySpread, r.a.conns.ShortestDPD())
	if spread == 0 {
		return
	}
	r.rekeys = planRekeys(r.ledger.Docs(), r.ticket, spread, time.Now())
	if n := len(r.rekeys.queue); n > 0 {
		r.a.events.Add(Entry{Slot: r.n, Kind: "rekey", Text: fmt.Sprintf("%d children that were taken over are rekeyed over %s", n, spread),
			Reason: "keys that two owners used should not live long"})
	}
}

// rekeyDue asks charon for the rekeys that are due.
func (r *slotRuntime) rekeyDue(now time.Time) {
	p := r.rekeys
	if p == nil || r.mode != modeOwner {
		return
	}
	due := p.due(now, func(in sa.SPI) bool { _, ok := r.ledger.SessionOfSPI(in); return ok })
	if len(due) > 0 {
		r.rekeyChildren("rekey children that were taken over", due)
	}
	if len(p.queue) == 0 {
		r.rekeys = nil
		if p.asked > 0 {
			r.a.events.Add(Entry{Slot: r.n, Kind: "rekey", Text: fmt.Sprintf("asked for the rekey of the last of %d children", p.asked)})
		}
	}
}

// rekeyChildren asks charon to rekey the children with these inbound SPIs.
// what names it in an error.
func (r *slotRuntime) rekeyChildren(what string, in []sa.SPI) {
	want := map[sa.SPI]bool{}
	for _, s := range in {
		want[s] = true
	}
	vici := r.vici
	r.group.Go(func() error {
		sas, err := vici.ListSAs(r.ctx, true)
		for _, s := range sas {
			for _, c := range s.Children {
				if want[c.In] {
					_, rerr := vici.RekeyChild(r.ctx, charon.Target{ID: c.UniqueID})
					err = errors.Join(err, rerr)
				}
			}
		}
		r.a.problem(r.n, what, err)
		return nil
	})
}
