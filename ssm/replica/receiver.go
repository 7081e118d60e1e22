package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerv1 "github.com/shadowcast/shadowcast/api/peer/v1"
	"github.com/shadowcast/shadowcast/sa"
)

// ReceiverConfig is what a shadow needs to be fed.
type ReceiverConfig struct {
	Self string // this appliance's name
	Sink Sink
	// Authority says why owner may not feed (or fetch) the slot with the ticket;
	// nil lets it. Tickets below the highest one known are refused before.
	Authority func(slot sa.Slot, owner string, ticket sa.Ticket) error
	// PeerName reads the name of the other end; nil: the only DNS name.
	PeerName PeerNameFunc
	// Legacy turns a document of the Sink into one for a fetch by an appliance of
	// protocol version 1; nil refuses it.
	Legacy func(doc []byte) ([]byte, error)
	// Newcomers hears of new sessions of owner and returns the sessions here that
	// exclude some of them; from any goroutine. nil: nobody listens.
	Newcomers func(ctx context.Context, owner string, ns []Newcomer) []Incumbent
	// KnownSlot reports whether the fleet has a slot; nil: it has every one.
	KnownSlot func(sa.Slot) bool
	// OnRefused is called for each refused stream, fetch, announcement and message, from any
	// goroutine; nil: nobody is told.
	OnRefused func(Refusal)
	Logger    *slog.Logger // nil: slog.Default
}

// Receiver is the shadow's side of every stream to this appliance.
type Receiver struct {
	peerv1.UnimplementedReplicaServer
	cfg ReceiverConfig
	log *slog.Logger

	mu      sync.Mutex
	slots   map[sa.Slot]*slotState
	streams map[*inbound]struct{}
	closed  bool
	wg      sync.WaitGroup // readers
}

// slotState is what outlives the streams of one slot.
type slotState struct {
	admit chan struct{} // 1 deep: whoever is in it may replace the stream

	// gate is held while a batch is handed to the Sink, and to cut: once a stream
	// is cut, nothing of it reaches the Sink any more.
	gate sync.Mutex

	mu     sync.Mutex
	high   sa.Ticket // highest known
	holder string    // of it, where known
	cur    *inbound
	epoch  uint64 // where the last stream stopped; 0 for nowhere
	seq    uint64
	ready  bool
	reason string
}

