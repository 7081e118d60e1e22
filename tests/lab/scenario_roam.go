package lab

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

func init() {
	mobile := fleetOptions(ConnSpec{Mobike: true})
	Register(Scenario{
		Name: "mobike", Doc: "a client changes its address (RFC 4555) before, during and after a handover, and just before a power cut",
		Need: fleetNeed, Options: mobile, Run: mobikeMoves,
	})
	natted := Options{Routers: true, SlotsPerAppliance: 1, Conn: ConnSpec{}, Clients: []ClientSpec{{NAT: true}}}
	Register(Scenario{
		Name: "nat-rebinding", Doc: "a NAT forgets its ports before, during and after a handover, and just before a power cut",
		Need: fleetNeed, Options: natted, Run: natRebinds,
	})
}

// Roam gives the client another address on its access link, as a phone that joins
// another network: the old one is gone at once.
func (c *Client) Roam(n int) (netip.Addr, error) {
	dev, err := c.ns.link(devClient)
	if err != nil {
		return netip.Addr{}, err
	}
	old := c.Addr
	// Else the kernel takes the new address away with the old one.
	if err := c.ns.sysctl([2]string{"net/ipv4/conf/" + devClient + "/promote_secondaries", "1"}); err != nil {
		return old, err
	}
	p := netip.PrefixFrom(old, 24)
	b := old.As4()
	b[3] = byte(n)
	next := netip.AddrFrom4(b)
	c.cap.also(next)
	if err := c.ns.addAddr(devClient, netip.PrefixFrom(next, 24)); err != nil {
		return next, err
	}
	// The routes must not name the address that goes.
	via := host(netip.PrefixFrom(netip.AddrFrom4([4]byte{b[0], b[1], b[2], 0}), 24), 1)
	if err := c.ns.route(netip.Prefix{}, next, via); err != nil {
		return next, err
	}
	if err := c.ns.nl.AddrDel(dev, &netlink.Addr{IPNet: ipNet(p)}); err != nil {
		return next, fmt.Errorf("take %s from %s: %w", old, c.Name, err)
	}
	// The kernel removes routes with an address that was primary.
	if err := c.ns.route(netip.Prefix{}, next, via); err != nil {
		return next, err
	}
	c.Addr, c.Public = next, next
	return next, nil
}

// followed waits until the owner of the slot knows the client at its address, and
// its shadows know all that it knows.
func followed(t *T, l *Lab, s *attached, a netip.Addr) {
	t.Check(poll(t.Context(), 50*time.Millisecond, fmt.Sprintf("the fleet to follow the client to %s", a), func() (bool, error) {
		o := owner(t, l, s.slot)
		if o == nil {
			return false, nil
		}
		api, err := o.API()
		if err != nil {
			return false, err
		}
		r, err := api.ListSessions(t.Context(), &v1.ListSessionsRequest{Slot: s.slot})
		if err != nil || len(r.Sessions) != 1 {
			return false, err
		}
		ap, err := netip.ParseAddrPort(r.Sessions[0].Client)
		return err == nil && ap.Addr() == a, err
	}))
	allReady(t, l)
}

// flowing waits until packets go both ways again after what happened at since.
//
// An exchange that the client has not shown to be complete before a takeover costs
// its next request one retransmission (rule 7 of the charon link): 2.5 s where that
// is MOBIKE's.
func flowing(t *T, s *attached, since time.Time) {
	t.Check(poll(t.Context(), 50*time.Millisecond, "packets both ways", func() (bool, error) {
		from, to := time.Now().Add(-400*time.Millisecond), time.Now().Add(-100*time.Millisecond)
		if from.Before(since) {
			return false, nil
		}
		r := s.Stream.Report(from, to)
		return r.Sent() > 100 && r.Lost() == 0, nil
	}))
}

// cutWhileFlowing is a power cut after which packets must flow again.
func cutWhileFlowing(t *T, l *Lab, s *attached) {
	victim := owner(t, l, s.slot)
	sc := scene(t, l, s, "power-cut", func(ob *Observation) {
		at, err := victim.PowerCut()
		t.Check(err)
		ob.Fault(at, "power cut of "+victim.Name)
		owned(t, l, s.slot, victim)
		flowing(t, s, time.Now())
	})
	kept(t, sc)
}

func mobikeMoves(t *T, l *Lab) {
	s, _ := start(t, l)
	roam := func(name string, n int, more func()) {
		sc := scene(t, l, s, name, func(ob *Observation) {
			at := time.Now()
			next, err := s.Client.Roam(n)
			t.Check(err)
			ob.Fault(at, "client moves to "+next.String())
			if more != nil {
				more()
			}
			flowing(t, s, at)
			followed(t, l, s, next)
		})
		kept(t, sc)
	}
	roam("before", 30, nil)
	handover(t, l, s, "handover", other(l, owned(t, l, s.slot)))
	roam("after", 31, nil)
	allReady(t, l)
	roam("during", 32, func() {
		// A move that meets the exchange waits for it, or is given up and asked
		// for again by whoever wants it: the session must live through both.
		_, err := owner(t, l, s.slot).Handover(t.Context(), s.slot, "lhr", nil)
		t.Logf("handover during the address change: %v", err)
	})
	control(t, l, s)
	at := time.Now()
	next, err := s.Client.Roam(33)
	t.Check(err)
	flowing(t, s, at)
	t.Logf("client at %s after %s; the owner dies", next, time.Since(at).Round(time.Millisecond))
	cutWhileFlowing(t, l, s)
	t.Check(s.Client.RekeyChild(t.Context()))
	t.Check(s.Client.RekeyIKE(t.Context()))
	control(t, l, s)
}

func natRebinds(t *T, l *Lab) {
	s, _ := start(t, l)
	nat := s.Client.NAT()
	rebind := func(name string, offset uint16, more func()) {
		sc := scene(t, l, s, name, func(ob *Observation) {
			at := time.Now()
			t.Check(nat.Rebind(offset))
			ob.Fault(at, fmt.Sprintf("NAT maps to port +%d", offset))
			if more != nil {
				more()
			}
			flowing(t, s, at)
		})
		kept(t, sc)
	}
	rebind("before", 21000, nil)
	allReady(t, l)
	handover(t, l, s, "handover", other(l, owned(t, l, s.slot)))
	rebind("after", 22000, nil)
	allReady(t, l)
	rebind("during", 23000, func() {
		_, err := owner(t, l, s.slot).Handover(t.Context(), s.slot, "lhr", nil)
		t.Logf("handover during the rebinding: %v", err)
	})
	control(t, l, s)
	// The shadows cannot know of the last ports yet: the heir learns them from the
	// client's packets.
	t.Check(nat.Rebind(24000))
	cutWhileFlowing(t, l, s)
	t.Check(s.Client.RekeyChild(t.Context()))
	t.Check(s.Client.RekeyIKE(t.Context()))
	control(t, l, s)
}
