package swanctl

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/strongswan/govici/vici"
)

const good = `connections {
  rw {
    version = 2
    local_addrs = 198.51.100.1, 2001:db8::1
    pools = shadowcast4, shadowcast6
    local { auth = psk
      id = gw.example }
    remote { auth = psk }
    children {
      net { local_ts = 10.99.0.0/16, 10.98.0.0/16 }
    }
  }
}
secrets { ike-1 { id-a = c1
  id-b = c2
  secret = 0x0102 } }
`

var rules = Rules{VIPs: []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1")}}

func parse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse(t.TempDir(), "swanctl.conf", text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCheckGood(t *testing.T) {
	if err := parse(t, good).Check(rules); err != nil {
		t.Error(err)
	}
}

func TestCheck(t *testing.T) {
	child := func(s string) string { return strings.Replace(good, "net { ", "net { "+s+"\n", 1) }
	conn := func(s string) string { return strings.Replace(good, "    version = 2\n", s+"\n", 1) }
	for _, tc := range []struct{ text, want string }{
		{conn(""), "swanctl.conf:2: connections.rw: accepts IKEv1, which cannot be shadowed: want version = 2"},
		{conn("version = 1"), "swanctl.conf:3: connections.rw.version: 1, want 2"},
		{strings.Replace(good, "198.51.100.1,", "198.51.100.2,", 1), "swanctl.conf:4: connections.rw.local_addrs: 198.51.100.2 is no VIP of the fleet, want addresses of 198.51.100.1, 2001:db8::1"},
		{strings.Replace(good, "198.51.100.1,", "%any,", 1), "%any is no address"},
		{strings.Replace(good, "local_addrs = 198.51.100.1, 2001:db8::1", "", 1), "connections.rw: has no local_addrs"},
		{strings.Replace(good, "shadowcast4,", "mine,", 1), "swanctl.conf:5: connections.rw.pools: mine, want only shadowcast4 and shadowcast6"},
		{good + "pools { mine { addrs = 10.0.0.0/8 } }", "swanctl.conf:17: pools: own address pools"},
		{child("life_packets = 0"), "swanctl.conf:10: connections.rw.children.net.life_packets: 0 is no limit"},
		{child("life_packets = 67108865"), "life_packets: 67108865, want at most 67108864"},
		{child("life_packets = 1g"), "want at most 67108864"},
		{child("life_packets = lots"), "lots is no packet count"},
		{child("rekey_packets = 0"), "rekey_packets: 0, want 1.."},
		{child("rekey_packets = 50331648"), "rekey_packets: 50331648, want 1..50331647"},
		{child("life_packets = 1000\nrekey_packets = 1000"), "rekey_packets: 1000, want 1..999"},
		{child("rand_packets = 60000000"), "rand_packets"},
		{child("replay_window = 128"), "replay_window: 128, want 1024 or more"},
		{child("replay_window = 0"), "want 1024 or more"},
		{child("hw_offload = auto"), "hw_offload: auto, want no"},
		{child("start_action = trap"), "start_action: trap, want none"},
		{child("start_action = trap|start"), "start_action: trap|start, want none"},
		{child("dpd_action = restart"), "dpd_action: restart, want none"},
		{child("close_action = start"), "close_action: start, want none"},
		{child("policies = no"), "policies: no, want yes"},
		{child("if_id_in = 42"), "if_id_in: slots have no such interface"},
		{child("lief_time = 3"), "swanctl.conf:10: connections.rw.children.net.lief_time: unknown setting"},
		{conn("version = 2\nverison = 2"), "verison: unknown setting"},
		{conn("version = 2\nvips = 0.0.0.0"), "requests none"},
		{conn("version = 2\nmediation = yes"), "mediation connections"},
		{conn("version = 2\nfoo { }"), "connections.rw.foo: unknown section"},
		{strings.Replace(good, "remote { auth = psk }", "remote { auth = xauth }", 1), "XAuth belongs to IKEv1"},
		{strings.Replace(good, "remote { auth = psk }", "remote { auth = eap-sim }", 1), "connections.rw.remote.auth: eap-sim, gateways serve eap-md5, eap-mschapv2, eap-tls, eap-ttls, eap-radius"},
		{strings.Replace(good, "remote { auth = psk }", "remote { cert1 { handle = 01 } }", 1), "certificates on tokens"},
		{good + "secret { }", "unknown section secret"},
		{good + "x = 1", "setting x outside of any section"},
		{strings.Replace(good, "0x0102", "0xzz", 1), "secret starts with 0x but is not hexadecimal"},
		{strings.Replace(good, "0x0102", "0sß", 1), "secret starts with 0s but is not base64"},
		{strings.Replace(good, "0x0102", "0x", 1), "secret is empty"},
		{strings.Replace(good, "ike-1", "private-1", 1), "passphrases of keys are not supported"},
		{strings.Replace(good, "ike-1", "token-1", 1), "keys on tokens"},
		{strings.Replace(good, "ike-1", "x-1", 1), "unknown kind of secret"},
		{strings.Replace(good, "secret = 0x0102", "", 1), "no secret in it"},
		{"connections { rw { version = 2\nlocal_addrs = 198.51.100.1 } }", "nobody would be authenticated"},
	} {
		err := parse(t, tc.text).Check(rules)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v\nwant %q", err, tc.want)
		} else if n := strings.Count(err.Error(), "\n") + 1; n != 1 {
			t.Errorf("%q: %d errors, want 1: %v", tc.want, n, err)
		}
	}
	if err := parse(t, child("hw_offload = auto")).Check(Rules{VIPs: rules.VIPs, HWOffload: true}); err != nil {
		t.Error(err)
	}
	attrs := parse(t, good+"pools { mine { addrs = 10.0.0.0/8\ndns = 10.99.0.53,10.99.0.54\nnbns = 10.99.0.9 } }").Check(rules)
	for _, want := range []string{"swanctl.conf:17: pools: own address pools", "swanctl.conf:18: pools.mine.dns: 10.99.0.53,10.99.0.54, want client_dns: [10.99.0.53, 10.99.0.54] in the section fleet",
		"swanctl.conf:19: pools.mine.nbns: 10.99.0.9, which a fleet cannot tell"} {
		if attrs == nil || !strings.Contains(attrs.Error(), want) {
			t.Errorf("%v, want %q", attrs, want)
		}
	}
	both := parse(t, conn("version = 1\nverison = 2")).Check(rules)
	if n := strings.Count(fmt.Sprint(both), "\n") + 1; n != 2 {
		t.Errorf("two violations give %v", both)
	}
	pass := parse(t, child("mode = pass\nstart_action = trap"))
	if err := pass.Check(rules); err != nil {
		t.Errorf("pass policy: %v", err)
	}
}

func TestEAPMethods(t *testing.T) {
	remote := func(s string) string { return strings.Replace(good, "remote { auth = psk }", s, 1) }
	for text, want := range map[string][]string{
		good:                            nil,
		remote("remote { auth = eap }"): nil,
		remote("remote { auth = eap-tls\n eap_id = %any }"):                                   {"eap-tls"},
		remote("remote { auth = eap-tls }\n    remote-2 { auth = eap-mschapv2\n round = 2 }"): {"eap-mschapv2", "eap-tls"},
	} {
		c := parse(t, text)
		if err := c.Check(rules); err != nil {
			t.Error(err)
		}
		if got := c.EAPMethods(); !slices.Equal(got, want) {
			t.Errorf("methods %q, want %q", got, want)
		}
	}
}

func TestInjection(t *testing.T) {
	get := func(text, key string) any {
		c := parse(t, text)
		m, err := c.connection(c.conns[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{"rw", "children", "net"} {
			m = m.Get(s).(*vici.Message)
		}
		return m.Get(key)
	}
	for key, want := range map[string]string{
		"life_packets": "50331648", "rekey_packets": "25165824", "rand_packets": "3145728", "replay_window": "1024",
	} {
		if got := get(good, key); got != want {
			t.Errorf("%s is %v, want %s", key, got, want)
		}
	}
	own := strings.Replace(good, "net { ", "net { life_packets = 1000\nreplay_window = 4096\n", 1)
	for key, want := range map[string]string{"life_packets": "1000", "rekey_packets": "500", "rand_packets": "62", "replay_window": "4096"} {
		if got := get(own, key); got != want {
			t.Errorf("own: %s is %v, want %s", key, got, want)
		}
	}
	if got := get(good, "local_ts"); !slices.Equal(got.([]string), []string{"10.99.0.0/16", "10.98.0.0/16"}) {
		t.Errorf("local_ts is %v", got)
	}
}

// writeCert makes a directory with a self-signed certificate and its key.
func writeCert(t *testing.T, dir, name string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048) // Debian's minimal strongSwan cannot read ECDSA
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		DNSNames: []string{name},
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, blk := range map[string]*pem.Block{
		"x509/" + name + ".pem":    {Type: "CERTIFICATE", Bytes: der},
		"x509ca/" + name + ".pem":  {Type: "CERTIFICATE", Bytes: der},
		"private/" + name + ".pem": {Type: "PRIVATE KEY", Bytes: kder},
	} {
		p := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, pem.EncodeToMemory(blk), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func writeText(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), "neither swanctl.conf nor conf.d") {
		t.Errorf("empty directory: %v", err)
	}
	writeText(t, filepath.Join(dir, "conf.d", "rw.conf"), strings.Replace(good, "local { auth = psk", "local { auth = pubkey\ncerts = gw.pem", 1))
	if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), "rw.conf:7: certs") {
		t.Errorf("missing certificate: %v", err)
	}
	writeCert(t, dir, "gw")
	writeText(t, filepath.Join(dir, "x509", ".hidden"), "x")
	c, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if c.Certificates() != 2 || c.Keys() != 1 || c.Secrets() != 1 || !slices.Equal(c.Connections(), []string{"rw"}) {
		t.Errorf("read %s", c)
	}
	m, err := c.connection(c.conns[0])
	if err != nil {
		t.Fatal(err)
	}
	certs := m.Get("rw").(*vici.Message).Get("local").(*vici.Message).Get("certs").([]string)
	if len(certs) != 1 || !strings.HasPrefix(certs[0], "\x30\x82") {
		t.Errorf("certs are sent as %d values", len(certs))
	}
	writeText(t, filepath.Join(dir, "swanctl.conf"), "# nothing included\n")
	if c, err = Read(dir); err != nil || len(c.conns) != 0 {
		t.Errorf("swanctl.conf without include: %v, %v", c, err)
	}
	for file, want := range map[string]string{
		"private/enc.pem": "protected by a passphrase", "private/x.pem": "no private key in it", "x509/x.pem": "neither PEM nor DER",
		"pkcs12/x.p12": "PKCS#12",
	} {
		text := "x"
		if strings.Contains(file, "enc") {
			text = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
		}
		p := filepath.Join(dir, file)
		writeText(t, p, text)
		if _, err := Read(dir); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), p) {
			t.Errorf("%s: %v, want %q", file, err, want)
		}
		os.Remove(p)
	}
}

