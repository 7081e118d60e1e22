package ssm

import (
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// Action is one output of the core. The shell executes actions in order; those
// marked "answered" are reported back by an event.
type Action interface{ action() }

// The actions.
type (
	// ActSend transmits Msg to To; it may be lost.
	ActSend struct {
		To  Node
		Msg Message
	}
	// ActFence opens the fence of Slot until Until (relative to now; 0 means
	// without a deadline) or closes it.
	ActFence struct {
		Slot  sa.Slot
		Open  bool
		Until time.Duration
		// Refresh moves the deadline of a fence that is open and must not
		// open one that has closed by itself: EvFenceShut says so.
		Refresh bool
	}
	// ActSteer sets where packets of Slot go that enter at the uplink, that
	// arrive from a peer, and that come from inside.
	ActSteer struct {
		Slot                sa.Slot
		Uplink, Peer, Inner Target
	}
	// ActNewClients sets the slots that take new clients entering here.
	ActNewClients struct{ Slots []sa.Slot }
	// ActHold buffers what goes into the slot from inside; ActRelease lets it go.
	ActHold    struct{ Slot sa.Slot }
	ActRelease struct{ Slot sa.Slot }
	// ActOwn makes the slot runtime the owner's: its documents become the
	// ledger, replication to Shadows starts, new SAs are born under Ticket.
	ActOwn struct {
		Slot    sa.Slot
		Ticket  sa.Ticket
		Shadows []Node
		// Takeover is false for a first claim of an empty slot and for an
		// owner that goes on.
		Takeover bool
		// Ask are living shadows that may hold sessions which are missing here. The
		// owner does not feed anybody before it has asked them, or in vain.
		Ask []Node
	}
	// ActFeed changes whom the owner of Slot replicates to.
	ActFeed struct {
		Slot    sa.Slot
		Shadows []Node
	}
	// ActCover says which shadow shall hold every session of Slot first: the target of
	// a move; "" for the owner's own order. Answered by EvCover where that changes it.
	ActCover struct {
		Slot  sa.Slot
		First Node
	}
	// ActPlace gives Slot a place here, for a twin: namespace and charon. Answered by
	// EvSlotUp or EvSlotDown.
	ActPlace struct{ Slot sa.Slot }
	// ActLeave ends the twin of Slot here and its place.
	ActLeave struct{ Slot sa.Slot }
	// ActBirth updates the lowest ticket held by any shadow, for sa.Birth.
	ActBirth struct {
		Slot   sa.Slot
		Lowest sa.Ticket
	}
	// ActActivate tells charon that the slot is active.
	ActActivate struct{ Slot sa.Slot }
	// ActShadow makes the slot runtime a shadow's of Owner. The twin is built
	// anew: charon restarted, kernel state flushed, everything fed again.
	// Answered by EvSlotUp and later EvTwin.
	ActShadow struct {
		Slot   sa.Slot
		Owner  Node
		Ticket sa.Ticket
		// Keep: charon holds every session and was passivated behind the
		// closed fence of a planned move; what it holds is the twin.
		Keep bool
	}
	// ActBuild tries again to bring up a slot that could not be built. Answered
	// by EvSlotUp or EvSlotDown.
	ActBuild struct{ Slot sa.Slot }
	// ActWake asks for an EvTick after In, between the regular ones.
	ActWake struct{ In time.Duration }
	// ActFollow tells a shadow's runtime that the slot has another owner now, or
	// the same one under another ticket; the twin stays.
	ActFollow struct {
		Slot   sa.Slot
		Owner  Node
		Ticket sa.Ticket
		Same   bool // the owner is the one the twin was fed by
	}
	// ActStandDown passivates charon of a slot that was lost. Answered by
	// EvPassivated.
	ActStandDown struct{ Slot sa.Slot }
	// ActPreset writes the first sequence number of Ticket's block into every
	// outbound SA, now and whenever one is installed. Answered by EvPreset.
	ActPreset struct {
		Slot   sa.Slot
		Ticket sa.Ticket
	}
	// ActRefeed restarts the dead charon of an active slot in place. Answered
	// by EvRefed.
	ActRefeed struct{ Slot sa.Slot }
	// ActIssue appends the next ticket of Slot for Node to the registrar's
	// durable log. Answered by EvIssued.
	ActIssue struct {
		Slot        sa.Slot
		Node        Node
		Incarnation uint64
		// Floor is the highest ticket of the slot seen anywhere; the new one
		// lies above it even if the log was lost.
		Floor sa.Ticket
	}
	// ActQuiesce waits until no exchange of the slot is half done (rule 14 of
	// the charon link), bounded. Answered by EvQuiesced.
	ActQuiesce struct {
		Slot sa.Slot
		Move uint64
	}
	// ActFlush sends the last replay samples and waits until To has
	// everything. Answered by EvFlushed.
	ActFlush struct {
		Slot sa.Slot
		Move uint64
		To   Node
	}
	// ActDrain waits for late packets. Answered by EvDrained.
	ActDrain struct {
		Slot sa.Slot
		Move uint64
		Min  time.Duration
	}
	// ActPassivate makes charon of a handed-over slot passive. Answered by
	// EvPassivated.
	ActPassivate struct{ Slot sa.Slot }
	// ActAnnounce says which slots' pools this appliance announces inside, as their
	// owner and as a way to it, and at which level it announces the VIP.
	ActAnnounce struct {
		Pools  []sa.Slot
		Backup []sa.Slot
		Level  Level
		// Paced: the level follows an estimate, so changes of attributes must
		// keep to the budget that protects us from route flap damping.
		Paced bool
	}
	// ActRemember stores what a restarted daemon must know: the role and
	// ticket of Slot (no key material).
	ActRemember struct {
		Slot   sa.Slot
		Role   Role
		Ticket sa.Ticket
		// Lives are, of an owner, the incarnations of the other members that its
		// ticket is newer than. One that is missing may have claimed unheard.
		Lives map[Node]uint64
		// Set is, of an owner that chooses its shadows, whom it has chosen, and Version
		// numbers it: what a restarted daemon tells must be newer.
		Set     []Node
		Version uint64
	}
	// ActRedirect tells the clients of a slot to go to another gateway, or Stop: tells
	// no more of them. Answered by EvRedirected.
	ActRedirect struct {
		Slot   sa.Slot
		Drain  uint64
		Reason string
		Stop   bool
	}
	// ActReport is a line for the operator: one state change and its reason.
	ActReport struct {
		Slot   sa.Slot
		Kind   string // "claim", "lost", "move", "suspect", "ticket", ...
		Warn   bool
		Text   string
		Reason string
		Move   uint64
		Phase  string // of a move: prepare, quiesce, flush, take, flip, drain, close, done, aborted, refused
		Late   uint64 // of a move that is done: packets delivered at the old owner after the flip
		Hold   time.Duration
		// Drain names the drain of this appliance that the report is about or
		// that the move is part of; Account is set when it is over.
		Drain   uint64
		Account *DrainAccount
		// Detection is, on a reactive claim, the time from the owner's last
		// sign of life to the claim.
		Detection time.Duration
	}
	// ActRefuse says that something that From told cannot be and was not believed.
	ActRefuse struct {
		From   Node
		Slot   sa.Slot
		Reason string // one of the Refuse words
		Text   string // for people
	}
)

func (ActSend) action()       {}
func (ActFence) action()      {}
func (ActSteer) action()      {}
func (ActNewClients) action() {}
func (ActHold) action()       {}
func (ActRelease) action()    {}
func (ActOwn) action()        {}
func (ActCover) action()      {}
func (ActFeed) action()       {}
func (ActPlace) action()      {}
func (ActLeave) action()      {}
func (ActBirth) action()      {}
func (ActActivate) action()   {}
func (ActShadow) action()     {}
func (ActFollow) action()     {}
func (ActWake) action()       {}
func (ActBuild) action()      {}
func (ActStandDown) action()  {}
func (ActPreset) action()     {}
func (ActRefeed) action()     {}
func (ActIssue) action()      {}
func (ActQuiesce) action()    {}
func (ActFlush) action()      {}
func (ActDrain) action()      {}
func (ActPassivate) action()  {}
func (ActAnnounce) action()   {}
func (ActRemember) action()   {}
func (ActRedirect) action()   {}
func (ActReport) action()     {}
func (ActRefuse) action()     {}
