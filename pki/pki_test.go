package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func files(dir, name string) Files {
	return Files{CA: filepath.Join(dir, CACertFile), Cert: filepath.Join(dir, name+".crt"), Key: filepath.Join(dir, name+".key")}
}

func initDir(t *testing.T, o Options) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	if _, err := Init(dir, o); err != nil {
		t.Fatal(err)
	}
	return dir
}

func member(t *testing.T, dir, name string, o Options) *Identity {
	t.Helper()
	if _, err := Issue(dir, name, []netip.Addr{netip.MustParseAddr("192.0.2.11")}, o); err != nil {
		t.Fatal(err)
	}
	id, err := Load(files(dir, name), name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// shake runs one handshake and returns each side's error and view.
func shake(t *testing.T, server, client *tls.Config) (sState, cState tls.ConnectionState, sErr, cErr error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	deadline := time.Now().Add(30 * time.Second)
	a.SetDeadline(deadline)
	b.SetDeadline(deadline)
	s, c := tls.Server(a, server), tls.Client(b, client)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if sErr = s.Handshake(); sErr == nil {
			_, sErr = s.Write([]byte("x"))
		} else {
			a.Close()
		}
	}()
	if cErr = c.Handshake(); cErr == nil {
		_, cErr = c.Read(make([]byte, 1)) // TLS 1.3: the server's verdict comes after the client's
	} else {
		b.Close()
	}
	<-done
	return s.ConnectionState(), c.ConnectionState(), sErr, cErr
}

func TestInitAndIssue(t *testing.T) {
	dir := initDir(t, Options{Fleet: "test-fleet"})
	for name, mode := range map[string]os.FileMode{CAKeyFile: 0o600, CACertFile: 0o644, FleetKeyFile: 0o600} {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, mode %v, want %v", name, err, st.Mode(), mode)
		}
	}
	key, err := LoadFleetKey(filepath.Join(dir, FleetKeyFile))
	if err != nil || len(key) != FleetKeySize || bytes.Equal(key, make([]byte, FleetKeySize)) {
		t.Errorf("fleet key of %d bytes, %v", len(key), err)
	}
	if _, err := Init(dir, Options{}); !errors.Is(err, ErrExists) {
		t.Errorf("second Init: %v", err)
	}
	id := member(t, dir, "ams", Options{Validity: 48 * time.Hour})
	leaf := id.state.Load().cert.Leaf
	if leaf.URIs[0].String() != "shadowcast://test-fleet/ams" || leaf.DNSNames[0] != "ams" || leaf.IPAddresses[0].String() != "192.0.2.11" {
		t.Errorf("names %v %v %v", leaf.URIs, leaf.DNSNames, leaf.IPAddresses)
	}
	if id.Fleet() != "test-fleet" || id.Name() != "ams" {
		t.Errorf("fleet %s, name %s", id.Fleet(), id.Name())
	}
	if left := time.Until(id.NotAfter()); left < 47*time.Hour || left > 48*time.Hour {
		t.Errorf("valid for %v", left)
	}
	if st, err := os.Stat(filepath.Join(dir, "ams.key")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("ams.key: %v", err)
	}
	if _, err := IssuePerson(dir, Person{Name: "ams", Role: Viewer}, Options{Force: true}); !errors.Is(err, ErrKind) {
		t.Errorf("a person's certificate in the place of an appliance's: %v", err)
	}
	before, _ := os.ReadFile(filepath.Join(dir, "ams.key"))
	if _, err := Issue(dir, "ams", nil, Options{}); !errors.Is(err, ErrExists) {
		t.Errorf("second Issue: %v", err)
	}
	after, _ := os.ReadFile(filepath.Join(dir, "ams.key"))
	if !bytes.Equal(before, after) {
		t.Error("a refused Issue changed the key")
	}
	if _, err := Issue(dir, "ams", nil, Options{Force: true}); err != nil {
		t.Errorf("forced Issue: %v", err)
	}
	if err := id.Reload(); err != nil {
		t.Errorf("Reload: %v", err)
	}
	// Never valid longer than the CA.
	made, err := Issue(dir, "fra", nil, Options{Validity: 100 * 365 * 24 * time.Hour})
	if err != nil || made.NotAfter.After(time.Now().Add(DefaultCAValidity)) {
		t.Errorf("certificate outlives its CA: %v, %v", made.NotAfter, err)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".new-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestIssueRefuses(t *testing.T) {
	dir := initDir(t, Options{})
	for _, name := range []string{"", "AMS", "a/b", "../ams", "ca", "fleet", "a.b", strings.Repeat("a", 33)} {
		if _, err := Issue(dir, name, nil, Options{}); err == nil {
			t.Errorf("name %q accepted", name)
		}
	}
	if _, err := Issue(dir, "ams", nil, Options{Validity: -1}); err == nil {
		t.Error("negative validity accepted")
	}
	if _, err := Issue(t.TempDir(), "ams", nil, Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no CA: %v", err)
	}
	if _, err := Init(t.TempDir(), Options{Fleet: "Not A Fleet"}); err == nil {
		t.Error("bad fleet accepted")
	}
	old := initDir(t, Options{Now: time.Now().Add(-48 * time.Hour), Validity: 24 * time.Hour})
	if _, err := Issue(old, "ams", nil, Options{}); err == nil || !strings.Contains(err.Error(), "the CA expired") {
		t.Errorf("expired CA: %v", err)
	}
	other := initDir(t, Options{})
	copyFile(t, filepath.Join(other, CAKeyFile), filepath.Join(dir, CAKeyFile))
	if _, err := Issue(dir, "ams", nil, Options{}); err == nil || !strings.Contains(err.Error(), "is not the key of") {
		t.Errorf("key of another CA: %v", err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLoadRefuses(t *testing.T) {
	dir, other := initDir(t, Options{}), initDir(t, Options{})
	member(t, dir, "ams", Options{})
	member(t, dir, "fra", Options{})
	good := files(dir, "ams")
	path := func(name, text string, mode os.FileMode) string {
		p := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	both := func() string {
		a, _ := os.ReadFile(good.CA)
		b, _ := os.ReadFile(filepath.Join(other, CACertFile))
		return string(a) + string(b)
	}()
	keyText, _ := os.ReadFile(good.Key)
	for name, tc := range map[string]struct {
		edit func(*Files)
		want string
	}{
		"no CA":               {func(f *Files) { f.CA = filepath.Join(dir, "none") }, "no such file"},
		"CA of another fleet": {func(f *Files) { f.CA = filepath.Join(other, CACertFile) }, "unknown authority"},
		"leaf as CA":          {func(f *Files) { f.CA = f.Cert }, "is no fleet CA"},
		"two fleets":          {func(f *Files) { f.CA = path("ca", both, 0o644) }, "CAs of the fleets"},
		"key of another":      {func(f *Files) { f.Key = filepath.Join(dir, "fra.key") }, "is not the key of"},
		"cert of another":     {func(f *Files) { *f = files(dir, "fra") }, "it names fra, want ams"},
		"no PEM":              {func(f *Files) { f.Cert = path("c", "hello", 0o644) }, "no CERTIFICATE block"},
		"key without PEM":     {func(f *Files) { f.Key = path("k", "hello", 0o600) }, "no PRIVATE KEY block"},
		"open key":            {func(f *Files) { f.Key = path("k", string(keyText), 0o644) }, "open to others (mode 0644)"},
	} {
		f := good
		tc.edit(&f)
		if _, err := Load(f, "ams"); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func TestFleetKeyRefuses(t *testing.T) {
	secret := strings.Repeat("5e", FleetKeySize-1)
	for name, tc := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"short":   {secret, 0o600, "62 characters, want 64"},
		"not hex": {secret + "zz", 0o600, "not hexadecimal"},
		"open":    {secret + "5e", 0o640, "open to others (mode 0640)"},
	} {
		p := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(p, []byte(tc.text), tc.mode); err != nil {
			t.Fatal(err)
		}
		_, err := LoadFleetKey(p)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), "5e5e") {
			t.Errorf("%s: the error shows the key: %v", name, err)
		}
	}
}

func TestHandshake(t *testing.T) {
	dir := initDir(t, Options{Fleet: "ours"})
	twin := initDir(t, Options{Fleet: "ours"}) // same fleet identifier, another CA
	ams, fra := member(t, dir, "ams", Options{}), member(t, dir, "fra", Options{})
	stranger := member(t, twin, "fra", Options{})
	// A certificate may expire while it is in use.
	expired := func() *Identity {
		short := member(t, dir, "lhr", Options{})
		if _, err := Issue(dir, "lhr", nil, Options{Force: true, Now: time.Now().Add(-48 * time.Hour), Validity: 24 * time.Hour}); err != nil {
			t.Fatal(err)
		}
		if err := short.Reload(); err == nil {
			t.Fatal("Reload took an expired certificate")
		}
		s := *short.state.Load()
		chain, _ := readCerts(short.files.Cert)
		key, _ := readKey(short.files.Key)
		s.cert = &tls.Certificate{Certificate: [][]byte{chain[0].Raw}, PrivateKey: key, Leaf: chain[0]}
		short.state.Store(&s)
		return short
	}()
	refuse := func(name string) error { return errors.New(name + " is not in the fleet configuration") }
	tls12 := fra.ClientTLS("ams")
	tls12.MinVersion, tls12.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	bare := fra.ClientTLS("ams")
	bare.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }

	for name, tc := range map[string]struct {
		server, client *tls.Config
		sWant, cWant   string // "" for success
	}{
		"good":                    {ams.ServerTLS(nil), fra.ClientTLS("ams"), "", ""},
		"wrong server name":       {ams.ServerTLS(nil), fra.ClientTLS("lhr"), "bad certificate", "it is ams, want lhr"},
		"server of another CA":    {stranger.ServerTLS(nil), ams.ClientTLS("fra"), "bad certificate", "unknown authority"},
		"client of another CA":    {ams.ServerTLS(nil), skipping(stranger), "unknown authority", "bad certificate"},
		"client not allowed":      {ams.ServerTLS(refuse), fra.ClientTLS("ams"), "fra is not in the fleet configuration", "bad certificate"},
		"client expired":          {ams.ServerTLS(nil), expired.ClientTLS("ams"), "has expired", "bad certificate"},
		"server expired":          {expired.ServerTLS(nil), fra.ClientTLS("lhr"), "bad certificate", "has expired"},
		"TLS 1.2":                 {ams.ServerTLS(nil), tls12, "unsupported versions", "protocol version not supported"},
		"no client certificate":   {ams.ServerTLS(nil), bare, "client didn't provide a certificate", "certificate required"},
		"client with other names": {ams.ServerTLS(nil), skipping(odd(t, dir)), "want one DNS name and the URI", "bad certificate"},
	} {
		sState, cState, sErr, cErr := shake(t, tc.server, tc.client)
		check := func(side string, err error, want string) {
			if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %s: %v, want %q", name, side, err, want)
			}
		}
		check("server", sErr, tc.sWant)
		check("client", cErr, tc.cWant)
		if tc.sWant == "" {
			s, err1 := PeerName(sState)
			c, err2 := PeerName(cState)
			if s != "fra" || c != "ams" || err1 != nil || err2 != nil || sState.Version != tls.VersionTLS13 {
				t.Errorf("%s: peers %q %q, %v %v", name, s, c, err1, err2)
			}
		}
	}
}

// skipping is a client that checks nobody, as an attacker would.
func skipping(id *Identity) *tls.Config {
	c := id.ClientTLS("ams")
	c.VerifyConnection = nil
	return c
}

// odd has a certificate of our CA whose URI names another fleet and appliance.
func odd(t *testing.T, dir string) *Identity {
	t.Helper()
	ca, caKey, _, err := loadCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	id := member(t, dir, "odd", Options{})
	leaf := *id.state.Load().cert.Leaf
	leaf.URIs[0] = memberURI("theirs", "ams")
	der, err := x509.CreateCertificate(nil, &leaf, ca, leaf.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	s := *id.state.Load()
	s.cert = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: s.cert.PrivateKey}
	id.state.Store(&s)
	return id
}

// A reloaded identity serves its new certificate, and trusts a new CA, through
// the tls.Config it gave before.
func TestReload(t *testing.T) {
	dir := initDir(t, Options{Fleet: "ours"})
	ams, fra := member(t, dir, "ams", Options{}), member(t, dir, "fra", Options{})
	server, client := ams.ServerTLS(nil), fra.ClientTLS("ams")
	first := ams.state.Load().cert.Leaf.SerialNumber
	if _, err := Init(dir, Options{Fleet: "ours", Force: true}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []*Identity{ams, fra} {
		if err := id.Reload(); err == nil {
			t.Fatal("Reload took a certificate of the old CA")
		}
		if _, err := Issue(dir, id.name, nil, Options{Force: true}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, sErr, cErr := shake(t, server, client); sErr != nil || cErr != nil {
		t.Fatalf("old files after a refused Reload: %v, %v", sErr, cErr)
	}
	if err := ams.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, _, sErr, cErr := shake(t, server, client); sErr == nil || cErr == nil {
		t.Fatalf("old and new CA agree: %v, %v", sErr, cErr)
	}
	if err := fra.Reload(); err != nil {
		t.Fatal(err)
	}
	_, cState, sErr, cErr := shake(t, server, client)
	if sErr != nil || cErr != nil || cState.PeerCertificates[0].SerialNumber.Cmp(first) == 0 {
		t.Fatalf("after Reload: %v, %v", sErr, cErr)
	}
}
