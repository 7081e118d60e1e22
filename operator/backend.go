package operator

import (
	"context"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/sa"
)

// Backend is what the server asks. All methods are called concurrently; what
// they return belongs to the caller.
type Backend struct {
	Status   StatusSource
	Slots    SlotSource
	Sessions SessionSource
	Drains   DrainSource

	UpgradeLock UpgradeLockSource
	Health      HealthSource
	ShadowSets  ShadowSetSource
	Registrars  RegistrarSource
	Refusals    RefusalSource
}

// StatusSource knows the appliance and its neighbours.
type StatusSource interface {
	Appliance(ctx context.Context) (*v1.Appliance, error)
	Peers(ctx context.Context) ([]*v1.Peer, error)
	BGP(ctx context.Context) (*v1.GetBGPResponse, error)
}

// RefusalSource knows what was refused.
type RefusalSource interface {
	// Refusals returns a bounded table, the latest first.
	Refusals(ctx context.Context) ([]*v1.Refusal, error)
}

// SlotSource knows and moves slots.
type SlotSource interface {
	// Slots returns all slots of the fleet, by number.
	Slots(ctx context.Context) ([]*v1.Slot, error)
	// Handover moves slot to the appliance called to and returns when that is
	// finished or has failed. Until then it calls progress, never concurrently, at
	// every step. ctx ends when the daemon stops, not when the caller hangs up.
	Handover(ctx context.Context, slot sa.Slot, to, reason string, progress func(*v1.HandoverProgress)) (*v1.HandoverAccount, error)
}

// SessionSource knows the sessions held here, as owner or as shadow.
type SessionSource interface {
	// Sessions returns up to limit sessions whose id is above after, by id, of one
	// slot or of all (0).
	Sessions(ctx context.Context, slot sa.Slot, after string, limit int) ([]*v1.Session, error)
	// Session returns one session and its document. revealKeys asks for the
	// document with key material, which is redacted otherwise.
	Session(ctx context.Context, id string, revealKeys bool) (s *v1.Session, document []byte, err error)
}

// domain of the ErrorInfo that every Error carries.
const domain = "shadowcast"

// Error is a refusal that the caller shall understand: it becomes a status with
// an ErrorInfo. Any other error of a Backend becomes codes.Internal.
type Error struct {
	Code codes.Code
	// Reason is a fixed word in upper case, such as SLOT_UNKNOWN.
	Reason string
	// Message is for people: what is wrong, and what would be right.
	Message string
	// Details name the things concerned, such as slot or appliance.
	Details map[string]string
}

func (e *Error) Error() string { return e.Message }

// GRPCStatus makes gRPC send e as it is.
func (e *Error) GRPCStatus() *status.Status {
	s := status.New(e.Code, e.Message)
	if d, err := s.WithDetails(&errdetails.ErrorInfo{Reason: e.Reason, Domain: domain, Metadata: e.Details}); err == nil {
		return d
	}
	return s
}

// NotFound says that what was asked for does not exist.
func NotFound(reason, format string, args ...any) *Error {
	return &Error{Code: codes.NotFound, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Invalid says that the question makes no sense.
func Invalid(reason, format string, args ...any) *Error {
	return &Error{Code: codes.InvalidArgument, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Refused says that what was asked for is not possible now.
func Refused(reason, format string, args ...any) *Error {
	return &Error{Code: codes.FailedPrecondition, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// Denied says that this caller may not ask.
func Denied(reason, format string, args ...any) *Error {
	return &Error{Code: codes.PermissionDenied, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// With adds a detail to e and returns it.
func (e *Error) With(key, value string) *Error {
	if e.Details == nil {
		e.Details = map[string]string{}
	}
	e.Details[key] = value
	return e
}
