// Package preflight finds what on a machine would keep an appliance from working, or
// from keeping its promises, before clients find it.
//
// It owns the checks: pure functions from Facts, what was seen, to Findings, each of
// which says what is wrong, why it matters, and the command that mends it. Gather
// collects the facts and changes nothing that lasts (what it tries, it tries in a
// network namespace that ends with it). `shadowctl preflight` prints the findings, the
// daemon (ssm/node) runs the same at its start and puts them into its event log, so
// `make demo` sees them too. It stops nothing by itself: whoever calls it decides what
// a Fatal finding means.
package preflight
