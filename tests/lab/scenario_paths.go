package lab

import (
	"errors"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

func init() {
	o := fleetOptions(ConnSpec{})
	Register(Scenario{
		Name: "split-path", Doc: "a router spreads one client over two appliances, as ECMP does: IKE by one, ESP by the other, then the other way round",
		Need: fleetNeed, Options: o, Bench: true, Run: splitPath,
	})
	o = fleetOptions(ConnSpec{Cert: true})
	o.Appliances = []string{"ams", "ams2", "fra", "lhr"}
	o.Sites = map[string]string{"ams2": "ams"}
	o.Homes = []string{"ams", "ams2"}
	o.Chosen = true
	o.Clients = []ClientSpec{{Conn: o.Conn}, {Conn: o.Conn}}
	Register(Scenario{
		Name: "site-loss", Doc: "both appliances of a site lose power at once: the chosen shadows stand elsewhere, and the sessions of both live on",
		Need: fleetNeed, Options: o.detecting(), Bench: true, Run: siteLoss,
	})
}

// splitPath has both routers send IKE and ESP of one client to different appliances,
// which is what hashing over ports makes of them where the VIP has several next hops.
func splitPath(t *T, l *Lab) {
	ctx := t.Context()
	t.Check(enterAt(l, "ams"))
	fleetUp(t, l)
	ams, fra := l.Appliance("ams"), l.Appliance("fra")
	undo := splitAt(t, l, map[int]*Appliance{unix.IPPROTO_UDP: fra, unix.IPPROTO_ESP: ams})
	s := join(t, l, 0)
	if o := owned(t, l, s.slot); o != fra {
		t.Errorf("IKE enters at fra, and %s got the client", o.Name)
	}
	control(t, l, s)
	rekeys := func() {
		t.Check(s.Client.RekeyChild(ctx))
		t.Check(s.Client.RekeyIKE(ctx))
		allReady(t, l)
	}
	rekeys()
	handover(t, l, s, "planned", "lhr")
	control(t, l, s)
	rekeys()
	// The hash changes: each goes the other way from one packet to the next.
	scene := scene(t, l, s, "other way round", func(o *Observation) {
		pause(t, 300*time.Millisecond)
		undo()
		undo = splitAt(t, l, map[int]*Appliance{unix.IPPROTO_UDP: ams, unix.IPPROTO_ESP: fra})
		pause(t, 700*time.Millisecond)
	})
	kept(t, scene)
	if scene.Lost != 0 {
		t.Errorf("other way round: lost %d of %d packets", scene.Lost, scene.Sent)
	}
	rekeys()
	handover(t, l, s, "return", "fra")
	undo()
	control(t, l, s)
}

// splitAt has both outside routers send each protocol for the VIP to an appliance of its
// own.
func splitAt(t *T, l *Lab, to map[int]*Appliance) (undo func()) {
	var undos []func() error
	for i, name := range []string{"r1", "r2"} {
		n := l.Node(name)
		for proto, a := range to {
			table := 100 + proto
			r := &netlink.Route{Dst: ipNet(single(VIP)), Gw: host(linkNet(1+i, a.N), 2).AsSlice(), Table: table, Protocol: unix.RTPROT_STATIC}
			t.Check(n.nl.RouteReplace(r))
			rule := netlink.NewRule()
			rule.Family, rule.Table, rule.Priority, rule.IPProto, rule.Dst = unix.AF_INET, table, 50, proto, ipNet(single(VIP))
			t.Check(n.nl.RuleAdd(rule))
			undos = append(undos, func() error { return errors.Join(n.nl.RuleDel(rule), n.nl.RouteDel(r)) })
		}
	}
	return func() {
		for _, f := range undos {
			t.Check(f())
		}
	}
}

// siteLoss cuts the power of a whole site, in which two slots are at home.
func siteLoss(t *T, l *Lab) {
	ctx := t.Context()
	t.Check(enterAt(l, "ams"))
	fleetUp(t, l)
	lost := []*Appliance{l.Appliance("ams"), l.Appliance("ams2")}
	p := joinAll(t, l, l.Clients(), 125)
	// The second slot serves a client, too.
	slots := []uint32{uint32(l.HomeSlots(lost[0])[0]), uint32(l.HomeSlots(lost[1])[0])}
	for _, n := range slots {
		o := owned(t, l, n)
		if !slices.Contains(lost, o) {
			t.Fatalf("slot %d is owned by %s, want one of the site", n, o.Name)
		}
		elsewhere := false
		for _, sh := range slotAt(ctx, o, n).Shadows {
			elsewhere = elsewhere || l.fleetSite(sh.Name) != "ams"
		}
		if !elsewhere {
			t.Errorf("no shadow of slot %d stands at another site", n)
		}
	}
	p.control(t, l)
	scs := p.scene(t, l, "site lost", func(os observations) {
		pause(t, 300*time.Millisecond)
		var at [2]time.Time
		var g errgroup.Group
		for i, a := range lost {
			g.Go(func() (err error) { at[i], err = a.PowerCut(); return err })
		}
		t.Check(g.Wait())
		os.Fault(at[0], "power cut of ams and ams2")
		for _, n := range slots {
			owned(t, l, n, lost...)
		}
		pause(t, 1500*time.Millisecond)
	})
	for _, sc := range scs {
		kept(t, sc)
	}
	t.Metric("outage_ms", []float64{scs[0].OutageMS, scs[1].OutageMS})
	p.usable(t, l)
	for _, a := range lost {
		t.Check(a.PowerOn())
	}
	allReady(t, l)
	p.control(t, l)
}

// fleetSite is the site of an appliance.
func (l *Lab) fleetSite(name string) string {
	for _, a := range l.fleet.shared.Appliances {
		if a.Name == name {
			return a.Site
		}
	}
	return ""
}
