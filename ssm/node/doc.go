// Package node is one appliance: it executes what the core of package ssm
// decides and tells the core what happened.
//
// It owns the goroutines, sockets, namespaces and charons of an appliance and
// the order in which the core's actions reach them. It never decides who owns a
// slot. cmd/shadowcastd builds one Appliance and runs it.
//
// Two kinds of goroutines matter. The core loop (Appliance.loop) is the only
// one that calls Core.Step; it executes at once what moves packets (fence,
// steering, inner routes, hold) and queues the rest. Each slot has a runtime
// (slotRuntime.run), the only one that touches the slot's documents, ledger,
// feeder and charon; it works off its queue in order and posts facts back.
//
//	peer datagrams, BGP, timers ----> core loop --fence, steering--> kernel
//	                                   |    ^
//	                          commands |    | facts
//	                                   v    |
//	charon, XFRM, IKE headers,  --> slot runtime --documents--> replica streams
//	replica streams
package node
