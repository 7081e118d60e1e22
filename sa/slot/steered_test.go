package slot

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/steer"
)

// TestFenceStopsSteering: whatever way steering delivers into the slot, a closed
// fence lets nothing in and nothing out, and the same packets pass an open one.
func TestFenceStopsSteering(t *testing.T) {
	for _, d := range []steer.Delivery{steer.DeliverPeer, steer.DeliverNeigh, steer.DeliverMark} {
		t.Run(d.String(), func(t *testing.T) {
			r := newRig(t, 7)
			client := steeredClient(t, r, d)
			encap := [2]*net.UDPConn{sock(t, r.slot, vip4, 4500), sock(t, r.slot, vip6, 4500)}
			for range 2 {
				closedTo(t, r, client, encap)
				must(t, r.h.OpenFence(7, NoDeadline))
				for i := range client {
					sendESP(t, client[i], encap[i], "open")
					expectESP(t, encap[i], "open") // the first to arrive, so nothing passed before
					send(t, encap[i], client[i], "open")
					expect(t, client[i], "open")
				}
				must(t, r.h.CloseFence(7))
			}
			// The dead-man closes it just as well.
			until := After(50 * time.Millisecond)
			must(t, r.h.OpenFence(7, until))
			time.Sleep(until.Left() + time.Millisecond)
			closedTo(t, r, client, encap)
		})
	}
}

// closedTo sends through the closed fence both ways and waits until every packet
// was counted as dropped.
func closedTo(t *testing.T, r *rig, client, encap [2]*net.UDPConn) {
	t.Helper()
	before, err := r.h.Drops(7)
	must(t, err)
	for i := range client {
		sendESP(t, client[i], encap[i], "closed")
		send(t, encap[i], client[i], "closed")
	}
	counted(t, r, func(d Drops) bool { return d.Ingress >= before.Ingress+2 && d.Egress >= before.Egress+2 })
	for i := range client {
		nothing(t, encap[i])
		nothing(t, client[i])
	}
}

// steeredClient attaches steering to a new uplink of the rig, slot 7 local, and
// returns sockets of a client behind it.
func steeredClient(t *testing.T, r *rig, d steer.Delivery) [2]*net.UDPConn {
	t.Helper()
	l, err := r.h.Links(7)
	must(t, err)
	ns := netnsFile(t)
	addrs := [2]netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8:113::9")}
	host := [2]netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:113::1")}
	in(t, ns, func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "c"}, PeerName: "u", PeerNamespace: netlink.NsFd(r.ns.Fd())})
	})
	up := func(dev string, mine [2]netip.Addr) func() error {
		return func() error {
			link, err := netlink.LinkByName(dev)
			if err != nil {
				return err
			}
			for i, a := range mine {
				bits := []int{24, 64}[i]
				if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, bits)), Flags: unix.IFA_F_NODAD}); err != nil {
					return err
				}
			}
			return netlink.LinkSetUp(link)
		}
	}
	in(t, ns, up("c", addrs))
	in(t, r.ns, up("u", host))
	in(t, ns, func() error {
		link, err := netlink.LinkByName("c")
		for i, v := range []netip.Addr{vip4, vip6} {
			if err == nil {
				err = netlink.RouteReplace(&netlink.Route{Dst: ipNet(netip.PrefixFrom(v, v.BitLen())), Gw: host[i].AsSlice(), LinkIndex: link.Attrs().Index})
			}
		}
		return err
	})
	local := steer.Action{Kind: steer.Local, Ifindex: l.HostIndex, SlotMAC: [6]byte(l.SlotMAC), HostMAC: [6]byte(l.HostMAC), NextHop4: l.Next4, NextHop6: l.Next6}
	cfg := steer.Config{PinDir: filepath.Dir(r.cfg.PinDir)}
	var s *steer.Steer
	in(t, r.ns, func() (err error) {
		// Steering delivers, not the route that the rig made to the VIPs.
		for _, v := range []netip.Addr{vip4, vip6} {
			if err := netlink.RouteDel(&netlink.Route{Dst: ipNet(netip.PrefixFrom(v, v.BitLen())), LinkIndex: l.HostIndex}); err != nil {
				return err
			}
		}
		if s, err = steer.New(cfg); err != nil {
			return err
		}
		return s.Set(steer.Desired{VIPs: []netip.Addr{vip4, vip6}, Uplinks: []string{"u"}, Delivery: d,
			Slots: map[sa.Slot]steer.SlotSteer{7: {Uplink: local, Peer: local}}, NewClients: []sa.Slot{7}})
	})
	t.Cleanup(func() {
		s.Close()
		in(t, r.ns, func() error { return steer.CleanUp(cfg) })
	})
	return [2]*net.UDPConn{sock(t, ns, addrs[0], 40001), sock(t, ns, addrs[1], 40001)}
}

