package ssm

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// Core decides for one appliance. It is not safe for concurrent use: one
// goroutine owns it.
type Core struct {
	cfg     Config
	now     time.Time
	started time.Time
	tick    time.Time // of the last EvTick
	probeAt time.Time
	// listenUntil: nothing is claimed before, because this process stood still.
	listenUntil time.Time
	// readUntil: the same after a tick that was late, without forgetting since when
	// an owner is gone.
	readUntil time.Time
	rotate    int // where the next report starts among the less urgent slots

	peers map[Node]*peer
	slots map[sa.Slot]*slot
	list  []*slot // the same, by number

	registrar registrar
	fit       fitness
	drain     *drain // nil: none
	balance   balance
	out       []Action

	// What was last told to the shell, so that only changes are.
	announced  *ActAnnounce
	newClients []sa.Slot
	scratch    [4][]sa.Slot // of clientSlots
	pools      []sa.Slot    // of announce
	backup     []sa.Slot    // likewise
}

// slot is one slot as this appliance sees it.
type slot struct {
	cfg    SlotConfig
	role   Role
	up     bool      // namespace and charon run here
	found  bool      // the shell has said what an earlier daemon left
	placed bool      // the shell keeps a place for it, or was told to
	known  bool      // whether an earlier daemon's charon still serves it
	owner  Node      // by the highest claim seen
	ticket sa.Ticket // of that claim
	life   uint64    // the owner's incarnation that made it, 0 unknown
	since  time.Time // of that claim
	why    string    // the owner's reason for it, "" where it was not heard
	// outbid is the highest ticket that may have been claimed unheard or by a life
	// that has ended since: an owner below or at it must rise above it.
	outbid sa.Ticket
	// spent is the highest ticket that is known to have been claimed so.
	spent sa.Ticket
	// set are its shadows as the owner told last, where it chooses them; version
	// numbers it under ticket, 0: derived, not told.
	set     []Node
	version uint64

	// cover are its shadows by how many of its sessions they hold; empty: all hold all.
	cover []Node

	// As a shadow.
	armed        sa.Ticket // may claim with it: granted and preset
	seen         uint64    // the owner's last change that the twin here has
	granted      sa.Ticket // granted, preset not confirmed yet
	floor        sa.Ticket // the next ticket must lie above
	requested    time.Time
	ready        bool
	behind       bool      // children are on their way into the kernel
	reason       string    // why not ready
	path         pathTimes // from here to clients of the slot
	unheard      bool      // packets came that the owner cannot get
	evidence     time.Time
	orphan       time.Time // since when the owner says that it is not the owner
	activateBy   time.Time // taken over in a move: activate then at the latest
	releaseAt    time.Time // of the hold
	takingMove   uint64
	takingWhy    string // the old owner's reason for the move
	takingHold   time.Duration
	takingUntil  time.Time
	rebuildAfter bool      // EvPassivated leads to a twin
	keepTwin     bool      // made of what charon holds
	poolUntil    time.Time // moved away: announced here until then

	// As the owner.
	replicas   map[Node]bool
	held       map[Node]heldTicket // the last ticket each member reported
	renewing   time.Time           // since when shadows are armed above the one granted for it
	lowest     sa.Ticket
	move       *move
	yieldTo    Node
	yieldUntil time.Time
	refeeding  bool
	resumeAt   time.Time
	resumeFrom time.Time
	retryAt    time.Time // of a refeed that failed
	homeReady  time.Time // since when the home could take the slot back
	wanted     []Node    // for the set; nil: as it is
	// leaving are members that were let go and hold their tickets until they say
	// that they heed the version in which they are missing, or lose their memory.
	leaving map[Node]uint64
	fed     []Node // as last told to the shell

	steered *ActSteer
	fence   fenceState
}

type heldTicket struct {
	incarnation uint64
	ticket      sa.Ticket
}

type fenceState struct {
	open     bool
	deadline bool
	told     time.Time // when the deadline was last moved
}

