// Package peerv1 is the generated code of the protocol between appliances: a
// stream per (slot, shadow) and the read-back of a slot's sessions. It owns the
// message types, decides nothing, and is used by ssm/replica alone. Documents in
// its messages carry key material: never print one.
package peerv1

//go:generate sh generate.sh
