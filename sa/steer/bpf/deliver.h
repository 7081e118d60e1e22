// SPDX-License-Identifier: Apache-2.0
// From a slot to a device: local delivery, the peer tunnel, clones, events.
#pragma once

#include "classify.h"
#include <linux/pkt_cls.h>
#include <stddef.h>

#define AF_INET 2
#define AF_INET6 10

static __always_inline int drop(__u32 reason)
{
	count(reason);
	return TC_ACT_SHOT;
}

// take: one packet out of bucket i, 0 when it is empty.
static __always_inline int take(__u32 i, __u64 cost, __u64 burst)
{
	struct bucket *b = bpf_map_lookup_elem(&buckets, &i);
	__u64 now = bpf_ktime_get_ns(), full = now > burst ? now - burst : 0;
	int ok = 0;

	if (!b)
		return 0;
	bpf_spin_lock(&b->lock);
	if (b->time < full)
		b->time = full;
	if (b->time + cost <= now) {
		b->time += cost;
		ok = 1;
	}
	bpf_spin_unlock(&b->lock);
	return ok;
}

// emit hands headers of a local slot to user space. The entry of a watched SPI
// goes only once its event has room in the ring.
static __always_inline void emit(const struct flow *f, const struct seen *seen, __u16 slot)
{
	struct event *e;

	if (!seen->kind)
		return;
	if (seen->kind == EVENT_ESP && !bpf_map_lookup_elem(&watch, &seen->spi))
		return;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		count(R_RING_FULL);
		return;
	}
	if (seen->kind == EVENT_ESP && bpf_map_delete_elem(&watch, &seen->spi)) {
		bpf_ringbuf_discard(e, 0); // another CPU was first
		return;
	}
	e->ktime = bpf_ktime_get_ns();
	e->spi_i = seen->ike.spi_i;
	e->spi_r = seen->ike.spi_r;
	e->message_id = seen->ike.message_id;
	e->length = seen->ike.length;
	e->spi = seen->spi;
	__builtin_memcpy(e->src, f->key.src, 16);
	e->sport = seen->sport;
	e->slot = slot;
	e->kind = seen->kind;
	e->exchange = seen->ike.exchange;
	e->flags = seen->ike.flags;
	e->family = f->family;
	e->pad = 0;
	bpf_ringbuf_submit(e, 0);
}

// add_ethernet gives a packet from an L3 device the header that a veth wants.
static __always_inline int add_ethernet(struct __sk_buff *skb, const struct flow *f)
{
	__be16 type = f->family == FAMILY_V4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);

	return bpf_skb_change_head(skb, ETH_HLEN, 0) < 0 || bpf_skb_store_bytes(skb, 12, &type, 2, 0) < 0;
}

static __always_inline int to_local(struct __sk_buff *skb, const struct flow *f, const struct settings *cfg,
				    const struct action *act, __u32 slot, const int l2)
{
	struct bpf_redir_neigh nh = {};

	switch (cfg->delivery) {
	case DELIVER_MARK:
		skb->mark = MARK | slot;
		return TC_ACT_OK;
	case DELIVER_NEIGH:
		if (!l2 && add_ethernet(skb, f))
			return drop(R_HELPER);
		if (f->family == FAMILY_V4) {
			nh.nh_family = AF_INET;
			nh.ipv4_nh = act->next_hop4;
		} else {
			nh.nh_family = AF_INET6;
			__builtin_memcpy(nh.ipv6_nh, act->next_hop6, 16);
		}
		return bpf_redirect_neigh(act->target, &nh, sizeof(nh), 0);
	}
	if (!l2 && add_ethernet(skb, f))
		return drop(R_HELPER);
	if (bpf_skb_store_bytes(skb, 0, act->dmac, 12, 0) < 0)
		return drop(R_HELPER);
	return bpf_redirect_peer(act->target, 0);
}

