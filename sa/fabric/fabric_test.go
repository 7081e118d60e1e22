package fabric

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/strongswan/govici/vici"
	"github.com/vishvananda/netlink"

	"github.com/shadowcast/shadowcast/pki"
	"github.com/shadowcast/shadowcast/tests/uml"
)

func TestMain(m *testing.M) { uml.Main(m, uml.ESP|uml.IPIP) }

func addr(n int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + n)}) }

// testFleet issues certificates and returns the configuration of each appliance.
func testFleet(t *testing.T, names ...string) []Config {
	t.Helper()
	dir := t.TempDir()
	if _, err := pki.Init(dir, pki.Options{}); err != nil {
		t.Fatal(err)
	}
	var cs []Config
	for i, n := range names {
		if _, err := pki.Issue(dir, n, []netip.Addr{addr(i + 1)}, pki.Options{}); err != nil {
			t.Fatal(err)
		}
		c := Config{Self: n, Local: addr(i + 1), RunDir: filepath.Join(dir, n),
			CA: filepath.Join(dir, pki.CACertFile), Cert: filepath.Join(dir, n+".crt"), Key: filepath.Join(dir, n+".key")}
		for j, p := range names {
			if p != n {
				c.Peers = append(c.Peers, Peer{p, addr(j + 1)})
			}
		}
		cs = append(cs, c)
	}
	return cs
}

