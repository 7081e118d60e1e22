package ssm

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Shadow sets that change while the slot serves. The owner alone decides: the shell
// tells whom it wants (EvShadowSet), the owner lets members in at once and out only
// when everybody it wants instead is ready, and tells the set with a rising version
// in its probes. What keeps tickets safe meanwhile:
//
//   - A member that goes voids its ticket before it says that it heeds the version;
//     until then, or until it has lost its memory, its ticket counts in the birth of
//     every SA, so that it could send in a block of its own if it claimed unheard.
//   - One that returns gets a ticket above the one it gave up (floor).
//   - The home belongs to every set: a slot returns by a move, which needs a shadow, and
//     where nobody else is left it is the home that serves.
//   - One that is armed and not complete yet is no reason to let another go.

// MaxSet bounds a shadow set, with those that come and go (replica.MaxShadows).
const MaxSet = 8

// maxVersion bounds what is believed of another one's version: a set changes a few
// times an hour.
const maxVersion = 1 << 40

// silentFor is how long a member that is not wanted must be silent before it is
// let go though nobody is ready in its place.
const silentFor = 2 * time.Second

// holders returns every appliance that may have held a ticket of s, this one too.
func (c *Core) holders(s *slot) []Node {
	if s.cfg.Dynamic {
		return c.cfg.Appliances
	}
	return s.cfg.members()
}

// invited reports whether this appliance is in the shadow set of s.
func (c *Core) invited(s *slot) bool {
	set := s.set
	if !s.cfg.Dynamic {
		set = s.cfg.Shadows
	}
	return s.cfg.Home == c.cfg.Self || slices.Contains(set, c.cfg.Self)
}

// mayOutbid reports whether n could hold a ticket above the owner's.
func (c *Core) mayOutbid(s *slot, n Node) bool {
	_, out := s.leaving[n]
	return out || n == s.cfg.Home || s.held[n].ticket > s.ticket || slices.Contains(s.set, n)
}

// followers returns whom the owner feeds: its set, and those that go as long as
// they are heard.
func (c *Core) followers(s *slot) []Node {
	set := c.shadowsOf(s)
	if len(s.leaving) == 0 {
		return set
	}
	var out []Node
	for _, n := range c.cfg.Appliances {
		if _, going := s.leaving[n]; going && c.alive(n) {
			out = append(out, n)
		}
	}
	return append(set, out...)
}

// seen returns the shadows of s as this appliance knows them, then those that go.
func (c *Core) seen(s *slot) []Node {
	set := slices.Clone(s.set)
	if !s.cfg.Dynamic {
		set = s.cfg.members()
	} else if set == nil {
		set = slices.Clone(s.cfg.Shadows)
	}
	if c.holds(s) {
		for _, n := range c.cfg.Appliances {
			if _, out := s.leaving[n]; out {
				set = append(set, n)
			}
		}
	}
	return slices.DeleteFunc(set, func(n Node) bool { return n == s.owner })
}

// inherit derives the set of s from that of its owner before; the new one will tell.
func (s *slot) inherit(was Node) {
	s.version = 0
	if !s.cfg.Dynamic || was == s.owner {
		return
	}
	s.set = slices.DeleteFunc(slices.Clone(s.set), func(n Node) bool { return n == s.owner })
	if was != "" && !slices.Contains(s.set, was) {
		s.set = append(s.set, was)
	}
}

// beginSet begins the set of a slot that this appliance owns from now on.
func (c *Core) beginSet(s *slot, was Node) {
	if !s.cfg.Dynamic {
		return
	}
	if was == c.cfg.Self { // in an earlier life
		was = ""
	}
	if was == "" && s.set == nil {
		s.set = slices.Clone(s.cfg.Shadows)
	}
	s.inherit(was)
	if h := s.cfg.Home; h != c.cfg.Self && !slices.Contains(s.set, h) {
		s.set = append(slices.Clone(s.set), h)
	}
	s.wanted, s.leaving = nil, map[Node]uint64{}
	c.gather(s)
	s.version = 1
}

// gather takes those into the set that could take s over already: members of an
// owner before, or of an earlier life of this one.
func (c *Core) gather(s *slot) {
	if !s.cfg.Dynamic {
		return
	}
	for _, n := range c.armedShadows(s) {
		if _, out := s.leaving[n]; !out && !slices.Contains(s.set, n) && len(s.set) < MaxSet {
			s.set = append(s.set, n)
			s.version++
		}
	}
}

func (c *Core) onShadowSet(s *slot, e EvShadowSet) {
	if !s.cfg.Dynamic {
		return
	}
	s.wanted = []Node{}
	for _, n := range e.Want {
		if c.peers[n] != nil && !slices.Contains(s.wanted, n) { // never this one
			s.wanted = append(s.wanted, n)
		}
	}
}

