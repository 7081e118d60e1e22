package node

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/operator"
	"github.com/shadowcast/shadowcast/ssm"
)

// Health answers the operator API's HealthService.
func (m *monitor) Health(_ context.Context, signals bool) (*v1.GetHealthResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := &m.last
	r := &v1.GetHealthResponse{Appliance: m.a.cfg.Node, Enabled: m.a.cfg.Health.Enabled, State: stateProto(a.State), Raw: stateProto(a.Raw),
		Risk_30D: a.R30, Evidence_30D: a.E30, Risk_1H: a.R1h, Confidence: a.Confidence, Why: a.Why, Guard: m.verdict.Alarm, Refused: m.predictor.Refused(),
		Since: stamp(m.ladder.Since)}
	if a.TimeToFailure > 0 {
		r.TimeToFailure = durationpb.New(a.TimeToFailure)
	}
	if n := a.Next; n != nil {
		r.Next = &v1.HealthOutlook{State: stateProto(n.State), At: stamp(n.At), Why: n.Why}
	}
	for _, c := range a.Causes {
		r.Causes = append(r.Causes, &v1.HealthCause{Device: c.Device.String(), Signal: string(c.Signal), Term: c.Term, Detail: c.Detail, Horizon: c.Horizon.String(),
			Hazard: c.Hazard, Share: c.Share, Age: durationpb.New(c.Age)})
	}
	for _, l := range a.Limits {
		r.Limits = append(r.Limits, &v1.HealthLimit{Device: l.Device.String(), Serial: l.Device.Serial, Limit: l.Limit, Detail: l.Detail, Since: stamp(l.Since),
			Redundant: l.Redundant, UntilBoot: l.Boot})
	}
	for _, s := range a.Silent {
		r.Silent = append(r.Silent, &v1.HealthSilence{Source: s.Source, Device: s.Device.String(), Signal: string(s.Signal), Why: s.Why, Since: stamp(s.Since)})
	}
	for _, p := range m.trend {
		r.Trend = append(r.Trend, &v1.HealthPoint{At: stamp(p.At), Risk_30D: p.R30, Risk_1H: p.R1h, State: stateProto(p.State)})
	}
	if signals {
		for _, s := range m.predictor.Readings() {
			r.Signals = append(r.Signals, &v1.HealthSignal{Device: s.Device.String(), Signal: string(s.Signal), Unit: string(s.Unit), Value: s.Value, At: stamp(s.At)})
		}
	}
	return r, nil
}

// ClearHealth forgets latched limits.
func (m *monitor) ClearHealth(_ context.Context, serial string) (*v1.ClearHealthResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.predictor.Clear(serial)
	if n == 0 && serial != "" {
		return nil, operator.NotFound("LIMIT_UNKNOWN", "no limit of a part with serial %q is latched; 'shadowctl health' lists them", serial)
	}
	if n > 0 {
		m.keep(time.Now())
	}
	return &v1.ClearHealthResponse{Cleared: uint32(n)}, nil
}

// HealthSnapshot is what metrics may show: the last assessment and the newest
// value of every signal.
func (a *Appliance) HealthSnapshot() (hwhealth.Assessment, []hwhealth.Sample) {
	a.health.mu.Lock()
	defer a.health.mu.Unlock()
	return a.health.last, a.health.predictor.Readings()
}

func stateProto(s hwhealth.State) v1.Standing { return standingProto(ssm.Standing(s)) }

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