// sendESP sends UDP-encapsulated ESP of slot 7 with text as its body.
func sendESP(t *testing.T, from, to *net.UDPConn, text string) {
	t.Helper()
	b := binary.BigEndian.AppendUint32(nil, 7<<20|0xabcd)
	b = binary.BigEndian.AppendUint32(b, 1)
	send(t, from, to, string(b)+text)
}

func expectESP(t *testing.T, at *net.UDPConn, text string) {
	t.Helper()
	b := make([]byte, 100)
	must(t, at.SetReadDeadline(time.Now().Add(20*time.Second)))
	n, _, err := at.ReadFrom(b)
	if err != nil || n < 8 || string(b[8:n]) != text {
		t.Fatalf("at %s: got %q, %v, want %q behind an ESP header", at.LocalAddr(), b[:n], err, text)
	}
}

// TestBarredSASendsNothing: an open fence drops ESP of barred SAs, bare and in
// UDP, of either family, and only theirs.
func TestBarredSASendsNothing(t *testing.T) {
	r := newRig(t, 7)
	must(t, r.h.OpenFence(7, NoDeadline))
	const barred, free = 0xc0000001, 0xc0000002
	for i, dst := range []netip.Addr{out4, out6} {
		from := sock(t, r.slot, []netip.Addr{vip4, vip6}[i], 4500)
		at := sock(t, r.ns, dst, 4501)
		esp := func(spi uint32, text string) {
			t.Helper()
			send(t, from, at, string(binary.BigEndian.AppendUint32(nil, spi))+"0001"+text)
		}
		bare := func(spi uint32) {
			t.Helper()
			in(t, r.slot, func() error {
				c, err := net.ListenIP([]string{"ip4:50", "ip6:50"}[i], &net.IPAddr{IP: from.LocalAddr().(*net.UDPAddr).IP})
				if err != nil {
					return err
				}
				defer c.Close()
				_, err = c.WriteTo(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, spi), 1), &net.IPAddr{IP: dst.AsSlice()})
				if errors.Is(err, unix.ENOBUFS) {
					return nil // what the fence drops is told to a local sender
				}
				return err
			})
		}
		sas := []Outbound{{barred, dst}}
		must(t, r.h.Bar(7, sas))
		must(t, r.h.Bar(7, sas))
		before, err := r.h.Drops(7)
		must(t, err)
		esp(barred, "barred")
		bare(barred)
		counted(t, r, func(d Drops) bool { return d.Barred == before.Barred+2 })
		esp(free, "free")
		bare(free)
		expectESP(t, at, "free") // the first to arrive
		must(t, r.h.Unbar(7, sas))
		must(t, r.h.Unbar(7, sas))
		esp(barred, "unbarred")
		expectESP(t, at, "unbarred")
		if d, err := r.h.Drops(7); err != nil || d.Barred != before.Barred+2 {
			t.Errorf("%d dropped, want %d, %v", d.Barred-before.Barred, 2, err)
		}
		must(t, r.h.Bar(7, append(sas, Outbound{free, dst})))
		must(t, r.h.UnbarAll(7))
		esp(free, "all")
		expectESP(t, at, "all")
	}
}
