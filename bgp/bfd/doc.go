// Package bfd is single-hop Bidirectional Forwarding Detection in asynchronous
// mode (RFC 5880, RFC 5881): it finds out within a few hundred milliseconds that a
// neighbour, or the way to it, is gone.
//
// It owns the BFD sockets and sessions of the process. It decides nothing about
// BGP: it tells when a session goes up or down, and why.
//
// It differs from the BFD inside GoBGP 4.8, which it replaces, where that one
// harmed a fleet: packets that crossed a router are refused (RFC 5881 section 5),
// packets leave from the address of the link whatever the routing table says at
// the moment, detection goes on while BGP is down or being rebuilt, and a failure
// is told, not turned into a reset that may hit the next BGP session.
//
// Data flow: socket -> packet -> session (pure) -> packets out, Events. One
// goroutine owns all sessions; one reader for each address family feeds it.
//
// Callers: package bgp.
package bfd
