package lab

import (
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

func init() {
	o := fleetOptions(ConnSpec{})
	o.BFD = patientBFD
	Register(Scenario{
		Name: "campaign-maintenance", Doc: "SIGTERM drains first; maintenance survives a reboot; undrain brings the slot home by itself",
		Need: fleetNeed, Options: o, Timeout: 3 * time.Minute, Bench: true, Run: maintenance,
	})
}

func maintenance(t *T, l *Lab) {
	ctx := t.Context()
	for _, a := range l.Appliances() {
		t.Check(a.Prepare())
		a.Config.Fleet.Handover.StopDrain = 30 * time.Second
		a.Config.Fleet.Handover.HoldDown = 3 * time.Second
	}
	s, o := start(t, l)
	lossless(t, scene(t, l, s, "SIGTERM", func(*Observation) {
		pause(t, 300*time.Millisecond)
		t.Check(o.StopDaemon(ctx))
		pause(t, time.Second)
	}))
	heir := owned(t, l, s.slot, o)
	// It starts again and gets its slot back after the hold-down.
	lossless(t, scene(t, l, s, "restart and return", func(*Observation) {
		t.Check(o.Start())
		t.Check(o.WaitReady(ctx))
		pause(t, time.Second)
	}))
	allReady(t, l)
	lossless(t, scene(t, l, s, "maintenance", func(*Observation) {
		acc, err := o.drain(ctx, &v1.DrainRequest{Appliance: o.Name, Maintenance: true, Reason: "lab"}, nil)
		t.Check(err)
		checkDrain(t, o, acc)
	}))
	lossless(t, scene(t, l, s, "reboot in maintenance", func(*Observation) {
		_, err := o.PowerCut()
		t.Check(err)
		t.Check(o.PowerOn())
		t.Check(o.WaitStatus(ctx, "an answer", func(*v1.GetStatusResponse) bool { return true }))
		pause(t, 2*o.Config.Fleet.Handover.HoldDown)
	}))
	st, err := o.Standing(ctx)
	t.Check(err)
	if st.Standing != v1.Standing_STANDING_DRAINING || len(st.Sources) != 1 || st.Sources[0].Source != "maintenance" {
		t.Errorf("%s is %s after a reboot in maintenance, because of %v", o.Name, st.Standing, st.Sources)
	}
	if got := owned(t, l, s.slot, o); got == o {
		t.Errorf("slot %d returned to %s, which is in maintenance", s.slot, o.Name)
	}
	lossless(t, scene(t, l, s, "undrain and return", func(*Observation) {
		t.Check(o.Undrain(ctx))
		t.Check(o.WaitReady(ctx))
		pause(t, time.Second)
	}))
	t.Logf("%s stood in for %s twice", heir.Name, o.Name)
}