func TestDigest(t *testing.T) {
	digest := func(c *Config, v charon.Version) string {
		d, err := c.Digest(v)
		if err != nil || len(d) != 64 {
			t.Fatalf("digest %q, %v", d, err)
		}
		return d
	}
	base := digest(parse(t, good), charon.V3)
	second := "\nconnections { b { version = 2\nlocal_addrs = 198.51.100.1\nlocal { auth = psk } } }\n"
	for name, text := range map[string]string{
		"comments and layout": "# x\n" + strings.ReplaceAll(good, "  ", "\t"),
		"order of settings":   strings.Replace(good, "    version = 2\n    local_addrs = 198.51.100.1, 2001:db8::1\n", "    local_addrs = 198.51.100.1, 2001:db8::1\n    version = 2\n", 1),
		"injected default":    strings.Replace(good, "net { ", "net { replay_window = 1024\n", 1),
		"same secret":         strings.Replace(good, "0x0102", "0sAQI=", 1),
	} {
		if d := digest(parse(t, text), charon.V3); d != base {
			t.Errorf("%s changes the digest", name)
		}
	}
	if digest(parse(t, good+second), charon.V3) != digest(parse(t, second+good), charon.V3) {
		t.Error("order of connections changes the digest")
	}
	for name, text := range map[string]string{
		"secret": strings.Replace(good, "0x0102", "0x0103", 1), "owner": strings.Replace(good, "= c2", "= c3", 1),
		"setting": strings.Replace(good, "gw.example", "gw2.example", 1), "connection": good + second,
		"child name": strings.Replace(good, "net {", "lan {", 1),
	} {
		if d := digest(parse(t, text), charon.V3); d == base {
			t.Errorf("%s does not change the digest", name)
		}
	}
	if digest(parse(t, good), charon.V5) == base {
		t.Error("HA version does not change the digest")
	}
	if s := fmt.Sprintf("%v %+v %#v", parse(t, good), parse(t, good).shared, parse(t, good)); strings.Contains(s, "\x01\x02") || strings.Contains(s, "[1 2]") || strings.Contains(s, "0x1, 0x2") {
		t.Errorf("prints a secret: %s", s)
	}
}

