package registrar

import (
	"context"
	"fmt"
	"slices"

	"github.com/hashicorp/raft"
)

// Enrol makes this appliance keep a log, blank if it had none, so that it can be
// added.
func (r *Registrar) Enrol() (Member, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.own == nil && r.running {
		r.open()
	}
	switch {
	case r.own != nil:
		return r.own.store.member, nil
	case r.problem != nil:
		return Member{}, r.problem
	}
	return Member{}, fmt.Errorf("%s is stopping", r.cfg.Self)
}

// Add makes node a registrar; Remove ends that.
func (r *Registrar) Add(ctx context.Context, node string) error {
	return r.ServeChange(ctx, Change{Add: node}, false)
}

// Remove makes node no registrar any more.
func (r *Registrar) Remove(ctx context.Context, node string) error {
	return r.ServeChange(ctx, Change{Remove: node}, false)
}

// ServeChange changes the members through the leader; a forwarded request goes no
// further.
func (r *Registrar) ServeChange(ctx context.Context, c Change, forwarded bool) error {
	set := 0
	for _, on := range []bool{c.Add != "", c.Remove != "", c.Replace != Member{}} {
		if on {
			set++
		}
	}
	if set != 1 {
		return refuse(fmt.Errorf("change of registrars must be one of add, remove and replace"))
	}
	for _, n := range []string{c.Add, c.Replace.Node} {
		if n != "" && !slices.Contains(r.cfg.Appliances, n) {
			return refuse(fmt.Errorf("%q is no appliance of this fleet", n))
		}
	}
	return r.route(ctx, forwarded, func(p *member) error { return r.change(ctx, p, c) }, func(ctx context.Context, node string) error {
		return r.cfg.Peers.Change(ctx, node, c, r.keepsLog())
	})
}

// change carries c out as the leader. Each step is a change by one member, so any
// two majorities, before and after, share one.
func (r *Registrar) change(ctx context.Context, p *member, c Change) error {
	members, err := p.members()
	if err != nil {
		return err
	}
	switch {
	case c.Add != "":
		return r.add(ctx, p, members, c.Add)
	case c.Remove != "":
		return r.remove(ctx, p, members, c.Remove)
	}
	if !others(members, c.Replace) {
		return refuse(fmt.Errorf("%s is no registrar whose place a new disk could take; shadowctl registrar add %s", c.Replace.Node, c.Replace.Node))
	}
	if !slices.Contains(members, c.Replace) {
		if err := r.addVoter(p, c.Replace); err != nil {
			return err
		}
	}
	for _, m := range members {
		if m.Node == c.Replace.Node && m != c.Replace {
			if err := r.removeServer(p, m); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Registrar) add(ctx context.Context, p *member, members []Member, node string) error {
	var m Member
	var err error
	if node == r.cfg.Self {
		m, err = r.Enrol()
	} else {
		m, err = r.cfg.Peers.Enrol(ctx, node)
	}
	switch {
	case err != nil:
		return fmt.Errorf("ask %s to keep a ticket log: %w", node, err)
	case m.Node != node:
		return refuse(fmt.Errorf("%s calls itself %s", node, m))
	case slices.Contains(members, m):
		return refuse(fmt.Errorf("%s is a registrar already", node))
	case others(members, m):
		return refuse(fmt.Errorf("%s is a registrar already and is about to replace its lost log", node))
	case len(members) > MaxMembers:
		return refuse(fmt.Errorf("there are %d registrars; remove one first", len(members)))
	}
	return r.addVoter(p, m)
}

func (r *Registrar) remove(ctx context.Context, p *member, members []Member, node string) error {
	i := slices.IndexFunc(members, func(m Member) bool { return m.Node == node })
	if i < 0 {
		return refuse(fmt.Errorf("%s is no registrar", node))
	}
	if len(members) == 1 {
		return refuse(fmt.Errorf("%s is the last registrar", node))
	}
	rest := slices.Delete(slices.Clone(members), i, i+1)
	ds := r.describe(ctx, r.cfg.Appliances)
	up := 0
	for _, m := range rest {
		if m.Node == r.cfg.Self || ds[m.Node].Member == m {
			up++
		}
	}
	if up <= len(rest)/2 {
		return refuse(fmt.Errorf("without %s only %d of %d registrars would be reachable and no majority is left", node, up, len(rest)))
	}
	return r.removeServer(p, members[i])
}

func (r *Registrar) addVoter(p *member, m Member) error {
	f := p.raft.AddVoter(raft.ServerID(m.String()), raft.ServerAddress(m.String()), 0, r.callTime())
	if err := f.Error(); err != nil {
		return fmt.Errorf("add %s to the ticket log: %w", m, err)
	}
	r.cfg.Report(false, m.Node+" is a registrar", "new member "+m.String())
	return nil
}

func (r *Registrar) removeServer(p *member, m Member) error {
	f := p.raft.RemoveServer(raft.ServerID(m.String()), 0, r.callTime())
	if err := f.Error(); err != nil {
		return fmt.Errorf("remove %s from the ticket log: %w", m, err)
	}
	r.cfg.Report(false, m.Node+" is no registrar any more", "removed member "+m.String())
	return nil
}