// tickSet brings the set of s nearer to what is wanted.
func (c *Core) tickSet(s *slot) {
	if !s.cfg.Dynamic || !c.cfg.Shadowing {
		return
	}
	for _, n := range s.wanted {
		_, out := s.leaving[n] // comes back when its ticket is void
		if !out && !slices.Contains(s.set, n) && c.alive(n) && len(c.followers(s)) < MaxSet {
			c.changeSet(s, append(slices.Clone(s.set), n), fmt.Sprintf("%s shadows the slot from now on", n), "it is wanted")
		}
	}
	for _, n := range s.set {
		if s.wanted == nil || n == s.cfg.Home || slices.Contains(s.wanted, n) {
			continue
		}
		why := ""
		switch p := c.peers[n]; {
		case c.vanished(n) && c.now.Sub(p.heard) > silentFor:
			why = "it is silent"
		case c.relieved(s):
			why = "everybody that is wanted instead is ready"
		default:
			continue
		}
		s.leaving[n] = s.version + 1
		c.changeSet(s, slices.DeleteFunc(slices.Clone(s.set), func(x Node) bool { return x == n }), fmt.Sprintf("%s does not shadow the slot any more", n), why)
	}
	c.feed(s)
}

// relieved reports whether all that are wanted, and there is one, are ready to take
// s over.
func (c *Core) relieved(s *slot) bool {
	ready := c.readyShadows(s)
	return len(s.wanted) > 0 && !slices.ContainsFunc(s.wanted, func(n Node) bool { return !slices.Contains(ready, n) })
}

func (c *Core) changeSet(s *slot, set []Node, text, why string) {
	s.set = set
	s.version++
	c.probeAt = c.now
	c.report(ActReport{Slot: s.cfg.Slot, Kind: "shadows", Text: text, Reason: why + "; the set is " + setText(set)})
	c.remember(s)
}

// remember has a restarted daemon know what this owner knows.
func (c *Core) remember(s *slot) {
	a := ActRemember{Slot: s.cfg.Slot, Role: RoleOwner, Ticket: s.ticket, Lives: c.livesBelow(s)}
	if s.cfg.Dynamic {
		a.Set, a.Version = s.set, s.version
	}
	c.emit(a)
}

// feed tells the shell whom to feed if that changed. One that joins is fed when its
// charon runs: before, it would refuse.
func (c *Core) feed(s *slot) {
	f := slices.DeleteFunc(c.followers(s), func(n Node) bool {
		return !slices.Contains(s.fed, n) && !c.peers[n].slots[s.cfg.Slot].Up
	})
	if len(f) == len(s.fed) && !slices.ContainsFunc(f, func(n Node) bool { return !slices.Contains(s.fed, n) }) {
		return
	}
	s.fed = f
	c.emit(ActFeed{Slot: s.cfg.Slot, Shadows: f})
}

// onSet takes what from says of the set of s: the owner whom it wants, another one
// which version it heeds.
func (c *Core) onSet(s *slot, from Node, sr SlotReport) {
	switch {
	case !s.cfg.Dynamic || sr.OwnerTicket != s.ticket:
	case c.holds(s):
		c.heeded(s, from, sr)
	case sr.Owner == from && s.owner == from && sr.Version > s.version:
		for _, n := range sr.Set {
			if n != c.cfg.Self && c.peers[n] == nil || n == from {
				c.refuse(from, s.cfg.Slot, RefuseSet, fmt.Sprintf("slot %d: %s says that %s shadows it for %s", s.cfg.Slot, from, n, from))
				return
			}
		}
		s.set, s.version = slices.Clone(sr.Set), sr.Version
		c.heed(s)
	}
}

// heeded runs at the owner: one that is out of the set and says so holds no ticket.
func (c *Core) heeded(s *slot, from Node, sr SlotReport) {
	if sr.Version > s.version && sr.Version < maxVersion { // told by an earlier life of this daemon
		s.version = sr.Version + 1
		c.probeAt = c.now
		c.remember(s)
	}
	if slices.Contains(s.set, from) || sr.Armed != 0 || sr.Version < max(s.leaving[from], 1) {
		return
	}
	delete(s.leaving, from)
	delete(s.held, from)
	delete(s.replicas, from)
}

// heed makes this appliance leave a set that it is not in any more.
func (c *Core) heed(s *slot) {
	if s.role != RoleShadow || s.version == 0 || c.invited(s) {
		return
	}
	s.floor = max(s.floor, s.armed, s.granted)
	s.armed, s.granted, s.role = 0, 0, RoleNone
	c.report(ActReport{Slot: s.cfg.Slot, Kind: "shadows", Text: "this appliance does not shadow the slot any more", Reason: string(s.owner) + " says so"})
	c.vacate(s)
	c.probeAt = c.now // the owner waits for it
}

// vacate gives the place of a slot up that has nothing to do here.
func (c *Core) vacate(s *slot) {
	s.up, s.ready, s.reason, s.retryAt = false, false, "", time.Time{}
	s.placed, s.found = false, false
	c.emit(ActRemember{Slot: s.cfg.Slot, Role: RoleShadow, Ticket: s.floor})
	c.emit(ActLeave{Slot: s.cfg.Slot})
}

// heeds returns the version of the set that this appliance acts by.
func (c *Core) heeds(s *slot) uint64 {
	if !c.holds(s) && !c.invited(s) && s.role != RoleNone {
		return 0
	}
	return s.version
}

// setRoom is what the set of s takes in a report, in octets of JSON.
func (c *Core) setRoom(s *slot) int {
	if !s.cfg.Dynamic {
		return 0
	}
	room := reportVersion
	if c.holds(s) {
		for _, n := range s.set {
			room += len(n) + reportName
		}
	}
	return room
}

func setText(set []Node) string {
	if len(set) == 0 {
		return "empty"
	}
	var b strings.Builder
	for i, n := range set {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(n))
	}
	return b.String()
}
