package lab

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"time"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"golang.org/x/net/bpf"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

// The order of a leave, seen on the wire: a drained appliance asks the routers to go
// elsewhere, the last client packet comes, and only then is the VIP withdrawn; when
// the daemon ends, its sessions end with a word.
func init() {
	for name, frr := range map[string]bool{"withdraw-order": false, "withdraw-order-frr": true} {
		o := fleetOptions(ConnSpec{Cert: true})
		o.BFD, o.FRR = patientBFD, frr // a drain has no fault to detect
		Register(Scenario{
			Name: name, Doc: "packet capture at a drained appliance: last packet, then withdraw, then shutdown message",
			Need: fleetNeed, Options: o, Bench: true, Run: withdrawOrder,
		})
	}
}

// leaveFilter lets through BGP whole, and the headers of packets from or to the VIP.
// Offsets are from the IPv4 header (SOCK_DGRAM).
var leaveFilter = []bpf.Instruction{
	0:  bpf.LoadAbsolute{Off: 0, Size: 1},
	1:  bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4},
	2:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 4, SkipTrue: 13}, // drop
	3:  bpf.LoadAbsolute{Off: 12, Size: 4},
	4:  bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0xc6336401 /* VIP */, SkipTrue: 9}, // headers
	5:  bpf.LoadAbsolute{Off: 16, Size: 4},
	6:  bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0xc6336401, SkipTrue: 7}, // headers
	7:  bpf.LoadAbsolute{Off: 9, Size: 1},
	8:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 6, SkipTrue: 7}, // drop
	9:  bpf.LoadMemShift{Off: 0},
	10: bpf.LoadIndirect{Off: 0, Size: 2},
	11: bpf.JumpIf{Cond: bpf.JumpEqual, Val: 179, SkipTrue: 3}, // whole
	12: bpf.LoadIndirect{Off: 2, Size: 2},
	13: bpf.JumpIf{Cond: bpf.JumpEqual, Val: 179, SkipTrue: 1, SkipFalse: 2}, // whole, drop
	14: bpf.RetConstant{Val: 40},
	15: bpf.RetConstant{Val: 1 << 16},
	16: bpf.RetConstant{Val: 0},
}

// leave is what a tap saw of an appliance's leave.
type leave struct {
	gshut    time.Time // the VIP went out with GRACEFUL_SHUTDOWN
	entered  time.Time // last packet from a client in
	left     time.Time // last packet to a client out
	after    int       // of both, after the withdraw
	withdraw time.Time // first withdraw of the VIP
	bye      time.Time // NOTIFICATION
	byeText  string
}

