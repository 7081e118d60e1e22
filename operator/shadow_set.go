package operator

import (
	"context"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/sa"
)

// ShadowSetSource explains who shadows the slots.
type ShadowSetSource interface {
	// ShadowSets returns the set of one slot, or of all (0), by number.
	ShadowSets(ctx context.Context, slot sa.Slot) ([]*v1.ShadowSet, error)
}

// shadowSets answers ShadowSetService.
type shadowSets struct {
	v1.UnimplementedShadowSetServiceServer
	*service
}

func (s shadowSets) GetShadowSets(ctx context.Context, req *v1.GetShadowSetsRequest) (*v1.GetShadowSetsResponse, error) {
	if req.Slot > uint32(sa.MaxSlot) {
		return nil, Invalid("SLOT_INVALID", "slot %d: want 1 to %d, or 0 for all", req.Slot, sa.MaxSlot)
	}
	sets, err := s.backend.ShadowSets.ShadowSets(ctx, sa.Slot(req.Slot))
	if err != nil {
		return nil, err
	}
	if req.Slot != 0 && len(sets) == 0 {
		return nil, NotFound("SLOT_UNKNOWN", "slot %d is not in the fleet", req.Slot)
	}
	return &v1.GetShadowSetsResponse{Sets: sets}, nil
}