// fake is a charon that only remembers what is loaded.
type fake struct {
	conns, auths, keys, shared, certs []string
	log                               []string
	fail                              string
}

func (f *fake) Call(_ context.Context, cmd string, in *vici.Message) (*vici.Message, error) {
	f.log = append(f.log, cmd)
	if cmd == f.fail {
		return nil, errors.New("no")
	}
	out := vici.NewMessage()
	str := func(k string) string { s, _ := in.Get(k).(string); return s }
	add := func(l *[]string, s string) {
		if !slices.Contains(*l, s) {
			*l = append(*l, s)
		}
	}
	del := func(l *[]string, s string) { *l = slices.DeleteFunc(*l, func(x string) bool { return x == s }) }
	switch cmd {
	case "load-conn":
		add(&f.conns, in.Keys()[0])
	case "load-authority":
		add(&f.auths, in.Keys()[0])
	case "load-cert":
		add(&f.certs, str("flag")+str("data"))
	case "load-key":
		id := fmt.Sprintf("%x", []byte(str("data"))[:40])
		add(&f.keys, id)
		out.Set("id", id)
	case "load-shared":
		add(&f.shared, str("id"))
	case "unload-conn":
		del(&f.conns, str("name"))
	case "unload-authority":
		del(&f.auths, str("name"))
	case "unload-key":
		del(&f.keys, str("id"))
	case "unload-shared":
		del(&f.shared, str("id"))
	case "clear-creds":
		f.keys, f.shared, f.certs = nil, nil, nil
	case "get-conns":
		out.Set("conns", f.conns)
	case "get-authorities":
		out.Set("authorities", f.auths)
	case "get-keys", "get-shared":
		out.Set("keys", map[string][]string{"get-keys": f.keys, "get-shared": f.shared}[cmd])
	default:
		return nil, fmt.Errorf("unexpected command %s", cmd)
	}
	return out, nil
}