// New returns a core at the given time.
func New(cfg Config, now time.Time) (*Core, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &Core{cfg: cfg, now: now, started: now, peers: map[Node]*peer{}, slots: map[sa.Slot]*slot{}}
	c.registrar.grants = map[grantKey]sa.Ticket{}
	for _, n := range cfg.Appliances {
		if n != cfg.Self {
			c.peers[n] = &peer{slots: map[sa.Slot]told{}}
		}
	}
	for _, s := range cfg.Slots {
		x := &slot{cfg: s, role: RoleNone, replicas: map[Node]bool{}, held: map[Node]heldTicket{}}
		x.placed = s.Home == cfg.Self || cfg.Shadowing && slices.Contains(s.Shadows, cfg.Self)
		c.slots[s.Slot] = x
		c.list = append(c.list, c.slots[s.Slot])
	}
	slices.SortFunc(c.list, func(a, b *slot) int { return cmp.Compare(a.cfg.Slot, b.cfg.Slot) })
	return c, nil
}

// Step takes one event at the given time and returns what to do, in order.
// Time must not run backwards.
func (c *Core) Step(ev Event, now time.Time) []Action {
	if now.After(c.now) {
		c.now = now
	}
	c.out = nil
	switch e := ev.(type) {
	case EvTick:
		c.onTick()
	case EvMessage:
		c.onMessage(e.From, e.Msg)
	case EvLiveness:
		c.onLiveness(e)
	case EvStanding:
		c.onStanding(e)
	case EvLoad:
		c.onLoad(e)
	case EvEntry:
		c.onEntry(e)
	case EvRedirected:
		c.onRedirected(e)
	case EvTunnel:
		if p := c.peers[e.Node]; p != nil {
			p.tunnelDown = !e.Up
		}
	default:
		c.onSlotEvent(ev)
	}
	c.settle()
	return c.out
}

func (c *Core) onSlotEvent(ev Event) {
	switch e := ev.(type) {
	case EvUndeliverable:
		c.with(e.Slot, func(s *slot) { s.unheard = s.role == RoleShadow && c.unreached(s.owner) })
	case EvSlotUp:
		c.with(e.Slot, func(s *slot) { s.up, s.found, s.placed, s.known = true, true, true, true })
	case EvSlotDown:
		c.with(e.Slot, func(s *slot) { c.slotDown(s, e.Reason) })
	case EvAdopted:
		c.with(e.Slot, func(s *slot) { c.adopted(s, e) })
	case EvRestored:
		c.with(e.Slot, func(s *slot) {
			s.floor, s.known = max(s.floor, e.Ticket), true
			if !e.Owned {
				return
			}
			// The next daemon must not take the charon that is started now, which
			// knows no session, for the one that was active.
			c.emit(ActRemember{Slot: s.cfg.Slot, Role: RoleNone, Ticket: e.Ticket})
			if e.Ticket > s.ticket {
				c.spent(s, e.Ticket)
			}
		})
	case EvCharonDied:
		c.with(e.Slot, c.charonDied)
	case EvRefed:
		c.with(e.Slot, func(s *slot) { c.refed(s, e.Err) })
	case EvTwin:
		c.with(e.Slot, func(s *slot) {
			if s.up || !e.Ready { // else it is of the twin before
				s.ready, s.behind, s.reason = e.Ready, e.Behind, e.Reason
			}
		})
	case EvSeen:
		c.with(e.Slot, func(s *slot) {
			if e.Ticket == s.ticket && s.up {
				s.seen = max(s.seen, e.Seen)
			}
		})
	case EvPreset:
		c.with(e.Slot, func(s *slot) { c.preset(s, e.Ticket) })
	case EvBarred:
		c.with(e.Slot, func(s *slot) {
			if s.role == RoleShadow { // it is armed anew; until then this ticket is better than none
				s.floor = max(s.floor, e.Base+1)
			}
		})
	case EvReplica:
		c.with(e.Slot, func(s *slot) { s.replicas[e.Shadow] = e.Ready && slices.Contains(s.fed, e.Shadow) })
	case EvCover:
		c.with(e.Slot, func(s *slot) { c.onCover(s, e.Order) })
	case EvShadowSet:
		c.with(e.Slot, func(s *slot) { c.onShadowSet(s, e) })
	case EvIssued:
		c.issued(e)
	case EvMove:
		c.with(e.Slot, func(s *slot) { c.moveAsked(s, e) })
	case EvQuiesced:
		c.with(e.Slot, func(s *slot) { c.quiesced(s, e) })
	case EvFlushed:
		c.with(e.Slot, func(s *slot) { c.flushed(s, e) })
	case EvRTT:
		c.with(e.Slot, func(s *slot) { s.path.add(e.RTT, e.Worst) })
	case EvDrained:
		c.with(e.Slot, func(s *slot) { c.drained(s, e) })
	case EvFenceShut:
		c.with(e.Slot, c.fenceShut)
	case EvPassivated:
		c.with(e.Slot, c.passivated)
	}
}

