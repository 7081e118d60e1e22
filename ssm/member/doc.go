// Package member gossips who is there: which appliances of the fleet are up, what
// they say of their site and failure domains, their size and version.
//
// It owns one hashicorp/memberlist (SWIM over UDP and TCP, WAN timing) and the
// form of the metadata. Gossip informs and grants nothing: a name that is not in
// the fleet section, or that comes from another address than stands there, is
// refused; nothing that is heard here moves a slot, because SWIM takes seconds
// and believes third parties. Packets are encrypted (AES-256-GCM) under
// HKDF-SHA256(fleet key, "shadowcast gossip v1") and carry the fleet's identifier
// as memberlist's label.
//
// Called by: ssm/node, which shows States to operators and counts refusals.
//
// # Metadata
//
// JSON, at most 512 octets (memberlist's limit):
//
//	key  meaning
//	v    version of this form, 1
//	d    version of the daemon
//	s    site
//	r    rack, empty unknown
//	p    power feed, empty unknown
//	la   degrees north
//	lo   degrees east
//	c    processors
package member
