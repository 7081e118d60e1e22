package lab

import (
	"strings"
	"time"
)

func init() {
	conn := ConnSpec{Cert: true}
	o := fleetOptions(conn)
	o.Clients = []ClientSpec{{Name: "cert", Conn: conn}, {Name: "mschap", Conn: ConnSpec{EAP: EAPMSCHAPv2}}, {Name: "tls", Conn: ConnSpec{EAP: EAPTLS}}}
	Register(Scenario{
		Name: "eap", Doc: "clients with a certificate, EAP-MSCHAPv2 and EAP-TLS share a slot: planned, power cut, rekeys, then each authenticates anew with the heir",
		Need: fleetNeed, Options: o, Timeout: 4 * time.Minute, Bench: true, Run: eapClients,
	})
}

// eapClients plays each move once for all ways to authenticate.
func eapClients(t *T, l *Lab) {
	ctx := t.Context()
	t.Check(enterAt(l, "ams"))
	fleetUp(t, l)
	p := joinAll(t, l, l.Clients(), 125)
	p.control(t, l)
	identified(t, l, p)
	rekey := func(s *attached) error {
		if err := s.Client.RekeyChild(ctx); err != nil {
			return err
		}
		return s.Client.RekeyIKE(ctx)
	}
	p.handover(t, l, "planned", "fra")
	identified(t, l, p)
	t.Check(p.each(rekey))
	allReady(t, l)
	cuts, _ := p.powerCut(t, l, "power-cut")
	var outage []float64
	for _, cut := range cuts {
		kept(t, cut)
		outage = append(outage, cut.OutageMS)
	}
	t.Metric("outage_ms", outage)
	identified(t, l, p)
	t.Check(p.each(rekey))
	for _, s := range p {
		acc, err := s.Client.IKE()
		t.Check(err)
		if n := acc.ClientInits(); n != 1 {
			t.Errorf("client %s sent %d IKE_SA_INIT requests in all, want the first one only: %s", s.Name, n, acc)
		}
	}
	// Those that are left have what it takes to authenticate them, not only their
	// sessions.
	t.Check(p.each(func(s *attached) error {
		if err := s.Client.Terminate(); err != nil {
			return err
		}
		sa, err := s.Client.Connect(ctx)
		if err != nil {
			return err
		}
		if s.slot, err = slotOfSPI(sa.Installed()[0].Out); err != nil {
			return err
		}
		return s.Client.RekeyChild(ctx)
	}))
	identified(t, l, p)
	noPasswords(t, l)
}

// identified checks that the owner's charon knows every client by its IKE identity,
// and by its EAP identity where it has one: policies and accounting go by these.
func identified(t *T, l *Lab, p party) {
	for _, s := range p {
		c, eap, name := s.Client, "", connectionOf(l, s.Client.Spec)
		if c.Spec.EAP != "" && c.user() != c.ID() { // charon does not tell the same twice
			eap = c.user()
		}
		o := owned(t, l, s.slot)
		v := viciOf(o, s.slot)
		sas, err := v.ListSAs(t.Context(), true)
		v.Close()
		t.Check(err)
		n := 0
		var got []string
		for _, x := range sas {
			got = append(got, strings.Join([]string{x.Name, x.State, x.RemoteID, x.RemoteEAPID}, " "))
			if x.State == "ESTABLISHED" && x.RemoteID == c.ID() && x.RemoteEAPID == eap && x.Name == name {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%s: %d sessions of connection %s are of %s with EAP identity %q, want 1; there are %q", o.Name, n, name, c.ID(), eap, got)
		}
	}
}

// noPasswords looks for the users' passwords wherever an appliance or the lab wrote
// something, except in the operator's own swanctl files.
func noPasswords(t *T, l *Lab) {
	searched := 0
	for _, c := range l.Clients() {
		if c.Spec.EAP != EAPMSCHAPv2 {
			continue
		}
		n, err := newNeedle("password of "+c.Name, []byte(password(c.user())))
		t.Check(err)
		found := false
		lookInto(t, l.fleet.swanctlDir(), func(_ string, b []byte) { found = found || n.in(b) != "" })
		if !found {
			t.Fatalf("the search does not find the %s in the operator's own files: it proves nothing", n.what)
		}
		look := func(where string, b []byte) {
			searched++
			if how := n.in(b); how != "" {
				t.Errorf("the %s is in %s, as %s", n.what, where, how)
			}
		}
		lookInto(t, l.OutDir(), look)
		for _, a := range l.Appliances() {
			if a.daemon.Alive() {
				lookInto(t, a.dir(), look)
			}
		}
	}
	if searched < 10 {
		t.Errorf("only %d files were searched for passwords", searched)
	}
	t.Metric("searched", searched)
}
