// SPDX-License-Identifier: Apache-2.0
// Steering: which slot does a packet for the VIP belong to, and where is that
// slot. Two programs, one for uplinks (Ethernet), one for the peer tunnel
// devices (IP at offset 0).
#include "deliver.h"

#define PACKET_HOST 0
#define VLAN_VID 0x0fff

// guard_bfd: a BFD control packet that crossed a router is forged (RFC 5881
// section 5). f->l4 and f->proto must stand at the upper-layer header.
static __always_inline int guard_bfd(struct __sk_buff *skb, const struct flow *f)
{
	__be16 ports[2];

	if (f->proto != IPPROTO_UDP || f->part == LATER)
		return TC_ACT_OK;
	if (bpf_skb_load_bytes(skb, f->l4, ports, sizeof(ports)) < 0)
		return drop(R_SHORT);
	if (ports[1] == bpf_htons(PORT_BFD))
		return drop(R_BFD_TTL);
	return TC_ACT_OK;
}

static __always_inline int uplink4(struct __sk_buff *skb, const struct settings *cfg)
{
	struct flow f = {};
	struct iphdr ip;
	int reason = read4(skb, ETH_HLEN, &f, &ip);

	if (reason)
		return drop(reason);
	if (!is_vip(FAMILY_V4, f.key.dst))
		return f.ttl == 255 ? TC_ACT_OK : guard_bfd(skb, &f);
	reason = check4(skb, &f, &ip);
	if (reason)
		return drop(reason);
	return deliver(skb, &f, cfg, 1);
}

// A header chain that cannot be followed is dropped whatever the destination:
// passed on, it could carry a BFD packet past the guard.
static __always_inline int uplink6(struct __sk_buff *skb, const struct settings *cfg)
{
	struct flow f = {};
	struct ipv6hdr ip;
	int vip, reason = read6(skb, ETH_HLEN, &f, &ip);

	if (reason)
		return drop(reason);
	vip = is_vip(FAMILY_V6, f.key.dst);
	if (!vip && f.ttl == 255)
		return TC_ACT_OK;
	if (!vip)
		f.end = skb->len;
	else if (ip.version != 6 || f.end > skb->len)
		return drop(R_MALFORMED);
	reason = walk6(skb, &f);
	if (reason)
		return drop(reason);
	return vip ? deliver(skb, &f, cfg, 1) : guard_bfd(skb, &f);
}

SEC("tc")
int sc_steer_uplink(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct settings *cfg = bpf_map_lookup_elem(&config, &zero);

	if (!cfg || skb->pkt_type != PACKET_HOST)
		return TC_ACT_OK;
	// A tagged frame belongs to a VLAN device, an uplink of its own where it
	// should be steered. VLAN 0 carries only a priority (802.1Q section 9.6).
	if (skb->vlan_present) {
		if (skb->vlan_tci & VLAN_VID)
			return TC_ACT_OK;
		if (bpf_skb_vlan_pop(skb) < 0)
			return drop(R_HELPER);
	}
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return uplink4(skb, cfg);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return uplink6(skb, cfg);
	return TC_ACT_OK;
}

static __always_inline int from_peer(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};
	__u32 peer = test_peer;

	if (!peer) {
		if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0) < 0)
			return 0;
		peer = key.remote_ipv4;
	}
	return bpf_map_lookup_elem(&peers, &peer) != 0;
}

static __always_inline int tunnel4(struct __sk_buff *skb, const struct settings *cfg)
{
	struct flow f = {};
	struct iphdr ip;
	int reason = read4(skb, 0, &f, &ip);

	if (!reason)
		reason = check4(skb, &f, &ip);
	if (reason)
		return drop(reason);
	if (!is_vip(FAMILY_V4, f.key.dst)) {
		struct prefix4 key = { .bits = 32, .a = ip.daddr };

		return bpf_map_lookup_elem(&inner4, &key) ? TC_ACT_OK : drop(R_NOT_INNER);
	}
	return deliver(skb, &f, cfg, 0);
}

static __always_inline int tunnel6(struct __sk_buff *skb, const struct settings *cfg)
{
	struct flow f = {};
	struct ipv6hdr ip;
	int reason = read6(skb, 0, &f, &ip);

	if (reason)
		return drop(reason);
	if (f.end > skb->len)
		return drop(R_MALFORMED);
	if (!is_vip(FAMILY_V6, f.key.dst)) {
		struct prefix6 key = { .bits = 128 };

		__builtin_memcpy(key.a, f.key.dst, 16);
		return bpf_map_lookup_elem(&inner6, &key) ? TC_ACT_OK : drop(R_NOT_INNER);
	}
	reason = walk6(skb, &f);
	if (reason)
		return drop(reason);
	return deliver(skb, &f, cfg, 0);
}

SEC("tc")
int sc_steer_peer(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct settings *cfg = bpf_map_lookup_elem(&config, &zero);
	__u8 first;

	if (!cfg)
		return TC_ACT_SHOT;
	if (!from_peer(skb))
		return drop(R_NOT_PEER);
	if (bpf_skb_load_bytes(skb, 0, &first, 1) < 0)
		return drop(R_SHORT);
	if (first >> 4 == 4)
		return tunnel4(skb, cfg);
	if (first >> 4 == 6)
		return tunnel6(skb, cfg);
	return drop(R_MALFORMED);
}

char LICENSE[] SEC("license") = "Apache-2.0";
