package replica

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerv1 "github.com/shadowcast/shadowcast/api/peer/v1"
	"github.com/shadowcast/shadowcast/sa"
)

// FetchConfig is what an owner needs to read a slot's sessions back.
type FetchConfig struct {
	Slot        sa.Slot
	Ticket      sa.Ticket
	Self        string
	Incarnation uint64
	TLS         func(shadow string) *tls.Config
	PeerName    PeerNameFunc // nil: the only DNS name
	Version     uint32       // of the protocol to ask with; 0: the newest
}

// Fetch reads every session that the appliance from holds of the slot, calling
// put for each. It returns how many there were; on an error what came before may
// be incomplete.
func Fetch(ctx context.Context, cfg FetchConfig, from Shadow, put func(Change) error) (n int, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("fetch slot %d from %s: %w", cfg.Slot, from.Name, err)
		}
	}()
	if cfg.PeerName == nil {
		cfg.PeerName = dnsName
	}
	conn, err := Dial(from.Name, from.Addr, cfg.TLS(from.Name))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if cfg.Version == 0 {
		cfg.Version = ProtocolVersion
	}
	stream, err := peerv1.NewReplicaClient(conn).Fetch(ctx, &peerv1.FetchRequest{ProtocolVersion: cfg.Version,
		Slot: uint32(cfg.Slot), Ticket: uint64(cfg.Ticket), Owner: cfg.Self, Incarnation: cfg.Incarnation})
	if err != nil {
		return 0, err
	}
	for first := true; ; first = false {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return n, errors.New("the list ended before its last message")
		}
		if err != nil {
			return n, err
		}
		if first {
			name, err := NameOf(stream.Context(), cfg.PeerName)
			if err != nil || name != from.Name {
				return 0, fmt.Errorf("certificate names %q, want %q: %w", name, from.Name, errors.Join(err, errWrongName))
			}
		}
		for _, x := range m.GetChanges() {
			c, err := readChange(x)
			if err == nil && c.Delete {
				err = fmt.Errorf("%q is a deletion", c.ID)
			}
			if err == nil {
				err = put(c)
			}
			if err != nil {
				return n, err
			}
			n++
		}
		if m.GetLast() {
			if m.GetSessions() != uint64(n) {
				return n, fmt.Errorf("%d sessions came, %d were announced", n, m.GetSessions())
			}
			return n, nil
		}
	}
}

var errWrongName = errors.New("not the appliance that was asked for")

// Fetch serves the sessions of a slot to its owner.
func (r *Receiver) Fetch(req *peerv1.FetchRequest, stream peerv1.Replica_FetchServer) error {
	ctx := stream.Context()
	if v := req.GetProtocolVersion(); v < MinProtocolVersion || v > ProtocolVersion || v < packedSince && r.cfg.Legacy == nil {
		return r.refuse(ctx, KindVersion, status.Errorf(codes.InvalidArgument, "fetch with protocol version %d, spoken are %d to %d", v, MinProtocolVersion, ProtocolVersion))
	}
	if err := readClaim(req.GetSlot(), req.GetTicket(), req.GetOwner(), req.GetIncarnation()); err != nil {
		return r.refuse(ctx, KindGreeting, status.Errorf(codes.InvalidArgument, "read fetch request: %v", err))
	}
	if err := r.certified(ctx, req.Owner); err != nil {
		return r.refuse(ctx, KindName, err)
	}
	slot := sa.Slot(req.Slot)
	st := r.slot(slot)
	if st == nil {
		return status.Error(codes.Unavailable, "shadow is stopping")
	}
	if kind, err := r.authorize(st, slot, req.Owner, sa.Ticket(req.Ticket)); err != nil {
		return r.refuse(ctx, kind, err)
	}
	var out peerv1.FetchReply
	n, bytes := uint64(0), 0
	for c := range r.cfg.Sink.Docs(slot) {
		if c.Delete {
			continue
		}
		if req.ProtocolVersion < packedSince {
			var err error
			if c.Doc, err = r.cfg.Legacy(c.Doc); err != nil {
				return status.Errorf(codes.Internal, "translate session %s for protocol version %d: %v", c.ID, req.ProtocolVersion, err)
			}
		}
		n++
		bytes += len(c.Doc) + len(c.ID) + 64
		out.Changes = append(out.Changes, &peerv1.Change{Id: c.ID, Hash: c.Hash[:], Doc: c.Doc})
		if bytes >= batchBytes || len(out.Changes) == batchItems {
			if err := stream.Send(&out); err != nil {
				return err
			}
			out.Changes, bytes = nil, 0
		}
	}
	out.Last, out.Sessions = true, n
	r.log.Info("sessions fetched", "slot", slot, "peer", req.Owner, "sessions", n)
	return stream.Send(&out)
}
