package steer

import (
	"encoding/binary"
	"net/netip"

	"github.com/shadowcast/shadowcast/sa"
)

// The model is the programs written again, plainly, from the package comment:
// one packet in, one verdict out.

const (
	actOK       = 0
	actShot     = 2
	actRedirect = 7
)

type hit uint8

const (
	hitNone hit = iota
	hitUplink
	hitPeer
	hitRemote
)

type verdict struct {
	ret    uint32
	reason Reason
	slot   sa.Slot
	hit    hit
	event  *Event
	out    []byte // the packet afterwards, where it is redirected
}

type fragKey struct {
	src, dst netip.Addr
	id       uint32
	proto    byte
}

type model struct {
	d     Desired
	table [buckets]uint16
	frags map[fragKey]sa.Slot
	watch map[sa.SPI]bool
}

func drop(r Reason) verdict { return verdict{ret: actShot, reason: r} }
func pass() verdict         { return verdict{ret: actOK} }

// packet is what the model knows of one packet.
type packet struct {
	raw      []byte
	off      int // of the IP header
	src, dst netip.Addr
	proto    byte
	ttl      byte
	l4, end  int
	first    bool
	later    bool
	id       uint32
}

func (p *packet) get(off, n int) []byte {
	if off+n > p.end || off+n > len(p.raw) {
		return nil
	}
	return p.raw[off : off+n]
}

func (m *model) isVIP(a netip.Addr) bool {
	for _, v := range m.d.VIPs {
		if v == a {
			return true
		}
	}
	return false
}

// run is what a program does with raw: l2 for the uplink's, else the peer's.
func (m *model) run(raw []byte, l2 bool) verdict {
	if !l2 {
		switch raw[0] >> 4 {
		case 4:
			return m.ip4(raw, 0, l2)
		case 6:
			return m.ip6(raw, 0, l2)
		}
		return drop(ReasonMalformed)
	}
	if [6]byte(raw) != [6]byte{} { // the test device's address; else another's frame
		return pass()
	}
	switch binary.BigEndian.Uint16(raw[12:]) {
	case 0x0800:
		return m.ip4(raw, 14, l2)
	case 0x86dd:
		return m.ip6(raw, 14, l2)
	}
	return pass()
}

func (m *model) ip4(raw []byte, off int, l2 bool) verdict {
	if len(raw) < off+20 {
		return drop(ReasonShort)
	}
	h := raw[off:]
	p := packet{raw: raw, off: off, proto: h[9], ttl: h[8]}
	p.src, p.dst = netip.AddrFrom4([4]byte(h[12:])), netip.AddrFrom4([4]byte(h[16:]))
	p.l4 = off + int(h[0]&15)*4
	p.end = off + int(binary.BigEndian.Uint16(h[2:]))
	p.id = uint32(binary.BigEndian.Uint16(h[4:]))
	frag := binary.BigEndian.Uint16(h[6:])
	p.later = frag&0x1fff != 0
	p.first = frag&0x2000 != 0 && !p.later
	bad := h[0]>>4 != 4 || h[0]&15 < 5 || p.l4 > p.end || p.end > len(raw)
	vip := m.isVIP(p.dst)
	switch {
	case !l2 && bad:
		return drop(ReasonMalformed)
	case !vip && l2:
		return guard(&p)
	case !vip:
		return m.inner(p.dst)
	case bad:
		return drop(ReasonMalformed)
	}
	return m.deliver(&p, l2)
}

func (m *model) ip6(raw []byte, off int, l2 bool) verdict {
	if len(raw) < off+40 {
		return drop(ReasonShort)
	}
	h := raw[off:]
	p := packet{raw: raw, off: off, proto: h[6], ttl: h[7], l4: off + 40}
	p.src, p.dst = netip.AddrFrom16([16]byte(h[8:])), netip.AddrFrom16([16]byte(h[24:]))
	p.end = p.l4 + int(binary.BigEndian.Uint16(h[4:]))
	vip := m.isVIP(p.dst)
	if !l2 && p.end > len(raw) {
		return drop(ReasonMalformed)
	}
	if !vip && !l2 {
		return m.inner(p.dst)
	}
	if !vip && p.ttl == 255 {
		return pass()
	}
	if !vip {
		p.end = len(raw)
	} else if h[0]>>4 != 6 || p.end > len(raw) {
		return drop(ReasonMalformed)
	}
	if r := p.walk(); r != ReasonNone {
		return drop(r)
	}
	if !vip {
		return guard(&p)
	}
	return m.deliver(&p, l2)
}

