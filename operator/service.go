package operator

import (
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/sa"
)

// Page sizes of ListSessions.
const (
	defaultPage = 100
	maxPage     = 1000
)

// maxID bounds what a caller may give as a session id or a name.
const maxID = 256

// service answers the calls.
type service struct {
	v1.UnimplementedOperatorServiceServer
	backend  Backend
	events   *Events
	life     context.Context // of the daemon; set before the first call
	stopping chan struct{}
	refused  refusedCalls
}

func (s *service) GetStatus(ctx context.Context, _ *v1.GetStatusRequest) (*v1.GetStatusResponse, error) {
	a, err := s.backend.Status.Appliance(ctx)
	if err != nil {
		return nil, err
	}
	slots, err := s.backend.Slots.Slots(ctx)
	if err != nil {
		return nil, err
	}
	peers, err := s.backend.Status.Peers(ctx)
	if err != nil {
		return nil, err
	}
	return &v1.GetStatusResponse{Appliance: a, Slots: slots, Peers: peers}, nil
}

func (s *service) ListSlots(ctx context.Context, _ *v1.ListSlotsRequest) (*v1.ListSlotsResponse, error) {
	slots, err := s.backend.Slots.Slots(ctx)
	if err != nil {
		return nil, err
	}
	return &v1.ListSlotsResponse{Slots: slots}, nil
}

func (s *service) GetSlot(ctx context.Context, req *v1.GetSlotRequest) (*v1.GetSlotResponse, error) {
	n, err := slotNumber(req.Number)
	if err != nil {
		return nil, err
	}
	slots, err := s.backend.Slots.Slots(ctx)
	if err != nil {
		return nil, err
	}
	for _, slot := range slots {
		if slot.Number == uint32(n) {
			return &v1.GetSlotResponse{Slot: slot}, nil
		}
	}
	return nil, slotUnknown(n)
}

func (s *service) ListSessions(ctx context.Context, req *v1.ListSessionsRequest) (*v1.ListSessionsResponse, error) {
	if req.Slot != 0 {
		if _, err := slotNumber(req.Slot); err != nil {
			return nil, err
		}
	}
	after, err := base64.RawURLEncoding.DecodeString(req.PageToken)
	if err != nil || len(after) > maxID {
		return nil, Invalid("PAGE_TOKEN_INVALID", "page_token is not one that this API gave")
	}
	unwanted, err := unmasked(req.ReadMask)
	if err != nil {
		return nil, err
	}
	size := int(min(req.PageSize, maxPage))
	if size == 0 {
		size = defaultPage
	}
	// One more than the page tells whether there is a next one.
	sessions, err := s.backend.Sessions.Sessions(ctx, sa.Slot(req.Slot), string(after), size+1)
	if err != nil {
		return nil, err
	}
	resp := &v1.ListSessionsResponse{Sessions: sessions}
	if len(sessions) > size {
		resp.Sessions = sessions[:size]
		resp.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(sessions[size-1].Id))
	}
	for _, x := range resp.Sessions {
		for _, f := range unwanted {
			x.ProtoReflect().Clear(f)
		}
	}
	return resp, nil
}

// unmasked returns the fields of a session that mask leaves out, none if it is empty.
func unmasked(mask *fieldmaskpb.FieldMask) (out []protoreflect.FieldDescriptor, err error) {
	fields := (&v1.Session{}).ProtoReflect().Descriptor().Fields()
	for _, p := range mask.GetPaths() {
		if fields.ByName(protoreflect.Name(p)) == nil {
			return nil, Invalid("READ_MASK_INVALID", "read_mask: %.80q is no field of a session", p)
		}
	}
	if len(mask.GetPaths()) == 0 {
		return nil, nil
	}
	for i := range fields.Len() {
		if f := fields.Get(i); !slices.Contains(mask.GetPaths(), string(f.Name())) {
			out = append(out, f)
		}
	}
	return out, nil
}

func (s *service) GetSession(ctx context.Context, req *v1.GetSessionRequest) (*v1.GetSessionResponse, error) {
	if req.Id == "" || len(req.Id) > maxID {
		return nil, Invalid("SESSION_ID_INVALID", "session id: want 1 to %d characters", maxID)
	}
	if req.RevealKeys {
		if !callerOf(ctx).root {
			err := Denied("KEYS_FOR_ROOT", "key material is shown to root only")
			s.audit(ctx, "session.reveal-keys", 0, err, map[string]string{"session": req.Id})
			return nil, err
		}
	}
	session, doc, err := s.backend.Sessions.Session(ctx, req.Id, req.RevealKeys)
	if req.RevealKeys {
		s.audit(ctx, "session.reveal-keys", sa.Slot(session.GetSlot()), err, map[string]string{"session": req.Id})
	}
	if err != nil {
		return nil, err
	}
	return &v1.GetSessionResponse{Session: session, Document: doc}, nil
}

