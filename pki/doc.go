// Package pki makes the fleet's certificates and turns them into TLS.
//
// It owns the files that `shadowctl pki` writes (the CA, one certificate and key
// per appliance, the fleet key), the form of an appliance's name in a
// certificate, and the rules by which one appliance accepts another. It opens no
// connection and logs nothing; key bytes appear in no error. cmd/shadowctl makes
// the files; the replication server and client take their tls.Config from an
// Identity; the same files serve the charon that protects the peer tunnels.
//
// A fleet is a random identifier that its CA carries as the URI
// shadowcast://<fleet>. An appliance's certificate carries its name twice: as
// the DNS name <name>, and as the URI shadowcast://<fleet>/<name>. A peer is
// accepted when its chain ends at our CA, both names agree, and the fleet is
// ours.
//
// Keys are Ed25519: Go reads them, and strongSwan 5.9 with the plugins of its base
// package; for ECDSA it would take its openssl plugin. Certificates of another CA
// with other keys are accepted.
package pki
