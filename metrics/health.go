package metrics

import (
	v1 "github.com/shadowcast/shadowcast/api/v1"
)

// maxCauses bounds the causes shown; the predictor tells the largest first.
const maxCauses = 10

func healthFamilies() []family {
	known := func(f func(*v1.GetHealthResponse, emit)) func(*Snapshot, emit) {
		return func(s *Snapshot, out emit) {
			if s.Health.GetEnabled() {
				f(s.Health, out)
			}
		}
	}
	return []family{
		gauge("health_risk_ratio", "Predicted probability that the machine fails within the horizon.", []string{"horizon"}, known(func(h *v1.GetHealthResponse, out emit) {
			out(finite(h.Risk_30D), "30d")
			out(finite(h.Risk_1H), "1h")
		})),
		gauge("health_evidence_ratio", "The part of the 30-day risk that rests on evidence.", nil, known(func(h *v1.GetHealthResponse, out emit) { out(finite(h.Evidence_30D)) })),
		gauge("health_confidence_ratio", "Share of the known signals that speak.", nil, known(func(h *v1.GetHealthResponse, out emit) { out(finite(h.Confidence)) })),
		gauge("health_state", "State of the predictor: 1 normal, 2 watch, 3 degraded, 4 draining, 5 withdrawn.", nil, known(func(h *v1.GetHealthResponse, out emit) {
			if h.State != v1.Standing_STANDING_UNSPECIFIED {
				out(float64(h.State))
			}
		})),
		gauge("health_cause_ratio", "Share of a cause in the risk of its horizon, for the largest causes.", []string{"device", "signal", "term", "horizon"}, known(func(h *v1.GetHealthResponse, out emit) {
			// Two causes may differ in what is no label; their shares add up.
			type key struct{ device, signal, term, horizon string }
			share := map[key]float64{}
			var order []key
			for _, c := range h.Causes[:min(len(h.Causes), maxCauses)] {
				k := key{c.Device, c.Signal, c.Term, c.Horizon}
				if _, seen := share[k]; !seen {
					order = append(order, k)
				}
				share[k] += finite(c.Share)
			}
			for _, k := range order {
				out(share[k], k.device, k.signal, k.term, k.horizon)
			}
		})),
		gauge("health_limits", "Hard limits that are passed and not cleared.", []string{"redundant"}, known(func(h *v1.GetHealthResponse, out emit) {
			n := map[bool]int{}
			for _, l := range h.Limits {
				n[l.Redundant]++
			}
			out(float64(n[false]), "no")
			out(float64(n[true]), "yes")
		})),
		gauge("health_silent_sources", "Sources of health signals that do not say what they should.", nil, known(func(h *v1.GetHealthResponse, out emit) { out(float64(len(h.Silent))) })),
		counter("health_refused_readings_total", "Readings that made no sense.", nil, known(func(h *v1.GetHealthResponse, out emit) { out(float64(h.Refused)) })),
	}
}
