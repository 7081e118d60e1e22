package steer

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/shadowcast/shadowcast/sa"
)

var (
	be      = binary.BigEndian
	vip4    = netip.MustParseAddr("192.0.2.1")
	vip6    = netip.MustParseAddr("2001:db8:f::1")
	other4  = netip.MustParseAddr("192.0.2.77")
	other6  = netip.MustParseAddr("2001:db8:f::77")
	client4 = netip.MustParseAddr("198.51.100.9")
	client6 = netip.MustParseAddr("2001:db8:c::9")
)

// ip is a packet under construction; its zero fields are sensible.
type ip struct {
	src, dst netip.Addr
	proto    byte
	ttl      byte // 0 = 64
	id       uint32
	frag     int // octets; -1 = first fragment
	more     bool
	ext      []byte // IPv6: extension headers, one each, by number
	body     []byte
}

func (p ip) bytes() []byte {
	if p.ttl == 0 {
		p.ttl = 64
	}
	if p.dst.Is4() {
		h := make([]byte, 20, 20+len(p.body))
		h[0] = 0x45
		be.PutUint16(h[2:], uint16(20+len(p.body)))
		be.PutUint16(h[4:], uint16(p.id))
		off := uint16(p.frag / 8)
		if p.more {
			off |= 0x2000
		}
		be.PutUint16(h[6:], off)
		h[8], h[9] = p.ttl, p.proto
		copy(h[12:], p.src.AsSlice())
		copy(h[16:], p.dst.AsSlice())
		be.PutUint16(h[10:], checksum(h))
		return append(h, p.body...)
	}
	var ext []byte
	order := slices.Clone(p.ext)
	if p.frag != 0 || p.more {
		order = append(order, 44)
	}
	for i, n := range order {
		next := p.proto
		if i+1 < len(order) {
			next = order[i+1]
		}
		e := make([]byte, 8)
		e[0] = next
		if n == 44 {
			off := uint16(p.frag)
			if p.more {
				off |= 1
			}
			be.PutUint16(e[2:], off)
			be.PutUint32(e[4:], p.id)
		}
		ext = append(ext, e...)
	}
	h := make([]byte, 40)
	h[0] = 0x60
	be.PutUint16(h[4:], uint16(len(ext)+len(p.body)))
	h[6], h[7] = p.proto, p.ttl
	if len(order) > 0 {
		h[6] = order[0]
	}
	copy(h[8:], p.src.AsSlice())
	copy(h[24:], p.dst.AsSlice())
	return slices.Concat(h, ext, p.body)
}

func checksum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(be.Uint16(b[i:]))
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

// to4 and to6 are from a client to the VIP.
func to4(proto byte, body []byte) ip { return ip{src: client4, dst: vip4, proto: proto, body: body} }
func to6(proto byte, body []byte) ip { return ip{src: client6, dst: vip6, proto: proto, body: body} }

// eth puts the Ethernet header of the test device before a packet.
func eth(b []byte) []byte {
	h := make([]byte, 14)
	h[12], h[13] = 0x08, 0x00
	if b[0]>>4 == 6 {
		h[12], h[13] = 0x86, 0xdd
	}
	return append(h, b...)
}

func udp(sport, dport uint16, body []byte) []byte {
	h := make([]byte, 8)
	be.PutUint16(h, sport)
	be.PutUint16(h[2:], dport)
	be.PutUint16(h[4:], uint16(8+len(body)))
	return append(h, body...)
}

func esp(slot sa.Slot, n int) []byte {
	b := make([]byte, max(n, 8))
	be.PutUint32(b, uint32(slot)<<20|0xabcd)
	be.PutUint32(b[4:], 7)
	return b
}

func natt(body []byte) []byte { return udp(40001, 4500, body) }

// ike is an IKE header with a little payload.
func ike(i, r uint64, flags byte) []byte {
	b := make([]byte, 40)
	be.PutUint64(b, i)
	be.PutUint64(b[8:], r)
	b[16], b[17], b[18], b[19] = 46, 0x20, 37, flags
	be.PutUint32(b[20:], 5)
	be.PutUint32(b[24:], uint32(len(b)))
	return b
}

func marked(b []byte) []byte { return append(make([]byte, 4), b...) }

func icmp(typ, code byte, quote []byte) []byte {
	return append([]byte{typ, code, 0, 0, 0, 0, 0, 0}, quote...)
}

func label(s sa.Slot) uint64 { return s.IKELabel() | 0x1234567890ab }