func withdrawOrder(t *T, l *Lab) {
	s, o := start(t, l)
	taps := map[string]*tap{}
	for _, dev := range []string{devUplink1, devUplink2} {
		x, err := l.startTap(o.ns, dev, leaveFilter)
		t.Check(err)
		taps[dev] = x
	}
	sc := scene(t, l, s, "drained and stopped", func(ob *Observation) {
		pause(t, 300*time.Millisecond)
		acc, err := o.Drain(t.Context(), func(p *v1.DrainProgress) { ob.Mark(time.Now(), p.Phase+" "+p.Message) })
		t.Check(err)
		if !acc.Drained || acc.PacketsStillEnter {
			t.Errorf("drain of %s: %v", o.Name, acc)
		}
		pause(t, time.Second)
		t.Check(o.StopDaemon(t.Context()))
		pause(t, 700*time.Millisecond)
	})
	lossless(t, sc)
	var through int
	var last, first time.Time
	for _, dev := range sortedKeys(taps) {
		pkts, err := taps[dev].packets()
		t.Check(err)
		v, n := readLeave(t, pkts)
		through += n
		if v.withdraw.IsZero() || v.gshut.IsZero() || v.bye.IsZero() {
			t.Errorf("%s: graceful shutdown %v, withdraw %v, notification %v: want all three", dev, v.gshut, v.withdraw, v.bye)
			continue
		}
		if !v.gshut.Before(v.withdraw) || !v.withdraw.Before(v.bye) {
			t.Errorf("%s: graceful shutdown %v, withdraw %v, notification %v: want this order", dev, v.gshut, v.withdraw, v.bye)
		}
		if !strings.Contains(v.byeText, o.Name) {
			t.Errorf("%s: the shutdown message (RFC 9003) is %q, want one that names %s", dev, v.byeText, o.Name)
		}
		if v.after != 0 {
			t.Errorf("%s: %d packets of clients went through after the withdraw", dev, v.after)
		}
		last = later(last, later(v.entered, v.left))
		if first.IsZero() || v.withdraw.Before(first) {
			first = v.withdraw
		}
		t.Logf("%s: graceful shutdown; %s later the withdraw; %s later the end: %q", dev, v.withdraw.Sub(v.gshut).Round(time.Microsecond), v.bye.Sub(v.withdraw).Round(time.Microsecond), v.byeText)
		for what, at := range map[string]time.Time{"from": v.entered, "to": v.left} {
			if !at.IsZero() {
				t.Logf("%s: last packet %s a client %s after graceful shutdown", dev, what, at.Sub(v.gshut).Round(time.Microsecond))
			}
		}
	}
	switch {
	case through == 0:
		t.Errorf("no packet of a client went through %s at all: nothing is shown", o.Name)
	case !last.Before(first):
		t.Errorf("the last packet of a client went through %s after the first withdraw", last.Sub(first))
	default:
		t.Logf("%d packets of clients went through %s, the last one %s before the first withdraw", through, o.Name, first.Sub(last).Round(time.Microsecond))
		t.Metric("client_packets", through)
		t.Metric("last_packet_before_withdraw_ms", float64(first.Sub(last).Microseconds())/1000)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// readLeave reads a tap's packets; n is how many of clients went through.
func readLeave(t *T, pkts []tapped) (v leave, n int) {
	for _, p := range pkts {
		if len(p.IP) < 20 {
			continue
		}
		if p.IP[9] != 6 {
			src, dst := netip.AddrFrom4([4]byte(p.IP[12:])), netip.AddrFrom4([4]byte(p.IP[16:]))
			switch {
			case !p.Out && dst == VIP:
				v.entered = p.At
			case p.Out && src == VIP:
				v.left = p.At
			default:
				continue
			}
			n++
			if !v.withdraw.IsZero() {
				v.after++
			}
			continue
		}
		if !p.Out {
			continue
		}
		for _, m := range bgpMessages(p.IP) {
			switch b := m.Body.(type) {
			case *gobgp.BGPUpdate:
				withdrawn, announced := vipIn(b)
				if withdrawn && v.withdraw.IsZero() {
					v.withdraw = p.At
				}
				if announced && hasCommunity(b, 0xffff0000) && v.gshut.IsZero() {
					v.gshut = p.At
				}
			case *gobgp.BGPNotification:
				if v.bye.IsZero() {
					v.bye = p.At
					if b.ErrorCode == gobgp.BGP_ERROR_CEASE && b.ErrorSubcode == gobgp.BGP_ERROR_SUB_ADMINISTRATIVE_SHUTDOWN && len(b.Data) > 0 {
						v.byeText = string(b.Data[1:min(len(b.Data), 1+int(b.Data[0]))])
					}
				}
			}
		}
	}
	return v, n
}

// bgpMessages reads the messages of a TCP segment that begins with one: GoBGP writes
// each message by itself, and none of the lab's is longer than a segment.
func bgpMessages(ip []byte) (out []*gobgp.BGPMessage) {
	hl := int(ip[0]&0xf) * 4
	if len(ip) < hl+20 {
		return nil
	}
	end := min(len(ip), int(binary.BigEndian.Uint16(ip[2:])))
	b := ip[min(end, hl+int(ip[hl+12]>>4)*4):end]
	for len(b) >= gobgp.BGP_HEADER_LENGTH {
		n := int(binary.BigEndian.Uint16(b[16:]))
		if n < gobgp.BGP_HEADER_LENGTH || n > len(b) {
			return out
		}
		if m, err := gobgp.ParseBGPMessage(b[:n]); err == nil {
			out = append(out, m)
		}
		b = b[n:]
	}
	return out
}

func vipIn(u *gobgp.BGPUpdate) (withdrawn, announced bool) {
	is := func(x gobgp.PathNLRI) bool {
		p, ok := x.NLRI.(*gobgp.IPAddrPrefix)
		return ok && p.Prefix == single(VIP)
	}
	return slices.ContainsFunc(u.WithdrawnRoutes, is), slices.ContainsFunc(u.NLRI, is)
}

func hasCommunity(u *gobgp.BGPUpdate, c uint32) bool {
	for _, a := range u.PathAttributes {
		if cs, ok := a.(*gobgp.PathAttributeCommunities); ok && slices.Contains(cs.Value, c) {
			return true
		}
	}
	return false
}
