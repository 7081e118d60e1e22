// Package sim plays a fleet in virtual time and looks for a schedule that breaks
// it.
//
// It owns a deterministic world: appliances that run the real ssm.Core, a network
// that loses, delays, repeats, reorders and partitions, and a model of what the
// shell of package node does for the core (fences, kernel SAs with their sequence
// blocks, charon, documents and their replication, tickets on disk). It never reads
// a clock or a random source other than its seed: one seed is one run, to the
// event. It decides nothing; it checks, after every step, what the design promises:
//
//	I1 no two tenures send in one sequence block of one SA; a new owner's block
//	   lies at or above every block sent by a lower ticket
//	I2 a passive slot never has an open fence; that of a slot which a ready shadow
//	   covers closes by itself within the dead-man when the daemon stands still
//	I3 a slot whose owner died is active again within the detection bound, if a
//	   living, armed, complete shadow is there and nothing else is broken
//	I4 after everything heals each slot has one owner, the highest claimed ticket,
//	   and everybody knows it
//	I5 a deleted session never comes back; what a shadow has acknowledged is there
//	   when it takes over
//	I6 the last healthy announcer of the VIP never withdraws on a prediction
//	I7 nobody claims a slot because of silence alone
//	I8 who takes a slot over with a complete twin can send in every SA of it
//	I9 a change of the shadow set never takes the last cover away, and ends with the
//	   set that is wanted, complete and armed
//
// Data flow: Plan (faults, from the seed or from a shrunken run) -> World.run ->
// Result. Callers are tests/sim (make sim) and this package's tests. Mutants of the
// real sources are built by tests/sim with `go build -overlay`, so that no hook for
// them exists in the core.
package sim
