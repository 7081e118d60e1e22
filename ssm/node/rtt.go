package node

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// pingWait bounds one measurement.
const pingWait = 400 * time.Millisecond

// roundTrip is what one measurement found: the shortest answer is the path, the
// longest one contains queues. Zero where nobody answered.
type roundTrip struct{ best, worst time.Duration }

func (t *roundTrip) add(d time.Duration) {
	if t.best == 0 || d < t.best {
		t.best = d
	}
	t.worst = max(t.worst, d)
}

// nearest returns the one with the shortest path.
func nearest(ts ...roundTrip) roundTrip {
	var out roundTrip
	for _, t := range ts {
		if t.best > 0 && (out.best == 0 || t.best < out.best) {
			out = t
		}
	}
	return out
}

// pingRTT measures the round trip to the nearest of addrs by ICMP echo (RFC 792,
// RFC 4443), three to each.
func pingRTT(ctx context.Context, addrs []netip.Addr) roundTrip {
	var found [2]roundTrip
	for i, v6 := range []bool{false, true} {
		var some []netip.Addr
		for _, a := range addrs {
			if a.Is6() == v6 {
				some = append(some, a)
			}
		}
		found[i] = pingFamily(ctx, some, v6)
	}
	return nearest(found[:]...)
}

func pingFamily(ctx context.Context, addrs []netip.Addr, v6 bool) roundTrip {
	if len(addrs) == 0 {
		return roundTrip{}
	}
	network, proto, typ, reply := "ip4:icmp", 1, icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply)
	if v6 {
		network, proto, typ, reply = "ip6:ipv6-icmp", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	conn, err := icmp.ListenPacket(network, "")
	if err != nil {
		return roundTrip{}
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn.SetDeadline(time.Now().Add(pingWait))
	id := os.Getpid() & 0xffff
	sent := 0
	for round := range 3 {
		for i, a := range addrs {
			data := binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano()))
			m := icmp.Message{Type: typ, Body: &icmp.Echo{ID: id, Seq: round<<8 | i, Data: data}}
			b, err := m.Marshal(nil)
			if err != nil {
				continue
			}
			if _, err := conn.WriteTo(b, &net.IPAddr{IP: a.AsSlice()}); err == nil {
				sent++
			}
		}
	}
	times := make([]roundTrip, len(addrs))
	buf := make([]byte, 1500)
	for got := 0; got < sent; {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			break
		}
		now := time.Now()
		m, err := icmp.ParseMessage(proto, buf[:n])
		if err != nil || m.Type != reply {
			continue
		}
		e, ok := m.Body.(*icmp.Echo)
		if !ok || e.ID != id || len(e.Data) != 8 {
			continue
		}
		got++
		d := now.Sub(time.Unix(0, int64(binary.BigEndian.Uint64(e.Data))))
		if i := e.Seq & 0xff; i < len(times) && d > 0 && d < 2*pingWait {
			times[i].add(d)
		}
	}
	return nearest(times...)
}