func TestCheck(t *testing.T) {
	for _, tc := range []struct {
		name string
		edit func(*Config)
		want string // "" for none
	}{
		{"fine", func(*Config) {}, ""},
		{"alone", func(c *Config) { c.Peers = nil }, ""},
		{"relative", func(c *Config) { c.RunDir = "run" }, "not absolute"},
		{"line break", func(c *Config) { c.RunDir = "/run/a\nb" }, "line break"},
		{"no key", func(c *Config) { c.Key = "" }, "not given"},
		{"no such file", func(c *Config) { c.Key = "/nonexistent/key" }, "read credentials"},
		{"not a key", func(c *Config) { c.Key = c.Cert }, "no PRIVATE KEY block"},
		{"not a certificate", func(c *Config) { c.CA = c.Key }, "no CERTIFICATE block"},
		{"name", func(c *Config) { c.Self = "a.b" }, "lower-case letters"},
		{"peer's name", func(c *Config) { c.Peers[0].Name = "" }, "lower-case letters"},
		{"same name", func(c *Config) { c.Peers[0].Name = c.Self }, "given twice"},
		{"same address", func(c *Config) { c.Peers[0].Addr = c.Local }, "another appliance"},
		{"IPv6", func(c *Config) { c.Local = netip.MustParseAddr("2001:db8::1") }, "unicast IPv4"},
		{"mapped", func(c *Config) { c.Local = netip.MustParseAddr("::ffff:192.0.2.1") }, "unicast IPv4"},
		{"multicast", func(c *Config) { c.Peers[1].Addr = netip.MustParseAddr("224.0.0.1") }, "unicast IPv4"},
	} {
		c := testFleet(t, "ams", "fra", "lhr")[0]
		tc.edit(&c)
		_, err := New(c)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

func TestConf(t *testing.T) {
	text, err := conf(`/run/a "b"\c/fabric`)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`socket = "unix:///run/a \"b\"\\c/fabric/vici"`, `path = "/run/a \"b\"\\c/fabric/charon.log"`,
		"install_routes = no", "install_virtual_ip = no", "interfaces_use = lo", "time_format = %H:%M:%S",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
	if strings.Count(text, "{") != strings.Count(text, "}") {
		t.Errorf("unbalanced:\n%s", text)
	}
	for _, p := range strings.Fields(plugins) {
		if p == "ha" || p == "resolve" || p == "bypass-lan" {
			t.Errorf("loads plugin %s", p)
		}
	}
}

// TestCommands pins what charon is told; the key travels only in load-key.
func TestCommands(t *testing.T) {
	c := testFleet(t, "ams", "fra", "lhr")[0]
	r, err := c.credentials()
	if err != nil {
		t.Fatal(err)
	}
	cmds, err := c.commands(r)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, x := range cmds {
		got = append(got, x.name+" "+x.what)
		if s, _ := x.m.Get("data").(string); x.name != "load-key" && strings.Contains(s, string(r.key)) {
			t.Errorf("%s carries the key", x.name)
		}
	}
	if s := strings.Join(got, ", "); s != "load-cert the fleet's CA, load-cert the certificate, load-key the private key, load-conn peer fra, load-conn peer lhr" {
		t.Errorf("commands: %s", s)
	}
	conn := cmds[3].m.Get("fra").(*vici.Message)
	kid := conn.Get("children").(*vici.Message).Get("tunnel").(*vici.Message)
	for _, x := range []struct {
		m         *vici.Message
		key, want string
	}{
		{conn, "local_addrs", "192.0.2.11"}, {conn, "remote_addrs", "192.0.2.12"}, {conn, "unique", "never"}, {conn, "mobike", "no"}, {conn, "version", "2"},
		{conn.Get("local").(*vici.Message), "id", "fqdn:ams"}, {conn.Get("remote").(*vici.Message), "id", "fqdn:fra"},
		{kid, "mode", "transport"}, {kid, "local_ts", "192.0.2.11/32[4] 192.0.2.11/32[47]"}, {kid, "remote_ts", "192.0.2.12/32[4] 192.0.2.12/32[47]"},
		{kid, "reqid", "3221225996"}, {kid, "start_action", "trap"}, {kid, "replay_window", "1024"},
	} {
		got, ok := x.m.Get(x.key).(string)
		if l, isList := x.m.Get(x.key).([]string); isList {
			got, ok = strings.Join(l, " "), true
		}
		if !ok || got != x.want {
			t.Errorf("%s is %q, want %q", x.key, got, x.want)
		}
	}
	if l := conn.Get("remote").(*vici.Message).Get("cacerts").([]string); len(l) != 1 || l[0] != r.cas[0] {
		t.Error("the peer's trust anchor is not the fleet's CA")
	}
}

func TestReadPEM(t *testing.T) {
	dir := t.TempDir()
	file := func(s string) string {
		p := filepath.Join(dir, "x.pem")
		if err := os.WriteFile(p, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	const two = "-----BEGIN CERTIFICATE-----\nQQ==\n-----END CERTIFICATE-----\nnoise\n-----BEGIN X-----\nQg==\n-----END X-----\n-----BEGIN CERTIFICATE-----\nQw==\n-----END CERTIFICATE-----\n"
	got, err := readPEM(file(two), "CERTIFICATE")
	if err != nil || len(got) != 2 || got[0] != "A" || got[1] != "C" {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"", "x", "-----BEGIN CERTIFICATE-----\n"} {
		if got, err := readPEM(file(bad), "CERTIFICATE"); err == nil {
			t.Errorf("%q: %q", bad, got)
		}
	}
}

func TestBlocks(t *testing.T) {
	c := testFleet(t, "ams", "fra", "lhr")[0]
	got := map[string]bool{}
	for _, b := range c.blocks() {
		got[b.String()] = true
		if back, ok := blockOf(b.policy()); !ok || back != b {
			t.Errorf("%s reads back as %s, %t", b, back, ok)
		}
	}
	for _, proto := range []string{"4", "47"} {
		for _, want := range []string{
			"dir out 192.0.2.11/32 -> 0.0.0.0/0", "dir in 0.0.0.0/0 -> 192.0.2.11/32",
			"dir out 0.0.0.0/0 -> 192.0.2.12/32", "dir in 192.0.2.12/32 -> 0.0.0.0/0",
			"dir out 0.0.0.0/0 -> 192.0.2.13/32", "dir in 192.0.2.13/32 -> 0.0.0.0/0",
		} {
			if !got[want+" proto "+proto] {
				t.Errorf("lacks %s proto %s", want, proto)
			}
			delete(got, want+" proto "+proto)
		}
	}
	if len(got) != 0 {
		t.Errorf("too many: %v", got)
	}
	c.Peers = nil
	if got := c.blocks(); got != nil {
		t.Errorf("without peers: %v", got)
	}
	p := block{netlink.XFRM_DIR_IN, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("192.0.2.1/32"), 4}.policy()
	p.Priority++
	if _, ok := blockOf(p); ok {
		t.Error("a policy of another priority is taken for ours")
	}
}
