// Package dnsupdate keeps per-site names pointing at the appliance that serves a
// site's clients, by dynamic updates (RFC 2136) signed with TSIG (RFC 8945).
//
// It is for clients that look a name up when they connect; the anycast VIP needs no
// DNS. It owns the key, the names' state and one goroutine. It decides nothing: who
// owns what comes in by Want. It never delays its caller: Want only leaves a note, and
// a server that hangs, refuses or is away delays nothing but the names.
//
// Two appliances may want one name, for a moment or because the fleet is split. The
// holder of the higher ticket is right, as everywhere. So each name has a TXT record
// beside its addresses,
//
//	"shadowcast owner=fra ticket=12"
//
// and an update says, as its prerequisite (RFC 2136 section 2.4), which TXT it
// replaces: the server refuses it where somebody else was faster, and a lower ticket
// gives way.
//
// Data flow: Want -> per-name state -> query and UPDATE over TCP -> Status, Events.
// Callers: the appliance shell (ssm/node).
package dnsupdate