// hop charges the packet's TTL for one trip through a tunnel.
static __always_inline int hop(struct __sk_buff *skb, const struct flow *f, const int uplink)
{
	__u8 ttl;

	if (uplink) {
		if (f->ttl < 2)
			return R_HOPS;
		ttl = f->ttl - 1 < HOP_FIRST ? f->ttl - 1 : HOP_FIRST;
	} else {
		if (f->ttl < 2 * HOP_SECOND)
			return R_HOPS;
		ttl = f->ttl - HOP_SECOND;
	}
	if (f->family == FAMILY_V4) {
		__be16 old = bpf_htons(f->ttl << 8 | f->proto), new = bpf_htons(ttl << 8 | f->proto);

		if (bpf_l3_csum_replace(skb, f->off + offsetof(struct iphdr, check), old, new, 2) < 0 ||
		    bpf_skb_store_bytes(skb, f->off + offsetof(struct iphdr, ttl), &ttl, 1, 0) < 0)
			return R_HELPER;
	} else if (bpf_skb_store_bytes(skb, f->off + offsetof(struct ipv6hdr, hop_limit), &ttl, 1,
				       BPF_F_RECOMPUTE_CSUM) < 0) {
		return R_HELPER;
	}
	return R_NONE;
}

static __always_inline int to_remote(struct __sk_buff *skb, const struct flow *f, const struct settings *cfg,
				     __u32 peer, __u32 slot, const int uplink)
{
	struct bpf_tunnel_key key = {};
	__u32 dev = f->family == FAMILY_V4 ? cfg->tunnel4 : cfg->tunnel6;
	int reason;

	if (!dev || !peer)
		return drop(R_NO_SLOT);
	if (!take(slot, cfg->remote_cost_ns, cfg->remote_burst_ns))
		return drop(R_RATE);
	reason = hop(skb, f, uplink);
	if (reason)
		return drop(reason);
	key.remote_ipv4 = peer;
	key.local_ipv4 = cfg->local_addr;
	key.tunnel_ttl = 64;
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX) < 0)
		return drop(R_HELPER);
	return bpf_redirect(dev, 0);
}

static __noinline int clone_to(struct __sk_buff *skb, __u32 slot)
{
	struct action *act = bpf_map_lookup_elem(&uplink_actions, &slot);

	if (!act || act->kind != KIND_LOCAL)
		return R_NONE;
	if (bpf_skb_store_bytes(skb, 0, act->dmac, 12, 0) < 0 || bpf_clone_redirect(skb, act->target, 0) < 0)
		count(R_HELPER);
	return R_NONE;
}

// clone sends a copy to each local active slot; the original ends here.
static __always_inline int clone(struct __sk_buff *skb, const struct flow *f, const struct settings *cfg, const int l2)
{
	if (!take(0, cfg->icmp_cost_ns, cfg->icmp_burst_ns))
		return drop(R_ICMP_RATE);
	if (!l2 && add_ethernet(skb, f))
		return drop(R_HELPER);
	for (int i = 0; i < MAX_ACTIVE; i++) {
		if (i >= cfg->active_n)
			break;
		clone_to(skb, cfg->active[i]);
	}
	return drop(R_ICMP_CLONED);
}

static __always_inline int deliver(struct __sk_buff *skb, const struct flow *f, const struct settings *cfg,
				   const int l2)
{
	struct seen seen = {};
	int found = classify(skb, f, cfg, &seen);
	struct action *act;
	struct slot_hits *h;
	__u32 slot;

	if (found < 0)
		return drop(-found);
	if (found == CLONE)
		return clone(skb, f, cfg, l2);
	slot = found;
	act = l2 ? bpf_map_lookup_elem(&uplink_actions, &slot) : bpf_map_lookup_elem(&peer_actions, &slot);
	h = bpf_map_lookup_elem(&hits, &slot);
	if (!act || !h)
		return drop(R_NO_SLOT);
	switch (act->kind) {
	case KIND_LOCAL:
		if (l2)
			h->local_uplink++;
		else
			h->local_peer++;
		emit(f, &seen, slot);
		return to_local(skb, f, cfg, act, slot, l2);
	case KIND_REMOTE:
		h->remote++;
		return to_remote(skb, f, cfg, act->target, slot, l2);
	}
	return drop(R_NO_SLOT);
}
