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

// pingRTT returns the shortest round-trip time to any of addrs by ICMP echo
// (RFC 792, RFC 4443), three to each, 0 where nobody answers. The shortest one
// is the path; the others contain queues.
func pingRTT(ctx context.Context, addrs []netip.Addr) time.Duration {
	best := time.Duration(0)
	for _, v6 := range []bool{false, true} {
		var some []netip.Addr
		for _, a := range addrs {
			if a.Is6() == v6 {
				some = append(some, a)
			}
		}
		if d := pingFamily(ctx, some, v6); d > 0 && (best == 0 || d < best) {
			best = d
		}
	}
	return best
}

func pingFamily(ctx context.Context, addrs []netip.Addr, v6 bool) time.Duration {
	if len(addrs) == 0 {
		return 0
	}
	network, proto, typ, reply := "ip4:icmp", 1, icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply)
	if v6 {
		network, proto, typ, reply = "ip6:ipv6-icmp", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	conn, err := icmp.ListenPacket(network, "")
	if err != nil {
		return 0
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
	best := time.Duration(0)
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
		if d > 0 && d < 2*pingWait && (best == 0 || d < best) {
			best = d
		}
	}
	return best
}
