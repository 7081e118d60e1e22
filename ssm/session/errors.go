package session

import (
	"errors"
	"fmt"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
)

// Reasons for which a Ledger refuses an input; match with errors.Is.
var (
	// ErrDuplicate: this IKE_ADD, CHILD_ADD or message ID is known already. A
	// repeated ADD would tear down the live SA in a twin.
	ErrDuplicate = errors.New("already known")
	// ErrUnknownSA: the message is about an IKE_SA or a child that no
	// IKE_ADD or CHILD_ADD announced: datagrams were lost.
	ErrUnknownSA = errors.New("not known")
	// ErrMalformed: an attribute that the message type needs is missing or bad.
	ErrMalformed = errors.New("malformed")
	// ErrLimit: the session would outgrow the bounds of a document.
	ErrLimit = errors.New("too many")
)

// RefusedError says what a Ledger refused and why; it unwraps to the reason.
type RefusedError struct {
	Type   charon.MsgType // 0 where the input was no HA message
	IKE    sa.IKEID
	SPI    sa.SPI // inbound SPI of the child, 0 if none
	Reason error
	Detail string
}

func (e *RefusedError) Error() string {
	what := "input"
	if e.Type != 0 {
		what = e.Type.String()
	}
	s := fmt.Sprintf("apply %s of IKE_SA %s", what, e.IKE)
	if e.SPI != 0 {
		s += fmt.Sprintf(" child %s", e.SPI)
	}
	s += ": " + e.Reason.Error()
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

func (e *RefusedError) Unwrap() error { return e.Reason }

// Stats counts what a Ledger has done since New.
type Stats struct {
	Applied    uint64 // messages digested
	Ignored    uint64 // messages about no session: segments, status, IKEv1
	Duplicates uint64
	Unknown    uint64
	Malformed  uint64
	Limits     uint64
	HalfOpen   uint64 // IKE_SAs that never came up
	Committed  uint64 // exchanges
	Dropped    uint64 // exchanges left to be processed again after a takeover
	Suspects   uint64 // deletes that are no tombstones
	Conflicts  uint64 // inner addresses held twice
}

func (l *Ledger) refuse(e *RefusedError) error {
	switch e.Reason {
	case ErrDuplicate:
		l.stats.Duplicates++
	case ErrUnknownSA:
		l.stats.Unknown++
	case ErrMalformed:
		l.stats.Malformed++
	case ErrLimit:
		l.stats.Limits++
	}
	return e
}
