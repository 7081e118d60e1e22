package pki

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Every step of a rotation leaves a fleet in which everybody talks to everybody, whoever
// has taken the step already; at its end the old CA counts for nothing.
func TestRotation(t *testing.T) {
	dir := initDir(t, Options{Fleet: "ours"})
	ams, fra := member(t, dir, "ams", Options{}), member(t, dir, "fra", Options{})
	fleetKey, err := os.ReadFile(filepath.Join(dir, FleetKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	talk := func(step string) {
		t.Helper()
		for _, x := range [][2]*Identity{{ams, fra}, {fra, ams}} {
			if _, _, sErr, cErr := shake(t, x[0].ServerTLS(nil), x[1].ClientTLS(x[0].name)); sErr != nil || cErr != nil {
				t.Fatalf("%s: %s refuses %s: %v, %v", step, x[0].name, x[1].name, sErr, cErr)
			}
		}
	}
	each := func(step string, do func(*Identity) error) {
		t.Helper()
		for _, id := range []*Identity{ams, fra} {
			if err := do(id); err != nil {
				t.Fatalf("%s: %v", step, err)
			}
			talk(step + ", " + id.name)
		}
	}
	made, err := Rotate(dir, Options{})
	if err != nil || made.Fleet != "ours" {
		t.Fatalf("rotate: %+v, %v", made, err)
	}
	if now, err := os.ReadFile(filepath.Join(dir, FleetKeyFile)); err != nil || string(now) != string(fleetKey) {
		t.Errorf("the fleet key has changed (%v)", err)
	}
	each("both CAs", (*Identity).Reload)
	old, err := Load(Files{CA: ams.files.CA, Cert: ams.files.Cert, Key: ams.files.Key}, "ams")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Retire(dir, Options{}); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "ams.crt, fra.crt") {
		t.Errorf("retire while old certificates are in use: %v", err)
	}
	each("certificates of the new CA", func(id *Identity) error {
		if _, err := Issue(dir, id.name, nil, Options{Force: true}); err != nil {
			return err
		}
		return id.Reload()
	})
	if _, err := Retire(dir, Options{}); err != nil {
		t.Fatal(err)
	}
	each("the new CA alone", (*Identity).Reload)
	if _, _, sErr, cErr := shake(t, fra.ServerTLS(nil), old.ClientTLS("fra")); sErr == nil && cErr == nil {
		t.Error("a certificate of the retired CA is accepted")
	}
}

func TestRotationRefused(t *testing.T) {
	dir := initDir(t, Options{})
	if _, err := Retire(dir, Options{}); err == nil || !strings.Contains(err.Error(), "none to retire") {
		t.Errorf("retire without a rotation: %v", err)
	}
	for range maxCAs - 1 {
		if _, err := Rotate(dir, Options{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Rotate(dir, Options{}); err == nil || !strings.Contains(err.Error(), "retire the old ones first") {
		t.Errorf("one CA more than is trusted at once: %v", err)
	}
	if _, err := Rotate(t.TempDir(), Options{}); err == nil || !strings.Contains(err.Error(), CACertFile) {
		t.Errorf("rotate without a CA: %v", err)
	}
	// Interrupted between the two files: the old key still issues.
	dir = initDir(t, Options{})
	key, err := os.ReadFile(filepath.Join(dir, CAKeyFile))
	if err == nil {
		_, err = Rotate(dir, Options{})
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, CAKeyFile), key, 0o600)
	}
	if err == nil {
		_, err = Issue(dir, "ams", nil, Options{})
	}
	if err != nil {
		t.Errorf("issue after an interrupted rotation: %v", err)
	}
}

// Who renews a certificate without naming addresses keeps those that it has.
func TestRenewalKeepsAddresses(t *testing.T) {
	dir := initDir(t, Options{})
	want := []netip.Addr{netip.MustParseAddr("192.0.2.11"), netip.MustParseAddr("2001:db8::11")}
	addresses := func(given []netip.Addr, force bool) []netip.Addr {
		t.Helper()
		if _, err := Issue(dir, "ams", given, Options{Force: force}); err != nil {
			t.Fatal(err)
		}
		return addressesOf(filepath.Join(dir, "ams.crt"))
	}
	if got := addresses(want, false); !slices.Equal(got, want) {
		t.Fatalf("issued with %v, want %v", got, want)
	}
	if got := addresses(nil, true); !slices.Equal(got, want) {
		t.Errorf("renewed with %v, want %v", got, want)
	}
	if got := addresses(want[:1], true); !slices.Equal(got, want[:1]) {
		t.Errorf("renewed with others: %v, want %v", got, want[:1])
	}
}
