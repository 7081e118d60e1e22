// Package swanctl reads an operator's swanctl directory, checks that its
// connections can live on a shadowed gateway, and loads it into a charon.
//
// It owns: the syntax of swanctl.conf(5) (Read, Parse), the rules a connection
// must keep (Config.Check), the settings that a gateway needs and the operator
// need not write (injected when loading), the digest by which twins compare
// their configuration, and Load. It never runs the swanctl program, never writes
// files, and never decides which slots get which configuration: every slot gets
// the same.
//
// Data flow: directory -> Read -> Check -> Load through the vici client of
// package charon. Callers are the appliance shell (preflight, slot start,
// reload) and the lab.
//
// # Differences from swanctl(8)
//
// A setting given twice in one section, and a named section (a connection, a
// child, a secret) given twice, are errors that name both places; strongSwan
// silently lets the later one win. Only the top-level sections may repeat, as
// files under conf.d do. Unknown keys are errors. Keys with a passphrase, PKCS#12
// containers, tokens and own address pools are refused.
//
// # Digest
//
// The digest covers connections, credentials, private keys, secrets and the HA
// protocol version. It travels between appliances and shows in status output:
// secrets enter it only through PBKDF2 salted with everything else, so it
// reveals none, though a guess of a weak pre-shared key could be tested against
// it at the price of 2^15 hashes a guess. Use random pre-shared keys.
package swanctl
