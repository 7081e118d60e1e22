package registrar

import (
	"context"
	"net"

	"github.com/shadowcast/shadowcast/sa"
)

// Peers reaches the Registrars of other appliances; GRPC is the real one. Every
// call is authenticated in both directions.
type Peers interface {
	// Raft opens a stream to the log of member to.
	Raft(ctx context.Context, to, from Member) (net.Conn, error)
	Describe(ctx context.Context, node string) (Description, error)
	// Issue asks node for a ticket. A node that does not lead forwards the
	// request once, unless it is forwarded already.
	Issue(ctx context.Context, node string, i Issue, forwarded bool) (sa.Ticket, error)
	// Change asks node for another set of members, forwarded like Issue.
	Change(ctx context.Context, node string, c Change, forwarded bool) error
	// Enrol makes node ready to be added.
	Enrol(ctx context.Context, node string) (Member, error)
}

// Description is what one appliance knows of the ticket log.
type Description struct {
	Node string
	// Member is its own log; none where it keeps none.
	Member Member
	// Members are those of the log as known here, by name; none while it is blank.
	Members []Member
	Leader  Member // none if not known
	Founded bool
	Term    uint64
	Applied uint64 // entries applied here
	// Seen are the highest tickets known here from whatever source.
	Seen map[sa.Slot]sa.Ticket
	// Problem says why the log here does not run, "" if it does or is not wanted.
	Problem string
}

// Has reports whether m is one of the members.
func (d Description) Has(m Member) bool {
	for _, x := range d.Members {
		if x == m {
			return true
		}
	}
	return false
}

// Change is a change of members; exactly one field is set.
type Change struct {
	Add    string // name of an appliance
	Remove string // name of an appliance
	// Replace is a new, blank member that takes the place of the members of the
	// same appliance whose logs are lost.
	Replace Member
}
