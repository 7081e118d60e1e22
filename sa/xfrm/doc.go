// Package xfrm reads and writes the sequence state of kernel IPsec SAs in any
// network namespace.
//
// It owns the netlink encoding of XFRM requests (own, because no library
// writes replay state) and the rule that state never moves backwards. It never
// creates an SA or a policy (charon does), never decides which numbers to
// write (ssm does, with the arithmetic of package sa), and never keeps or
// returns key material: XFRMA_ALG_* attributes are skipped in place and every
// receive buffer is wiped after use.
//
// Callers are the SSM's feeder (presets of a twin, samples of an owner) and its
// audit. Data flows in as notifications and dumps (Event, State) and out as
// ReplayWrite lists; each write is read back, because the kernel acknowledges
// a replay attribute of the wrong kind and ignores it.
//
// # Sampling
//
// An owner's replay state is sampled by XFRM_MSG_NEWAE notifications rather
// than by dumps, so that the cost follows what changes: with
// net.core.xfrm_aevent_rseqth = 65536 (packets) and net.core.xfrm_aevent_etime
// = 10 (tenths of a second), which package slot sets, an SA that carries
// traffic reports at least once a second and an idle one not at all. A
// notification that Write itself causes carries CauseWrite.
//
// # Wire
//
// Offsets of struct xfrm_usersa_info (224 octets), the body of
// XFRM_MSG_NEWSA; host order unless marked:
//
//	 56 id.daddr[16]   72 id.spi be32       76 id.proto u8   80 saddr[16]
//	120 lft.hard_packet_limit u64          160 curlft.bytes  168 curlft.packets
//	192 stats: replay_window, replay, integrity_failed u32  208 reqid u32
//	212 family u16    215 replay_window u8  216 flags u8 (0x80 = ESN)
//
// struct xfrm_aevent_id (48 octets), the body of XFRM_MSG_NEWAE:
//
//	 0 daddr[16]  16 spi be32  20 family u16  22 proto u8
//	24 saddr[16]  40 flags u32 44 reqid u32
//
// XFRMA_REPLAY_VAL (12 octets): oseq, seq, bitmap u32.
// XFRMA_REPLAY_ESN_VAL: bmp_len, oseq, seq, oseq_hi, seq_hi, replay_window
// u32, then bmp_len words. SAs with ESN carry it, and so do SAs without ESN
// whose window exceeds 32.
package xfrm
