package node

import (
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/ssm/lease"
)

// lockOf is the upgrade lock of the only registrar.
func lockOf(t *testing.T) *upgradeLock {
	a := refuser(t)
	a.cfg.StateDir = t.TempDir()
	a.cfg.Fleet.Registrars = []string{a.cfg.Node}
	return newUpgradeLock(a)
}

// A mistyped time, or an acquire that is refused, takes nothing from who holds the lock.
func TestUpgradeLockOutlivesMistakes(t *testing.T) {
	u := lockOf(t)
	if _, err := u.Acquire(t.Context(), time.Hour, "kernel"); err != nil {
		t.Fatal(err)
	}
	for _, ttl := range []time.Duration{0, 30 * time.Second, 48 * time.Hour, -time.Hour} {
		if _, err := u.Acquire(t.Context(), ttl, "kernel"); err == nil || !strings.Contains(err.Error(), "want 1m0s to 24h0m0s") {
			t.Errorf("acquire for %s: %v", ttl, err)
		}
	}
	if got, err := u.Acquire(t.Context(), 2*time.Minute, "sooner"); err != nil || got.Left.AsDuration() > 2*time.Minute {
		t.Errorf("prolong: %v, %v", got, err)
	}
	if got, err := u.Release(t.Context()); err != nil || got.Holder != "" {
		t.Errorf("release: %v, %v", got, err)
	}
}

// A time that cannot be is refused before anything is remembered.
func TestUpgradeLockRefusesBeforeItRemembers(t *testing.T) {
	u := lockOf(t)
	if _, err := u.Acquire(t.Context(), 48*time.Hour, "kernel"); err == nil {
		t.Fatal("48 hours were granted")
	}
	var h held
	if err := readJSON(u.file("upgrade-lock"), &h); err != nil || h.Token != "" {
		t.Errorf("remembered %v, %v", h, err)
	}
	if _, err := u.Release(t.Context()); err == nil || !strings.Contains(err.Error(), "does not hold") {
		t.Errorf("release: %v", err)
	}
}

// Who believes to hold a lock that was lost meanwhile learns it, and forgets.
func TestUpgradeLockWasLost(t *testing.T) {
	u := lockOf(t)
	if _, err := u.Acquire(t.Context(), time.Hour, "kernel"); err != nil {
		t.Fatal(err)
	}
	u.voter = lease.NewVoter(lease.Promise{Token: "another", Holder: "fra", Reason: "disk", Expires: time.Now().Add(time.Hour)})
	if _, err := u.Acquire(t.Context(), time.Hour, "kernel"); err == nil || !strings.Contains(err.Error(), "fra holds the upgrade lock") {
		t.Errorf("acquire: %v", err)
	}
	var h held
	if err := readJSON(u.file("upgrade-lock"), &h); err != nil || h.Token != "" {
		t.Errorf("remembered %v, %v", h, err)
	}
}
