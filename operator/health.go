package operator

import (
	"context"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

// HealthSource is the failure predictor of this appliance.
type HealthSource interface {
	Health(ctx context.Context, signals bool) (*v1.GetHealthResponse, error)
	// ClearHealth forgets latched limits of one part, or all if serial is empty.
	ClearHealth(ctx context.Context, serial string) (*v1.ClearHealthResponse, error)
}

// healths answers HealthService.
type healths struct {
	v1.UnimplementedHealthServiceServer
	*service
}

func (h healths) GetHealth(ctx context.Context, req *v1.GetHealthRequest) (*v1.GetHealthResponse, error) {
	return h.backend.Health.Health(ctx, req.Signals)
}

func (h healths) ClearHealth(ctx context.Context, req *v1.ClearHealthRequest) (*v1.ClearHealthResponse, error) {
	if len(req.Serial) > maxID {
		return nil, Invalid("SERIAL_INVALID", "serial: at most %d characters", maxID)
	}
	r, err := h.backend.Health.ClearHealth(ctx, req.Serial)
	h.audit(ctx, "health.clear", 0, err, map[string]string{"serial": req.Serial})
	return r, err
}
