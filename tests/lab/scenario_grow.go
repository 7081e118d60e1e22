package lab

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/docs"
)

func init() {
	Register(Scenario{
		Name: "grow", Doc: "docs/operations.md adds an appliance with its slot to a fleet of two under traffic, moves a session there, and takes it out again",
		Need: fleetNeed, Options: patientOptions(), Timeout: 10 * time.Minute, Bench: true, Run: grow,
	})
}

func grow(t *T, l *Lab) {
	commands, err := shellCommands(docs.Operations, "### Change the fleet section")
	t.Check(err)
	all := slices.Clone(l.appliances)
	old, third := all[:2], all[2]
	t.Check(enterAt(l, "ams"))
	for _, a := range all {
		a.Config.Fleet.Handover.HoldDown = 3 * time.Second
		a.Config.Fleet.DeadMan = 4 * time.Second
		a.Config.Fleet.Registrars = []string{"fra"}
	}
	whole := all[0].Config.Fleet
	two := without(whole, third.Name)
	// It changes the settings of every charon, too.
	whole.ClientDNS = []netip.Addr{host(InsideNet, 53)}
	give(old, two)
	l.appliances = old // the third machine is not there yet
	fleetUp(t, l)
	s := join(t, l, 0)
	control(t, l, s)

	for _, a := range old {
		give([]*Appliance{a}, whole)
		lossless(t, scene(t, l, s, "another fleet section at "+a.Name, func(o *Observation) {
			restartOne(t, l, a, commands, func(what string) { o.Mark(time.Now(), what) })
			pause(t, 500*time.Millisecond)
		}))
		if t.Failed() {
			return // what follows would hide where
		}
		charonsHave(t, a, whole.ClientDNS[0].String())
	}
	l.appliances = all
	lossless(t, scene(t, l, s, "the third appliance starts", func(*Observation) {
		t.Check(third.Start())
		t.Check(third.WaitReady(t.Context()))
		allReady(t, l)
	}))
	handover(t, l, s, "move to "+third.Name, third.Name)
	allReady(t, l)
	lossless(t, scene(t, l, s, "the third appliance leaves", func(*Observation) {
		third.shell(t, "shadowctl drain $(hostname) --maintenance --wait --yes")
		t.Check(third.StopDaemon(t.Context()))
	}))
	l.appliances = old
	// Its slot stays, with another home, the last one in the round: clients are in it.
	rest := without(whole, third.Name)
	rest.Slots = append(rest.Slots, config.Slot{Number: l.HomeSlots(third)[0], Home: "fra", Shadows: []string{"ams"}, Pools: whole.Slots[2].Pools})
	for _, a := range old {
		give([]*Appliance{a}, rest)
		lossless(t, scene(t, l, s, "the fleet section without it at "+a.Name, func(o *Observation) {
			restartOne(t, l, a, commands, func(what string) { o.Mark(time.Now(), what) })
			pause(t, 500*time.Millisecond)
		}))
	}
	t.Check(poll(t.Context(), 200*time.Millisecond, "every slot to be at home", func() (bool, error) {
		for _, a := range old {
			st, err := a.Status(t.Context())
			if err != nil {
				return false, err
			}
			for _, x := range st.Slots {
				if x.Owner != x.Home {
					return false, nil
				}
			}
		}
		return true, nil
	}))
	key := strangeKey(t, l)
	kept(t, scene(t, l, s, "another fleet key", func(o *Observation) {
		for _, a := range old {
			t.Check(a.StopDaemon(t.Context()))
		}
		for _, a := range old {
			a.Config.FleetKeyFile = key
			t.Check(a.Start())
		}
		allReady(t, l)
		t.Check(s.WaitReceived(t.Context(), 200))
	}))
	acc, err := s.Client.IKE()
	t.Check(err)
	if n := acc.ClientInits(); n != 1 {
		t.Errorf("the client sent %d IKE_SA_INIT requests in all, want the first one only: %s", n, acc)
	}
}

// without is a fleet without an appliance and its home slots.
func without(f config.Fleet, name string) config.Fleet {
	f.Appliances = slices.DeleteFunc(slices.Clone(f.Appliances), func(a config.Appliance) bool { return a.Name == name })
	var slots []config.Slot
	for _, s := range f.Slots {
		if s.Home != name {
			s.Shadows = slices.DeleteFunc(slices.Clone(s.Shadows), func(x string) bool { return x == name })
			slots = append(slots, s)
		}
	}
	f.Slots = slots
	return f
}

// give writes a fleet section into the configurations of appliances.
func give(to []*Appliance, f config.Fleet) {
	for _, a := range to {
		a.Config.Fleet = f
	}
}

// restartOne carries out the document's commands on one appliance.
func restartOne(t *T, l *Lab, a *Appliance, commands []string, mark func(string)) {
	doCommands(t, a, commands, map[string]func(){
		"systemctl restart shadowcastd": func() { restartDaemon(t, a) },
		"shadowctl status":              func() { settled(t, l, a) },
	}, mark)
}

// charonsHave checks that the charons of all slots of an appliance run with a setting.
func charonsHave(t *T, a *Appliance, setting string) {
	confs, err := filepath.Glob(filepath.Join(a.runDir(), "slot-*", "strongswan.conf"))
	t.Check(err)
	for _, f := range confs {
		b, err := os.ReadFile(f)
		t.Check(err)
		if !strings.Contains(string(b), setting) {
			t.Errorf("%s: %s has no %s", a.Name, f, setting)
		}
	}
	if len(confs) < 2 {
		t.Errorf("%s has charons of %d slots, want its own and one that it shadows at least", a.Name, len(confs))
	}
}

// restartDaemon is what systemctl restart does.
func restartDaemon(t *T, a *Appliance) {
	t.Check(a.StopDaemon(t.Context()))
	t.Check(a.Start())
	t.Check(a.WaitStatus(t.Context(), "an answer", func(*v1.GetStatusResponse) bool { return true }))
}

// settled waits "until its slots are home and have shadows".
func settled(t *T, l *Lab, a *Appliance) {
	homes := 0
	for _, s := range a.Config.Fleet.Slots {
		if s.Home == a.Name {
			homes++
		}
	}
	t.Check(a.WaitStatus(t.Context(), "home slots active", func(st *v1.GetStatusResponse) bool {
		n := 0
		for _, x := range st.Slots {
			if x.Home == a.Name && x.State == v1.SlotState_SLOT_STATE_ACTIVE {
				n++
			}
		}
		return n == homes
	}))
	allReady(t, l)
	a.shell(t, "shadowctl status")
}

// doCommands carries out a document's commands on one appliance. The guest has neither
// the package nor systemd: what these do is done by hand.
func doCommands(t *T, a *Appliance, commands []string, instead map[string]func(), mark func(string)) {
	used := 0
	for _, c := range commands {
		mark(c)
		if do, ok := instead[c]; ok {
			used++
			t.Logf("%s# %s (done by hand)", a.Name, c)
			do()
			continue
		}
		a.shell(t, c)
	}
	if used != len(instead) {
		t.Errorf("the document has %d of the %d commands that this test does by hand: %q", used, len(instead), commands)
	}
}
