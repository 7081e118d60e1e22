package steer

import (
	"fmt"
	"net/netip"

	"github.com/shadowcast/shadowcast/sa"
)

// Kind says what happens to a packet of a slot.
type Kind uint8

// The zero Kind drops.
const (
	Drop Kind = iota
	Local
	Remote
)

func (k Kind) String() string {
	switch k {
	case Drop:
		return "drop"
	case Local:
		return "local"
	case Remote:
		return "remote"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Action is where the packets of a slot go. The zero Action drops them.
type Action struct {
	Kind Kind

	// Local: the host side of the slot's veth, and the addresses of both
	// ends. NextHop4 and NextHop6 are the slot's addresses on that link; only
	// DeliverNeigh and DeliverMark use them.
	Ifindex  int
	SlotMAC  [6]byte
	HostMAC  [6]byte
	NextHop4 netip.Addr
	NextHop6 netip.Addr
	// Remote: the IPv4 address of the peer that has, or forwards to, the slot.
	Peer netip.Addr
}

// SlotSteer holds the two actions of a slot. Uplink is for packets from the
// outside. Peer is for packets that a peer tunnelled to us; it may be Remote
// only towards the holder of a higher ticket.
type SlotSteer struct{ Uplink, Peer Action }

// Delivery is the way into a local slot.
type Delivery uint8

// DeliverPeer is the fastest. DeliverNeigh and DeliverMark are for kernels on
// which it does not work; DeliverMark needs forwarding enabled.
const (
	DeliverPeer Delivery = iota
	DeliverNeigh
	DeliverMark
)

func (d Delivery) String() string {
	switch d {
	case DeliverPeer:
		return "peer"
	case DeliverNeigh:
		return "neigh"
	case DeliverMark:
		return "mark"
	}
	return fmt.Sprintf("delivery %d", uint8(d))
}

// DefaultRemotePPS is the packet rate to the peer of one slot: 22 Gbit/s of
// full-size packets, and still a bound on what a flood can push through a tunnel.
const DefaultRemotePPS = 2_000_000

// icmpPPS bounds the ICMP errors copied to the local slots, each packet of which
// may become maxActive.
const icmpPPS = 1000

// Limits of the maps (bpf/types.h).
const (
	maxVIPs   = 8
	maxPeers  = 256
	maxInner  = 16384
	maxActive = 64
	maxWatch  = 16384
	buckets   = 256
)

// Desired is the whole state of steering.
type Desired struct {
	VIPs    []netip.Addr // at most 8
	Uplinks []string     // Ethernet devices on which clients arrive
	// Tunnel names the ipip device to the peers; the gre device for IPv6 has
	// the same name with "6" behind it. "" = no peers.
	Tunnel      string
	Local       netip.Addr // our address towards peers; unset = by route
	Delivery    Delivery
	Slots       map[sa.Slot]SlotSteer // a slot not in here is dropped
	Default     sa.Slot               // takes ICMP echo; 0 = nobody
	NewClients  []sa.Slot             // share new clients, by hash; empty = refused
	LocalActive []sa.Slot             // get ICMP errors, at most 64
	Peers       []netip.Addr          // whom we accept tunnelled packets from
	Inner       []netip.Prefix        // destinations behind the gateways that peers may tunnel to
	RemotePPS   uint64                // per slot; 0 = DefaultRemotePPS
}

func (d *Desired) has6() bool {
	for _, a := range d.VIPs {
		if a.Is6() {
			return true
		}
	}
	for _, p := range d.Inner {
		if p.Addr().Is6() {
			return true
		}
	}
	return false
}

func (d *Desired) check() error {
	if n := len(d.VIPs); n > maxVIPs {
		return fmt.Errorf("%d VIPs, at most %d", n, maxVIPs)
	}
	for _, a := range d.VIPs {
		if !a.IsValid() || a.Is4In6() || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
			return fmt.Errorf("VIP %s is not a plain unicast address", a)
		}
	}
	if d.Delivery > DeliverMark {
		return fmt.Errorf("unknown %s", d.Delivery)
	}
	if len(d.Tunnel) > 14 {
		return fmt.Errorf("tunnel name %q is longer than 14 characters", d.Tunnel)
	}
	if d.Local.IsValid() && !d.Local.Is4() {
		return fmt.Errorf("local tunnel address %s is not IPv4", d.Local)
	}
	if n := len(d.Peers); n > maxPeers {
		return fmt.Errorf("%d peers, at most %d", n, maxPeers)
	}
	for _, p := range d.Peers {
		if !p.Is4() {
			return fmt.Errorf("peer %s is not IPv4", p)
		}
	}
	if n := len(d.Inner); n > maxInner {
		return fmt.Errorf("%d inner prefixes, at most %d", n, maxInner)
	}
	for _, p := range d.Inner {
		if !p.IsValid() || p.Addr().Is4In6() || p != p.Masked() {
			return fmt.Errorf("inner prefix %s is not a masked IPv4 or IPv6 prefix", p)
		}
	}
	if n := len(d.LocalActive); n > maxActive {
		return fmt.Errorf("%d active local slots, at most %d", n, maxActive)
	}
	for name, list := range map[string][]sa.Slot{"new-client": d.NewClients, "active local": d.LocalActive} {
		for _, s := range list {
			if !s.Valid() {
				return fmt.Errorf("%s slot %d is not in 1..%d", name, s, sa.MaxSlot)
			}
		}
	}
	if d.Default > sa.MaxSlot {
		return fmt.Errorf("default slot %d is not in 0..%d", d.Default, sa.MaxSlot)
	}
	for s, st := range d.Slots {
		if err := d.checkSlot(s, st); err != nil {
			return err
		}
	}
	return nil
}

func (d *Desired) checkSlot(s sa.Slot, st SlotSteer) error {
	if !s.Valid() {
		return fmt.Errorf("slot %d is not in 1..%d", s, sa.MaxSlot)
	}
	if err := d.checkAction(st.Uplink); err != nil {
		return fmt.Errorf("slot %d, uplink action: %w", s, err)
	}
	if err := d.checkAction(st.Peer); err != nil {
		return fmt.Errorf("slot %d, peer action: %w", s, err)
	}
	return nil
}

func (d *Desired) checkAction(a Action) error {
	switch a.Kind {
	case Drop:
		return nil
	case Remote:
		if !a.Peer.Is4() || a.Peer.IsUnspecified() {
			return fmt.Errorf("peer address %s is not IPv4", a.Peer)
		}
		if d.Tunnel == "" {
			return fmt.Errorf("remote by %s without a tunnel device", a.Peer)
		}
		return nil
	case Local:
	default:
		return fmt.Errorf("unknown %s", a.Kind)
	}
	if a.Ifindex <= 0 || a.SlotMAC == [6]byte{} || a.HostMAC == [6]byte{} {
		return fmt.Errorf("local without interface or MAC addresses")
	}
	if a.NextHop4.IsValid() && !a.NextHop4.Is4() || a.NextHop6.IsValid() && !a.NextHop6.Is6() {
		return fmt.Errorf("next hops %s, %s are of the wrong family", a.NextHop4, a.NextHop6)
	}
	if d.Delivery == DeliverPeer {
		return nil
	}
	for _, v := range d.VIPs {
		if v.Is4() && !a.NextHop4.IsValid() || v.Is6() && !a.NextHop6.IsValid() {
			return fmt.Errorf("delivery %s of %s without a next hop of its family", d.Delivery, v)
		}
	}
	return nil
}
