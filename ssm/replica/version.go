//go:build !previous_protocol

package replica

// ProtocolVersion is the newest version of the stream that is spoken. The build tag
// previous_protocol makes a daemon that speaks the version before at most, as the
// release before did: to try upgrades with.
const ProtocolVersion = 2