// NewReceiver checks the configuration.
func NewReceiver(cfg ReceiverConfig) (*Receiver, error) {
	if err := checkName(cfg.Self); err != nil {
		return nil, fmt.Errorf("make receiver: %w", err)
	}
	if cfg.Sink == nil || cfg.Authority == nil {
		return nil, errors.New("make receiver: no sink or no authority")
	}
	if cfg.PeerName == nil {
		cfg.PeerName = dnsName
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Receiver{cfg: cfg, log: cfg.Logger, slots: map[sa.Slot]*slotState{},
		streams: map[*inbound]struct{}{}}, nil
}

// Register adds the service to a server made by NewServer.
func (r *Receiver) Register(s grpc.ServiceRegistrar) { peerv1.RegisterReplicaServer(s, r) }

// slot returns the state of a slot, nil once closed.
func (r *Receiver) slot(n sa.Slot) *slotState {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	s := r.slots[n]
	if s == nil {
		s = &slotState{admit: make(chan struct{}, 1), reason: "has not reported"}
		r.slots[n] = s
	}
	return s
}

// Raise says that owner holds or claims the slot with the ticket. A stream with
// a lower one is cut: when Raise returns, nothing of it reaches the Sink any
// more, and its owner will be refused.
func (r *Receiver) Raise(slot sa.Slot, ticket sa.Ticket, owner string) {
	s := r.slot(slot)
	if s == nil {
		return
	}
	s.mu.Lock()
	if ticket <= s.high {
		s.mu.Unlock()
		return
	}
	s.high, s.holder = ticket, owner
	cur := s.cur
	s.mu.Unlock()
	if cur != nil && sa.Ticket(cur.hello.Ticket) < ticket {
		s.gate.Lock()
		cur.cut(supersededBy(slot, ticket, owner))
		s.gate.Unlock()
	}
}

// Forget says that the Sink has dropped the slot's sessions: the stream is cut,
// and the next one begins with an inventory. Tickets stay known.
func (r *Receiver) Forget(slot sa.Slot) {
	s := r.slot(slot)
	if s == nil {
		return
	}
	s.mu.Lock()
	cur := s.cur
	s.epoch, s.seq = 0, 0
	s.mu.Unlock()
	if cur != nil {
		s.gate.Lock()
		cur.mu.Lock()
		cur.forget = true
		cur.mu.Unlock()
		cur.cut(status.Errorf(codes.Aborted, "slot %d was dropped and starts anew", slot))
		s.gate.Unlock()
	}
}

// SetReadiness tells the slot's owner whether the twin here could take over;
// reason says why not. Before the first call it is not ready.
func (r *Receiver) SetReadiness(slot sa.Slot, ready bool, reason string) {
	s := r.slot(slot)
	if s == nil {
		return
	}
	s.mu.Lock()
	changed := s.ready != ready || s.reason != reason
	s.ready, s.reason = ready, reason
	cur := s.cur
	s.mu.Unlock()
	if changed && cur != nil {
		cur.tellReadiness()
	}
}

// SlotStatus is what a shadow knows about the stream of one slot.
type SlotStatus struct {
	Slot      sa.Slot
	Connected bool
	Owner     string // of the stream
	Ticket    sa.Ticket
	Highest   sa.Ticket // known for the slot
	Epoch     uint64
	Acked     uint64    // changes of the epoch
	Syncing   bool      // a snapshot is under way or due
	LastHeard time.Time // anything from the owner; zero for never
	Sampled   time.Time // of the newest replay samples
	Ready     bool
	Reason    string
}

// Status reports one slot.
func (r *Receiver) Status(slot sa.Slot) SlotStatus {
	out := SlotStatus{Slot: slot}
	s := r.slot(slot)
	if s == nil {
		return out
	}
	s.mu.Lock()
	out.Highest, out.Ready, out.Reason = s.high, s.ready, s.reason
	out.Epoch, out.Acked, out.Syncing = s.epoch, s.seq, s.epoch == 0
	cur := s.cur
	s.mu.Unlock()
	if cur != nil {
		cur.mu.Lock()
		out.Connected = !cur.ended
		out.Owner, out.Ticket = cur.hello.Owner, sa.Ticket(cur.hello.Ticket)
		out.Epoch, out.Acked, out.Syncing = cur.hello.Epoch, cur.acked, !cur.resumable
		out.LastHeard, out.Sampled = cur.heard, cur.sampled
		cur.mu.Unlock()
	}
	return out
}

// Close cuts every stream, refuses new ones, and waits until nothing reaches the
// Sink any more. The caller stops the server.
func (r *Receiver) Close() {
	r.mu.Lock()
	r.closed = true
	for in := range r.streams {
		in.cut(status.Error(codes.Unavailable, "shadow is stopping"))
	}
	r.mu.Unlock()
	r.wg.Wait()
}

// authorize applies rule 1 to an owner: never a ticket below the highest known.
// kind names the reason of a refusal.
func (r *Receiver) authorize(s *slotState, slot sa.Slot, owner string, ticket sa.Ticket) (kind string, err error) {
	if kind, err := s.superseded(slot, owner, ticket); err != nil {
		return kind, err
	}
	if err := r.cfg.Authority(slot, owner, ticket); err != nil {
		return KindAuthority, status.Errorf(codes.PermissionDenied, "slot %d: ticket %d of %s: %v", slot, ticket, owner, err)
	}
	r.Raise(slot, ticket, owner)
	return s.superseded(slot, owner, ticket) // a higher one may have come meanwhile
}

// superseded refuses a ticket that is below the highest known, or another's.
func (s *slotState) superseded(slot sa.Slot, owner string, ticket sa.Ticket) (kind string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ticket < s.high {
		return KindSuperseded, supersededBy(slot, s.high, s.holder)
	}
	if ticket == s.high && s.holder != "" && s.holder != owner {
		return KindTicketOfOther, status.Errorf(codes.PermissionDenied, "slot %d: ticket %d belongs to %s, not %s", slot, ticket, s.holder, owner)
	}
	return "", nil
}

// supersededBy is the status for an owner whose ticket is not the highest.
func supersededBy(slot sa.Slot, high sa.Ticket, holder string) error {
	who := holder
	if who == "" {
		who = "another appliance"
	}
	st := status.Newf(codes.FailedPrecondition, "slot %d is held by %s with ticket %d", slot, who, high)
	if d, err := st.WithDetails(&peerv1.Refused{Ticket: uint64(high), Owner: holder}); err == nil {
		st = d
	}
	return st.Err()
}

// certified checks that the certificate names owner.
func (r *Receiver) certified(ctx context.Context, owner string) error {
	name, err := NameOf(ctx, r.cfg.PeerName)
	if err != nil {
		return status.Errorf(codes.Unauthenticated, "read the owner's certificate: %v", err)
	}
	if name != owner {
		return status.Errorf(codes.PermissionDenied, "certificate names %q, but the owner calls itself %.80q", name, owner)
	}
	return nil
}
