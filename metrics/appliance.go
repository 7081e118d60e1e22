package metrics

import (
	"maps"
	"slices"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

func applianceFamilies() []family {
	ofAppliance := func(f func(*v1.Appliance) float64) func(*Snapshot, emit) {
		return func(s *Snapshot, out emit) {
			if s.Appliance != nil {
				out(f(s.Appliance))
			}
		}
	}
	return []family{
		gauge("info", "Who answers: the value is always 1.", []string{"node", "site", "version", "fleet_digest"}, func(s *Snapshot, out emit) {
			if a := s.Appliance; a != nil {
				out(1, a.Name, a.Site, a.Version, a.FleetDigest)
			}
		}),
		gauge("start_time_seconds", "When the daemon was started, in Unix time.", nil,
			ofAppliance(func(a *v1.Appliance) float64 { return float64(a.Started.AsTime().UnixMilli()) / 1000 })),
		gauge("shadowing", "1 where sessions are kept on shadows, 0 where that is switched off.", nil,
			ofAppliance(func(a *v1.Appliance) float64 { return truth(a.Shadowing) })),
		gauge("sessions", "Sessions of the slots that this appliance owns.", nil,
			ofAppliance(func(a *v1.Appliance) float64 { return float64(a.Sessions) })),
		gauge("slots", "Slots that are active and that are shadowed here.", []string{"role"}, func(s *Snapshot, out emit) {
			if a := s.Appliance; a != nil {
				out(float64(a.SlotsActive), "owner")
				out(float64(a.SlotsShadowed), "shadow")
			}
		}),
		gauge("standing", "How fit the appliance is to serve, the worst of all sources: 1 normal, 2 watch, 3 degraded, 4 draining, 5 withdrawn.", nil, func(s *Snapshot, out emit) {
			if s.Standing != v1.Standing_STANDING_UNSPECIFIED {
				out(float64(s.Standing))
			}
		}),
		counter("unique_ended_sessions_total", "Sessions ended here because their clients have another one in another slot: replace ends the older, keep the newer.", []string{"policy"}, func(s *Snapshot, out emit) {
			if s.Unique != nil {
				for _, p := range slices.Sorted(maps.Keys(s.Unique.Ended)) {
					out(float64(s.Unique.Ended[p]), p)
				}
			}
		}),
		counter("unique_untold_sessions_total", "New sessions under unique policies of which an appliance was never told, once for each.", nil, func(s *Snapshot, out emit) {
			if s.Unique != nil {
				out(float64(s.Unique.Untold))
			}
		}),
		gauge("certificate_expiry_timestamp_seconds", "When a certificate ends, in Unix time: ca is the fleet's, cert this appliance's.", []string{"file"}, func(s *Snapshot, out emit) {
			for _, f := range slices.Sorted(maps.Keys(s.Certificates)) {
				out(float64(s.Certificates[f].Unix()), f)
			}
		}),
	}
}