func (s *service) Handover(req *v1.HandoverRequest, stream grpc.ServerStreamingServer[v1.HandoverResponse]) error {
	n, err := slotNumber(req.Slot)
	if err != nil {
		return err
	}
	if req.To == "" || len(req.To) > maxID {
		return Invalid("APPLIANCE_INVALID", "to: want the name of an appliance")
	}
	if len(req.Reason) > maxReason {
		return Invalid("REASON_INVALID", "reason: at most %d characters", maxReason)
	}
	why := who(stream.Context()) + " asked for it"
	if req.Reason != "" {
		why += ": " + req.Reason
	}
	s.audit(stream.Context(), "slot.handover", n, nil, map[string]string{"to": req.To, "outcome": "asked"})
	// A caller that hangs up stops hearing, not the handover.
	progress, said := relay(func(p *v1.HandoverProgress) error {
		return stream.Send(&v1.HandoverResponse{Event: &v1.HandoverResponse_Progress{Progress: p}})
	})
	account, err := s.backend.Slots.Handover(s.life, n, req.To, why, progress)
	if err != nil && s.life.Err() != nil && errors.Is(err, context.Canceled) {
		err = status.Errorf(codes.Unavailable, "the daemon stopped in the middle of the handover: %v", err)
	}
	s.audit(stream.Context(), "slot.handover", n, err, map[string]string{"to": req.To})
	said()
	if err != nil {
		return err
	}
	return stream.Send(&v1.HandoverResponse{Event: &v1.HandoverResponse_Account{Account: account}})
}

// watchBatch is how many events are taken out of the log at once.
const watchBatch = 128

func (s *service) WatchEvents(req *v1.WatchEventsRequest, stream grpc.ServerStreamingServer[v1.WatchEventsResponse]) error {
	if req.Slot > uint32(sa.MaxSlot) {
		_, err := slotNumber(req.Slot)
		return err
	}
	if req.Since != nil && req.Since.CheckValid() != nil {
		return Invalid("TIME_INVALID", "since is no valid time")
	}
	end := s.events.Last()
	var cursor, missed uint64
	// What is lost before the first event counts only for a caller who named it.
	quiet := true
	if req.FromId > 0 && req.FromId <= end+1 {
		cursor, quiet = req.FromId-1, false
	}
	for {
		events, lost, changed := s.events.After(cursor, watchBatch)
		if !quiet {
			missed += lost
		}
		quiet = false
		cursor += lost
		for _, ev := range events {
			if !req.Follow && ev.Id > end {
				return nil
			}
			cursor = ev.Id
			if req.Slot != 0 && ev.Slot != req.Slot || req.Since != nil && ev.Time.AsTime().Before(req.Since.AsTime()) {
				continue
			}
			if err := stream.Send(&v1.WatchEventsResponse{Event: ev, Missed: missed}); err != nil {
				return err
			}
			missed = 0
		}
		if len(events) > 0 {
			continue
		}
		if !req.Follow {
			return nil
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-s.stopping:
			return status.Error(codes.Unavailable, "the daemon stops")
		}
	}
}

func (s *service) GetPeers(ctx context.Context, _ *v1.GetPeersRequest) (*v1.GetPeersResponse, error) {
	peers, err := s.backend.Status.Peers(ctx)
	if err != nil {
		return nil, err
	}
	refusals, err := s.backend.Refusals.Refusals(ctx)
	if err != nil {
		return nil, err
	}
	return &v1.GetPeersResponse{Peers: peers, Refusals: refusals}, nil
}

func (s *service) GetBGP(ctx context.Context, _ *v1.GetBGPRequest) (*v1.GetBGPResponse, error) {
	return s.backend.Status.BGP(ctx)
}

// audit records who did what, and how it ended.
func (s *service) audit(ctx context.Context, call string, slot sa.Slot, err error, attrs map[string]string) {
	attrs["call"] = call
	maps.Copy(attrs, callerOf(ctx).attrs)
	ev := Event{Kind: "audit", Slot: slot, Message: "operator called " + call, Attributes: attrs}
	if attrs["outcome"] == "" {
		attrs["outcome"] = "done"
	}
	if err != nil {
		attrs["outcome"], ev.Level, ev.Reason = "failed", slog.LevelWarn, err.Error()
		var refusal *Error
		if errors.As(err, &refusal) {
			attrs["outcome"] = "refused"
		}
	}
	s.events.Add(ev)
}

func slotNumber(n uint32) (sa.Slot, error) {
	if n < 1 || n > uint32(sa.MaxSlot) {
		return 0, Invalid("SLOT_INVALID", "slot %d: want 1 to %d", n, sa.MaxSlot).With("slot", strconv.FormatUint(uint64(n), 10))
	}
	return sa.Slot(n), nil
}

func slotUnknown(n sa.Slot) error {
	return NotFound("SLOT_UNKNOWN", "slot %d is not configured in this fleet", n).With("slot", strconv.Itoa(int(n)))
}
