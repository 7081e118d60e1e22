package ssm

import (
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// Event is one input of the core.
type Event interface{ event() }

// The events. The shell reports facts, never wishes, but for EvMove.
type (
	// EvTick drives every timer; the shell sends it at least once in a probe
	// interval.
	EvTick struct{}
	// EvMessage is an authenticated message from another appliance.
	EvMessage struct {
		From Node
		Msg  Message
	}
	// EvLiveness says that the BGP liveness route of Node came or went.
	EvLiveness struct {
		Node Node
		Up   bool
	}
	// EvUndeliverable says that packets of Slot arrived here since its owner
	// went silent, or deaf.
	EvUndeliverable struct{ Slot sa.Slot }
	// EvSlotUp says that namespace and charon of Slot run here, passive, empty.
	EvSlotUp struct{ Slot sa.Slot }
	// EvSlotDown says that they could not be built or were lost while passive.
	EvSlotDown struct {
		Slot   sa.Slot
		Reason string
	}
	// EvAdopted says that a restarted daemon found Slot active, held by Ticket.
	EvAdopted struct {
		Slot   sa.Slot
		Ticket sa.Ticket
		// As ActRemember told.
		Lives   map[Node]uint64
		Set     []Node
		Version uint64
	}
	// EvRestored says that a restarted daemon found the ticket it was armed
	// with or, Owned, that the slot was claimed by; the twin is built anew.
	EvRestored struct {
		Slot   sa.Slot
		Ticket sa.Ticket
		Owned  bool
	}
	// EvCharonDied says that the charon of an active slot is gone.
	EvCharonDied struct{ Slot sa.Slot }
	// EvRefed says that charon of the owner's slot was restarted and refilled.
	EvRefed struct {
		Slot sa.Slot
		Err  string
	}
	// EvTwin reports whether the twin here is complete: snapshot applied,
	// everything received fed, connections equal to the owner's. Behind says that
	// children were fed a moment ago which the kernel does not have yet.
	EvTwin struct {
		Slot   sa.Slot
		Ready  bool
		Behind bool
		Reason string
	}
	// EvSeen says that the twin here has everything up to the owner's change
	// Seen under Ticket: of two shadows the one with more of it claims first.
	EvSeen struct {
		Slot   sa.Slot
		Ticket sa.Ticket
		Seen   uint64
	}
	// EvPreset says that every outbound SA of the twin starts in the block of
	// Ticket and that later ones will.
	EvPreset struct {
		Slot   sa.Slot
		Ticket sa.Ticket
	}
	// EvBarred says that the twin has an SA in which the ticket that it is preset to
	// must not send: born with Base, at or above that ticket, because its owner did
	// not know of it. A later ticket will do.
	EvBarred struct {
		Slot sa.Slot
		Base sa.Ticket
	}
	// EvReplica reports, at the owner, whether Shadow has acknowledged
	// everything that is older than the replication bound.
	EvReplica struct {
		Slot   sa.Slot
		Shadow Node
		Ready  bool
	}
	// EvShadowSet says, at the owner, whom Slot shall have for shadows: see set.go.
	EvShadowSet struct {
		Slot sa.Slot
		Want []Node
	}
	// EvIssued answers ActIssue: Ticket is durable in the registrar's log.
	EvIssued struct {
		Slot        sa.Slot
		Ticket      sa.Ticket
		Node        Node
		Incarnation uint64
	}
	// EvMove asks for a planned move. ID names it in the report events.
	EvMove struct {
		Slot   sa.Slot
		To     Node
		ID     uint64
		Reason string
		Drain  uint64 // the drain that it is part of, 0 if none
	}
	// EvQuiesced answers ActQuiesce.
	EvQuiesced struct {
		Slot   sa.Slot
		Move   uint64
		Detail string // what was still open when patience ended; "" if nothing
	}
	// EvFlushed answers ActFlush.
	EvFlushed struct {
		Slot sa.Slot
		Move uint64
		Err  string
	}
	// EvRTT is one measurement of the round-trip time from here to the nearest client
	// of the slot: the shortest of its answers is the path, the longest contains queues.
	EvRTT struct {
		Slot       sa.Slot
		RTT, Worst time.Duration
	}
	// EvDrained answers ActDrain: no late packet for DrainQuiet.
	EvDrained struct {
		Slot sa.Slot
		Move uint64
		Late uint64 // packets delivered at the old owner after the flip
	}
	// EvFenceShut says that the dead-man was faster than a refresh.
	EvFenceShut struct{ Slot sa.Slot }
	// EvPassivated answers ActPassivate and ActStandDown.
	EvPassivated struct{ Slot sa.Slot }
	// EvStanding is what one source says of this appliance's fitness. It stays
	// until the same source says otherwise; the worst of all sources counts.
	EvStanding struct {
		Source   string // SourceOperator, SourceMaintenance, SourceHealth, SourceLoad
		Standing Standing
		Reason   string
		Causes   []string // what the reason rests on, most important first
		// Deadline is the time that is left before the service here may end, 0
		// if unknown: bounds how long existing sessions may stay.
		Deadline time.Duration
		// Hard means a fact, not an estimate: only such standings, the
		// operator's and maintenance may withdraw the last announcement.
		Hard bool
		Risk float64 // SourceHealth: probability of failure within an hour, 0..1
		Wish *Wish   // SourceHealth: what the prediction asks for; nil if nothing
		// Drain names the drain that this begins in reports; 0 lets the core choose.
		Drain uint64
	}
	// EvLoad is how busy this appliance is: share of its capacity in use (1 is
	// full) and the sessions it owns, by slot.
	EvLoad struct {
		Load     float64
		Sessions map[sa.Slot]int
	}
	// EvEntry is how many packets for the VIP have entered here from the
	// uplink so far. Sent with every tick while Core.WatchesEntry.
	EvEntry struct{ Packets uint64 }
	// EvRedirected says, when an ActRedirect has ended, what became of the clients.
	EvRedirected struct {
		Slot   sa.Slot
		Drain  uint64
		Went   int    // ended their session soon after they had been told
		Ended  int    // did not; charon ended it (RFC 5685 section 5)
		Stayed int    // cannot be told
		Err    string // why not all were tried, "" if they were
	}
	// EvCover says, at the owner of Slot, which shadows hold the most of its sessions:
	// the first holds all, each other one no more than the one before. Empty: all hold
	// all.
	EvCover struct {
		Slot  sa.Slot
		Order []Node
	}
	// EvTunnel says whether packets can be forwarded to Node in the fabric.
	EvTunnel struct {
		Node Node
		Up   bool
	}
)

func (EvTick) event()          {}
func (EvMessage) event()       {}
func (EvLiveness) event()      {}
func (EvUndeliverable) event() {}
func (EvSlotUp) event()        {}
func (EvSlotDown) event()      {}
func (EvAdopted) event()       {}
func (EvRestored) event()      {}
func (EvCharonDied) event()    {}
func (EvRefed) event()         {}
func (EvTwin) event()          {}
func (EvPreset) event()        {}
func (EvSeen) event()          {}
func (EvBarred) event()        {}
func (EvReplica) event()       {}
func (EvShadowSet) event()     {}
func (EvIssued) event()        {}
func (EvMove) event()          {}
func (EvQuiesced) event()      {}
func (EvFlushed) event()       {}
func (EvRTT) event()           {}
func (EvDrained) event()       {}
func (EvPassivated) event()    {}
func (EvFenceShut) event()     {}
func (EvStanding) event()      {}
func (EvLoad) event()          {}
func (EvEntry) event()         {}
func (EvRedirected) event()    {}
func (EvCover) event()         {}
func (EvTunnel) event()        {}
