package operatortest

import (
	"context"
	"slices"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/operator"
)

// Health answers for a machine that is well but for the Limits of the fake: with
// any it is degraded, until they are cleared.
type Health struct{ *Fake }

func (h Health) Health(_ context.Context, signals bool) (*v1.GetHealthResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := &v1.GetHealthResponse{Appliance: h.Node.GetName(), Enabled: true, State: v1.Standing_STANDING_NORMAL, Risk_30D: 0.001, Confidence: 1, Limits: slices.Clone(h.Limits)}
	if len(r.Limits) > 0 {
		r.State, r.Why = v1.Standing_STANDING_DEGRADED, "a hard limit was passed by a part that another stands in for: "+r.Limits[0].Detail
	}
	if signals {
		r.Signals = []*v1.HealthSignal{{Device: "nvme nvme0 (S4X)", Signal: "nvme.available_spare", Unit: "percent", Value: 100, At: h.Node.GetStarted()}}
	}
	return r, h.Err
}

func (h Health) ClearHealth(_ context.Context, serial string) (*v1.ClearHealthResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	had := len(h.Limits)
	h.Limits = slices.DeleteFunc(h.Limits, func(l *v1.HealthLimit) bool { return serial == "" || l.Serial == serial })
	cleared := had - len(h.Limits)
	if cleared == 0 && serial != "" {
		return nil, operator.NotFound("LIMIT_UNKNOWN", "no limit of a part with serial %q is latched", serial)
	}
	return &v1.ClearHealthResponse{Cleared: uint32(cleared)}, h.Err
}
