// Package ssm is the Session Shadow Manager's decision core: which appliance
// owns a slot, who may take it over, and the order of every step of a move.
//
// It owns ownership: claims, tickets, evidence of death, planned moves. It
// never reads a clock, opens a socket, or touches the kernel: Core.Step takes
// an event and the time and returns actions, which ssm/node executes and
// answers with further events. The same core runs in the daemon and in tests
// that play crashes, partitions and lost messages in virtual time.
//
// Data flow: ssm/peer and the slot runtimes of ssm/node turn datagrams, kernel
// events and timers into Events; Step decides; Actions go back to ssm/node.
// The sub-packages session (documents, exchange commit, feed), replica (gRPC
// replication) and peer (authenticated datagrams) do not know the core.
package ssm
