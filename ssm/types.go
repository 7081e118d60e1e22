package ssm

import (
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/shadowcast/shadowcast/sa"
)

// Node is the name of an appliance, unique in the fleet.
type Node string

// Config is what the core knows about the fleet. It is identical on all
// appliances but for Self, Incarnation and Shadowing.
type Config struct {
	Self Node
	// Incarnation names this life of the appliance's memory. It rises: a
	// ticket issued to an earlier incarnation is void.
	Incarnation uint64
	Appliances  []Node
	// Registrar issues tickets.
	Registrar Node
	Slots     []SlotConfig
	// Shadowing off means: no twins, no tickets for shadows, no takeover.
	Shadowing bool

	ProbeInterval time.Duration // between two probes to one appliance
	ProbeLost     int           // probes missed in a row before an appliance is suspected
	DeadMan       time.Duration // deadline of an open fence that has a ready shadow
	Stagger       time.Duration // a shadow waits this long for each living one that comes before it (Core.before)
	StartGrace    time.Duration // silence to hear existing claims before a home claims its slot
	ResumeGrace   time.Duration // the same after a freeze or a daemon restart
	DrainQuiet    time.Duration // the old owner waits at least this long for late packets
	HoldDown      time.Duration // before a slot returns to its home by itself; 0 means never
	HoldCap       time.Duration // longest hold of a move
	HoldDefault   time.Duration // hold of a move whose path difference is unknown
	RebuildWait   time.Duration // a shadow that is armed but incomplete waits this much longer
	DrainTime     time.Duration // existing sessions may finish for so long before their slots move
	DrainRate     float64       // slots that a drain moves in a minute, at most
	Redirect      Redirect      // whom a drain tells to go to another gateway
	ShedLoad      float64       // load at which new sessions, then slots go elsewhere; 0 means never
	DampHalfLife  time.Duration // of the penalty for failures, which delays returns; 0 means none
}

// SlotConfig is one slot of the fleet.
type SlotConfig struct {
	Slot    sa.Slot
	Home    Node
	Shadows []Node // never contains Home
	// Dynamic: Shadows are those to begin with; the owner changes them (EvShadowSet),
	// and any appliance may become one.
	Dynamic bool
}

// WithDefaults fills zero durations with the values of the design.
func (c Config) WithDefaults() Config {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&c.ProbeInterval, 50*time.Millisecond)
	set(&c.DeadMan, time.Second)
	set(&c.Stagger, 400*time.Millisecond)
	set(&c.StartGrace, 1500*time.Millisecond)
	set(&c.ResumeGrace, 500*time.Millisecond)
	set(&c.DrainQuiet, 60*time.Millisecond)
	set(&c.HoldCap, 200*time.Millisecond)
	set(&c.HoldDefault, 30*time.Millisecond)
	set(&c.RebuildWait, 2*time.Second)
	if c.DrainRate == 0 {
		c.DrainRate = 60
	}
	if c.ProbeLost == 0 {
		c.ProbeLost = 3
	}
	return c
}

// Validate reports the first contradiction in c.
func (c Config) Validate() error {
	if !slices.Contains(c.Appliances, c.Self) {
		return fmt.Errorf("appliance %q is not in the fleet %v", c.Self, c.Appliances)
	}
	if !slices.Contains(c.Appliances, c.Registrar) {
		return fmt.Errorf("registrar %q is not in the fleet %v", c.Registrar, c.Appliances)
	}
	seen := map[sa.Slot]bool{}
	for _, s := range c.Slots {
		if !s.Slot.Valid() || seen[s.Slot] {
			return fmt.Errorf("slot %d is out of range 1..%d or listed twice", s.Slot, sa.MaxSlot)
		}
		seen[s.Slot] = true
		for _, n := range append([]Node{s.Home}, s.Shadows...) {
			if !slices.Contains(c.Appliances, n) {
				return fmt.Errorf("slot %d names appliance %q, which is not in the fleet %v", s.Slot, n, c.Appliances)
			}
		}
		if slices.Contains(s.Shadows, s.Home) {
			return fmt.Errorf("slot %d lists its home %q as its own shadow", s.Slot, s.Home)
		}
	}
	return nil
}

// members returns home and configured shadows of s.
func (s SlotConfig) members() []Node { return append([]Node{s.Home}, s.Shadows...) }

// Kind names a message between cores. The strings are the wire format.
type Kind string

// The message kinds. Every message may be lost, repeated and reordered; the
// core repeats what matters until it sees the effect in a probe.
const (
	KindProbe   Kind = "probe"   // Report; every ProbeInterval to every appliance
	KindClaim   Kind = "claim"   // Slot, Ticket, Owner, Incarnation, Reason: "Owner, in this life, holds Slot by Ticket"
	KindRequest Kind = "request" // Slot: a ticket for the sender, please
	KindGrant   Kind = "grant"   // Slot, Ticket, Incarnation: yours
	KindYield   Kind = "yield"   // Slot, Ticket: take the slot now, my charon is dead
	KindRearm   Kind = "rearm"   // Slot, Ticket: get a ticket above this one
	KindTake    Kind = "take"    // Slot, Move, Hold, Reason: open, steer to yourself, hold
	KindTaken   Kind = "taken"   // Slot, Move: done
	KindFlipped Kind = "flipped" // Slot, Move: my uplink now leads to you; claim
	KindDrained Kind = "drained" // Slot, Move: my fence is closed; activate
	KindAbort   Kind = "abort"   // Slot, Move, Reason: forget the move
)

