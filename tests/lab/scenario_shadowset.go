package lab

import (
	"fmt"
	"slices"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/config"
)

// Four appliances, and the owner of each slot chooses its one shadow: one that dies
// for good is replaced, and then the owner dies as well.
func init() {
	o := fleetOptions(ConnSpec{Cert: true})
	o.Appliances = []string{"ams", "fra", "lhr", "par"}
	// Four daemons, eight charons and a newcomer's twin share the guest's only
	// processor: nobody may be suspected for that.
	o.BFD = BFD{Interval: 300 * time.Millisecond, Multiplier: 10}
	o.Probe = config.Probe{Interval: 100 * time.Millisecond, Lost: 20}
	o.Chosen, o.Shadows = true, config.DefaultShadowSets()
	o.Shadows.Size, o.Shadows.ReplaceAfter = 1, 8*time.Second
	Register(Scenario{
		Name: "shadow-set", Doc: "the only shadow dies for good, another appliance takes its place, then the owner dies", Need: fleetNeed, Options: o,
		Timeout: 6 * time.Minute, Bench: true, Run: shadowSet,
	})
}

func shadowSet(t *T, l *Lab) {
	s, o := start(t, l)
	first := shadowsOf(t, o, s.slot)
	if len(first) != 1 {
		t.Fatalf("slot %d has the shadows %v, want one", s.slot, first)
	}

	var second string
	var took time.Duration
	sc := scene(t, l, s, "refill", func(ob *Observation) {
		pause(t, 300*time.Millisecond)
		at, err := l.Appliance(first[0]).PowerCut()
		t.Check(err)
		ob.Fault(at, "power cut of the shadow "+first[0]+", for good")
		second = refilled(t, o, s.slot, first[0])
		took = time.Since(at)
		ob.Mark(time.Now(), second+" shadows the slot")
		pause(t, time.Second)
	})
	kept(t, sc)
	if sc.Lost != 0 {
		t.Errorf("refill: %d of %d packets lost while a shadow was replaced", sc.Lost, sc.Sent)
	}
	t.Logf("%s has taken the place of %s after %s", second, first[0], took.Round(time.Millisecond))
	t.Metric("refill_ms", ms(int64(took)))
	left := shadowsOf(t, o, s.slot)
	if slices.Contains(left, first[0]) {
		t.Errorf("%s is dead and still in the set %v", first[0], left)
	}

	// The newcomer's daemon is restarted: it finds that it keeps a twin which no
	// configuration names, and is armed anew.
	newcomer := l.Appliance(second)
	restart := scene(t, l, s, "newcomer-restarted", func(ob *Observation) {
		t.Check(newcomer.KillDaemon())
		ob.Mark(time.Now(), "the daemon of "+second+" is killed")
		t.Check(newcomer.Start())
		t.Check(newcomer.WaitStatus(t.Context(), "its twin complete and armed again", func(r *v1.GetStatusResponse) bool {
			return slices.ContainsFunc(r.Slots, func(x *v1.Slot) bool {
				return x.Number == s.slot && x.Role == v1.Role_ROLE_SHADOW && x.Ticket > x.OwnerTicket && x.Reason == ""
			})
		}))
		allReady(t, l)
	})
	kept(t, restart)
	if restart.Lost != 0 {
		t.Errorf("newcomer-restarted: %d of %d packets lost", restart.Lost, restart.Sent)
	}

	cut, victim := powerCut(t, l, s, "owner-after-refill")
	kept(t, cut)
	heir := owned(t, l, s.slot, victim)
	if heir.Name != second {
		t.Errorf("slot %d is owned by %s, want %s, which was added to the set", s.slot, heir.Name, second)
	}
	t.Check(s.Client.RekeyChild(t.Context()))
	t.Check(s.Client.RekeyIKE(t.Context()))

	// Two of four appliances are left: the set is refilled once more, and the slot
	// moves to the last one by hand without a loss.
	last := refilled(t, heir, s.slot, victim.Name)
	allReady(t, l)
	handover(t, l, s, "to the last", last)
	t.Check(s.Client.RekeyChild(t.Context()))
}

// shadowsOf are the members of the slot's set as its owner sees them.
func shadowsOf(t *T, o *Appliance, slot uint32) []string {
	x := slotAt(t.Context(), o, slot)
	if x == nil {
		t.Fatalf("%s does not tell of slot %d", o.Name, slot)
	}
	var out []string
	for _, sh := range x.Shadows {
		if !sh.Leaving {
			out = append(out, sh.Name)
		}
	}
	return out
}

// refilled waits until a living shadow other than dead covers the slot.
func refilled(t *T, o *Appliance, slot uint32, dead string) (name string) {
	t.Check(o.WaitStatus(t.Context(), fmt.Sprintf("another ready shadow of slot %d than %s", slot, dead), func(r *v1.GetStatusResponse) bool {
		for _, x := range r.Slots {
			for _, sh := range x.Shadows {
				if x.Number == slot && sh.Name != dead && sh.Ready && sh.LagMessages == 0 {
					name = sh.Name
					return true
				}
			}
		}
		return false
	}))
	return name
}