func (p *packet) walk() Reason {
	for n := 0; ; n++ {
		if p.proto != 0 && p.proto != 43 && p.proto != 44 && p.proto != 60 {
			return ReasonNone
		}
		if n == 8 {
			return ReasonHeaders
		}
		h := p.get(p.l4, 8)
		if h == nil {
			return ReasonShort
		}
		if p.proto != 44 {
			p.proto = h[0]
			p.l4 += (int(h[1]) + 1) * 8
			continue
		}
		if p.first {
			return ReasonMalformed
		}
		p.proto = h[0]
		p.l4 += 8
		p.id = binary.BigEndian.Uint32(h[4:])
		off := binary.BigEndian.Uint16(h[2:])
		if off>>3 != 0 {
			p.later = true
			return ReasonNone
		}
		p.first = off&1 != 0
	}
}

func guard(p *packet) verdict {
	if p.ttl == 255 || p.proto != 17 || p.later {
		return pass()
	}
	if len(p.raw) < p.l4+4 {
		return drop(ReasonShort)
	}
	if binary.BigEndian.Uint16(p.raw[p.l4+2:]) == 3784 {
		return drop(ReasonBFDTTL)
	}
	return pass()
}

func (m *model) inner(dst netip.Addr) verdict {
	for _, p := range m.d.Inner {
		if p.Contains(dst) {
			return pass()
		}
	}
	return drop(ReasonNotInner)
}

func (m *model) deliver(p *packet, l2 bool) verdict {
	key := fragKey{p.src, p.dst, p.id, p.proto}
	if p.dst.Is6() {
		key.proto = 0
	}
	var slot sa.Slot
	var ev *Event
	if p.later {
		var ok bool
		if slot, ok = m.frags[key]; !ok {
			return drop(ReasonFragment)
		}
	} else {
		var r Reason
		slot, ev, r = m.classify(p)
		if r == ReasonICMPCloned {
			v := drop(r)
			return v
		}
		if r != ReasonNone {
			return drop(r)
		}
		if p.first {
			m.frags[key] = slot
		}
	}
	st := m.d.Slots[slot]
	a, h := st.Peer, hitPeer
	if l2 {
		a, h = st.Uplink, hitUplink
	}
	switch a.Kind {
	case Local:
		v := verdict{ret: actRedirect, slot: slot, hit: h}
		if ev != nil && (ev.Kind == EventIKE || m.watch[ev.SPI]) {
			delete(m.watch, ev.SPI)
			ev.Slot = slot
			v.event = ev
		}
		if m.d.Delivery == DeliverMark {
			v.ret = actOK
		}
		v.out = m.framed(p, a, l2)
		return v
	case Remote:
		ttl := p.ttl - 2
		switch {
		case l2 && p.ttl < 2, !l2 && p.ttl < 4:
			v := drop(ReasonHops)
			v.slot, v.hit = slot, hitRemote
			return v
		case l2:
			ttl = min(p.ttl-1, 4)
		}
		return verdict{ret: actRedirect, slot: slot, hit: hitRemote, out: p.withTTL(ttl)}
	}
	return drop(ReasonNoSlot)
}

// framed is the packet as it enters the slot.
func (m *model) framed(p *packet, a Action, l2 bool) []byte {
	out := append([]byte(nil), p.raw...)
	if m.d.Delivery == DeliverMark {
		return out
	}
	if !l2 {
		eth := make([]byte, 14)
		binary.BigEndian.PutUint16(eth[12:], 0x0800)
		if p.dst.Is6() {
			binary.BigEndian.PutUint16(eth[12:], 0x86dd)
		}
		out = append(eth, out...)
	}
	if m.d.Delivery == DeliverPeer {
		copy(out, a.SlotMAC[:])
		copy(out[6:], a.HostMAC[:])
	}
	return out
}

func (p *packet) withTTL(ttl byte) []byte {
	out := append([]byte(nil), p.raw...)
	if p.dst.Is6() {
		out[p.off+7] = ttl
		return out
	}
	out[p.off+8] = ttl
	add := func(a, b uint16) uint16 { // ones' complement (RFC 1071)
		s := a + b
		if s < b {
			s++
		}
		return s
	}
	be := binary.BigEndian
	sum := ^be.Uint16(out[p.off+10:])
	sum = add(sum, ^(uint16(p.ttl)<<8 | uint16(p.proto)))
	sum = add(sum, uint16(ttl)<<8|uint16(p.proto))
	be.PutUint16(out[p.off+10:], ^sum)
	return out
}

