// SPDX-License-Identifier: Apache-2.0
//
// The fence of one slot: two tc programs on the slot's end of its veth. While
// the fence is closed they pass only what keeps neighbours known: ARP, and
// IPv6 neighbour discovery of link scope. While it is open, egress still drops
// packets to the slot's own inner prefixes that were not encrypted: no policy
// matched them, and the host would send them straight back. And it drops ESP of
// SAs that are barred: their sequence numbers are another owner's.
//
// Built by `go generate` with clang -mcpu=v2; headers are read with
// bpf_skb_load_bytes, which every supported kernel's verifier accepts.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ICMPV6_RS 133
#define ICMPV6_REDIRECT 137

enum { DROP_INGRESS, DROP_EGRESS, DROP_CLEAR, DROPS };

struct prefix {
	__u32 bits;
	__u8 addr[16]; // IPv4 as ::ffff:a.b.c.d
};

// CLOCK_MONOTONIC in nanoseconds until which the fence is open: 0 is closed,
// all ones is open without a deadline.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} fence_deadline SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DROPS);
	__type(key, __u32);
	__type(value, __u64);
} fence_drops SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct prefix);
	__type(value, __u8);
} fence_inner SEC(".maps");

// Outbound SAs that may not send yet, by SPI and destination: clients choose
// these SPIs, so two may choose the same one.
struct outbound {
	__be32 spi;
	__u8 dst[16]; // IPv4 as ::ffff:a.b.c.d
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);
	__type(key, struct outbound);
	__type(value, __u8);
} fence_barred SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} fence_barred_drops SEC(".maps");

static __always_inline int drop(__u32 reason)
{
	__u64 *n = bpf_map_lookup_elem(&fence_drops, &reason);

	if (n)
		(*n)++;
	return TC_ACT_SHOT;
}

static __always_inline int is_open(void)
{
	__u32 zero = 0;
	volatile __u64 *p = bpf_map_lookup_elem(&fence_deadline, &zero);
	__u64 until;

	if (!p)
		return 0;
	until = *p;
	return until == ~0ULL || bpf_ktime_get_ns() < until;
}

// Neighbour discovery counts only with hop limit 255 (RFC 4861 section 6.1):
// it was never routed.
static __always_inline int is_neighbour(struct __sk_buff *skb)
{
	__u8 h[8], type;

	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return 1;
	if (skb->protocol != bpf_htons(ETH_P_IPV6))
		return 0;
	if (bpf_skb_load_bytes(skb, ETH_HLEN, h, sizeof(h)) < 0)
		return 0;
	if (h[6] != IPPROTO_ICMPV6 || h[7] != 255)
		return 0;
	if (bpf_skb_load_bytes(skb, ETH_HLEN + 40, &type, 1) < 0)
		return 0;
	return type >= ICMPV6_RS && type <= ICMPV6_REDIRECT;
}

// Packets to an inner prefix that are neither ESP nor UDP-encapsulated ESP or
// IKE (RFC 3948, RFC 7296 section 2).
static __always_inline int is_clear_inner(struct __sk_buff *skb)
{
	struct prefix k = { .bits = 128 };
	__u8 proto, ihl;
	__u32 l4;
	__u16 sport;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		k.addr[10] = 0xff;
		k.addr[11] = 0xff;
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ihl, 1) < 0 ||
		    bpf_skb_load_bytes(skb, ETH_HLEN + 9, &proto, 1) < 0 ||
		    bpf_skb_load_bytes(skb, ETH_HLEN + 16, &k.addr[12], 4) < 0)
			return 1;
		l4 = ETH_HLEN + (ihl & 15) * 4;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + 6, &proto, 1) < 0 ||
		    bpf_skb_load_bytes(skb, ETH_HLEN + 24, k.addr, 16) < 0)
			return 1;
		l4 = ETH_HLEN + 40;
	} else {
		return 0;
	}
	if (!bpf_map_lookup_elem(&fence_inner, &k))
		return 0;
	if (proto == IPPROTO_ESP)
		return 0;
	if (proto != IPPROTO_UDP || bpf_skb_load_bytes(skb, l4, &sport, 2) < 0)
		return 1;
	return sport != bpf_htons(4500) && sport != bpf_htons(500);
}

// ESP (RFC 4303 section 2.1), bare or in UDP (RFC 3948 section 2.1), of a barred
// SA. Later fragments have no SPI; without the first one they are lost.
static __always_inline int is_barred(struct __sk_buff *skb)
{
	struct outbound k = {};
	__u8 proto, ihl;
	__u32 l4;
	__u16 sport;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		k.dst[10] = 0xff;
		k.dst[11] = 0xff;
		if (bpf_skb_load_bytes(skb, ETH_HLEN, &ihl, 1) < 0 ||
		    bpf_skb_load_bytes(skb, ETH_HLEN + 9, &proto, 1) < 0 ||
		    bpf_skb_load_bytes(skb, ETH_HLEN + 16, &k.dst[12], 4) < 0)
			return 1;
		l4 = ETH_HLEN + (ihl & 15) * 4;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + 6, &proto, 1) < 0 ||
		    bpf_skb_load_bytes(skb, ETH_HLEN + 24, k.dst, 16) < 0)
			return 1;
		l4 = ETH_HLEN + 40;
	} else {
		return 0;
	}
	if (proto == IPPROTO_UDP) {
		if (bpf_skb_load_bytes(skb, l4, &sport, 2) < 0 || sport != bpf_htons(4500))
			return 0;
		l4 += 8;
	} else if (proto != IPPROTO_ESP) {
		return 0;
	}
	if (bpf_skb_load_bytes(skb, l4, &k.spi, 4) < 0)
		return 0; // a keep-alive
	return bpf_map_lookup_elem(&fence_barred, &k) != 0;
}

static __always_inline int drop_barred(void)
{
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&fence_barred_drops, &zero);

	if (n)
		(*n)++;
	return TC_ACT_SHOT;
}

SEC("tc")
int fence_ingress(struct __sk_buff *skb)
{
	if (is_open() || is_neighbour(skb))
		return TC_ACT_OK;
	return drop(DROP_INGRESS);
}

SEC("tc")
int fence_egress(struct __sk_buff *skb)
{
	if (is_neighbour(skb))
		return TC_ACT_OK;
	if (!is_open())
		return drop(DROP_EGRESS);
	if (is_clear_inner(skb))
		return drop(DROP_CLEAR);
	if (is_barred(skb))
		return drop_barred();
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Apache-2.0";
