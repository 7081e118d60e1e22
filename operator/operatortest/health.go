package operatortest

import (
	"context"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/operator"
)

// Health answers for a machine that is well.
type Health struct{ *Fake }

func (h Health) Health(context.Context, bool) (*v1.GetHealthResponse, error) {
	return &v1.GetHealthResponse{Appliance: h.Node.GetName(), Enabled: true, State: v1.Standing_STANDING_NORMAL, Risk_30D: 0.001, Confidence: 1}, h.Err
}

func (h Health) ClearHealth(_ context.Context, serial string) (*v1.ClearHealthResponse, error) {
	return nil, operator.NotFound("LIMIT_UNKNOWN", "no limit of a part with serial %q is latched", serial)
}
