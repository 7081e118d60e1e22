// SPDX-License-Identifier: Apache-2.0
// From the upper-layer header of a packet for the VIP to its slot.
#pragma once

#include "parse.h"
#include <linux/udp.h>

#define PORT_IKE 500
#define PORT_NATT 4500
#define PORT_BFD 3784

#define IKE_FLAG_INITIATOR 0x08
#define IKE_MAJOR 2

#define ICMP4_ECHO 8
#define ICMP4_UNREACHABLE 3
#define ICMP6_ECHO 128
#define ICMP6_UNREACHABLE 1
#define ICMP6_TOO_BIG 2
#define PROTO_ICMP6 58

struct ike_header { // RFC 7296 section 3.1
	__be64 spi_i, spi_r;
	__u8 next, version, exchange, flags;
	__be32 message_id, length;
};
#define IKE_HEADER 28 // the struct is padded to 32

// seen is what classification found, besides the slot: material for an event.
struct seen {
	__u8 kind; // enum event_kind, 0 = none
	__be16 sport;
	__be32 spi;
	struct ike_header ike;
};

// CLONE is returned instead of a slot for an ICMP error about our own packets.
#define CLONE 0x10000
#define NO(reason) (-(reason))

// load reads n octets that must lie inside the IP packet.
#define load(skb, f, off, to, n) \
	((off) + (n) > (f)->end || bpf_skb_load_bytes(skb, off, to, n) < 0)

static __always_inline int home_of(__be64 spi_i)
{
	__u32 bucket = (bpf_be64_to_cpu(spi_i) * 0x9e3779b97f4a7c15ULL) >> 56;
	__u16 *slot = bpf_map_lookup_elem(&new_clients, &bucket);

	return slot && *slot ? *slot : NO(R_NO_HOME);
}

static __always_inline int slot_of_ike(struct __sk_buff *skb, const struct flow *f, __u32 off, struct seen *seen)
{
	struct ike_header *h = &seen->ike;
	__u32 label;

	if (load(skb, f, off, h, IKE_HEADER))
		return NO(R_SHORT);
	if (h->version >> 4 != IKE_MAJOR)
		return NO(R_IKE_VERSION);
	seen->kind = EVENT_IKE;
	if (!(h->flags & IKE_FLAG_INITIATOR))
		label = bpf_be64_to_cpu(h->spi_i) >> 48;
	else if (h->spi_r)
		label = bpf_be64_to_cpu(h->spi_r) >> 48;
	else
		return home_of(h->spi_i);
	if (label == 0 || label >= MAX_SLOTS)
		return NO(R_LABEL);
	return label;
}

static __always_inline int slot_of_esp(struct __sk_buff *skb, const struct flow *f, __u32 off, struct seen *seen)
{
	__be32 h[2]; // SPI, sequence number

	if (load(skb, f, off, h, sizeof(h)))
		return NO(R_SHORT);
	seen->kind = EVENT_ESP;
	seen->spi = h[0];
	if (bpf_ntohl(h[0]) >> 20 == 0)
		return NO(R_LABEL);
	return bpf_ntohl(h[0]) >> 20;
}

static __always_inline int slot_of_udp(struct __sk_buff *skb, const struct flow *f, struct seen *seen)
{
	struct udphdr u;
	__u32 body = f->l4 + sizeof(u), marker = 0;
	__u16 len;

	if (load(skb, f, f->l4, &u, sizeof(u)))
		return NO(R_SHORT);
	seen->sport = u.source;
	len = bpf_ntohs(u.len);
	if (len < sizeof(u) || (f->part == WHOLE && f->l4 + len > f->end))
		return NO(R_MALFORMED);
	if (u.dest == bpf_htons(PORT_IKE))
		return slot_of_ike(skb, f, body, seen);
	if (u.dest != bpf_htons(PORT_NATT))
		return NO(R_PROTOCOL);
	if (len == sizeof(u) + 1) {
		__u8 b = 0;

		if (load(skb, f, body, &b, 1) || b != 0xff)
			return NO(R_SHORT);
		return NO(R_KEEPALIVE);
	}
	if (load(skb, f, body, &marker, sizeof(marker)))
		return NO(R_SHORT);
	if (marker)
		return slot_of_esp(skb, f, body, seen);
	return slot_of_ike(skb, f, body + sizeof(marker), seen);
}

// quotes_ours: does the ICMP error at f->l4 quote an ESP packet that the VIP
// sent, bare or in UDP (RFC 3948)?
static __always_inline int quotes_ours(struct __sk_buff *skb, const struct flow *f)
{
	struct flow q = {};
	__be16 sport;

	if (f->family == FAMILY_V4) {
		struct iphdr ip;

		if (f->l4 + 8 + sizeof(ip) > f->end || read4(skb, f->l4 + 8, &q, &ip))
			return 0;
		if (ip.version != 4 || ip.ihl < 5 || !is_vip(FAMILY_V4, q.key.src))
			return 0;
	} else {
		struct ipv6hdr ip;

		if (f->l4 + 8 + sizeof(ip) > f->end || read6(skb, f->l4 + 8, &q, &ip))
			return 0;
		if (ip.version != 6 || !is_vip(FAMILY_V6, q.key.src))
			return 0;
		q.end = f->end;
		if (walk6(skb, &q))
			return 0;
	}
	if (q.part == LATER)
		return 0;
	if (q.proto == IPPROTO_ESP)
		return 1;
	if (q.proto != IPPROTO_UDP || load(skb, f, q.l4, &sport, sizeof(sport)))
		return 0;
	return sport == bpf_htons(PORT_NATT);
}

static __always_inline int slot_of_icmp(struct __sk_buff *skb, const struct flow *f, const struct settings *cfg)
{
	__u8 h[8];

	if (load(skb, f, f->l4, h, sizeof(h)))
		return NO(R_SHORT);
	if (h[0] == (f->family == FAMILY_V4 ? ICMP4_ECHO : ICMP6_ECHO))
		return cfg->default_slot ? cfg->default_slot : NO(R_NO_SLOT);
	if (f->family == FAMILY_V4 ? h[0] != ICMP4_UNREACHABLE
				   : h[0] != ICMP6_UNREACHABLE && h[0] != ICMP6_TOO_BIG)
		return NO(R_PROTOCOL);
	if (f->part != WHOLE || !quotes_ours(skb, f))
		return NO(R_ICMP_QUOTE);
	return CLONE;
}

// classify returns the slot, CLONE, or a negative reason. A fragment that is
// not the first belongs where the first one went; without that knowledge it is
// dropped, since no slot could ever complete it.
static __always_inline int classify(struct __sk_buff *skb, const struct flow *f, const struct settings *cfg,
				    struct seen *seen)
{
	int slot;
	__u16 value;

	if (f->part == LATER) {
		__u16 *p = bpf_map_lookup_elem(&fragments, &f->key);

		return p ? *p : NO(R_FRAGMENT);
	}
	if (f->proto == IPPROTO_ESP)
		slot = slot_of_esp(skb, f, f->l4, seen);
	else if (f->proto == IPPROTO_UDP)
		slot = slot_of_udp(skb, f, seen);
	else if (f->proto == (f->family == FAMILY_V4 ? IPPROTO_ICMP : PROTO_ICMP6))
		slot = slot_of_icmp(skb, f, cfg);
	else
		slot = NO(R_PROTOCOL);
	if (slot > 0 && f->part == FIRST) {
		value = slot;
		bpf_map_update_elem(&fragments, &f->key, &value, BPF_ANY);
	}
	return slot;
}
