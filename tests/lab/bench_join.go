package lab

import (
	"fmt"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/config"
)

// A shadow that joins gets everything there is: a snapshot must not disturb live
// traffic, nor the replication to the other shadows.
func init() {
	for _, n := range []int{100, 1000} {
		o := fleetOptions(ConnSpec{})
		// The machine that boots builds its twin on the guest's only processor.
		o.BFD = BFD{Interval: 300 * time.Millisecond, Multiplier: 10}
		o.Probe = config.Probe{Interval: 100 * time.Millisecond, Lost: 20}
		Register(Scenario{
			Name: fmt.Sprintf("bench-join-%d", n), Doc: fmt.Sprintf("a new shadow joins with %d live sessions under traffic", n),
			Need: fleetNeed, Options: o, Timeout: 9 * time.Minute, Bench: true,
			Run: func(t *T, l *Lab) { benchJoin(t, l, n) },
		})
	}
}

func benchJoin(t *T, l *Lab, n int) {
	s, o := start(t, l)
	newcomer := l.Appliance("lhr")
	if newcomer == o {
		newcomer = l.Appliance("fra")
	}
	doc, err := realDocument(t, o, s.slot)
	t.Check(err)
	// The newcomer knows nothing of what comes next: its machine is off.
	_, err = newcomer.PowerCut()
	t.Check(err)
	for k := 1; k < n; k += loadBatch {
		t.Check(multiply(o, doc, s.slot, k, min(loadBatch, n-k)))
		shadowed(t, o, s.slot, min(k+loadBatch, n))
	}
	pause(t, time.Second)
	control(t, l, s)

	var took time.Duration
	sc := scene(t, l, s, "join", func(ob *Observation) {
		pause(t, 300*time.Millisecond)
		began := time.Now()
		ob.Mark(began, newcomer.Name+" is switched on")
		t.Check(newcomer.PowerOn())
		t.Check(o.WaitStatus(t.Context(), newcomer.Name+" ready with every session", func(r *v1.GetStatusResponse) bool {
			for _, x := range r.Slots {
				for _, sh := range x.Shadows {
					if x.Number == s.slot && sh.Name == newcomer.Name {
						return sh.Ready && sh.Sessions == uint64(n)
					}
				}
			}
			return false
		}))
		took = time.Since(began)
		pause(t, time.Second)
	})
	kept(t, sc)
	if sc.Lost != 0 {
		t.Errorf("join: %d of %d packets lost while a shadow joined", sc.Lost, sc.Sent)
	}
	t.Logf("%d sessions: %s joined within %s of being switched on", n, newcomer.Name, took.Round(time.Millisecond))
	t.Metric("sessions", n)
	t.Metric("join_ms", ms(int64(took)))
	u, err := newcomer.daemon.Usage()
	t.Check(err)
	t.Metric("newcomer_daemon_pss_bytes", u.PSS)

	// The newcomer is no decoration: the session moves there without a loss.
	handover(t, l, s, "moved to the newcomer", newcomer.Name)
	t.Check(s.Client.RekeyChild(t.Context()))
}
