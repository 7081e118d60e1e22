package metrics

import (
	"slices"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

// placed calls f for the slots that have a place on this appliance.
func placed(s *Snapshot, f func(*v1.Slot, string)) {
	for _, x := range s.Slots {
		if x.State != v1.SlotState_SLOT_STATE_ABSENT {
			f(x, slotText(x.Number))
		}
	}
}

// owned calls f for the slots that this appliance owns.
func owned(s *Snapshot, f func(*v1.Slot, string)) {
	placed(s, func(x *v1.Slot, n string) {
		if x.Role == v1.Role_ROLE_OWNER {
			f(x, n)
		}
	})
}

func slotFamilies() []family {
	slot := []string{"slot"}
	each := func(f func(*v1.Slot) float64) func(*Snapshot, emit) {
		return func(s *Snapshot, out emit) { placed(s, func(x *v1.Slot, n string) { out(f(x), n) }) }
	}
	return []family{
		gauge("slot_owned", "1 where this appliance owns the slot.", slot, each(func(x *v1.Slot) float64 { return truth(x.Role == v1.Role_ROLE_OWNER) })),
		gauge("slot_served", "1 where this appliance owns the slot, or hears one that says it does.", slot, func(s *Snapshot, out emit) {
			placed(s, func(x *v1.Slot, n string) {
				out(truth(x.Role == v1.Role_ROLE_OWNER || slices.ContainsFunc(s.Peers, func(p *v1.Peer) bool { return heardOwner(p, x.Number) })), n)
			})
		}),
		gauge("slot_home", "1 where this appliance is the slot's home.", slot, func(s *Snapshot, out emit) {
			placed(s, func(x *v1.Slot, n string) { out(truth(s.Appliance != nil && x.Home == s.Appliance.Name), n) })
		}),
		gauge("slot_up", "1 where the slot's charon runs and the slot is neither starting nor failed.", slot, each(func(x *v1.Slot) float64 {
			return truth(x.State != v1.SlotState_SLOT_STATE_STARTING && x.State != v1.SlotState_SLOT_STATE_FAILED && x.Charon.GetPid() != 0)
		})),
		gauge("slot_sessions", "Sessions held here, as owner or as shadow.", []string{"slot", "role"}, func(s *Snapshot, out emit) {
			placed(s, func(x *v1.Slot, n string) {
				switch x.Role {
				case v1.Role_ROLE_OWNER:
					out(float64(x.Sessions), n, "owner")
				case v1.Role_ROLE_SHADOW:
					out(float64(x.Sessions), n, "shadow")
				}
			})
		}),
		gauge("slot_ticket", "Our ticket of the slot: owned with, or armed for a claim; 0: none.", slot, each(func(x *v1.Slot) float64 { return float64(x.Ticket) })),
		gauge("slot_fence_open", "1 where the slot's fence lets packets through.", slot,
			each(func(x *v1.Slot) float64 { return truth(x.Fence.GetState() > v1.FenceState_FENCE_STATE_CLOSED) })),
		gauge("slot_ready_shadows", "Shadows of an owned slot that could take it over now.", slot, func(s *Snapshot, out emit) {
			owned(s, func(x *v1.Slot, n string) {
				ready := 0
				for _, sh := range members(x) {
					if sh.Ready {
						ready++
					}
				}
				out(float64(ready), n)
			})
		}),
		gauge("slot_shadows", "Members of the shadow set of an owned slot.", slot, func(s *Snapshot, out emit) {
			owned(s, func(x *v1.Slot, n string) { out(float64(len(members(x))), n) })
		}),
		gauge("sequence_headroom_ratio", "Share of the block of ESP sequence numbers that the worst outbound SA of an owned slot has left.", slot, func(s *Snapshot, out emit) {
			for _, q := range s.Sequences {
				if q.SAs > 0 {
					out(finite(q.Headroom), slotText(q.Slot))
				}
			}
		}),
		gauge("sequence_blocks_left", "Blocks above the owner's for the worst outbound SA of an owned slot: so many tickets can still be used before the child must be rekeyed.", slot, func(s *Snapshot, out emit) {
			for _, q := range s.Sequences {
				if q.SAs > 0 {
					out(float64(q.BlocksLeft), slotText(q.Slot))
				}
			}
		}),
		gauge("outbound_sas", "Outbound ESP SAs of an owned slot.", slot, func(s *Snapshot, out emit) {
			for _, q := range s.Sequences {
				out(float64(q.SAs), slotText(q.Slot))
			}
		}),
	}
}

func shadowFamilies() []family {
	labels := []string{"slot", "shadow"}
	each := func(f func(*v1.Shadow) (float64, bool)) func(*Snapshot, emit) {
		return func(s *Snapshot, out emit) {
			owned(s, func(x *v1.Slot, n string) {
				for _, sh := range members(x) {
					if v, ok := f(sh); ok {
						out(v, n, sh.Name)
					}
				}
			})
		}
	}
	stream := func(f func(Replication) uint64) func(*Snapshot, emit) {
		return func(s *Snapshot, out emit) {
			for _, r := range s.Replication {
				out(float64(f(r)), slotText(r.Slot), r.Shadow)
			}
		}
	}
	return []family{
		gauge("shadow_ready", "1 where the shadow could take the slot over now.", labels, each(func(sh *v1.Shadow) (float64, bool) { return truth(sh.Ready), true })),
		gauge("shadow_connected", "1 where the shadow's replication stream is up.", labels, each(func(sh *v1.Shadow) (float64, bool) { return truth(sh.Connected), true })),
		gauge("shadow_armed", "1 where the shadow holds a ticket above the owner's.", labels, func(s *Snapshot, out emit) {
			owned(s, func(x *v1.Slot, n string) {
				for _, sh := range members(x) {
					out(truth(sh.Ticket > x.OwnerTicket), n, sh.Name)
				}
			})
		}),
		gauge("shadow_lag_changes", "Sessions that changed and that the shadow has not acknowledged.", labels,
			each(func(sh *v1.Shadow) (float64, bool) { return float64(sh.LagMessages), true })),
		gauge("shadow_lag_seconds", "Age of the oldest change that the shadow has not acknowledged.", labels,
			each(func(sh *v1.Shadow) (float64, bool) { return sh.Lag.AsDuration().Seconds(), true })),
		gauge("shadow_replay_age_seconds", "Age of the newest acknowledged replay samples: the exposure to replay at a takeover.", labels,
			each(func(sh *v1.Shadow) (float64, bool) { return sh.ReplayAge.AsDuration().Seconds(), sh.ReplayAge != nil })),
		gauge("shadow_sessions", "Sessions that the shadow should hold.", labels, each(func(sh *v1.Shadow) (float64, bool) { return float64(sh.Sessions), true })),
		counter("replication_sent_bytes_total", "Bytes of session documents and names sent to the shadow since the tenure began.", labels, stream(func(r Replication) uint64 { return r.Bytes })),
		counter("replication_connects_total", "Replication streams that got past the greeting since the tenure began.", labels, stream(func(r Replication) uint64 { return r.Connects })),
		counter("replication_repairs_total", "Comparisons with the shadow that found a difference since the tenure began.", labels, stream(func(r Replication) uint64 { return r.Repairs })),
	}
}

// heardOwner reports whether p is heard and says that it owns the slot.
func heardOwner(p *v1.Peer, slot uint32) bool {
	return p.State == v1.PeerState_PEER_STATE_UP && slices.ContainsFunc(p.Claims, func(c *v1.Claim) bool { return c.Slot == slot })
}

// members are the shadows of x without those that were let go: these cover nothing.
func members(x *v1.Slot) []*v1.Shadow {
	return slices.DeleteFunc(slices.Clone(x.Shadows), func(sh *v1.Shadow) bool { return sh.Leaving })
}
