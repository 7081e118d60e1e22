package lab

import (
	"context"
	"net/netip"
	"time"

	"github.com/shadowcast/shadowcast/tests/uml"
)

// baseline proves the lab itself: a plain strongSwan gateway on `ams`, without
// shadowcast, must lose nothing. What it does lose, the machine did.
func init() {
	for _, v := range []struct {
		name string
		conn ConnSpec
		nat  bool
	}{
		{"baseline", ConnSpec{}, false},
		{"baseline-cert-cbc-encap", ConnSpec{Cert: true, ESP: ESPCBC, Encap: true}, false},
		{"baseline-nat", ConnSpec{Cert: true}, true},
	} {
		Register(Scenario{
			Name: v.name, Doc: "plain strongSwan gateway, " + v.conn.String() + ": the lab itself loses nothing",
			Need:    uml.ESP,
			Options: Options{Appliances: []string{"ams"}, Clients: []ClientSpec{{Conn: v.conn, NAT: v.nat}}, Conn: v.conn},
			Run:     baseline,
		})
	}
}

func baseline(t *T, l *Lab) {
	ctx := t.Context()
	t.Check(l.PlainGateway(ctx, "ams"))
	c := l.Client(0)
	sa, err := c.Connect(ctx)
	t.Check(err)
	t.Logf("connected: %s", sa)
	if want := c.Spec.Encap || c.nat != nil; sa.Children[0].Encap != want {
		t.Errorf("UDP encapsulation is %t, want %t", sa.Children[0].Encap, want)
	}
	s, err := l.StartStream(c, Rate{PPS: 500, Size: 200})
	t.Check(err)
	for _, phase := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"control", func(ctx context.Context) error { return s.WaitReceived(ctx, 2500) }},
		{"child-rekey", c.RekeyChild},
		{"ike-rekey", c.RekeyIKE},
	} {
		o, err := l.Observe(c, s)
		t.Check(err)
		t.Check(phase.do(ctx))
		t.Check(s.WaitReceived(ctx, 100))
		scene, err := o.End(ctx, phase.name)
		t.Check(err)
		t.Scene(scene)
		if scene.Lost != 0 || !scene.SessionKept || !scene.InnerAddressKept {
			t.Errorf("%s: lost %d of %d, session kept %t, inner address kept %t", phase.name, scene.Lost, scene.Sent, scene.SessionKept, scene.InnerAddressKept)
		}
	}
	t.Check(s.Stop(time.Second))
	acc, err := c.IKE()
	t.Check(err)
	t.Logf("IKE in all: %s", acc)
	if n := acc.ClientInits(); n != 1 {
		t.Errorf("the client sent %d IKE_SA_INIT requests, want 1", n)
	}
	n, err := c.ns.XFRMErrors()
	t.Check(err)
	t.Metric("client_xfrm_errors", n)
	t.Check(c.Terminate())
}

// PlainGateway runs one strongSwan without shadowcast in an appliance's namespace,
// with the VIP there and routes to it on r1 and `in`.
func (l *Lab) PlainGateway(ctx context.Context, name string) error {
	a := l.Appliance(name)
	if err := a.ns.addAddr("lo", single(VIP)); err != nil {
		return err
	}
	pool := SlotPool(1)
	if err := l.nodes["r1"].route(single(VIP), netip.Addr{}, host(linkNet(1, a.N), 2)); err != nil {
		return err
	}
	if err := l.nodes["in"].route(pool, netip.Addr{}, host(linkNet(insideLink, a.N), 2)); err != nil {
		return err
	}
	gw, err := l.startCharon(ctx, a.ns, "plain-"+name, "interfaces_use = lo\n  install_routes = no")
	if err != nil {
		return err
	}
	return gw.loadGateway(l.pki, l.opt.Conn, pool.String())
}
