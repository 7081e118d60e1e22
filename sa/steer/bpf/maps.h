// SPDX-License-Identifier: Apache-2.0
// Every map is pinned by name, so that steering outlives the daemon.
#pragma once

#include "types.h"
#include <bpf/bpf_helpers.h>

#define ARRAY(map, kind, key_t, value_t, n, fl)        \
	struct {                                        \
		__uint(type, kind);                     \
		__uint(max_entries, n);                 \
		__uint(map_flags, fl);                  \
		__uint(pinning, LIBBPF_PIN_BY_NAME);    \
		__type(key, key_t);                     \
		__type(value, value_t);                 \
	} map SEC(".maps")

ARRAY(config, BPF_MAP_TYPE_ARRAY, __u32, struct settings, 1, 0);
ARRAY(vips, BPF_MAP_TYPE_HASH, struct addr, __u8, MAX_VIPS, 0);
ARRAY(uplink_actions, BPF_MAP_TYPE_ARRAY, __u32, struct action, MAX_SLOTS, 0);
ARRAY(peer_actions, BPF_MAP_TYPE_ARRAY, __u32, struct action, MAX_SLOTS, 0);
ARRAY(new_clients, BPF_MAP_TYPE_ARRAY, __u32, __u16, NEW_CLIENT_BUCKETS, 0);
ARRAY(peers, BPF_MAP_TYPE_HASH, __u32, __u8, MAX_PEERS, 0); // key: IPv4, host order
ARRAY(inner4, BPF_MAP_TYPE_LPM_TRIE, struct prefix4, __u8, MAX_INNER, BPF_F_NO_PREALLOC);
ARRAY(inner6, BPF_MAP_TYPE_LPM_TRIE, struct prefix6, __u8, MAX_INNER, BPF_F_NO_PREALLOC);
ARRAY(fragments, BPF_MAP_TYPE_LRU_HASH, struct fragment, __u16, MAX_FRAGS, 0);
ARRAY(watch, BPF_MAP_TYPE_HASH, __be32, __u8, MAX_WATCH, 0);
ARRAY(buckets, BPF_MAP_TYPE_ARRAY, __u32, struct bucket, MAX_SLOTS, 0);
ARRAY(hits, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct slot_hits, MAX_SLOTS, 0);
ARRAY(reasons, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, R_MAX, 0);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, EVENT_RING_BYTES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} events SEC(".maps");

// test_peer, when set before loading, stands for the tunnel source: a packet
// under BPF_PROG_TEST_RUN has no tunnel key. The verifier removes the branch
// where it is 0.
volatile const __u32 test_peer;

static __always_inline void count(__u32 reason)
{
	__u64 *n = bpf_map_lookup_elem(&reasons, &reason);

	if (n)
		*n += 1;
}

// Nothing but a map names a type to BTF, and a ring has no value type.
const struct event *event_type __attribute__((unused));
