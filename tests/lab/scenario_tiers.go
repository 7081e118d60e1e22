package lab

import (
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/config"
)

// Two clients of one slot, one kept on one shadow and one on two. The tiers change while
// they work, the shadow that holds both dies, the owner moves to one that held a part,
// and dies: nobody loses a session by it.
func init() {
	o := fleetOptions(ConnSpec{Cert: true})
	o.Homes = []string{"ams"}
	o.BFD, o.Probe = patientBFD, config.Probe{Interval: 100 * time.Millisecond, Lost: 6}
	o.Clients = []ClientSpec{{Router: 1, Conn: o.Conn}, {Router: 2, Conn: o.Conn}}
	Register(Scenario{
		Name: "tiers", Doc: "sessions on one and on two shadows, in one slot: a change of tiers, a lost shadow, a move, a power cut", Need: fleetNeed, Options: o,
		Timeout: 6 * time.Minute, Bench: true, Run: tiers,
	})
}

// tiersOf keeps the named clients on one shadow, the others on two.
func tiersOf(basic ...*Client) config.Tiers {
	t := config.Tiers{Default: "standard", Shadows: map[string]int{"basic": 1, "standard": 2, "premium": 3}}
	for _, c := range basic {
		t.Rules = append(t.Rules, config.TierRule{Identity: "*" + c.ID() + "*", Tier: "basic"})
	}
	return t
}

func tiers(t *T, l *Lab) {
	t.Check(enterAt(l, "ams"))
	for _, a := range l.Appliances() {
		a.Config.Fleet.Tiers = tiersOf(l.clients[1])
	}
	fleetUp(t, l)
	ss := joinAll(t, l, l.clients, 250)
	o := owned(t, l, ss[0].slot)
	// Who is ready first, as the fleet starts, comes first.
	first, second := "fra", "lhr"
	t.Check(poll(t.Context(), 200*time.Millisecond, "the basic session on one shadow", func() (bool, error) {
		x := sessions(t, o, ss)[l.clients[1].Name]
		if x == nil || len(x.HeldBy) != 1 {
			return false, nil
		}
		if x.HeldBy[0] == second {
			first, second = second, first
		}
		return true, nil
	}))
	kept := map[string][]string{l.clients[0].Name: {first, second}, l.clients[1].Name: {first}}
	holds(t, l, ss, o, kept)
	at := sessions(t, o, ss)
	if a, b := at[l.clients[0].Name].Tier, at[l.clients[1].Name].Tier; a != "standard" || b != "basic" {
		t.Errorf("the tiers are %q and %q, want standard and basic", a, b)
	}

	// The tiers are exchanged while packets flow.
	ss.quietly(t, l, "tiers-changed", func() {
		for _, a := range l.Appliances() {
			a.Config.Fleet.Tiers = tiersOf(l.clients[0])
			t.Check(a.Reload())
		}
		kept = map[string][]string{l.clients[0].Name: {first}, l.clients[1].Name: {first, second}}
		holds(t, l, ss, o, kept)
	})

	// The one that holds both dies: the other gets what it lacks.
	ss.quietly(t, l, "shadow-lost", func() {
		_, err := l.Appliance(first).PowerCut()
		t.Check(err)
		kept = map[string][]string{l.clients[0].Name: {second}, l.clients[1].Name: {second}}
		holds(t, l, ss, o, kept)
		pause(t, time.Second)
	})
	t.Check(l.Appliance(first).PowerOn())
	allReady(t, l)
	kept = map[string][]string{l.clients[0].Name: {second}, l.clients[1].Name: {second, first}}
	holds(t, l, ss, o, kept)

	// A move to the one that holds a part gives it the rest first.
	ss.quietly(t, l, "moved", func() {
		acc, err := o.Handover(t.Context(), ss[0].slot, first, nil)
		t.Check(err)
		t.Logf("moved: %v", acc)
		pause(t, time.Second)
	})
	o = owned(t, l, ss[0].slot, o)
	if o.Name != first {
		t.Fatalf("slot %d is owned by %s, want %s", ss[0].slot, o.Name, first)
	}
	allReady(t, l)
	t.Check(poll(t.Context(), 200*time.Millisecond, "every session on its shadows", func() (bool, error) { return onShadows(t, ss, o), nil }))

	for _, sc := range ss.lives(t, l, "power-cut", func(os observations) {
		pause(t, 300*time.Millisecond)
		at, err := o.PowerCut()
		t.Check(err)
		os.Fault(at, "power cut of "+o.Name)
		owned(t, l, ss[0].slot, o)
		pause(t, 2*time.Second)
	}) {
		t.Logf("%s", sc.Long())
	}
	ss.usable(t, l)
}

// quietly plays a phase in which no client may lose a packet.
func (ss party) quietly(t *T, l *Lab, name string, do func()) {
	for _, sc := range ss.lives(t, l, name, func(observations) { pause(t, 300*time.Millisecond); do() }) {
		if sc.Lost != 0 {
			t.Errorf("%s: %d of %d packets lost", sc.Name, sc.Lost, sc.Sent)
		}
	}
}

// sessions are those of a slot as an appliance lists them, by client.
func sessions(t *T, a *Appliance, ss party) map[string]*v1.Session {
	api, err := a.API()
	t.Check(err)
	r, err := api.ListSessions(t.Context(), &v1.ListSessionsRequest{Slot: ss[0].slot})
	t.Check(err)
	out := map[string]*v1.Session{}
	for _, x := range r.Sessions {
		for _, s := range ss {
			if strings.Contains(x.Identity, s.Client.ID()) {
				out[s.Client.Name] = x
			}
		}
	}
	return out
}

// holds waits until the owner and the shadows themselves say that each client's session
// is on those appliances and on no others.
func holds(t *T, l *Lab, ss party, o *Appliance, want map[string][]string) {
	last := ""
	err := poll(t.Context(), 200*time.Millisecond, fmt.Sprintf("the sessions to be kept on %v", want), func() (bool, error) {
		at := map[string]map[string]*v1.Session{}
		for _, a := range l.Appliances() {
			if a.daemon.Alive() {
				at[a.Name] = sessions(t, a, ss)
			}
		}
		for name, on := range want {
			x := at[o.Name][name]
			var there []string
			for _, n := range sortedKeys(at) {
				if n != o.Name && at[n][name] != nil {
					there = append(there, n)
				}
			}
			if last = fmt.Sprintf("%s: the owner says %v, it is on %v", name, x, there); x == nil || !sameNames(x.HeldBy, on) || !sameNames(there, on) {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		t.Fatalf("%v; %s", err, last)
	}
}

// onShadows reports whether every session is on some shadow.
func onShadows(t *T, ss party, o *Appliance) bool {
	at := sessions(t, o, ss)
	for _, s := range ss {
		if x := at[s.Client.Name]; x == nil || len(x.HeldBy) == 0 {
			return false
		}
	}
	return true
}

func sameNames(a, b []string) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}
