// Package replica keeps the shadows of a slot in step with its owner, over one
// gRPC stream per (slot, shadow) with mutual TLS 1.3.
//
// It owns, on the owner's side (Publisher), the latest document of every session
// of one slot and for each shadow a place in the order of changes; on the
// shadow's side (Receiver), the rule who may feed a slot, and where each stream
// stopped. It never reads a document, never decides who owns a slot, never
// touches charon or the kernel, and writes nothing to disk. Documents carry key
// material: nothing here prints them.
//
// Called by: ssm/node. One Publisher per tenure of a slot, one Receiver per
// appliance, a Sink that feeds the twins. Data flows:
//
//	Put, Delete, Replay -> state -> stream -> Receiver -> Sink
//	                 acknowledgements, digests, readiness <-
//
// # Owner
//
// State is kept once per slot: sessions in the order of their last change, each
// with a rising number (state.go). A shadow is a cursor into it, so that what it
// lacks is what follows the cursor, and a session that changed ten times
// meanwhile is sent once. Put never waits: a slow shadow makes its stream's
// goroutine wait, not the caller, and costs no memory beyond the sessions
// themselves. Deletions stay as tombstones until every shadow acknowledged them,
// at most MaxDeleted of them.
//
// After a reconnect the shadow names the epoch (one Publisher's life) and the
// number it has applied; where the owner can, it goes on there. Else it asks for
// an inventory of (id, hash), has the shadow delete what it must not have, and
// sends what differs. The same repair runs when the digests of both sides differ
// at one of the regular comparisons; digests are kept up by each change, so that
// a comparison costs the same for 10 sessions and for 100,000.
//
// A shadow is ready while it is connected, has everything older than MaxLag,
// its digest was equal, and its own node says that the twin could take over.
//
// # Shadow
//
// A stream is admitted when the certificate names the owner of the greeting, the
// ticket is not below the highest known, and Authority agrees. It replaces the
// stream before it once that one's batches are done. Raise cuts a stream whose
// ticket has been overtaken; when it returns, nothing of that owner reaches the
// Sink any more (rule 1 of the charon link).
//
// Batches go to the Sink in order; the Sink says when each is in place, and the
// contiguous part is acknowledged.
//
// # New sessions
//
// An Announcer tells another appliance of new sessions whose clients may have only
// one (announce.go); what comes of it is the caller's to decide.
//
// # Wire format
//
// api/peer/v1/peer.proto. Bounds are in types.go; what breaks one of them, or
// the order of the protocol, ends the stream with a reason.
package replica
