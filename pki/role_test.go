package pki

import (
	"crypto/tls"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
)

func person(t *testing.T, dir, name string, r Role) Files {
	t.Helper()
	if _, err := IssuePerson(dir, Person{name, r}, Options{}); err != nil {
		t.Fatal(err)
	}
	return files(dir, name)
}

func TestPeople(t *testing.T) {
	dir := initDir(t, Options{Fleet: "ours"})
	if _, err := Issue(dir, "ams", []netip.Addr{netip.MustParseAddr("192.0.2.11")}, Options{}); err != nil {
		t.Fatal(err)
	}
	ams, err := Load(files(dir, "ams"), "ams")
	if err != nil {
		t.Fatal(err)
	}
	fra := member(t, dir, "fra", Options{})
	other := initDir(t, Options{Fleet: "theirs"})
	foreign := person(t, other, "eve", Admin)

	for _, r := range []Role{Viewer, Operator, Admin} {
		who := Person{"ann-" + r.String(), r}
		f := person(t, dir, who.Name, r)
		for _, appliance := range []string{"ams", "192.0.2.11"} {
			c, err := PersonTLS(f, appliance)
			if err != nil {
				t.Fatal(err)
			}
			s, _, serr, cerr := shake(t, ams.PeopleTLS(), c)
			if serr != nil || cerr != nil {
				t.Errorf("%s at %s: %v, %v", who.Name, appliance, serr, cerr)
				continue
			}
			if got, err := PersonAt(s); err != nil || got != who {
				t.Errorf("the appliance sees %v, %v, want %v", got, err, who)
			}
		}
	}

	ann := files(dir, "ann-admin")
	to := func(f Files, name string) *tls.Config {
		c, err := PersonTLS(f, name)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, x := range []struct {
		what           string
		server, client *tls.Config
		want           string // of the end that refuses
	}{
		{"a person is no appliance", ams.ServerTLS(nil), to(ann, "ams"), "want one DNS name"},
		{"an appliance is no person", ams.PeopleTLS(), fra.ClientTLS("ams"), "want no DNS name"},
		{"another fleet's admin", ams.PeopleTLS(), skippingAs(t, foreign), "not of this fleet"},
		{"another appliance", fra.PeopleTLS(), to(ann, "ams"), "it is fra, want ams"},
		{"another address", fra.PeopleTLS(), to(ann, "198.51.100.9"), "does not have the address 198.51.100.9"},
		{"nobody", ams.PeopleTLS(), &tls.Config{InsecureSkipVerify: true}, "didn't provide a certificate"},
	} {
		_, _, serr, cerr := shake(t, x.server, x.client)
		if err := serr; !strings.Contains(errText(err)+errText(cerr), x.want) {
			t.Errorf("%s: %v, %v, want %q", x.what, serr, cerr, x.want)
		}
	}
}

// skippingAs shows a person's certificate and takes any server.
func skippingAs(t *testing.T, f Files) *tls.Config {
	t.Helper()
	id := &Identity{files: f}
	s, err := id.read()
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*s.cert}}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestPersonRefused(t *testing.T) {
	dir := initDir(t, Options{Fleet: "ours"})
	for _, p := range []Person{{"ann", 0}, {"ann", Admin + 1}, {"Ann", Viewer}, {"ca", Viewer}, {"", Viewer}} {
		if _, err := IssuePerson(dir, p, Options{}); err == nil {
			t.Errorf("%v has a certificate", p)
		}
	}
	for _, s := range []string{"", "none", "Admin", "root"} {
		if r, err := ParseRole(s); err == nil {
			t.Errorf("%q is the role %s", s, r)
		}
	}
	if _, err := Issue(dir, "ams", nil, Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := PersonTLS(files(dir, "ams"), "ams"); err == nil || !strings.Contains(err.Error(), "want no DNS name") {
		t.Errorf("an appliance's certificate as a person's: %v", err)
	}
	f := person(t, dir, "ann", Viewer)
	f.CA = filepath.Join(initDir(t, Options{Fleet: "theirs"}), CACertFile)
	if _, err := PersonTLS(f, "ams"); err == nil || !strings.Contains(err.Error(), "not of this fleet") {
		t.Errorf("a certificate beside another fleet's CA: %v", err)
	}
	if _, err := Load(files(dir, "ann"), "ann"); err == nil {
		t.Error("a person's certificate makes an appliance")
	}
}
