// Package bgp is the appliance's BGP speaker: an embedded GoBGP that announces
// the anycast VIPs and a liveness host route to outside routers, inner prefixes
// to inside routers, and watches the liveness routes of the other appliances.
//
// It owns every goroutine of GoBGP and of package bfd, the sessions, the announcements and the
// budget of attribute changes. It never decides anything: it announces what the
// last Set said, no VIP before the first Set says so, and reports what it sees.
// It never installs a route into the kernel, never re-advertises a route it
// received, and never asks for graceful restart, because a VIP whose appliance
// is gone must vanish at once.
//
// Callers: the appliance shell (ssm/node), which turns health and ownership into
// a Desired and feeds Events to the SSM core; shadowctl reads Peers and
// Announcements through it.
//
// Data flow: Set -> difference to what is announced -> change budget -> GoBGP ->
// routers; routers -> GoBGP -> sightings of liveness routes -> Events.
//
// Wire conventions:
//
//	VIP, liveness  ORIGIN IGP, to outside peers only
//	inner prefix   ORIGIN INCOMPLETE, to inside peers only
//	MED            base+offset, +50 when degraded, 4294967294 when draining
//	               of inner prefixes none at the owner, 2^31 at who shadows it
//	draining       carries GRACEFUL_SHUTDOWN 65535:0 (RFC 8326)
//	tags           large communities ASN:1:router-id on VIPs and inner prefixes,
//	               ASN:2:slot on inner prefixes (RFC 8092)
//
// The origin is what the export policies tell outside from inside by: it needs
// no marker that would have to be stripped again. GoBGP does not run withdrawals
// through policies, so a peer may get a withdrawal of a prefix it never had;
// routers ignore it.
package bgp
