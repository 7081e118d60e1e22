package lab

import (
	"slices"
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
}

// patientOptions are those of scenarios in which daemons start while nothing fails: each
// takes the guest's only processor for seconds, and nobody may be missed for that.
func patientOptions() Options {
	o := fleetOptions(ConnSpec{Cert: true})
	o.BFD, o.Probe, o.PPS = BFD{Interval: 500 * time.Millisecond, Multiplier: 6}, config.Probe{Interval: 200 * time.Millisecond, Lost: 10}, 100
	return o
}

func upgrade(t *T, l *Lab) {
	commands, err := shellCommands(docs.Operations, "### Upgrade the fleet")
	t.Check(err)
	old, err := l.binary(previousDaemon)
	if err != nil {
		t.Fatalf("%v; build it with make %s", err, previousDaemon)
	}
	for _, a := range l.Appliances() {
		t.Check(a.Prepare())
		a.Binary = old
		a.Config.Fleet.Handover.HoldDown = 3 * time.Second
		a.Config.Fleet.DeadMan = 4 * time.Second
	}
	s, _ := start(t, l)
	versions(t, l, nil)
	var done []string
	for _, a := range l.Appliances() {
		sc := scene(t, l, s, "upgrade "+a.Name, func(o *Observation) {
			upgradeOne(t, l, a, commands, func(what string) { o.Mark(time.Now(), what) })
			pause(t, 500*time.Millisecond)
		})
		lossless(t, sc)
		if t.Failed() {
			return // what follows would hide where
		}
		done = append(done, a.Name)
		versions(t, l, done)
	}
	t.Check(s.Client.RekeyChild(t.Context()))
	t.Check(s.Client.RekeyIKE(t.Context()))
	acc, err := s.Client.IKE()
	t.Check(err)
	if n := acc.ClientInits(); n != 1 {
		t.Errorf("the client sent %d IKE_SA_INIT requests in all, want the first one only: %s", n, acc)
	}
}

// upgradeOne carries out the commands of the document on one appliance.
func upgradeOne(t *T, l *Lab, a *Appliance, commands []string, mark func(string)) {
	doCommands(t, a, commands, map[string]func(){
		"apt-get install ./shadowcast_VERSION_amd64.deb": func() { a.Binary = "" },
		"systemctl restart shadowcastd":                  func() { restartDaemon(t, a) },
		"shadowctl status":                               func() { settled(t, l, a) },
	}, mark)
}

// versions checks what each appliance says of every other: the daemons that were
// upgraded are of another version, and two of them speak the newer protocol.
func versions(t *T, l *Lab, upgraded []string) {
	t.Check(poll(t.Context(), 200*time.Millisecond, "the appliances to know each other's versions", func() (bool, error) {
		for _, a := range l.Appliances() {
			st, err := a.Status(t.Context())
			if err != nil {
				return false, err
			}
			for _, p := range st.Peers {
				isNew, both := slices.Contains(upgraded, p.Name), slices.Contains(upgraded, p.Name) && slices.Contains(upgraded, a.Name)
				if strings.HasPrefix(p.Version, "previous") == isNew || (p.ProtocolVersion > 1) != both {
					return false, nil
				}
			}
		}
		return true, nil
	}))
}
