package metrics

import (
	"maps"
	"slices"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

// notDrops are the reasons of steering that count something else than lost
// packets.
var notDrops = map[string]bool{"icmp-cloned": true, "event-ring-full": true}

func packetFamilies() []family {
	// labelled maps the slot counters of the operator API to the values of a label.
	labelled := func(keys ...[2]string) func(*Snapshot, emit) {
		return func(s *Snapshot, out emit) {
			placed(s, func(x *v1.Slot, n string) {
				for _, k := range keys {
					if v, ok := x.Counters[k[0]]; ok {
						out(float64(v), n, k[1])
					}
				}
			})
		}
	}
	plain := func(key string) func(*Snapshot, emit) {
		return func(s *Snapshot, out emit) {
			placed(s, func(x *v1.Slot, n string) {
				if v, ok := x.Counters[key]; ok {
					out(float64(v), n)
				}
			})
		}
	}
	steering := func(reason string) func(*Snapshot, emit) {
		return func(s *Snapshot, out emit) {
			if v, ok := s.Steering[reason]; ok {
				out(float64(v))
			}
		}
	}
	slot := []string{"slot"}
	return []family{
		counter("steering_packets_total", "Packets of a slot by way: uplink and peer are delivered here, tunnel is sent to the owner.", []string{"slot", "way"},
			labelled([2]string{"packets_uplink_local", "uplink"}, [2]string{"packets_peer_local", "peer"}, [2]string{"packets_tunnelled", "tunnel"})),
		counter("steering_dropped_packets_total", "Packets for the VIP or from a tunnel that steering dropped, by reason.", []string{"reason"}, func(s *Snapshot, out emit) {
			for _, r := range slices.Sorted(maps.Keys(s.Steering)) {
				if !notDrops[r] {
					out(float64(s.Steering[r]), r)
				}
			}
		}),
		counter("steering_icmp_cloned_total", "ICMP errors about outbound ESP that went to the active slots here.", nil, steering("icmp-cloned")),
		counter("steering_events_lost_total", "IKE headers that the daemon did not hear of because its ring was full.", nil, steering("event-ring-full")),
		counter("fence_dropped_packets_total", "Packets that a slot's fence dropped; barred ones are of SAs that are in no block of ours yet.", []string{"slot", "direction"},
			labelled([2]string{"fence_dropped_in", "in"}, [2]string{"fence_dropped_out", "out"}, [2]string{"fence_dropped_barred", "barred"})),
		counter("ha_received_messages_total", "Messages of the slot's charon.", slot, plain("ha_received")),
		counter("ha_sent_messages_total", "Messages to the slot's charon.", slot, plain("ha_sent")),
		counter("ha_dropped_messages_total", "Messages between the daemon and charon that a full socket buffer lost.", slot, plain("ha_dropped")),
		counter("ha_undecodable_messages_total", "Messages of charon that could not be read.", slot, plain("ha_undecodable")),
	}
}

func peerFamilies() []family {
	peer := []string{"peer"}
	each := func(f func(*v1.Peer) float64) func(*Snapshot, emit) {
		return func(s *Snapshot, out emit) {
			for _, p := range s.Peers {
				out(f(p), p.Name)
			}
		}
	}
	return []family{
		gauge("peer_up", "1 where the appliance is heard.", peer, each(func(p *v1.Peer) float64 { return truth(p.State == v1.PeerState_PEER_STATE_UP) })),
		gauge("peer_refused", "1 where the appliance answers and is refused.", peer, each(func(p *v1.Peer) float64 { return truth(p.State == v1.PeerState_PEER_STATE_REFUSED) })),
		gauge("peer_rtt_seconds", "Round-trip time of probes.", peer, each(func(p *v1.Peer) float64 { return p.Rtt.AsDuration().Seconds() })),
		gauge("peer_jitter_seconds", "Variation of the round-trip time of probes.", peer, each(func(p *v1.Peer) float64 { return p.Jitter.AsDuration().Seconds() })),
		gauge("peer_loss_ratio", "Share of the peer's probes that did not arrive, 0 to 1.", peer, each(func(p *v1.Peer) float64 { return finite(p.Loss) })),
	}
}

func bgpFamilies() []family {
	labels := []string{"peer", "role"}
	each := func(f func(*v1.BGPPeer) (float64, bool)) func(*Snapshot, emit) {
		return func(s *Snapshot, out emit) {
			for _, p := range s.BGP.GetPeers() {
				if v, ok := f(p); ok {
					out(v, p.Name, p.Role)
				}
			}
		}
	}
	return []family{
		gauge("bgp_session_up", "1 where the BGP session is established.", labels, each(func(p *v1.BGPPeer) (float64, bool) { return truth(p.State == "established"), true })),
		gauge("bgp_bfd_up", "1 where BFD with the router is up; missing where it is off.", labels,
			each(func(p *v1.BGPPeer) (float64, bool) { return truth(p.Bfd == "up"), p.Bfd != "off" && p.Bfd != "" })),
		gauge("bgp_announced_prefixes", "Prefixes announced to the router.", labels, each(func(p *v1.BGPPeer) (float64, bool) { return float64(p.Announced), true })),
		counter("bgp_flaps_total", "Times that the BGP session was lost.", labels, each(func(p *v1.BGPPeer) (float64, bool) { return float64(p.Flaps), true })),
		gauge("bgp_vip_level", "How the VIP is announced: 1 normal, 2 degraded, 3 draining, 4 withdrawn.", nil, func(s *Snapshot, out emit) {
			if b := s.BGP; b.GetEnabled() && b.Level != v1.BGPLevel_BGP_LEVEL_UNSPECIFIED {
				out(float64(b.Level))
			}
		}),
	}
}