// maxReason bounds the reasons that messages carry, in octets of JSON: a datagram holds
// 1,200, and encoding/json makes six of some characters.
const maxReason = 300

// clip cuts a reason down to what a message carries.
func clip(s string) string {
	room := maxReason
	for i, r := range s {
		switch {
		case r < ' ' || r == '<' || r == '>' || r == '&' || r == utf8.RuneError || r == '\u2028' || r == '\u2029':
			room -= len(`\u0000`)
		case r == '"' || r == '\\':
			room -= 2
		default:
			room -= utf8.RuneLen(r)
		}
		if room < 0 {
			return s[:i] + "..."
		}
	}
	return s
}

// Message is what one core tells another. Unknown JSON keys are ignored so
// that appliances of adjacent versions interoperate.
type Message struct {
	Kind        Kind          `json:"k"`
	Slot        sa.Slot       `json:"s,omitempty"`
	Ticket      sa.Ticket     `json:"t,omitempty"`
	Owner       Node          `json:"o,omitempty"`
	Incarnation uint64        `json:"i,omitempty"`
	Move        uint64        `json:"m,omitempty"`
	Hold        time.Duration `json:"h,omitempty"`
	Reason      string        `json:"r,omitempty"`
	Report      *Report       `json:"p,omitempty"`
}

// Report is the content of a probe: what its sender hears and knows.
type Report struct {
	Incarnation uint64       `json:"i"`
	Hears       []Node       `json:"h"`
	Slots       []SlotReport `json:"s"`
	// How fit the sender is, for the choice of successors.
	Standing Standing `json:"st,omitempty"`
	Level    Level    `json:"lv,omitempty"` // of its VIP
	Risk     float64  `json:"rk,omitempty"` // of a failure within an hour, 0..1
	Load     float64  `json:"ld,omitempty"` // share of its capacity in use
	Sessions int      `json:"ss,omitempty"` // owned
	// Wish is what the sender's prediction asks for, for the fleet guard.
	Wish *Wish `json:"wi,omitempty"`
}

// Wish is what a prediction asks for. It is no standing yet: the fleet guard
// of every appliance weighs its own wish against those of the others.
type Wish struct {
	Standing Standing      `json:"s"`
	Cause    string        `json:"c,omitempty"` // signal of the first cause
	For      time.Duration `json:"f,omitempty"` // for how long it has asked
	Asks     bool          `json:"a,omitempty"` // for the lease to drain
	Holds    bool          `json:"h,omitempty"` // the lease
}

// SlotReport is one slot as the sender of a Report sees it.
type SlotReport struct {
	Slot        sa.Slot   `json:"n"`
	Owner       Node      `json:"o,omitempty"`
	OwnerTicket sa.Ticket `json:"t,omitempty"`
	// OwnerLife is the incarnation of Owner that claimed, 0 where the sender owns
	// the slot (Report.Incarnation says it) or does not know.
	OwnerLife uint64 `json:"i,omitempty"`
	// Armed is the ticket that the sender holds for a takeover, 0 if none.
	Armed sa.Ticket `json:"a,omitempty"`
	Ready bool      `json:"r,omitempty"` // the sender's twin is complete
	// Seen is the owner's last change, under OwnerTicket, that the sender's twin
	// has.
	Seen uint64 `json:"q,omitempty"`
	Up   bool   `json:"u,omitempty"` // the sender's charon of the slot runs
	// Spent is a ticket above OwnerTicket by which a life that has ended held the
	// slot: the owner must rise above it. 0: none is known.
	Spent sa.Ticket `json:"x,omitempty"`
	// RTT is the sender's round-trip time to clients of the slot, 0 unknown.
	RTT time.Duration `json:"l,omitempty"`
	// Set is whom the owner wants as shadows, in a report of the owner; Version
	// numbers it under OwnerTicket. In the report of another, Version is the one that
	// it acts by, 0 none. Both are empty for sets that never change.
	Set     []Node `json:"w,omitempty"`
	Version uint64 `json:"y,omitempty"`
	// Cover are the shadows by how many sessions they hold, in a report of the owner;
	// empty: all hold all.
	Cover []Node `json:"v,omitempty"`
}

// Role is what an appliance is to a slot.
type Role string

// The roles. A slot's fence is open in RoleOwner and, for the length of a move,
// in RoleTaking and RoleDraining; in every other role it is closed.
const (
	RoleNone     Role = "none"     // not a member, or not up yet
	RoleShadow   Role = "shadow"   // keeps a twin
	RoleOwner    Role = "owner"    // active here
	RoleTaking   Role = "taking"   // target of a move: open, not yet claimed
	RoleDraining Role = "draining" // old owner after the flip: open for late packets only
	RoleResuming Role = "resuming" // was owner before a freeze or restart; listening for a higher claim
)

// Target says where packets of a slot go.
type Target struct {
	Local  bool
	Remote Node // "" with Local false means drop
}
