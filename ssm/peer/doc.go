// Package peer carries small authenticated datagrams between appliances:
// probes with their health reports, claims of slots, and the answers to both.
//
// It owns one UDP socket, a replay window and the round-trip, loss and jitter
// estimators of every configured peer. It never decides when to send (the
// caller ticks), never repeats or acknowledges a payload, never interprets one,
// and never judges from silence that a peer is dead. The one datagram it sends
// by itself is an empty answer that lets a peer prove that it is not a recording
// (below).
//
// Called by: ssm/node, which feeds what arrives into the pure core and sends
// what the core wants sent. Data flows: socket -> open -> handler, and
// Send -> seal -> socket; nothing is queued in between.
//
// # Wire format, version 1
//
// All numbers big endian. Octets 0..3 and the sender's name have the same place
// in every version, so that a datagram of another version can be attributed.
//
//	offset  size  field
//	0       1     version, 1
//	1       1     kind; 0 is an empty echo, the others belong to the caller
//	2       1     length n of the sender's name, 1..63
//	3       1     zero
//	4       8     incarnation of the sender
//	12      8     sequence number, from 1, one count per (sender, receiver)
//	20      n     name of the sender
//	20+n    24    nonce, random
//	44+n    m     sealed: echo fields (24) and payload (0..1200)
//	44+n+m  16    Poly1305 tag
//
// Sealed with XChaCha20-Poly1305 under HKDF-SHA256(fleet key, "shadowcast peer
// datagram v1"). Associated data: octets 0..20+n followed by the name of the
// receiver, so that a datagram for one appliance cannot be shown to another.
// The fleet key is shared: any appliance could write another's name. What an
// appliance may do with a slot is decided by its ticket, not by this package.
//
// Echo fields, first in the sealed part:
//
//	offset  size  field
//	0       8     incarnation of the receiver that is echoed, 0 for none
//	8       8     highest sequence number heard from that incarnation
//	16      4     microseconds since it arrived (hold time), saturating
//	20      4     datagrams accepted from that incarnation, modulo 2^32
//
// # What is refused
//
// Incarnations rise: the caller passes the start time in nanoseconds, or one
// more than the last one it used where the clock went back. Once a newer
// incarnation of a peer was heard, older ones are refused. Within one, a window
// of 1024 sequence numbers refuses repetitions and what is older than the window.
//
// A receiver that has just started has no memory, so a recording of an old
// incarnation would look new. Therefore the datagrams of an incarnation are
// refused as "unconfirmed" until one of them echoes the receiver's own
// incarnation, which no recording can. Each side answers the first ones with an
// empty echo (at most one per 20 ms), so that one and a half round trips after
// first contact everything passes. A caller that repeats its claims loses
// nothing; one that needs the first datagram to pass keeps the link warm with
// probes.
//
// The source address of a datagram is only noted and logged when it changes;
// answers always go to the configured address.
package peer
