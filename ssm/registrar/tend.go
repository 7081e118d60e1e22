package registrar

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/shadowcast/shadowcast/sa"
)

// patientRounds is how long the operator is not told of a log that cannot begin.
const patientRounds = 20

// tend does what a member does by itself: found a log that is new, take the place
// of a member whose disk is lost, and, as the leader, write the first entry.
func (r *Registrar) tend(ctx context.Context) {
	p := r.current()
	if p == nil {
		return
	}
	members, err := p.members()
	if err != nil {
		r.once("members", true, "the members of the ticket log cannot be read", err.Error())
		return
	}
	me := p.store.member
	switch {
	case len(members) == 0:
		r.begin(ctx, p)
	case slices.Contains(members, me):
		if others(members, me) {
			r.takePlace(ctx, me)
		}
		if founded, _, _ := p.fsm.look(); p.leads() && !founded {
			r.found(ctx, p, members)
		}
	case slices.ContainsFunc(members, func(m Member) bool { return m.Node == me.Node }):
		r.once("replaced", true, fmt.Sprintf("this registrar's log %s was replaced by another", me), "it was away when its successor joined; move the directory away")
	}
	if p.leads() {
		r.once("leader", false, fmt.Sprintf("%s leads the ticket log", r.cfg.Self), join(members))
	} else {
		r.mu.Lock()
		delete(r.said, "leader")
		r.mu.Unlock()
	}
}

// others reports whether the appliance of me has another member.
func others(members []Member, me Member) bool {
	return slices.ContainsFunc(members, func(m Member) bool { return m.Node == me.Node && m != me })
}

func join(members []Member) string {
	var s []string
	for _, m := range members {
		s = append(s, m.String())
	}
	return "members are " + strings.Join(s, ", ")
}

// begin is what a blank log does: join a log that has begun, or wait until every
// registrar has a blank one and, as the first of them, begin.
func (r *Registrar) begin(ctx context.Context, p *member) {
	me := p.store.member
	ds := r.describe(ctx, r.cfg.Appliances)
	for _, d := range ds {
		if d.Has(me) {
			return // the leader is about to tell us
		}
	}
	for _, d := range ds {
		if others(d.Members, me) {
			r.takePlace(ctx, me)
			return
		}
	}
	if !slices.Contains(r.cfg.Listed, r.cfg.Self) {
		return // an operator adds it
	}
	all := []Member{me}
	var silent []string
	for _, n := range r.cfg.Listed {
		switch d, ok := ds[n]; {
		case n == r.cfg.Self:
		case !ok || d.Member == (Member{}):
			silent = append(silent, n)
		case len(d.Members) > 0:
			r.once("begin", true, fmt.Sprintf("%s has begun a ticket log without %s", n, r.cfg.Self), "shadowctl registrar add "+r.cfg.Self)
			return
		default:
			all = append(all, d.Member)
		}
	}
	switch {
	case len(silent) > 0:
		if r.waiting++; r.waiting < patientRounds {
			return // a fleet that starts
		}
		r.once("begin", true, "the ticket log is not founded yet: no tickets are issued", "every registrar must be up once; silent: "+strings.Join(silent, ", "))
		return
	case r.cfg.Listed[0] != r.cfg.Self:
		return // the first one begins
	}
	var c raft.Configuration
	for _, m := range all {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(m.String()), Address: raft.ServerAddress(m.String())})
	}
	if err := p.raft.BootstrapCluster(c).Error(); err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
		r.once("begin", true, "the ticket log cannot be begun", err.Error())
		return
	}
	r.once("begin", false, "the ticket log begins", join(all))
}

// found writes the first entry: above everything that any member knows of.
func (r *Registrar) found(ctx context.Context, p *member, members []Member) {
	mine, err := r.Describe(ctx)
	if err != nil {
		return
	}
	last := map[sa.Slot]sa.Ticket{}
	raise := func(d Description) {
		for n, t := range d.Seen {
			last[n] = max(last[n], t)
		}
	}
	raise(mine)
	ds := r.describe(ctx, r.cfg.Appliances)
	for _, m := range members {
		if _, ok := ds[m.Node]; !ok && m.Node != r.cfg.Self {
			r.once("found", true, "the ticket log is not founded yet: no tickets are issued", m.Node+" must say once which tickets it knows of")
			return
		}
	}
	for _, d := range ds {
		raise(d)
	}
	if _, err := r.apply(p, Command{Found: &Found{Last: last}}); err != nil {
		r.once("found", true, "the ticket log is not founded yet: no tickets are issued", err.Error())
		return
	}
	var adopted []string
	for _, n := range slices.Sorted(maps.Keys(last)) {
		if last[n] > 0 {
			adopted = append(adopted, fmt.Sprintf("slot %d above %d", n, last[n]))
		}
	}
	r.once("found", false, "the ticket log is founded", strings.Join(adopted, ", "))
}

// takePlace asks the leader to put this member in the place of its appliance's
// lost one.
func (r *Registrar) takePlace(ctx context.Context, me Member) {
	if err := r.ServeChange(ctx, Change{Replace: me}, false); err != nil {
		r.once("join", true, "the disk of this registrar is new: it cannot join the ticket log yet", err.Error())
		return
	}
	r.once("join", false, fmt.Sprintf("joined the ticket log as the new member %s", me), "the log of the former one is lost")
}
