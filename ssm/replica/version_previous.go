//go:build previous_protocol

package replica

// ProtocolVersion is that of the release before.
const ProtocolVersion = 1
