// Package registrar is the replicated ticket log: 1, 3 or 5 appliances agree by
// Raft on which ticket of which slot was given to whom, so that a ticket is
// issued once and the tickets of a slot rise for ever.
//
// It owns the log, its snapshots and its members (state_dir/registrar), and the
// connections between registrars (TCP, registrar_port, mutual TLS). It never
// decides who holds a slot, and no claim waits for it: only re-arming does.
// Package node runs one Registrar on every appliance; on those that are no
// member it only forwards.
//
// State is pure: Apply(Command) -> ticket. Data flow:
//
//	core ActIssue -> Registrar.Issue -> (leader) Raft log -> State.Apply -> EvIssued
//
// # Members
//
// A member is an appliance and the number that its log was created with, such as
// ams/5f0c9a7e21d4b683. The number lives inside the log, so that a registrar
// whose disk is lost is another member: what is sent to the old one is refused,
// and a blank log never votes in its name. It takes the place of the old member
// by a change of members that a majority of the others agrees on.
//
// # Founding
//
// A log begins when every appliance that the configuration names as a registrar
// has a blank one: the first of them by name starts it with all of them, and its
// first entry raises every slot to the highest ticket that any of them knows,
// from the single registrar of earlier releases (state_dir/tickets.json) or by
// hearsay. Nothing is issued before that entry. Where one of them has a log that
// has begun, the others join that one.
package registrar
