package lab

import (
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// The matrix: every way a client may be attached, through every kind of move.
func init() {
	for _, encap := range []bool{false, true} {
		for _, cert := range []bool{false, true} {
			for _, esp := range []string{ESPGCM, ESPCBC} {
				c := ConnSpec{Encap: encap, Cert: cert, ESP: esp}
				Register(Scenario{
					Name: "matrix-" + matrixName(c), Doc: c.String() + ": planned, slow old path, third entry, power cut, second failover, return",
					Need: fleetNeed, Options: fleetOptions(c), Run: matrix, Timeout: 3 * time.Minute,
				})
			}
		}
	}
}

func matrixName(c ConnSpec) string {
	auth, way, esp := "psk", "esp", "gcm"
	if c.Cert {
		auth = "cert"
	}
	if c.Encap {
		way = "encap"
	}
	if c.ESP == ESPCBC {
		esp = "cbc"
	}
	return fmt.Sprintf("%s-%s-%s", way, auth, esp)
}

// enterAt makes every packet for the VIP enter at the named appliance.
func enterAt(l *Lab, name string) error {
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
	s := join(t, l, 0)
	control(t, l, s)
	handover(t, l, s, "planned", "ams")
	allReady(t, l)
	// Now the entry is neither the old owner nor the new one.
	handover(t, l, s, "third-entry", "fra")
	allReady(t, l)

	slow, err := eachUplink(l, "fra", func(k *Link) error { return k.ImpairFromB(Impairment{Delay: 40 * time.Millisecond}) })
	t.Check(err)
	pause(t, 4*time.Second) // until the round-trip times to the client are measured again
	handover(t, l, s, "slow-old-path", "ams")
	t.Check(slow(func(k *Link) error { return k.ImpairFromB(Impairment{}) }))
	allReady(t, l)

	cut, first := powerCut(t, l, s, "power-cut")
	kept(t, cut)
	t.Check(s.Client.RekeyChild(ctx))
	t.Check(s.Client.RekeyIKE(ctx))
	again, second := powerCut(t, l, s, "second-failover")
	kept(t, again)
	t.Metric("outage_ms", []float64{cut.OutageMS, again.OutageMS})
	t.Metric("detection_ms", []float64{cut.DetectionMS, again.DetectionMS})

	var g errgroup.Group
	for _, a := range []*Appliance{first, second} {
		g.Go(a.PowerOn)
	}
	t.Check(g.Wait())
	allReady(t, l)
	home := "lhr"
	if o := owner(t, l, s.slot); o != nil && o.Name == home {
		home = "ams"
	}
	handover(t, l, s, "return", home)
	t.Check(s.Client.RekeyChild(ctx))
	acc, err := s.Client.IKE()
	t.Check(err)
	if n := acc.ClientInits(); n != 1 {
		t.Errorf("the client sent %d IKE_SA_INIT requests in all, want the first one only: %s", n, acc)
	}
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
