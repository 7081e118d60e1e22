package lab

import (
	"fmt"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

func init() {
	Register(Scenario{
		Name: "campaign-false-alarm", Doc: "the owner's link to the other appliances is cut, its clients are served: nothing moves, nothing is lost",
		Need: fleetNeed, Options: fleetOptions(ConnSpec{}).detecting(), Bench: true, Run: falseAlarm,
	})
}

// falseAlarm cuts everything between the owner and the other appliances, probes,
// replication, tunnels, while routers and clients reach it as before.
func falseAlarm(t *T, l *Lab) {
	s, o := start(t, l)
	ticket := slotAt(t.Context(), o, s.slot).OwnerTicket
	var fs []*Filter
	cut := scene(t, l, s, "cut off from the fleet", func(ob *Observation) {
		pause(t, 300*time.Millisecond)
		for _, dev := range []string{devUplink1, devUplink2} {
			for _, h := range []Hook{Ingress, Egress} {
				f, err := o.ns.DropWithin(dev, h, livenessNet)
				t.Check(err)
				fs = append(fs, f)
			}
		}
		ob.Mark(time.Now(), "cut")
		pause(t, 6*time.Second)
		for _, a := range l.Appliances() {
			if a == o {
				continue
			}
			st, err := a.Status(t.Context())
			t.Check(err)
			for _, p := range st.Peers {
				if p.Name == o.Name && p.State == v1.PeerState_PEER_STATE_UP {
					t.Errorf("%s hears %s though everything between them is dropped", a.Name, o.Name)
				}
			}
		}
	})
	healed := scene(t, l, s, "healed", func(*Observation) {
		for _, f := range fs {
			t.Check(f.Remove())
		}
		pause(t, 3*time.Second)
	})
	allReady(t, l)
	table := fmt.Sprintf("%-24s %8s %6s  %s\n", "phase", "sent", "lost", "owner")
	for _, sc := range []Scene{cut, healed} {
		lossless(t, sc)
		table += fmt.Sprintf("%-24s %8d %6d  %s\n", sc.Name, sc.Sent, sc.Lost, o.Name)
	}
	t.Table(table)
	for _, a := range l.Appliances() {
		x := slotAt(t.Context(), a, s.slot)
		if x == nil || x.Owner != o.Name || x.OwnerTicket != ticket {
			t.Errorf("%s believes that slot %d is owned by %s with ticket %d, want %s with %d", a.Name, s.slot, x.GetOwner(), x.GetOwnerTicket(), o.Name, ticket)
		}
	}
}
