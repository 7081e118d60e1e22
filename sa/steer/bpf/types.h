// SPDX-License-Identifier: Apache-2.0
// Layouts and counters shared with user space (layout.go mirrors them; bpf2go
// generates the Go types from the BTF of the maps).
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>

#define MAX_SLOTS 4096
#define MAX_VIPS 8
#define MAX_PEERS 256
#define MAX_INNER 16384
#define MAX_FRAGS 16384
#define MAX_WATCH 16384
#define MAX_ACTIVE 64
#define NEW_CLIENT_BUCKETS 256
#define EVENT_RING_BYTES (4 << 20)

// MARK tags packets handed to the host's routing in the mark delivery mode;
// the slot number is in the low 12 bits.
#define MARK 0x5c000000u

// Tunnel hops are bounded by the TTL of the steered packet, which matters to
// nobody else: it ends at the VIP. The first hop clamps to HOP_FIRST, a second
// one takes HOP_SECOND off and must leave that much again, so a third is
// impossible however the actions are set.
#define HOP_FIRST 4
#define HOP_SECOND 2

enum kind { KIND_DROP, KIND_LOCAL, KIND_REMOTE };
enum delivery { DELIVER_PEER, DELIVER_NEIGH, DELIVER_MARK };
enum family { FAMILY_V4 = 4, FAMILY_V6 = 6 };
enum event_kind { EVENT_IKE = 1, EVENT_ESP = 2 };

// Order and meaning are those of Reason in counters.go.
enum reason {
	R_NONE,
	R_SHORT,
	R_MALFORMED,
	R_HEADERS,
	R_FRAGMENT,
	R_PROTOCOL,
	R_IKE_VERSION,
	R_KEEPALIVE,
	R_LABEL,
	R_NO_HOME,
	R_NO_SLOT,
	R_RATE,
	R_BFD_TTL,
	R_NOT_PEER,
	R_NOT_INNER,
	R_HOPS,
	R_HELPER,
	R_ICMP_QUOTE,
	R_ICMP_RATE,
	R_ICMP_CLONED,
	R_RING_FULL,
	R_MAX,
};

struct addr {
	__u32 family;
	__be32 a[4]; // IPv4: the first word, the others 0
};

// action: the first 8 octets decide and are written last (steer.go).
struct action {
	__u8 kind;
	__u8 pad[3];
	__u32 target; // local: ifindex of the host side of the slot's veth; remote: IPv4 of the peer, host order
	__u8 dmac[6];
	__u8 smac[6];
	__be32 next_hop4;
	__be32 next_hop6[4];
};

struct settings {
	__u64 remote_cost_ns; // nanoseconds of bucket one packet to a peer costs
	__u64 remote_burst_ns;
	__u64 icmp_cost_ns;
	__u64 icmp_burst_ns;
	__u32 tunnel4; // ifindex of the ipip device, 0 = none
	__u32 tunnel6; // ifindex of the gre device that carries inner IPv6, 0 = none
	__u32 local_addr; // outer source address, host order, 0 = by route
	__u16 default_slot;
	__u8 delivery;
	__u8 active_n;
	__u16 active[MAX_ACTIVE]; // local active slots: an ICMP error goes to each
};

// bucket is a token bucket kept as one time: the moment at which it is full
// minus its size (GCRA, ITU-T I.371). Index 0 limits ICMP errors, index n the
// packets of slot n to its peer.
struct bucket {
	struct bpf_spin_lock lock;
	__u32 pad;
	__u64 time;
};

struct slot_hits {
	__u64 local_uplink;
	__u64 local_peer;
	__u64 remote;
};

struct fragment {
	__be32 src[4];
	__be32 dst[4];
	__be32 id;
	__u8 family;
	__u8 proto; // IPv4 only: RFC 791 has it in the key, RFC 8200 has not
	__u16 pad;
};

struct prefix4 {
	__u32 bits;
	__be32 a;
};

struct prefix6 {
	__u32 bits;
	__be32 a[4];
};

struct event {
	__u64 ktime; // CLOCK_MONOTONIC
	__be64 spi_i;
	__be64 spi_r;
	__be32 message_id;
	__be32 length; // of the IKE message, from its header
	__be32 spi; // ESP
	__be32 src[4];
	__be16 sport;
	__u16 slot;
	__u8 kind;
	__u8 exchange;
	__u8 flags;
	__u8 family;
	__u32 pad;
};
