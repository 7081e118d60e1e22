package lab

import "time"

// A planned move away from an appliance with a slow and uneven way to the clients,
// while packets enter at a third one: the hold must cover what is slowest on the old
// way, or the client drops the last packets of the old owner.
func init() {
	o := fleetOptions(ConnSpec{Cert: true, Window: 256})
	Register(Scenario{
		Name: "move-uneven-path", Doc: "planned moves from an owner 40 and 150 ms away, with jitter, entry elsewhere: nothing is lost",
		Need: fleetNeed, Options: o, Bench: true, Timeout: 4 * time.Minute, Run: movesFromAfar,
	})
}

// measuredWithin is the time in which both ends have measured the way to the clients
// often enough to know its slowest answers.
const measuredWithin = 16 * time.Second

func movesFromAfar(t *T, l *Lab) {
	t.Check(enterAt(l, "lhr"))
	for _, a := range l.Appliances() {
		a.Config.Fleet.Handover.HoldCap = 400 * time.Millisecond
	}
	fleetUp(t, l)
	s := join(t, l, 0)
	for _, x := range []struct {
		name string
		way  Impairment
	}{
		{"40 ms and 15 of jitter", Impairment{Delay: 40 * time.Millisecond, Jitter: 15 * time.Millisecond}},
		{"150 ms and 20 of jitter", Impairment{Delay: 150 * time.Millisecond, Jitter: 20 * time.Millisecond}},
	} {
		handover(t, l, s, "to fra", "fra")
		allReady(t, l)
		slow, err := eachUplink(l, "fra", func(k *Link) error { return k.ImpairFromB(x.way) })
		t.Check(err)
		pause(t, measuredWithin)
		control(t, l, s)
		handover(t, l, s, x.name, "ams")
		t.Check(slow(func(k *Link) error { return k.ImpairFromB(Impairment{}) }))
		allReady(t, l)
	}
	party{s}.usable(t, l)
}
