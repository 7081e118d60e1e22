package lab

import (
	"fmt"
	"slices"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/pki"
)

// The fleet's CA is replaced under traffic, by the steps of docs/operations.md.
func init() {
	o := fleetOptions(ConnSpec{Cert: true})
	o.BFD, o.Probe = patientBFD, config.Probe{Interval: 100 * time.Millisecond, Lost: 6}
	Register(Scenario{
		Name: "ca-rotation", Doc: "the fleet's CA is replaced under traffic: both, new certificates, the new one alone", Need: fleetNeed, Options: o,
		Timeout: 5 * time.Minute, Bench: true, Run: caRotation,
	})
}

func caRotation(t *T, l *Lab) {
	s, o := start(t, l)
	dir := l.fleet.dir
	reloads := 0
	step := func(name string, do func() error) {
		began := time.Now()
		t.quietly(l, s, name, func() {
			t.Check(do())
			reloads++
			for _, a := range l.Appliances() {
				t.Check(a.Reload())
				t.Check(a.waitEvent(t.Context(), "reload", "the configuration was read again", reloads))
			}
			pause(t, time.Second)
		})
		for _, a := range l.Appliances() {
			evs, err := a.Events(t.Context())
			t.Check(err)
			for _, e := range evs {
				if (e.Kind == "reload" || e.Kind == "fabric") && e.Severity >= v1.Severity_SEVERITY_WARNING && e.Time.AsTime().After(began) {
					t.Errorf("%s: %s: %s: %s", name, a.Name, e.Message, e.Reason)
				}
			}
		}
	}
	step("both CAs", func() error { _, err := pki.Rotate(dir, pki.Options{}); return err })
	step("new certificates", func() error {
		for _, a := range l.Appliances() {
			if _, err := pki.Issue(dir, a.Name, nil, pki.Options{Force: true}); err != nil {
				return fmt.Errorf("issue: %w", err)
			}
		}
		return nil
	})
	step("the new CA alone", func() error { _, err := pki.Retire(dir, pki.Options{}); return err })

	// Whatever was negotiated before is negotiated again: a shadow's daemon starts over,
	// with it every TLS session to it, and its fabric's charon.
	i := slices.IndexFunc(l.Appliances(), func(a *Appliance) bool { return a != o })
	a := l.Appliances()[i]
	sc := scene(t, l, s, "a shadow starts over", func(*Observation) {
		t.Check(a.killAll())
		t.Check(a.Start())
		t.Check(a.WaitStatus(t.Context(), "an answer", func(*v1.GetStatusResponse) bool { return true }))
		allReady(t, l)
	})
	kept(t, sc)
	t.Check(a.waitEvent(t.Context(), "fabric", "all peer tunnels are protected", 1))
	handover(t, l, s, "planned", a.Name)
}
