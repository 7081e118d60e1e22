package steer

import (
	"net/netip"
	"testing"

	"github.com/shadowcast/shadowcast/sa"
)

// want is what the table says, independent of the model.
type want struct {
	ret    uint32
	reason Reason
	slot   sa.Slot
	hit    hit
}

var (
	ok        = want{ret: actOK}
	toUplink  = func(s sa.Slot) want { return want{ret: actRedirect, slot: s, hit: hitUplink} }
	toPeer    = func(s sa.Slot) want { return want{ret: actRedirect, slot: s, hit: hitPeer} }
	tunnelled = func(s sa.Slot) want { return want{ret: actRedirect, slot: s, hit: hitRemote} }
	no        = func(r Reason) want { return want{ret: actShot, reason: r} }
)

type branch struct {
	name string
	raw  []byte // Ethernet header first for the uplink
	peer bool
	want want
}

func uplink(name string, p ip, w want) branch   { return branch{name, eth(p.bytes()), false, w} }
func fromPeer(name string, p ip, w want) branch { return branch{name, p.bytes(), true, w} }

// patch changes one octet.
func patch(b []byte, at int, v byte) []byte { b[at] = v; return b }

func quote4(p ip) []byte { p.src, p.dst = vip4, other4; return p.bytes() }
func quote6(p ip) []byte { p.src, p.dst = vip6, other6; return p.bytes() }

