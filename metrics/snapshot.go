package metrics

import (
	"context"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/sa"
)

// Source takes snapshots. Snapshot is called by every scrape, concurrently; what
// it returns belongs to the caller.
type Source interface {
	Snapshot(ctx context.Context) (*Snapshot, error)
}

// Snapshot is an appliance at one moment. A nil or empty part is not shown.
type Snapshot struct {
	Appliance *v1.Appliance
	// Slots that have a place here are shown, the others are not.
	Slots  []*v1.Slot
	Peers  []*v1.Peer
	BGP    *v1.GetBGPResponse
	Health *v1.GetHealthResponse
	// Standing is the worst standing of all sources.
	Standing v1.Standing
	// Steering counts packets by the name of steer.Reason.
	Steering map[string]uint64
	// Replication is what owners here send to their shadows.
	Replication []Replication
	// Sequences is how much the outbound SAs of owned slots have left.
	Sequences []Sequence
	// Unique is what became of clients' second sessions; nil where no connection minds.
	Unique *Unique
	// Certificates are the ends of validity by file: "ca", "cert".
	Certificates map[string]time.Time
	// Missing is what could not be read of all this, and why; nil where nothing is.
	Missing error
}

// Replication is one stream of documents from an owner here to a shadow.
type Replication struct {
	Slot   sa.Slot
	Shadow string
	// Bytes of documents and names sent, Connects streams that got past the
	// greeting, Repairs comparisons that found a difference: since the tenure
	// began.
	Bytes, Connects, Repairs uint64
}

// Unique counts for the policies of connections that reach beyond a slot, since the start.
type Unique struct {
	// Ended are sessions of slots owned here that were ended, by the policy.
	Ended map[string]uint64
	// Untold counts new sessions of which an appliance was never told.
	Untold uint64
}

// Sequence is what is left to the outbound SAs of one owned slot, the worst of
// them each.
type Sequence struct {
	Slot sa.Slot
	SAs  int
	// Headroom is the share of the owner's block of sequence numbers that is not
	// used, 0 to 1.
	Headroom float64
	// BlocksLeft is how many blocks lie above the owner's: at least so many
	// tickets can still be used before the child must have been rekeyed.
	BlocksLeft uint64
}
