package steer

import (
	"fmt"

	"github.com/shadowcast/shadowcast/sa"
)

// Reason is why the programs dropped a packet, except for the last two, which
// count other things.
type Reason int

// The order is that of enum reason in bpf/types.h.
const (
	ReasonNone       Reason = iota // unused
	ReasonShort                    // the packet ends inside a header
	ReasonMalformed                // a header contradicts itself or the packet
	ReasonHeaders                  // more than 8 IPv6 extension headers
	ReasonFragment                 // a later fragment of which no first was seen
	ReasonProtocol                 // for the VIP, and nothing that a gateway serves
	ReasonIKEVersion               // IKE, not version 2
	ReasonKeepalive                // NAT keep-alive (RFC 3948 section 2.3)
	ReasonLabel                    // SPI whose label is no slot number
	ReasonNoHome                   // a new client, and no slot takes new clients
	ReasonNoSlot                   // the slot has no action here
	ReasonRate                     // more packets to a slot's peer than allowed
	ReasonBFDTTL                   // BFD that crossed a router
	ReasonNotPeer                  // tunnelled by someone who is no peer
	ReasonNotInner                 // tunnelled, neither for the VIP nor an inner prefix
	ReasonHops                     // would take a third tunnel, or its TTL ran out
	ReasonHelper                   // the kernel refused to change or send it
	ReasonICMPQuote                // ICMP error that quotes none of our ESP
	ReasonICMPRate                 // ICMP errors above the rate
	ReasonICMPCloned               // no loss: an ICMP error went to the local active slots
	ReasonRingFull                 // no loss of a packet: an event was lost
	reasonCount
)

var reasonNames = [reasonCount]string{
	"none", "short", "malformed", "extension-headers", "fragment-miss", "protocol", "ike-version", "nat-keepalive",
	"spi-label", "no-home-slot", "no-slot", "remote-rate", "bfd-ttl", "not-a-peer", "not-inner", "hops", "helper",
	"icmp-quote", "icmp-rate", "icmp-cloned", "event-ring-full",
}

// String is the label used in metrics and output.
func (r Reason) String() string {
	if r < 0 || r >= reasonCount {
		return fmt.Sprintf("reason %d", int(r))
	}
	return reasonNames[r]
}

// Reasons lists every Reason that is counted.
func Reasons() []Reason {
	all := make([]Reason, 0, reasonCount-1)
	for r := ReasonShort; r < reasonCount; r++ {
		all = append(all, r)
	}
	return all
}

// Counters are indexed by Reason; they rise from the first New with this pin
// directory on.
type Counters [reasonCount]uint64

// Hits counts the packets of one slot by where they came from and went.
type Hits struct {
	LocalUplink uint64 // from an uplink into the local slot
	LocalPeer   uint64 // from a peer into the local slot
	Remote      uint64 // to the slot's peer, also those that its rate limit dropped
}

// Counters reads all counters.
func (s *Steer) Counters() (Counters, error) {
	var c Counters
	for r := range c {
		var perCPU []uint64
		if err := s.objs.Reasons.Lookup(uint32(r), &perCPU); err != nil {
			return c, fmt.Errorf("read counter %s: %w", Reason(r), err)
		}
		for _, n := range perCPU {
			c[r] += n
		}
	}
	return c, nil
}

// SlotHits reads the hits of one slot.
func (s *Steer) SlotHits(slot sa.Slot) (Hits, error) {
	var h Hits
	if !slot.Valid() {
		return h, fmt.Errorf("read hits: slot %d is not in 1..%d", slot, sa.MaxSlot)
	}
	var perCPU []steerSlotHits
	if err := s.objs.Hits.Lookup(uint32(slot), &perCPU); err != nil {
		return h, fmt.Errorf("read hits of slot %d: %w", slot, err)
	}
	for _, n := range perCPU {
		h.LocalUplink += n.LocalUplink
		h.LocalPeer += n.LocalPeer
		h.Remote += n.Remote
	}
	return h, nil
}
