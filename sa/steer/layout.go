package steer

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// burst is how much of a second a bucket holds: enough for what one softirq run
// of a fast device brings at once.
const burst = 50 * time.Millisecond

// words reads an address as the programs do: octets in packet order, IPv4 in
// the first word.
func words(a netip.Addr) (w [4]uint32) {
	b := a.AsSlice()
	for i := 0; i < len(b)/4; i++ {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

// number is an IPv4 address in host order, 0 where a is not one.
func number(a netip.Addr) uint32 {
	if !a.Is4() {
		return 0
	}
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func family(a netip.Addr) uint32 {
	if a.Is4() {
		return 4
	}
	return 6
}

func (a Action) encode() steerAction {
	e := steerAction{Kind: uint8(a.Kind)}
	switch a.Kind {
	case Local:
		e.Target = uint32(a.Ifindex)
		e.Dmac, e.Smac = a.SlotMAC, a.HostMAC
		if a.NextHop4.IsValid() {
			e.NextHop4 = words(a.NextHop4)[0]
		}
		e.NextHop6 = words(a.NextHop6)
	case Remote:
		e.Target = number(a.Peer)
	}
	return e
}

// detail splits off what a reader uses only after it has seen Kind and Target.
func (e steerAction) detail() steerAction {
	e.Kind, e.Target = 0, 0
	return e
}

func (e steerAction) decide(kind uint8, target uint32) steerAction {
	e.Kind, e.Target = kind, target
	return e
}

func (d *Desired) settings(tunnel4, tunnel6 int) steerSettings {
	pps := d.RemotePPS
	if pps == 0 {
		pps = DefaultRemotePPS
	}
	s := steerSettings{
		Tunnel4:     uint32(tunnel4),
		Tunnel6:     uint32(tunnel6),
		LocalAddr:   number(d.Local),
		DefaultSlot: uint16(d.Default),
		Delivery:    uint8(d.Delivery),
	}
	s.RemoteCostNs, s.RemoteBurstNs = bucketOf(pps)
	s.IcmpCostNs, s.IcmpBurstNs = bucketOf(icmpPPS)
	active := slices.Clone(d.LocalActive)
	slices.Sort(active)
	for _, slot := range slices.Compact(active) {
		s.Active[s.ActiveN] = uint16(slot)
		s.ActiveN++
	}
	return s
}

func bucketOf(pps uint64) (cost, size uint64) {
	cost = max(uint64(time.Second)/pps, 1)
	return cost, max(uint64(burst), cost)
}

// newClientTable spreads the buckets of initiator SPIs over slots. Each bucket
// goes to the slot with the highest hash of the pair (rendezvous hashing), so
// that adding or removing one slot moves only that slot's buckets.
func newClientTable(slots []sa.Slot) (t [buckets]uint16) {
	for b := range t {
		var top uint64
		for _, s := range slots {
			if h := mix(uint64(b)<<16 | uint64(s)); t[b] == 0 || h > top || h == top && uint16(s) > t[b] {
				t[b], top = uint16(s), h
			}
		}
	}
	return t
}

// mix is the finaliser of SplitMix64.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// newClientBucket is what the programs compute (home_of in bpf/classify.h).
func newClientBucket(spi sa.IKESPI) int { return int(uint64(spi) * 0x9e3779b97f4a7c15 >> 56) }
