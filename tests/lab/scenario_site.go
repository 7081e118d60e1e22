package lab

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// siteNets are what may lie behind clients in the lab: outside of every pool.
var siteNets = []netip.Prefix{netip.MustParsePrefix("10.60.0.0/16")}

func init() {
	site := func(i byte) ConnSpec {
		return ConnSpec{Site: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 60, i, 0}), 24)}
	}
	o := fleetOptions(ConnSpec{})
	o.Networks = siteNets
	o.Clients = []ClientSpec{{Name: "site1", Conn: site(1)}, {Name: "site2", Conn: site(2)}, {Name: "c1", Conn: ConnSpec{}}}
	Register(Scenario{
		Name: "site-to-site", Doc: "networks behind two clients follow their sessions: planned, power cut, rekeys, return, the end of one; a third one has an inner address",
		Need: fleetNeed, Options: o.detecting(), Bench: true, Run: siteToSite,
	})
}

func siteToSite(t *T, l *Lab) {
	ctx := t.Context()
	t.Check(enterAt(l, "ams"))
	fleetUp(t, l)
	p := joinAll(t, l, l.Clients(), 125)
	o := owned(t, l, p[0].slot)
	networksFollow(t, l, p, o)
	p.control(t, l)
	p.handover(t, l, "planned", "fra")
	networksFollow(t, l, p, l.Appliance("fra"))
	t.Check(p.each(func(s *attached) error { return s.Client.RekeyChild(ctx) }))
	t.Check(p.each(func(s *attached) error { return s.Client.RekeyIKE(ctx) }))
	allReady(t, l)
	cuts, victim := p.powerCut(t, l, "power-cut")
	for _, cut := range cuts {
		kept(t, cut)
	}
	heir := owned(t, l, p[0].slot, victim)
	networksFollow(t, l, p, heir)
	t.Check(p.each(func(s *attached) error { return s.Client.RekeyChild(ctx) }))

	// What nobody holds any more is routed nowhere, and the others are left alone.
	gone := p[0]
	t.Check(gone.Stop(0))
	t.Check(gone.Client.Terminate())
	t.Check(poll(ctx, 100*time.Millisecond, "the route to the ended site to go", func() (bool, error) {
		hop, err := l.Node("in").nextHop(gone.Spec.siteAddr())
		return err == nil && !hop.IsValid(), err
	}))
	for _, a := range l.Appliances() {
		if !a.daemon.Alive() {
			continue
		}
		t.Check(poll(ctx, 100*time.Millisecond, a.Name+" to forget the ended site", func() (bool, error) {
			x := slotAt(ctx, a, gone.slot)
			return x == nil || !slices.Contains(x.Networks, gone.Spec.Site.String()), nil
		}))
	}
	networksFollow(t, l, p[1:], heir)
	p[1:].control(t, l)
}

// networksFollow checks that the owner says whose networks it routes, that the inside router
// sends packets for them to it, and that its shadows would.
func networksFollow(t *T, l *Lab, p party, o *Appliance) {
	ctx := t.Context()
	var want []string
	for _, s := range p {
		if s.Spec.Site.IsValid() {
			want = append(want, s.Spec.Site.String())
		}
	}
	for _, a := range l.Appliances() {
		if !a.daemon.Alive() {
			continue
		}
		t.Check(poll(ctx, 100*time.Millisecond, fmt.Sprintf("%s to know of %s", a.Name, strings.Join(want, ", ")), func() (bool, error) {
			x := slotAt(ctx, a, p[0].slot)
			if x == nil {
				return false, fmt.Errorf("no slot %d", p[0].slot)
			}
			return slices.Equal(x.Networks, want), fmt.Errorf("it has %v", x.Networks)
		}))
	}
	at := host(linkNet(insideLink, o.N), 2)
	for _, s := range p {
		inner, err := s.Inner()
		t.Check(err)
		t.Check(l.leads(ctx, "in", inner, at))
	}
}

// leads waits until a router sends packets for dst to a next hop.
func (l *Lab) leads(ctx context.Context, router string, dst, hop netip.Addr) error {
	return poll(ctx, 100*time.Millisecond, fmt.Sprintf("%s to send packets for %s to %s", router, dst, hop), func() (bool, error) {
		got, err := l.Node(router).nextHop(dst)
		if err == nil && got != hop {
			err = fmt.Errorf("it sends them to %s", got)
		}
		return got == hop, err
	})
}
