// Package steer carries every packet for the VIP to the slot that owns it,
// wherever that slot is. It owns one eBPF object (bpf/, two programs), the maps
// behind it, the peer tunnel devices and, in the mark delivery mode, the policy
// routing of the VIP. It never decides who owns a slot, never touches a slot's
// namespace (sa/slot does) and sends nothing itself.
//
// The appliance shell calls it: Set with the whole desired state, SetSlot when
// one slot moves, SetShare when another slot takes what names none. Data flows from the shell into maps; back come events (IKE
// headers and first ESP packets of watched SPIs), counters and hits.
//
// # The decision
//
// The slot is in the packet: the top 12 bits of an ESP SPI, the top 16 of the
// gateway's IKE SPI (the responder's where the Initiator flag is set, else the
// initiator's). So a look-up is arithmetic and one array read, whatever the
// number of sessions. IKE with responder SPI 0 is a new client: a hash of the
// initiator SPI picks one of 256 buckets, so that retransmits and COOKIE or
// INVALID_KE_PAYLOAD retries land on the same slot. ICMP echo goes to the default
// slot; ICMP errors that quote our ESP go, copied, to every local active slot;
// everything else for the VIP is dropped and counted by Reason. Other
// destinations are not touched, with two exceptions on uplinks: BFD from beyond
// one hop (RFC 5881 section 5), and IPv6 header chains that cannot be followed,
// which might hide it.
//
// Frames with a VLAN tag pass untouched: they belong to the VLAN device, which is
// an uplink of its own where it should be steered. Priority tags are removed.
//
// Only the first fragment carries an SPI; a map remembers the slot for the
// others. A later fragment that overtakes its first one, or whose entry was
// evicted, is dropped: no slot could ever complete it.
//
// # Where the slot is
//
// Each slot has two actions, for packets from an uplink and for packets from a
// peer, so that a slot that moved away can go on delivering what is still in
// flight to it. Local delivery is bpf_redirect_peer into the slot,
// bpf_redirect_neigh through its veth, or a packet mark and policy routing.
// Remote delivery is a tunnel: IPv4 in an ipip device, IPv6 in a gre device
// (ipip carries only IPv4, sit has no collect-metadata mode), both in
// collect-metadata mode and with outer IPv4, so the peers' IPsec must cover
// protocols 4 and 47. The gre device exists only where a VIP or an inner prefix
// is IPv6. From a tunnel, only configured peers are heard, and only packets to
// the VIP or to the inner prefixes.
//
// A packet takes at most two tunnels, whatever the actions: the TTL of the
// steered packet counts (bpf/types.h). A token bucket per slot limits what goes
// to its peer; a slot without an action is dropped, so an outsider who invents
// SPIs aims at nothing.
//
// # Surviving the daemon
//
// Maps are pinned below Config.PinDir and the programs are held by their
// filters, so steering goes on without the daemon. New adopts the maps, and Set
// replaces the programs in one netlink message each: no packet sees a gap.
// Headers in events are not authenticated: they are hints about what a client
// claims, and an attacker can forge them.
package steer