func branches() []branch {
	with := func(p ip, f func(*ip)) ip { f(&p); return p }
	dst := func(a netip.Addr) func(*ip) { return func(p *ip) { p.dst = a } }
	ttl := func(n byte) func(*ip) { return func(p *ip) { p.ttl = n } }
	ext := func(n ...byte) func(*ip) { return func(p *ip) { p.ext = n } }
	part := func(off int, more bool) func(*ip) { return func(p *ip) { p.frag, p.more, p.id = off, more, 99 } }
	const home = 0x1111222233334444
	homeSlot := sa.Slot(newClientTable(benchDesired(1).NewClients)[newClientBucket(home)])
	homeWant := toUplink(homeSlot)
	if homeSlot == 3 {
		homeWant = tunnelled(homeSlot)
	}
	bfd := udp(49152, 3784, make([]byte, 24))
	var all []branch
	add := func(b ...branch) { all = append(all, b...) }
	for _, to := range []func(byte, []byte) ip{to4, to6} {
		n := "v4 "
		if to(0, nil).dst.Is6() {
			n = "v6 "
		}
		away := other4
		icmpProto, echo, unreach, quote := byte(1), byte(8), byte(3), quote4
		if n == "v6 " {
			away, icmpProto, echo, unreach, quote = other6, 58, 128, 1, quote6
		}
		add(
			uplink(n+"other destination", with(to(50, esp(2, 64)), dst(away)), ok),
			uplink(n+"ESP", to(50, esp(2, 64)), toUplink(2)),
			uplink(n+"ESP remote", to(50, esp(3, 64)), tunnelled(3)),
			uplink(n+"ESP remote, TTL 255", with(to(50, esp(3, 64)), ttl(255)), tunnelled(3)),
			uplink(n+"ESP remote, TTL 3", with(to(50, esp(3, 64)), ttl(3)), tunnelled(3)),
			uplink(n+"ESP remote, TTL 1", with(to(50, esp(3, 64)), ttl(1)), want{actShot, ReasonHops, 3, hitRemote}),
			uplink(n+"ESP dropped slot", to(50, esp(6, 64)), no(ReasonNoSlot)),
			uplink(n+"ESP unknown slot", to(50, esp(4095, 64)), no(ReasonNoSlot)),
			uplink(n+"ESP slot 0", to(50, esp(0, 64)), no(ReasonLabel)),
			uplink(n+"ESP short", to(50, esp(2, 8)[:7]), no(ReasonShort)),
			uplink(n+"UDP ESP", to(17, natt(esp(2, 64))), toUplink(2)),
			uplink(n+"UDP ESP remote", to(17, natt(esp(4, 64))), tunnelled(4)),
			uplink(n+"UDP ESP short", to(17, natt(esp(2, 8)[:6])), no(ReasonShort)),
			uplink(n+"UDP 4500 empty", to(17, natt(nil)), no(ReasonShort)),
			uplink(n+"UDP length 7", to(17, patch(natt(esp(2, 64)), 5, 7)), no(ReasonMalformed)),
			uplink(n+"UDP length beyond packet", to(17, patch(natt(esp(2, 64)), 4, 7)), no(ReasonMalformed)),
			uplink(n+"UDP header short", to(17, natt(nil)[:7]), no(ReasonShort)),
			uplink(n+"keep-alive", to(17, natt([]byte{0xff})), no(ReasonKeepalive)),
			uplink(n+"one octet", to(17, natt([]byte{0xfe})), no(ReasonShort)),
			uplink(n+"IKE 500 responder label", to(17, udp(500, 500, ike(1, label(2), 8))), toUplink(2)),
			uplink(n+"IKE 4500 responder label", to(17, natt(marked(ike(1, label(2), 8)))), toUplink(2)),
			uplink(n+"IKE initiator label", to(17, natt(marked(ike(label(1), label(2), 0x20)))), toUplink(1)),
			uplink(n+"IKE remote", to(17, natt(marked(ike(1, label(3), 8)))), tunnelled(3)),
			uplink(n+"IKE new client", to(17, udp(500, 500, ike(home, 0, 8))), homeWant),
			uplink(n+"IKE new client 4500", to(17, natt(marked(ike(home, 0, 8)))), homeWant),
			uplink(n+"IKE label 0", to(17, natt(marked(ike(1, 0x1234, 8)))), no(ReasonLabel)),
			uplink(n+"IKE label 4096", to(17, natt(marked(ike(1, 4096<<48, 8)))), no(ReasonLabel)),
			uplink(n+"IKE label 65535", to(17, natt(marked(ike(0xffff<<48, 0, 0)))), no(ReasonLabel)),
			uplink(n+"IKEv1", to(17, udp(500, 500, patch(ike(1, 0, 0), 17, 0x10))), no(ReasonIKEVersion)),
			uplink(n+"IKE short", to(17, udp(500, 500, ike(1, label(2), 8)[:27])), no(ReasonShort)),
			uplink(n+"IKE header alone", to(17, udp(500, 500, ike(1, label(2), 8)[:28])), toUplink(2)),
			uplink(n+"IKE 4500 short", to(17, natt(marked(ike(1, label(2), 8)[:10]))), no(ReasonShort)),
			uplink(n+"UDP other port", to(17, udp(4500, 53, esp(2, 64))), no(ReasonProtocol)),
			uplink(n+"TCP", to(6, make([]byte, 20)), no(ReasonProtocol)),
			uplink(n+"echo", to(icmpProto, icmp(echo, 0, nil)), toUplink(1)),
			uplink(n+"echo reply", to(icmpProto, icmp(echo^8|1, 0, nil)), no(ReasonProtocol)),
			uplink(n+"ICMP short", to(icmpProto, []byte{echo, 0, 0}), no(ReasonShort)),
			uplink(n+"unreachable quoting ESP", to(icmpProto, icmp(unreach, 0, quote(to(50, esp(9, 8))))), no(ReasonICMPCloned)),
			uplink(n+"unreachable quoting UDP ESP", to(icmpProto, icmp(unreach, 3, quote(to(17, udp(4500, 4500, nil))))), no(ReasonICMPCloned)),
			uplink(n+"unreachable quoting UDP", to(icmpProto, icmp(unreach, 3, quote(to(17, udp(53, 53, nil))))), no(ReasonICMPQuote)),
			uplink(n+"unreachable quoting another", to(icmpProto, icmp(unreach, 3, with(to(50, esp(9, 8)), func(p *ip) { p.src = away }).bytes())), no(ReasonICMPQuote)),
			uplink(n+"unreachable without quote", to(icmpProto, icmp(unreach, 0, nil)), no(ReasonICMPQuote)),
			uplink(n+"unreachable quoting later fragment", to(icmpProto, icmp(unreach, 0, quote(with(to(50, esp(9, 8)), part(800, true))))), no(ReasonICMPQuote)),
			uplink(n+"unreachable in fragments", with(to(icmpProto, icmp(unreach, 0, quote(to(50, esp(9, 8))))), part(0, true)), no(ReasonICMPQuote)),
			uplink(n+"later fragment unknown", with(to(17, make([]byte, 64)), func(p *ip) { p.frag, p.id = 1480, 1 }), no(ReasonFragment)),
			uplink(n+"first fragment", with(to(17, natt(esp(2, 600))), part(0, true)), toUplink(2)),
			uplink(n+"later fragment", with(to(17, make([]byte, 64)), part(608, true)), toUplink(2)),
			uplink(n+"last fragment", with(to(17, make([]byte, 64)), part(672, false)), toUplink(2)),
			fromPeer(n+"later fragment from peer", with(to(17, make([]byte, 64)), part(672, false)), toPeer(2)),
			uplink(n+"BFD TTL 255", with(to(17, bfd), func(p *ip) { p.dst, p.ttl = away, 255 }), ok),
			uplink(n+"BFD TTL 254", with(to(17, bfd), func(p *ip) { p.dst, p.ttl = away, 254 }), no(ReasonBFDTTL)),
			uplink(n+"BFD first fragment", with(to(17, bfd), func(p *ip) { p.dst, p.more = away, true }), no(ReasonBFDTTL)),
			uplink(n+"BFD to the VIP", to(17, bfd), no(ReasonProtocol)),
			uplink(n+"UDP elsewhere", with(to(17, udp(1, 53, nil)), dst(away)), ok),
			uplink(n+"UDP elsewhere, later fragment", with(to(17, make([]byte, 8)), func(p *ip) { p.dst, p.frag = away, 80 }), ok),
			uplink(n+"UDP elsewhere, cut", with(to(17, []byte{0, 1}), dst(away)), no(ReasonShort)),
			fromPeer(n+"peer: local", to(50, esp(2, 64)), toPeer(2)),
			fromPeer(n+"peer: slot leaving", to(17, natt(esp(4, 64))), toPeer(4)),
			fromPeer(n+"peer: no peer action", to(50, esp(3, 64)), no(ReasonNoSlot)),
			fromPeer(n+"peer: second hop", with(to(50, esp(5, 64)), ttl(4)), tunnelled(5)),
			fromPeer(n+"peer: third hop", with(to(50, esp(5, 64)), ttl(2)), want{actShot, ReasonHops, 5, hitRemote}),
			fromPeer(n+"peer: elsewhere", with(to(50, esp(2, 64)), dst(away)), no(ReasonNotInner)),
			fromPeer(n+"peer: echo", to(icmpProto, icmp(echo, 0, nil)), toPeer(1)),
			fromPeer(n+"peer: unreachable", to(icmpProto, icmp(unreach, 0, quote(to(50, esp(9, 8))))), no(ReasonICMPCloned)),
			fromPeer(n+"peer: BFD to the VIP", to(17, bfd), no(ReasonProtocol)),
		)
	}
	add(
		fromPeer("v4 peer: inner", with(to4(6, make([]byte, 20)), dst(netip.MustParseAddr("10.64.3.4"))), ok),
		fromPeer("v6 peer: inner", with(to6(6, make([]byte, 20)), dst(netip.MustParseAddr("2001:db8:64:1::1"))), ok),
		uplink("v6 too big", to6(58, icmp(2, 0, quote6(to6(50, esp(9, 8))))), no(ReasonICMPCloned)),
		uplink("v6 too big quoting first fragment", to6(58, icmp(2, 0, quote6(with(to6(50, esp(9, 8)), part(0, true))))), no(ReasonICMPCloned)),
		uplink("v6 neighbour solicitation", to6(58, make([]byte, 24)), no(ReasonProtocol)),
		uplink("v6 extensions", with(to6(17, natt(esp(2, 64))), ext(0, 43, 60)), toUplink(2)),
		uplink("v6 extensions, remote", with(to6(17, natt(esp(3, 64))), ext(60)), tunnelled(3)),
		uplink("v6 8 extensions", with(to6(50, esp(2, 64)), ext(0, 60, 60, 60, 60, 60, 60, 60)), toUplink(2)),
		uplink("v6 9 extensions", with(to6(50, esp(2, 64)), ext(0, 60, 60, 60, 60, 60, 60, 60, 60)), no(ReasonHeaders)),
		uplink("v6 9 extensions elsewhere", with(to6(17, bfd), func(p *ip) { p.dst, p.ext = other6, make([]byte, 9) }), no(ReasonHeaders)),
		uplink("v6 BFD behind extensions", with(to6(17, bfd), func(p *ip) { p.dst, p.ext = other6, []byte{0, 60, 60} }), no(ReasonBFDTTL)),
		uplink("v6 atomic fragment", with(to6(50, esp(2, 64)), ext(44)), toUplink(2)),
		uplink("v6 two fragment headers", with(to6(50, esp(2, 64)), func(p *ip) {
			p.ext, p.more = []byte{60}, true
			p.body = append(make([]byte, 8), p.body...)
			p.body[0] = 50
			p.proto = 44
		}), no(ReasonMalformed)),
		uplink("v6 extension cut", ip{src: client6, dst: vip6, proto: 60, body: make([]byte, 6)}, no(ReasonShort)),
		uplink("v6 AH", to6(51, make([]byte, 24)), no(ReasonProtocol)),
	)
	// Frames that the builder cannot make.
	raw := func(name string, b []byte, w want) { add(branch{name, b, false, w}) }
	v4, v6 := to4(50, esp(2, 64)), to6(50, esp(2, 64))
	raw("v4 short header", eth(v4.bytes())[:30], no(ReasonShort))
	raw("v6 short header", eth(v6.bytes())[:50], no(ReasonShort))
	raw("v4 version 6", patch(eth(v4.bytes()), 14, 0x65), no(ReasonMalformed))
	raw("v4 header length 4", patch(eth(v4.bytes()), 14, 0x44), no(ReasonMalformed))
	raw("v4 header length beyond packet", patch(eth(to4(50, nil).bytes()), 14, 0x4f), no(ReasonMalformed))
	raw("v4 total length beyond packet", patch(eth(v4.bytes()), 16, 9), no(ReasonMalformed))
	raw("v4 padding is no payload", append(eth(to4(50, esp(2, 8)[:4]).bytes()), 0, 0, 0, 0, 0, 0, 0, 0), no(ReasonShort))
	raw("v4 options", func() []byte {
		b := to4(50, append(make([]byte, 8), esp(2, 16)...)).bytes()
		b[0] = 0x47
		return eth(b)
	}(), toUplink(2))
	raw("v6 version 4", patch(eth(v6.bytes()), 14, 0x45), no(ReasonMalformed))
	raw("v6 payload length beyond packet", patch(eth(v6.bytes()), 18, 9), no(ReasonMalformed))
	raw("another's frame", patch(eth(v4.bytes()), 0, 2), ok)
	raw("broadcast frame", func() []byte {
		b := eth(v4.bytes())
		for i := range 6 {
			b[i] = 0xff
		}
		return b
	}(), ok)
	raw("ARP", patch(patch(eth(v4.bytes()), 12, 8), 13, 6), ok)
	raw("tagged frame", append([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x81, 0, 0, 9}, eth(v4.bytes())[12:]...), ok)
	add(branch{"peer: not IP", patch(v4.bytes(), 0, 0x10), true, no(ReasonMalformed)},
		branch{"v4 peer: short", v4.bytes()[:19], true, no(ReasonShort)},
		branch{"v6 peer: short", v6.bytes()[:39], true, no(ReasonShort)},
		branch{"v4 peer: header length 4", patch(v4.bytes(), 0, 0x44), true, no(ReasonMalformed)},
		branch{"v6 peer: payload length beyond packet", patch(v6.bytes(), 4, 9), true, no(ReasonMalformed)})
	return all
}

func TestBranches(t *testing.T) {
	b := newBench(t)
	for _, d := range []Delivery{DeliverPeer, DeliverNeigh, DeliverMark} {
		desired := b.desired
		desired.Delivery = d
		b.set(desired)
		b.forget()
		for _, c := range branches() {
			t.Run(d.String()+"/"+c.name, func(t *testing.T) {
				outer := b.t
				b.t = t
				defer func() { b.t = outer }()
				got := b.run(c.raw, !c.peer)
				w := c.want
				if d == DeliverMark && (w.hit == hitUplink || w.hit == hitPeer) {
					w.ret = actOK
				}
				if g := (want{got.ret, got.reason, got.slot, got.hit}); g != w {
					t.Errorf("model says %+v, want %+v", g, w)
				}
			})
		}
	}
}
