package ssm

import (
	"slices"

	"github.com/shadowcast/shadowcast/sa"
)

// settle derives what follows from the state (steering, new clients,
// announcements) and emits what changed since it was last told.
func (c *Core) settle() {
	for _, s := range c.list {
		c.steer(s)
	}
	if nc := c.clientSlots(); !slices.Equal(nc, c.newClients) {
		nc = slices.Clone(nc)
		c.newClients = nc
		c.emit(ActNewClients{Slots: nc})
	}
	c.announce()
}

// steer emits where packets of s go if that changed.
func (c *Core) steer(s *slot) {
	a := c.wantSteer(s)
	if s.steered != nil && *s.steered == a {
		return
	}
	told := a // a itself stays off the heap: mostly nothing has changed
	s.steered = &told
	c.emit(told)
}

func (c *Core) wantSteer(s *slot) ActSteer {
	local := Target{Local: true}
	a := ActSteer{Slot: s.cfg.Slot}
	switch s.role {
	case RoleOwner, RoleResuming:
		a.Uplink, a.Peer, a.Inner = local, local, local
		if s.yieldTo != "" {
			to := Target{Remote: s.yieldTo}
			a.Uplink, a.Peer, a.Inner = to, to, to
		} else if m := s.move; m != nil && m.phase == phaseFlip {
			a.Uplink, a.Inner = Target{Remote: m.to}, Target{Remote: m.to}
		}
	case RoleTaking:
		a.Uplink, a.Peer, a.Inner = local, local, local
	case RoleDraining:
		to := Target{Remote: s.owner}
		a.Uplink, a.Peer, a.Inner = to, local, to
	default:
		to := Target{Remote: c.via(s)}
		a.Uplink, a.Peer, a.Inner = to, to, to
	}
	return a
}

// via returns the appliance to forward packets of s to: its owner, or one that
// still reaches the owner where this one does not.
func (c *Core) via(s *slot) Node {
	switch {
	case s.owner == "" || s.owner == c.cfg.Self:
		return ""
	case c.unreached(s.owner):
		if q := c.relay(s.owner); q != "" {
			return q
		}
	}
	return s.owner
}

// clientSlots returns the slots for new clients that enter here: our home
// slots, else any slot we own, else everybody's. While this appliance is
// leaving, those of appliances that are not come first. The result is valid until
// the next call.
func (c *Core) clientSlots() []sa.Slot {
	for i := range c.scratch {
		c.scratch[i] = c.scratch[i][:0]
	}
	home, own, fit, any := &c.scratch[0], &c.scratch[1], &c.scratch[2], &c.scratch[3]
	for _, s := range c.list {
		n := s.cfg.Slot
		if s.owner == "" {
			continue
		}
		if s.role != RoleOwner {
			if s.owner != c.cfg.Self && (!c.unreached(s.owner) || c.deaf(s.owner) && c.relay(s.owner) != "") {
				if *any = append(*any, n); !c.leaving(s.owner) && !(c.balance.shedding && c.standing(s.owner) >= StandingDegraded) {
					*fit = append(*fit, n)
				}
			}
			continue
		}
		if s.move != nil && s.move.phase != phasePrepare || s.refeeding || s.yieldTo != "" || !s.activateBy.IsZero() {
			continue
		}
		if *own = append(*own, n); s.cfg.Home == c.cfg.Self {
			*home = append(*home, n)
		}
	}
	switch {
	case len(*fit) > 0 && (c.leaving(c.cfg.Self) || c.balance.shedding):
		return *fit
	case len(*home) > 0:
		return *home
	case len(*own) > 0:
		return *own
	case len(*fit) > 0:
		return *fit
	}
	return *any
}

// announce emits what BGP should say if that changed. The VIP is announced
// once every packet that could enter has somewhere to go.
func (c *Core) announce() {
	a := ActAnnounce{Paced: c.fit.paced, Pools: c.pools[:0], Backup: c.backup[:0]}
	owns := false
	for _, s := range c.list {
		if s.role == RoleOwner {
			owns = true
		}
		// After a move the old owner goes on announcing until the new one's
		// announcement has certainly arrived: what still comes is forwarded.
		switch {
		case s.role == RoleOwner || s.role == RoleDraining || c.now.Before(s.poolUntil):
			a.Pools = append(a.Pools, s.cfg.Slot)
		case (s.role == RoleShadow || s.role == RoleTaking) && s.owner != "" && !c.leaving(c.cfg.Self):
			// Where the owner's announcement is missing while the owner is not, as when its
			// daemon starts again, what comes from inside goes through its shadows.
			a.Backup = append(a.Backup, s.cfg.Slot)
		}
	}
	a.Level = c.level(owns)
	c.pools, c.backup = a.Pools, a.Backup
	c.noteLast(a.Level)
	if c.announced != nil && c.announced.Level == a.Level && c.announced.Paced == a.Paced && slices.Equal(c.announced.Pools, a.Pools) && slices.Equal(c.announced.Backup, a.Backup) {
		return
	}
	if c.announced == nil || c.announced.Level != a.Level {
		c.probeAt = c.now
	}
	told := a
	told.Pools, told.Backup = slices.Clone(a.Pools), slices.Clone(a.Backup)
	c.announced = &told
	c.emit(told)
}
