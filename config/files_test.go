package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/pki"
)

// rightFiles makes every file that the example names and returns its configuration.
func rightFiles(t *testing.T, dir string) *Config {
	t.Helper()
	c := mustParse(t, Example())
	if _, err := pki.Init(dir, pki.Options{Fleet: "right"}); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Issue(dir, "ams", []netip.Addr{c.Self().Address}, pki.Options{}); err != nil {
		t.Fatal(err)
	}
	c.PKI = PKI{CA: filepath.Join(dir, pki.CACertFile), Cert: filepath.Join(dir, "ams.crt"), Key: filepath.Join(dir, "ams.key")}
	c.FleetKeyFile = filepath.Join(dir, pki.FleetKeyFile)
	c.SwanctlDir = dir
	return c
}

func write(t *testing.T, path string, mode os.FileMode, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	c := rightFiles(t, dir)
	text, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Load(write(t, filepath.Join(dir, "shadowcast.yaml"), 0o644, string(text)))
	if err != nil || !reflect.DeepEqual(got, c) {
		t.Fatalf("Load: %v, %+v", err, got)
	}
	if _, err := Load(filepath.Join(dir, "none")); err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load of no file: %v", err)
	}
	if _, err := Load(write(t, filepath.Join(dir, "bad.yaml"), 0o644, "nod: ams")); err == nil || !strings.Contains(err.Error(), "did you mean node?") {
		t.Errorf("Load of a bad file: %v", err)
	}
}

// Every mistake with files that a person would make yields one line.
func TestWrongFiles(t *testing.T) {
	if err := rightFiles(t, t.TempDir()).CheckFiles(); err != nil {
		t.Fatalf("right files: %v", err)
	}
	issue := func(t *testing.T, dir, fleet, name string, at time.Time) {
		if _, err := pki.Init(dir, pki.Options{Fleet: fleet, Now: at}); err != nil {
			t.Fatal(err)
		}
		if _, err := pki.Issue(dir, name, []netip.Addr{netip.MustParseAddr("192.0.2.11")}, pki.Options{Now: at, Validity: 24 * time.Hour}); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	var out strings.Builder
	for _, w := range []struct {
		name  string
		wrong func(c *Config, dir string)
	}{
		{"CA missing", func(c *Config, dir string) { c.PKI.CA = dir + "/none" }},
		{"certificate empty", func(c *Config, dir string) { c.PKI.Cert = write(t, dir+"/empty", 0o644, "") }},
		{"certificate is no PEM", func(c *Config, dir string) { c.PKI.Cert = write(t, dir+"/text", 0o644, "hello") }},
		{"GeoIP file missing", func(c *Config, dir string) { c.GeoIPFile = dir + "/city.mmdb" }},
		{"GeoIP file of text", func(c *Config, dir string) { c.GeoIPFile = write(t, dir+"/city.mmdb", 0o644, "x") }},
		{"key open to others", func(c *Config, dir string) { os.Chmod(c.PKI.Key, 0o644) }},
		{"key of another certificate", func(c *Config, dir string) {
			other := t.TempDir()
			issue(t, other, "right", "ams", time.Time{})
			c.PKI.Key = filepath.Join(other, "ams.key")
		}},
		{"certificate of another appliance", func(c *Config, dir string) {
			if _, err := pki.Issue(dir, "fra", nil, pki.Options{}); err != nil {
				t.Fatal(err)
			}
			c.PKI.Cert, c.PKI.Key = dir+"/fra.crt", dir+"/fra.key"
		}},
		{"certificate of another CA", func(c *Config, dir string) {
			other := t.TempDir()
			issue(t, other, "other", "ams", time.Time{})
			c.PKI.Cert, c.PKI.Key = filepath.Join(other, "ams.crt"), filepath.Join(other, "ams.key")
		}},
		{"certificate expired", func(c *Config, dir string) {
			other := t.TempDir()
			issue(t, other, "right", "ams", old)
			c.PKI = PKI{CA: filepath.Join(other, pki.CACertFile), Cert: filepath.Join(other, "ams.crt"), Key: filepath.Join(other, "ams.key")}
		}},
		{"fleet key is a directory", func(c *Config, dir string) { c.FleetKeyFile = dir }},
		{"fleet key is something else", func(c *Config, dir string) { c.FleetKeyFile = write(t, dir+"/short.key", 0o600, "x") }},
		{"password file missing", func(c *Config, dir string) { c.BGP.Peers[0].PasswordFile = dir + "/password" }},
		{"swanctl directory missing", func(c *Config, dir string) { c.SwanctlDir = dir + "/swanctl" }},
		{"swanctl directory is a file", func(c *Config, dir string) { c.SwanctlDir = c.PKI.CA }},
		{"several", func(c *Config, dir string) { c.PKI.CA, c.SwanctlDir = dir+"/none", dir+"/none" }},
	} {
		dir := t.TempDir()
		c := rightFiles(t, dir)
		w.wrong(c, dir)
		err := c.CheckFiles()
		if err == nil {
			t.Errorf("%s: no message", w.name)
			continue
		}
		text := strings.NewReplacer(dir, "DIR", filepath.Dir(c.PKI.Cert), "DIR", filepath.Dir(c.PKI.Key), "DIR").Replace(err.Error())
		fmt.Fprintf(&out, "# %s\n%s\n\n", w.name, text)
	}
	golden := filepath.Join("testdata", "wrong_files.golden")
	if *update {
		write(t, golden, 0o644, out.String())
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("messages differ from %s (rewrite with -update):\n%s", golden, out.String())
	}
}
