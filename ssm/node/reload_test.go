package node

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/operator"
	"github.com/shadowcast/shadowcast/pki"
)

// A reload applies what it can, names what it cannot, and keeps everything when the
// new configuration is wrong.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	c, err := config.Parse([]byte(config.Example()))
	if err != nil {
		t.Fatal(err)
	}
	issue := func(validity time.Duration) {
		if _, err := pki.Issue(dir, "ams", []netip.Addr{c.Self().Address}, pki.Options{Validity: validity, Force: true}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pki.Init(dir, pki.Options{}); err != nil {
		t.Fatal(err)
	}
	issue(24 * time.Hour)
	c.PKI = config.PKI{CA: filepath.Join(dir, pki.CACertFile), Cert: filepath.Join(dir, "ams.crt"), Key: filepath.Join(dir, "ams.key")}
	c.FleetKeyFile, c.SwanctlDir = filepath.Join(dir, pki.FleetKeyFile), dir
	id, err := pki.Load(pki.Files{CA: c.PKI.CA, Cert: c.PKI.Cert, Key: c.PKI.Key}, "ams")
	if err != nil {
		t.Fatal(err)
	}
	a := &Appliance{cfg: c, identity: id, events: &journal{log: operator.NewEvents("ams", 100, slog.New(slog.DiscardHandler))}, places: &places{}}
	a.tiers.Store(&c.Fleet.Tiers)
	level := new(slog.LevelVar)
	file := filepath.Join(dir, "shadowcast.yaml")
	var seen uint64
	// reload writes text and returns what was told.
	reload := func(text string) string {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		a.Reload(file, level)
		var b strings.Builder
		evs, _, _ := a.events.log.After(seen, 100)
		for _, e := range evs {
			seen = e.Id
			b.WriteString(e.Kind + ": " + e.Message + ": " + e.Reason + "\n")
		}
		return b.String()
	}
	right, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	text := string(right)
	until := id.NotAfter()

	if got := reload(text); !strings.Contains(got, "read again") || strings.Contains(got, "restart") {
		t.Errorf("an unchanged configuration: %s", got)
	}

	issue(48 * time.Hour)
	changed := strings.Replace(strings.Replace(text, "level: info", "level: debug", 1), "dead_man: 1s", "dead_man: 2s", 1)
	got := reload(changed)
	for _, want := range []string{"applied: log.level, certificates until", "wait for a restart: fleet.dead_man: "} {
		if !strings.Contains(got, want) {
			t.Errorf("a changed configuration: no %q in %s", want, got)
		}
	}
	if level.Level() != slog.LevelDebug || !id.NotAfter().After(until) || a.cfg.Fleet.DeadMan != time.Second {
		t.Errorf("level %s, certificate until %s, dead-man %s", level, id.NotAfter(), a.cfg.Fleet.DeadMan)
	}
	// What waits is told again, what is applied already is not.
	if got := reload(changed); strings.Contains(got, "log.level") || !strings.Contains(got, "fleet.dead_man") {
		t.Errorf("the same once more: %s", got)
	}

	tiered := strings.Replace(text, "fleet:\n", "fleet:\n  tiers: {default: basic}\n", 1)
	for range 2 { // applied once
		got = reload(tiered)
	}
	if a.tiers.Load().Default != "basic" || strings.Contains(got, "fleet.tiers") {
		t.Errorf("tiers %+v after: %s", *a.tiers.Load(), got)
	}
	if got = reload(text); a.tiers.Load().Enabled() || !strings.Contains(got, "applied: fleet.tiers, ") && !strings.Contains(got, ", fleet.tiers, ") {
		t.Errorf("tiers %+v after they were taken away: %s", *a.tiers.Load(), got)
	}
	reload(changed)

	until = id.NotAfter()
	issue(72 * time.Hour)
	got = reload(strings.Replace(strings.Replace(text, "level: info", "level: loud", 1), "dead_man: 1s", "dead_man: 1y", 1))
	if strings.Count(got, "the configuration is kept") != 2 || !strings.Contains(got, `log.level: "loud"`) || !strings.Contains(got, "fleet.dead_man") {
		t.Errorf("a wrong configuration: %s", got)
	}
	if level.Level() != slog.LevelDebug || !id.NotAfter().Equal(until) {
		t.Error("a wrong configuration changed something")
	}
	os.Remove(c.PKI.Key)
	if got := reload(text); !strings.Contains(got, "pki.key") || level.Level() != slog.LevelDebug {
		t.Errorf("without the key file: %s", got)
	}
}
