// Package metrics tells Prometheus what one appliance does, and serves it over
// HTTP with whatever else is read-only and meant for people (the status page).
//
// It owns the names, labels and help texts of every metric, the bounds of their
// cardinality, and the HTTP listener. It decides nothing and keeps no state of
// slots or sessions: a scrape takes one Snapshot from the appliance shell
// (ssm/node) and renders it, so what is shown is of one moment; what a snapshot
// cannot show, how often and how long something took, a Recorder counts from the
// event log. cmd/shadowcastd runs the Server and the Recorder as tasks, through
// ssm/node.
//
// Cardinality: labels are slots that have a place on this appliance, members of
// their shadow sets, appliances and routers of the configuration, and words of
// fixed lists. Nothing that a client chooses, no address and no session is a
// label. What is not bounded by the configuration has a bound here (maxCauses,
// maxWords).
package metrics