func (m *model) classify(p *packet) (sa.Slot, *Event, Reason) {
	icmp, echo := byte(1), byte(8)
	if p.dst.Is6() {
		icmp, echo = 58, 128
	}
	switch p.proto {
	case 50:
		return m.esp(p, p.l4, 0)
	case 17:
		return m.udp(p)
	case icmp:
	default:
		return 0, nil, ReasonProtocol
	}
	h := p.get(p.l4, 8)
	switch {
	case h == nil:
		return 0, nil, ReasonShort
	case h[0] == echo && m.d.Default == 0:
		return 0, nil, ReasonNoSlot
	case h[0] == echo:
		return m.d.Default, nil, ReasonNone
	case p.dst.Is4() && h[0] != 3, p.dst.Is6() && h[0] != 1 && h[0] != 2:
		return 0, nil, ReasonProtocol
	case p.first || !m.quotesOurs(p):
		return 0, nil, ReasonICMPQuote
	}
	return 0, nil, ReasonICMPCloned
}

func (m *model) quotesOurs(p *packet) bool {
	q := packet{raw: p.raw, end: p.end}
	at := p.l4 + 8
	if p.dst.Is4() {
		h := p.get(at, 20)
		if h == nil || h[0]>>4 != 4 || h[0]&15 < 5 || !m.isVIP(netip.AddrFrom4([4]byte(h[12:]))) {
			return false
		}
		q.proto, q.l4 = h[9], at+int(h[0]&15)*4
		q.later = binary.BigEndian.Uint16(h[6:])&0x1fff != 0
	} else {
		h := p.get(at, 40)
		if h == nil || h[0]>>4 != 6 || !m.isVIP(netip.AddrFrom16([16]byte(h[8:]))) {
			return false
		}
		q.proto, q.l4 = h[6], at+40
		if q.walk() != ReasonNone {
			return false
		}
	}
	if q.later {
		return false
	}
	port := q.get(q.l4, 2)
	return q.proto == 50 || q.proto == 17 && port != nil && binary.BigEndian.Uint16(port) == 4500
}

func (m *model) udp(p *packet) (sa.Slot, *Event, Reason) {
	h := p.get(p.l4, 8)
	if h == nil {
		return 0, nil, ReasonShort
	}
	be := binary.BigEndian
	sport, dport, n := be.Uint16(h), be.Uint16(h[2:]), int(be.Uint16(h[4:]))
	if n < 8 || !p.first && p.l4+n > p.end {
		return 0, nil, ReasonMalformed
	}
	body := p.l4 + 8
	switch dport {
	case 500:
		return m.ike(p, body, sport)
	case 4500:
	default:
		return 0, nil, ReasonProtocol
	}
	if n == 9 {
		if b := p.get(body, 1); b != nil && b[0] == 0xff {
			return 0, nil, ReasonKeepalive
		}
		return 0, nil, ReasonShort
	}
	marker := p.get(body, 4)
	switch {
	case marker == nil:
		return 0, nil, ReasonShort
	case be.Uint32(marker) == 0:
		return m.ike(p, body+4, sport)
	}
	return m.esp(p, body, sport)
}

func (m *model) esp(p *packet, at int, sport uint16) (sa.Slot, *Event, Reason) {
	h := p.get(at, 8)
	if h == nil {
		return 0, nil, ReasonShort
	}
	spi := sa.SPI(binary.BigEndian.Uint32(h))
	if spi.Slot() == 0 {
		return 0, nil, ReasonLabel
	}
	return spi.Slot(), &Event{Kind: EventESP, SPI: spi, Src: netip.AddrPortFrom(p.src, sport)}, ReasonNone
}

func (m *model) ike(p *packet, at int, sport uint16) (sa.Slot, *Event, Reason) {
	h := p.get(at, 28)
	if h == nil {
		return 0, nil, ReasonShort
	}
	if h[17]>>4 != 2 {
		return 0, nil, ReasonIKEVersion
	}
	be := binary.BigEndian
	e := &Event{Kind: EventIKE, Src: netip.AddrPortFrom(p.src, sport),
		IKE:       sa.IKEID{Initiator: sa.IKESPI(be.Uint64(h)), Responder: sa.IKESPI(be.Uint64(h[8:]))},
		MessageID: be.Uint32(h[20:]), Length: be.Uint32(h[24:]), Exchange: h[18], Flags: h[19]}
	spi := e.IKE.Responder
	if e.Flags&8 == 0 {
		spi = e.IKE.Initiator
	} else if spi == 0 {
		slot := sa.Slot(m.table[newClientBucket(e.IKE.Initiator)])
		if slot == 0 {
			return 0, nil, ReasonNoHome
		}
		return slot, e, ReasonNone
	}
	if spi.Slot() == 0 {
		return 0, nil, ReasonLabel
	}
	return spi.Slot(), e, ReasonNone
}
