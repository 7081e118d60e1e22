// SPDX-License-Identifier: Apache-2.0
// IPv4 and IPv6 headers down to the upper-layer header. Everything is read with
// bpf_skb_load_bytes: some verifiers refuse direct access on L3 devices.
#pragma once

#include "maps.h"
#include <bpf/bpf_endian.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#define PROTO_HOPOPTS 0
#define PROTO_ROUTING 43
#define PROTO_FRAGMENT 44
#define PROTO_DSTOPTS 60
#define MAX_EXTENSIONS 8

enum fragment_part { WHOLE, FIRST, LATER };

struct flow {
	__u32 off; // of the IP header
	__u32 l4; // of the upper-layer header
	__u32 end; // first octet past the IP packet; link-layer padding lies behind it
	__u32 part;
	__u8 family;
	__u8 proto;
	__u8 ttl;
	struct fragment key; // also holds the addresses
};

// walk6 follows the extension headers from f->l4 (RFC 8200 section 4) and
// leaves the upper-layer header in f->proto and f->l4. Unrolled: the verifier of
// 6.1 takes no loop whose last instruction falls through into its head.
static __noinline int walk6(struct __sk_buff *skb, struct flow *f)
{
#pragma unroll
	for (int i = 0; i <= MAX_EXTENSIONS; i++) {
		struct {
			__u8 next, len;
			__be16 off;
			__be32 id;
		} h;

		switch (f->proto) {
		case PROTO_HOPOPTS:
		case PROTO_ROUTING:
		case PROTO_DSTOPTS:
		case PROTO_FRAGMENT:
			break;
		default:
			return R_NONE;
		}
		if (i == MAX_EXTENSIONS)
			break;
		if (f->l4 + sizeof(h) > f->end || bpf_skb_load_bytes(skb, f->l4, &h, sizeof(h)) < 0)
			return R_SHORT;
		if (f->proto == PROTO_FRAGMENT) {
			__u16 off = bpf_ntohs(h.off);

			if (f->part != WHOLE)
				return R_MALFORMED;
			f->key.id = h.id;
			f->proto = h.next;
			f->l4 += sizeof(h);
			if (off & 0xfff8) {
				f->part = LATER;
				return R_NONE;
			}
			if (off & 1)
				f->part = FIRST;
			continue;
		}
		f->proto = h.next;
		f->l4 += (h.len + 1) * 8;
	}
	return R_HEADERS;
}

// read4 and read6 read the fixed header and nothing that a check must precede.
static __always_inline int read4(struct __sk_buff *skb, __u32 off, struct flow *f, struct iphdr *ip)
{
	if (bpf_skb_load_bytes(skb, off, ip, sizeof(*ip)) < 0)
		return R_SHORT;
	f->off = off;
	f->l4 = off + ip->ihl * 4;
	f->end = off + bpf_ntohs(ip->tot_len);
	f->family = FAMILY_V4;
	f->proto = ip->protocol;
	f->ttl = ip->ttl;
	f->key.family = FAMILY_V4;
	f->key.proto = ip->protocol;
	f->key.src[0] = ip->saddr;
	f->key.dst[0] = ip->daddr;
	f->key.id = ip->id;
	if (bpf_ntohs(ip->frag_off) & 0x1fff)
		f->part = LATER;
	else if (bpf_ntohs(ip->frag_off) & 0x2000)
		f->part = FIRST;
	return R_NONE;
}

static __always_inline int check4(struct __sk_buff *skb, const struct flow *f, const struct iphdr *ip)
{
	if (ip->version != 4 || ip->ihl < 5 || f->l4 > f->end || f->end > skb->len)
		return R_MALFORMED;
	return R_NONE;
}

static __always_inline int read6(struct __sk_buff *skb, __u32 off, struct flow *f, struct ipv6hdr *ip)
{
	if (bpf_skb_load_bytes(skb, off, ip, sizeof(*ip)) < 0)
		return R_SHORT;
	f->off = off;
	f->l4 = off + sizeof(*ip);
	f->end = f->l4 + bpf_ntohs(ip->payload_len);
	f->family = FAMILY_V6;
	f->proto = ip->nexthdr;
	f->ttl = ip->hop_limit;
	f->key.family = FAMILY_V6;
	__builtin_memcpy(f->key.src, &ip->saddr, 16);
	__builtin_memcpy(f->key.dst, &ip->daddr, 16);
	return R_NONE;
}

static __always_inline int is_vip(__u8 family, const __be32 *a)
{
	struct addr key = { .family = family };

	if (family == FAMILY_V4)
		key.a[0] = a[0];
	else
		__builtin_memcpy(key.a, a, 16);
	return bpf_map_lookup_elem(&vips, &key) != 0;
}