func (f *fake) count(cmd string) int {
	n := 0
	for _, c := range f.log {
		if c == cmd {
			n++
		}
	}
	return n
}

func TestLoad(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	writeText(t, filepath.Join(dir, "swanctl.conf"), good+"connections { old { version = 2\nlocal_addrs = 198.51.100.1\nlocal { } } }\nsecrets { eap-x { secret = y } }\nauthorities { ca { cacert = gw.pem\ncrl_uris = http://a/, http://b/ } }\n")
	writeCert(t, dir, "gw")
	writeCert(t, dir, "other")
	c, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{}
	if err := Load(ctx, f, c, charon.V3); err != nil {
		t.Fatal(err)
	}
	want, _ := c.Digest(charon.V3)
	if d, err := LoadedDigest(ctx, f); err != nil || d != want {
		t.Errorf("loaded digest %q, %v, want %q", d, err, want)
	}
	state := func() string { return fmt.Sprint(len(f.conns), len(f.auths), len(f.keys), len(f.shared), len(f.certs)) }
	if state() != "2 1 2 7 4" { // shared: 2 secrets, 4 certificates, digest
		t.Errorf("loaded %s", state())
	}
	f.log = nil
	if err := Load(ctx, f, c, charon.V3); err != nil {
		t.Fatal(err)
	}
	if state() != "2 1 2 7 4" || f.count("load-cert") != 0 || f.count("clear-creds") != 0 {
		t.Errorf("loaded again %s, log %v", state(), f.log)
	}

	// Connection, secret, authority, key and certificates vanish.
	writeText(t, filepath.Join(dir, "swanctl.conf"), good)
	for _, p := range []string{"x509", "x509ca", "private"} {
		os.Remove(filepath.Join(dir, p, "other.pem"))
	}
	if c, err = Read(dir); err != nil {
		t.Fatal(err)
	}
	f.log = nil
	if err := Load(ctx, f, c, charon.V3); err != nil {
		t.Fatal(err)
	}
	if state() != "1 0 1 4 2" || f.count("clear-creds") != 1 {
		t.Errorf("after removal %s, log %v", state(), f.log)
	}

	// A load that fails half-way leaves no digest.
	f.fail = "load-conn"
	if err := Load(ctx, f, c, charon.V3); err == nil || !strings.Contains(err.Error(), "swanctl.conf:2: conn rw") {
		t.Errorf("failing load: %v", err)
	}
	if d, _ := LoadedDigest(ctx, f); d != "" {
		t.Errorf("digest after a failed load: %q", d)
	}
	f.fail = ""
	if err := LoadPlain(ctx, f, c); err != nil {
		t.Error(err)
	}
	for _, s := range f.shared {
		if bytes.HasPrefix([]byte(s), []byte(digestMarker)) {
			t.Error("plain load leaves a digest")
		}
	}
}
