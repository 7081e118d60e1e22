// Package statuspage shows one appliance's view of the fleet in a browser: who owns
// and shadows which slot, why a shadow is not ready, hardware health with causes and
// trend, and takeovers and moves as they happen.
//
// It is read-only and brings everything along: no script, style or font comes from
// elsewhere, and its content security policy allows none. Like the metrics, beside
// which ssm/node serves it, it asks for one snapshot (metrics.Source) for each reading
// and takes events out of the event log; it tells of machines and routers, never of
// clients or keys, because nobody authenticates.
package statuspage
