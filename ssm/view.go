package ssm

import (
	"maps"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// View is a snapshot of the core for the operator API.
type View struct {
	Self  Node
	Peers []PeerView
	Slots []SlotView
	Level Level // of the VIP
	Relay bool  // announced, but owns no slot
	// Fitness: the worst standing, every source's own, and since when.
	Standing Standing
	Since    time.Time
	Sources  []EvStanding
	Risk     float64
	Load     float64
	Sessions int
	// Of the drain under way, zero without one.
	Drain      uint64
	DrainPhase DrainPhase
	DrainSince time.Time
}

// PeerView is one other appliance.
type PeerView struct {
	Node        Node
	Heard       time.Time // zero: never
	Suspect     bool
	RouteLost   bool
	Incarnation uint64
	Standing    Standing
	Level       Level
	Risk, Load  float64
	Sessions    int
	Wish        *Wish // what its prediction asks for
	Deaf        bool  // heard, and says that it does not hear us
}

// SlotView is one slot.
type SlotView struct {
	Slot      sa.Slot
	Home      Node
	Owner     Node
	Ticket    sa.Ticket
	Since     time.Time
	Why       string // the owner's reason for its claim, "" where this appliance has not heard it
	Role      Role
	Up        bool
	Armed     sa.Ticket
	Ready     bool
	Reason    string // why not ready
	MoveTo    Node
	MovePhase string
	Shadows   []ShadowView // those that go last
	Dynamic   bool         // the owner chooses its shadows
	Version   uint64       // of the set, under Ticket
	Wanted    []Node       // at the owner: for the set, nil unknown
	Steer     ActSteer
}

// ShadowView is one member of a slot's shadow set.
type ShadowView struct {
	Node   Node
	Ticket sa.Ticket
	Ready  bool // twin complete, armed, everything acknowledged
	// Leaving: it was let go and has not said yet that it holds no ticket any more.
	Leaving bool
	// RTT is the member's round-trip time to clients of the slot, 0 unknown.
	RTT time.Duration
}

// View returns a snapshot.
func (c *Core) View() View {
	v := View{Self: c.cfg.Self, Standing: c.fit.worst.Standing, Since: c.fit.since, Risk: c.fit.risk, Load: c.fit.load, Sessions: c.fit.sessions}
	if d := c.drain; d != nil {
		v.Drain, v.DrainPhase, v.DrainSince = d.id, d.phase, d.began
	}
	if c.announced != nil {
		v.Level = c.announced.Level
		v.Relay = v.Level.Announced() && !slices.ContainsFunc(c.list, func(s *slot) bool { return s.role == RoleOwner })
	}
	for _, k := range slices.Sorted(maps.Keys(c.fit.by)) {
		v.Sources = append(v.Sources, c.fit.by[k])
	}
	for _, n := range c.cfg.Appliances {
		if p := c.peers[n]; p != nil {
			v.Peers = append(v.Peers, PeerView{n, p.heard, p.suspect, p.routeLost, p.incarnation, p.standing, p.level, p.risk, p.load, p.sessions, p.wish, c.deaf(n)})
		}
	}
	for _, s := range c.list {
		n := s.cfg.Slot
		sv := SlotView{Slot: n, Home: s.cfg.Home, Owner: s.owner, Ticket: s.ticket, Since: s.since, Why: s.why, Role: s.role, Up: s.up,
			Armed: s.armed, Ready: s.ready, Reason: s.reason, Dynamic: s.cfg.Dynamic, Version: s.version, Wanted: s.wanted}
		if s.steered != nil {
			sv.Steer = *s.steered
		}
		if s.move != nil {
			sv.MoveTo, sv.MovePhase = s.move.to, string(s.move.phase)
		}
		for _, m := range c.seen(s) {
			_, out := s.leaving[m]
			sh := ShadowView{Node: m, Leaving: out && c.holds(s)}
			if m == c.cfg.Self {
				sh.Ticket, sh.Ready, sh.RTT = s.armed, s.ready && s.armed > s.ticket, s.path.low()
			} else {
				r := c.peers[m].slots[n]
				sh.Ticket, sh.RTT = r.Armed, r.RTT
				sh.Ready = r.Ready && r.Armed > s.ticket && c.alive(m) && (s.role != RoleOwner || s.replicas[m])
			}
			sv.Shadows = append(sv.Shadows, sh)
		}
		v.Slots = append(v.Slots, sv)
	}
	return v
}

// Unheard returns the slots shadowed here whose owner is silent, or deaf to us: the
// shell watches them for packets that cannot be delivered.
func (c *Core) Unheard() []sa.Slot {
	var out []sa.Slot
	for _, s := range c.list {
		if s.role == RoleShadow && c.unreached(s.owner) {
			out = append(out, s.cfg.Slot)
		}
	}
	return out
}

// Alone reports whether no other appliance is heard. What clients seem to do then
// may be our own link: an owner that is cut off must not end their sessions for
// those that serve them meanwhile.
func (c *Core) Alone() bool {
	for n := range c.peers {
		if c.alive(n) {
			return false
		}
	}
	return len(c.peers) > 0
}

// MovePhase returns the phase of the planned move of slot n from here, "" without
// one.
func (c *Core) MovePhase(n sa.Slot) string {
	if s := c.slots[n]; s != nil && s.move != nil {
		return string(s.move.phase)
	}
	return ""
}

// Role returns what this appliance is to slot n.
func (c *Core) Role(n sa.Slot) Role {
	if s := c.slots[n]; s != nil {
		return s.role
	}
	return RoleNone
}
