package lab

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// The matrix: every way a client may be attached, through every kind of move. The
// clients of a scenario share a slot, so that each move carries all of them.
func init() {
	for _, encap := range []bool{false, true} {
		o := fleetOptions(ConnSpec{})
		for _, cert := range []bool{false, true} {
			for _, esp := range []string{ESPGCM, ESPCBC} {
				c := ConnSpec{Encap: encap, Cert: cert, ESP: esp}
				o.Clients = append(o.Clients, ClientSpec{Name: matrixName(c), Conn: c})
			}
		}
		name, way := "matrix-esp", "plain ESP"
		if encap {
			name, way = "matrix-encap", "UDP-encapsulated"
		}
		Register(Scenario{
			Name: name, Doc: way + ", {psk, cert} x {" + ESPGCM + ", " + ESPCBC + "}: planned, slow old path, third entry, power cut, second failover, return",
			Need: fleetNeed, Options: o, Run: matrix, Timeout: 4 * time.Minute,
		})
	}
}

// matrixName names the client of a variant, "psk-gcm".
func matrixName(c ConnSpec) string {
	auth, esp := "psk", "gcm"
	if c.Cert {
		auth = "cert"
	}
	if c.ESP == ESPCBC {
		esp = "cbc"
	}
	return auth + "-" + esp
}

// enterAt makes every packet for the VIP enter at the named appliance, once fleetUp
// has returned.
func enterAt(l *Lab, name string) error {
	l.entry = name
	for i, a := range l.Appliances() {
		if err := a.Prepare(); err != nil {
			return err
		}
		a.Config.BGP.MEDBase = uint32(300 + 100*i)
		if a.Name == name {
			a.Config.BGP.MEDBase = 100
		}
	}
	return nil
}

func matrix(t *T, l *Lab) {
	ctx := t.Context()
	// Packets enter at lhr all the time it lives; the slot moves about.
	t.Check(enterAt(l, "lhr"))
	fleetUp(t, l)
	p := joinAll(t, l, l.Clients(), 125)
	t.Check(p.each(asSpecified))
	p.control(t, l)
	p.handover(t, l, "planned", "ams")
	allReady(t, l)
	// Now the entry is neither the old owner nor the new one.
	p.handover(t, l, "third-entry", "fra")
	allReady(t, l)

	slow, err := eachUplink(l, "fra", func(k *Link) error { return k.ImpairFromB(Impairment{Delay: 40 * time.Millisecond}) })
	t.Check(err)
	pause(t, 4*time.Second) // until the round-trip times to the client are measured again
	p.handover(t, l, "slow-old-path", "ams")
	t.Check(slow(func(k *Link) error { return k.ImpairFromB(Impairment{}) }))
	allReady(t, l)

	rekey := func(s *attached) error {
		if err := s.Client.RekeyChild(ctx); err != nil {
			return err
		}
		return s.Client.RekeyIKE(ctx)
	}
	var off []*Appliance
	var outage, detect []float64
	for _, name := range []string{"power-cut", "second-failover"} {
		cuts, victim := p.powerCut(t, l, name)
		for _, cut := range cuts {
			kept(t, cut)
			outage, detect = append(outage, cut.OutageMS), append(detect, cut.DetectionMS)
		}
		off = append(off, victim)
		t.Check(p.each(rekey))
	}
	t.Metric("outage_ms", outage)
	t.Metric("detection_ms", detect)

	var g errgroup.Group
	for _, a := range off {
		g.Go(a.PowerOn)
	}
	t.Check(g.Wait())
	allReady(t, l)
	home := "lhr"
	if o := owner(t, l, p[0].slot); o != nil && o.Name == home {
		home = "ams"
	}
	p.handover(t, l, "return", home)
	t.Check(p.each(func(s *attached) error { return s.Client.RekeyChild(ctx) }))
	for _, s := range p {
		acc, err := s.Client.IKE()
		t.Check(err)
		if n := acc.ClientInits(); n != 1 {
			t.Errorf("client %s sent %d IKE_SA_INIT requests in all, want the first one only: %s", s.Name, n, acc)
		}
	}
}

// asSpecified checks that the client has what its variant says.
func asSpecified(s *attached) error {
	sa, err := s.Client.SA()
	if err != nil {
		return err
	}
	for _, c := range sa.Installed() {
		gcm, esn := strings.Contains(s.Spec.esp(), "gcm"), strings.HasSuffix(s.Spec.esp(), "-esn")
		if c.Encap != s.Spec.Encap || c.ESN != esn || strings.Contains(c.Cipher, "GCM") != gcm {
			return fmt.Errorf("client %s has UDP encapsulation %t, cipher %s, ESN %t; its variant is %s", s.Name, c.Encap, c.Cipher, c.ESN, s.Spec)
		}
	}
	return nil
}

// eachUplink changes the links of an appliance to the outside routers and returns
// a way to change them again.
func eachUplink(l *Lab, name string, f func(*Link) error) (func(func(*Link) error) error, error) {
	all := func(f func(*Link) error) error {
		for _, r := range []string{"r1", "r2"} {
			k, err := l.Link(r, name)
			if err != nil {
				return err
			}
			if err := f(k); err != nil {
				return err
			}
		}
		return nil
	}
	return all, all(f)
}
