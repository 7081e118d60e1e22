package lab

import (
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/docs"
)

// previousDaemon is the daemon of the release before: built with another version, and
// with the tag previous_protocol. It is not in this project's history in a form that
// could still be built, so its replication protocol is what makes it old.
const previousDaemon = "shadowcastd-previous"

func init() {
	Register(Scenario{
		Name: "upgrade", Doc: "docs/operations.md upgrades a fleet under traffic, one appliance after another, from a daemon that speaks the replication protocol before",
		Need: fleetNeed, Options: patientOptions(), Timeout: 8 * time.Minute, Bench: true, Run: upgrade,
	})
	Register(Scenario{
		Name: "rollback", Doc: "a fleet goes back to the release before in the same way; on the first appliance a daemon that does not start was the reason",
		Need: fleetNeed, Options: patientOptions(), Timeout: 8 * time.Minute, Bench: true, Run: rollback,
	})
}

// patientOptions are those of scenarios in which daemons start while nothing fails: each
// takes the guest's only processor for seconds, and nobody may be missed for that.
func patientOptions() Options {
	o := fleetOptions(ConnSpec{Cert: true})
	o.BFD, o.Probe, o.PPS = BFD{Interval: 500 * time.Millisecond, Multiplier: 6}, config.Probe{Interval: 200 * time.Millisecond, Lost: 10}, 100
	return o
}

func upgrade(t *T, l *Lab) {
	old := previous(t, l)
	replaceAll(t, l, "upgrade", old, "", func(a *Appliance, _ func(string)) { restartDaemon(t, a) })
}

func rollback(t *T, l *Lab) {
	old := previous(t, l)
	first := l.Appliances()[0]
	replaceAll(t, l, "rollback", "", old, func(a *Appliance, mark func(string)) {
		if a == first {
			doesNotStart(t, a, mark)
			a.Binary = old
		}
		restartDaemon(t, a)
	})
}

// previous finds the daemon of the release before.
func previous(t *T, l *Lab) string {
	old, err := l.binary(previousDaemon)
	if err != nil {
		t.Fatalf("%v; build it with make %s", err, previousDaemon)
	}
	return old
}

// doesNotStart restarts a daemon that is drained as one that ends at once. Its slots are
// elsewhere.
func doesNotStart(t *T, a *Appliance, mark func(string)) {
	t.Check(a.StopDaemon(t.Context()))
	a.Binary = "/bin/false"
	t.Check(a.Start())
	t.Check(poll(t.Context(), 50*time.Millisecond, "the daemon that does not start to end", func() (bool, error) { return !a.daemon.Alive(), nil }))
	mark("the daemon does not start")
	pause(t, 2*time.Second)
}

// replaceAll carries out the document on one appliance after another: their daemons are
// from before and then to, "" for this release's. restart is systemctl's.
func replaceAll(t *T, l *Lab, what, from, to string, restart func(a *Appliance, mark func(string))) {
	commands, err := shellCommands(docs.Operations, "### Upgrade the fleet")
	t.Check(err)
	for _, a := range l.Appliances() {
		t.Check(a.Prepare())
		a.Binary = from
		a.Config.Fleet.Handover.HoldDown = 3 * time.Second
		a.Config.Fleet.DeadMan = 4 * time.Second
	}
	s, _ := start(t, l)
	versions(t, l)
	for _, a := range l.Appliances() {
		sc := scene(t, l, s, what+" "+a.Name, func(o *Observation) {
			mark := func(what string) { o.Mark(time.Now(), what) }
			doCommands(t, a, commands, map[string]func(){
				"apt-get install ./shadowcast_VERSION_amd64.deb": func() { a.Binary = to },
				"systemctl restart shadowcastd":                  func() { restart(a, mark) },
				"shadowctl status":                               func() { settled(t, l, a) },
			}, mark)
			pause(t, 500*time.Millisecond)
		})
		lossless(t, sc)
		if t.Failed() {
			return // what follows would hide where
		}
		versions(t, l)
	}
	t.Check(s.Client.RekeyChild(t.Context()))
	t.Check(s.Client.RekeyIKE(t.Context()))
	acc, err := s.Client.IKE()
	t.Check(err)
	if n := acc.ClientInits(); n != 1 {
		t.Errorf("the client sent %d IKE_SA_INIT requests in all, want the first one only: %s", n, acc)
	}
}

// versions checks what each appliance says of every other: those with a daemon of the
// release before say so, and two that have this release's speak the newer protocol.
func versions(t *T, l *Lab) {
	t.Check(poll(t.Context(), 200*time.Millisecond, "the appliances to know each other's versions", func() (bool, error) {
		for _, a := range l.Appliances() {
			st, err := a.Status(t.Context())
			if err != nil {
				return false, err
			}
			for _, p := range st.Peers {
				isNew, both := l.Appliance(p.Name).Binary == "", l.Appliance(p.Name).Binary == "" && a.Binary == ""
				if strings.HasPrefix(p.Version, "previous") == isNew || (p.ProtocolVersion > 1) != both {
					return false, nil
				}
			}
		}
		return true, nil
	}))
}