func (c *Core) with(n sa.Slot, f func(*slot)) {
	if s := c.slots[n]; s != nil {
		f(s)
	}
}

func (c *Core) onMessage(from Node, m Message) {
	p := c.peers[from]
	if p == nil {
		return
	}
	if m.Kind == KindProbe {
		if m.Report != nil {
			c.onReport(from, p, *m.Report)
		}
		return
	}
	s := c.slots[m.Slot]
	if s == nil {
		c.refuse(from, m.Slot, RefuseSlot, fmt.Sprintf("message %q names slot %d, which this fleet does not have", m.Kind, m.Slot))
		return
	}
	switch m.Kind {
	case KindClaim:
		if c.believes(from, s, m.Owner, m.Ticket) {
			c.onClaim(s, m.Owner, m.Ticket, m.Incarnation)
			// Who hears of the claim in another way knows no reason.
			if m.Reason != "" && s.owner == m.Owner && s.ticket == m.Ticket && s.owner != c.cfg.Self {
				s.why = clip(m.Reason)
			}
		}
	case KindRequest:
		c.onRequest(s, from, m)
	case KindGrant:
		c.onGrant(s, m)
	case KindYield:
		c.onYield(s, from, m)
	case KindRearm:
		s.floor = max(s.floor, m.Ticket)
	case KindTake:
		c.onTake(s, from, m)
	case KindTaken:
		c.onTaken(s, from, m)
	case KindFlipped:
		c.onFlipped(s, from, m)
	case KindDrained:
		c.onDrainedMsg(s, from, m)
	case KindAbort:
		c.onAbort(s, from, m)
	default:
		c.refuse(from, m.Slot, RefuseUnknown, fmt.Sprintf("message %.40q is not known here", m.Kind))
	}
}

func (c *Core) onTick() {
	if gap := c.now.Sub(c.tick); !c.tick.IsZero() {
		c.stoodStill(gap)
		if gap > c.cfg.DeadMan*3/4 {
			c.thaw(gap)
		}
	}
	c.tick = c.now
	c.suspect()
	for _, s := range c.list {
		c.tickSlot(s)
	}
	c.tickDrain()
	c.tickBalance()
	if !c.now.Before(c.probeAt) {
		c.probeAt = c.now.Add(c.cfg.ProbeInterval)
		c.probe()
	}
}

// late reports whether a tick is missing since gap ago.
func (c *Core) late(gap time.Duration) bool { return gap > c.cfg.ProbeInterval*3/2 }

// unread reports whether messages that came before now may still wait to be read.
func (c *Core) unread() bool { return c.now.Before(c.readUntil) || c.late(c.now.Sub(c.tick)) }

// stoodStill runs when ticks were missing: others' probes may wait in our socket.
// Their silence counts only while this process runs, so that an appliance that is
// starved of its processor suspects nobody for it.
func (c *Core) stoodStill(gap time.Duration) {
	if !c.late(gap) {
		return
	}
	// What was known of the others is as old as the gap, and what they said in it may
	// still wait: hear them before claiming. An appliance that is always late would
	// never claim, so after short gaps once in a while is enough.
	if gap > c.bound() {
		c.listenUntil = c.now.Add(c.bound())
		for _, p := range c.peers {
			p.back = c.now
		}
	}
	if c.now.Sub(c.readUntil) > c.bound() {
		c.readUntil = c.now.Add(c.cfg.ProbeInterval / 2)
		c.emit(ActWake{c.cfg.ProbeInterval / 2})
	}
	missed := gap - c.cfg.ProbeInterval
	if missed <= c.cfg.ProbeInterval {
		return
	}
	for _, p := range c.peers {
		if !p.suspect && !p.heard.IsZero() {
			p.heard = p.heard.Add(min(missed, c.now.Sub(p.heard)))
		}
	}
}

