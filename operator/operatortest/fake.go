// Package operatortest fakes the appliance behind the operator API, for tests of
// the server and of its clients. It owns a small fleet in memory, moves slots in
// it instantly, and touches nothing outside.
package operatortest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/operator"
	"github.com/shadowcast/shadowcast/sa"
)

// Session is one session of the fake, with its document in both forms.
type Session struct {
	Summary            *v1.Session
	Redacted, Revealed string
}

// Fake is all sources of an operator.Backend. Fill its fields before use.
type Fake struct {
	Node *v1.Appliance
	Peer []*v1.Peer
	// Refuse is what was refused.
	Refuse []*v1.Refusal
	Speak  *v1.GetBGPResponse
	// Limits are the latched hard limits of its hardware.
	Limits []*v1.HealthLimit
	// Err, when set, is the answer to every question.
	Err error
	// Gate, when set, holds every handover in its drain phase until it is closed
	// or the daemon stops.
	Gate <-chan struct{}

	mu       sync.Mutex
	drained  bool
	slots    []*v1.Slot
	sessions []Session
}

// New makes a fake with these slots and sessions.
func New(node *v1.Appliance, slots []*v1.Slot, sessions []Session) *Fake {
	slices.SortFunc(sessions, func(a, b Session) int { return strings.Compare(a.Summary.Id, b.Summary.Id) })
	return &Fake{Node: node, Speak: &v1.GetBGPResponse{}, slots: slots, sessions: sessions}
}

// Backend returns f in all its roles.
func (f *Fake) Backend() operator.Backend {
	return operator.Backend{Status: f, Slots: f, Sessions: f, Drains: Drains{f}, UpgradeLock: &UpgradeLock{Fake: f}, ShadowSets: ShadowSets{f}, Health: Health{f}, Registrars: &Registrars{Fake: f}, Refusals: f}
}

func (f *Fake) Appliance(context.Context) (*v1.Appliance, error) { return f.Node, f.Err }

func (f *Fake) Peers(context.Context) ([]*v1.Peer, error) { return f.Peer, f.Err }

func (f *Fake) Refusals(context.Context) ([]*v1.Refusal, error) { return f.Refuse, f.Err }

func (f *Fake) BGP(context.Context) (*v1.GetBGPResponse, error) { return f.Speak, f.Err }

func (f *Fake) Slots(context.Context) ([]*v1.Slot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*v1.Slot
	for _, s := range f.slots {
		out = append(out, proto.CloneOf(s))
	}
	return out, f.Err
}

func (f *Fake) Handover(ctx context.Context, slot sa.Slot, to, reason string, progress func(*v1.HandoverProgress)) (*v1.HandoverAccount, error) {
	f.mu.Lock()
	i := slices.IndexFunc(f.slots, func(s *v1.Slot) bool { return s.Number == uint32(slot) })
	f.mu.Unlock()
	if i < 0 {
		return nil, operator.NotFound("SLOT_UNKNOWN", "slot %d is not configured in this fleet", slot)
	}
	s := f.slots[i]
	j := slices.IndexFunc(s.Shadows, func(sh *v1.Shadow) bool { return sh.Name == to })
	if j < 0 {
		return nil, operator.Refused("NOT_A_SHADOW", "%s is no shadow of slot %d", to, slot).With("appliance", to)
	}
	if sh := s.Shadows[j]; !sh.Ready {
		return nil, operator.Refused("SHADOW_NOT_READY", "%s is not ready to take slot %d: %s", to, slot, sh.Reason).With("appliance", to)
	}
	account := &v1.HandoverAccount{
		Slot: uint32(slot), From: s.Owner, To: to, Ticket: s.Shadows[j].Ticket, SessionsMoved: s.Sessions,
		Elapsed: durationpb.New(412 * time.Millisecond), Hold: durationpb.New(3 * time.Millisecond), PacketsLate: 7,
	}
	for p := v1.HandoverPhase_HANDOVER_PHASE_PREPARE; p <= v1.HandoverPhase_HANDOVER_PHASE_VERIFY; p++ {
		name := strings.ToLower(strings.TrimPrefix(p.String(), "HANDOVER_PHASE_"))
		progress(&v1.HandoverProgress{Phase: p, Message: "fake " + name, Elapsed: durationpb.New(time.Duration(p) * 80 * time.Millisecond)})
		account.Phases = append(account.Phases, &v1.PhaseTime{Phase: p, Elapsed: durationpb.New(80 * time.Millisecond)})
		if p == v1.HandoverPhase_HANDOVER_PHASE_DRAIN && f.Gate != nil {
			select {
			case <-f.Gate:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s.Owner, s.OwnerTicket, s.OwnedReason = to, account.Ticket, "planned move from "+s.Owner+": "+reason
	return account, nil
}

func (f *Fake) Sessions(_ context.Context, slot sa.Slot, after string, limit int) ([]*v1.Session, error) {
	var out []*v1.Session
	for _, s := range f.sessions {
		if s.Summary.Id > after && (slot == 0 || s.Summary.Slot == uint32(slot)) && len(out) < limit {
			out = append(out, s.Summary)
		}
	}
	return out, f.Err
}

func (f *Fake) Session(_ context.Context, id string, revealKeys bool) (*v1.Session, []byte, error) {
	for _, s := range f.sessions {
		if s.Summary.Id != id {
			continue
		}
		if revealKeys {
			return s.Summary, []byte(s.Revealed), f.Err
		}
		return s.Summary, []byte(s.Redacted), f.Err
	}
	return nil, nil, operator.NotFound("SESSION_UNKNOWN", "no session %q is held here", id)
}