// thaw runs when this process did not run for a while: fences that have a
// deadline closed by themselves and somebody may have claimed. Listen first.
func (c *Core) thaw(gap time.Duration) {
	for _, s := range c.list {
		switch s.role {
		case RoleOwner, RoleDraining, RoleTaking:
			if s.role == RoleOwner && len(c.armedShadows(s)) > 0 {
				c.resume(s, fmt.Sprintf("this process stood still for %s", gap.Round(time.Millisecond)))
			}
		}
	}
}

// resume makes an owner that may have been overtaken listen before it opens
// its fence again.
func (c *Core) resume(s *slot, why string) {
	c.giveUp(s, why)
	s.role, s.fence = RoleResuming, fenceState{}
	s.resumeFrom, s.resumeAt = c.now, c.now.Add(c.cfg.ResumeGrace)
	c.report(ActReport{Slot: s.cfg.Slot, Kind: "frozen", Warn: true, Text: "listening for a higher claim before going on", Reason: why})
}

// fenceShut runs when a refresh found the fence closed by the dead-man.
func (c *Core) fenceShut(s *slot) {
	if s.role == RoleOwner && s.fence.open {
		c.resume(s, "the dead-man closed the fence")
	}
}

func (c *Core) tickSlot(s *slot) {
	switch s.role {
	case RoleNone:
		c.tickNone(s)
	case RoleShadow:
		c.tickShadow(s)
	case RoleTaking:
		if c.now.After(s.takingUntil) {
			c.stopTaking(s, "the owner did not hand over in time")
		}
	case RoleOwner:
		c.tickOwner(s)
	case RoleDraining:
		c.tickMove(s)
		c.keepOpen(s)
	case RoleResuming:
		if c.now.After(s.resumeAt) || c.everybodySpoke(s.resumeFrom) {
			s.role = RoleOwner
			c.gather(s)
			c.report(ActReport{Slot: s.cfg.Slot, Kind: "resumed", Text: "goes on as owner", Reason: "no higher claim was heard"})
			c.own(s, false, c.living(c.followers(s)))
		}
	}
}

// keepOpen refreshes the fence of a slot that sends: with a deadline where a
// ready shadow could take over, without one where nobody could.
func (c *Core) keepOpen(s *slot) {
	until := time.Duration(0)
	if c.cfg.Shadowing && (s.role != RoleOwner || c.hasReadyShadow(s)) {
		until = c.cfg.DeadMan
	}
	if s.fence.open && s.fence.deadline == (until > 0) && (until == 0 || c.now.Sub(s.fence.told) < c.cfg.DeadMan/5) {
		return
	}
	a := ActFence{Slot: s.cfg.Slot, Open: true, Until: until, Refresh: s.fence.open}
	s.fence = fenceState{open: true, deadline: until > 0, told: c.now}
	c.emit(a)
}

func (c *Core) closeFence(s *slot) {
	s.fence = fenceState{}
	c.emit(ActFence{Slot: s.cfg.Slot})
}

func (c *Core) emit(a Action) { c.out = append(c.out, a) }

func (c *Core) report(r ActReport) { c.emit(r) }

func (c *Core) send(to Node, m Message) { c.emit(ActSend{To: to, Msg: m}) }

func (c *Core) broadcast(m Message) {
	for _, n := range c.cfg.Appliances {
		if n != c.cfg.Self {
			c.send(n, m)
		}
	}
}

// member reports whether this appliance may hold slot s.
func (c *Core) member(s *slot) bool {
	if s.cfg.Home == c.cfg.Self {
		return true
	}
	return c.cfg.Shadowing && c.invited(s)
}

// shadowsOf returns the appliances that shadow s while this one owns it.
func (c *Core) shadowsOf(s *slot) []Node {
	if !c.cfg.Shadowing {
		return nil
	}
	set := s.set
	if !s.cfg.Dynamic {
		set = s.cfg.members()
	}
	return slices.DeleteFunc(slices.Clone(set), func(n Node) bool { return n == c.cfg.Self })
}
