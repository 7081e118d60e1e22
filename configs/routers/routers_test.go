package routers

import (
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the example files")

// example is the router of the examples; each file is it in one role.
func example(role Role) RouterConfig {
	c := RouterConfig{
		Name: "r1", RouterID: netip.MustParseAddr("192.0.2.201"), ASN: 64500, Role: role, ApplianceASN: 64512,
		BFDInterval: 100 * time.Millisecond, BFDMultiplier: 3, HoldTime: 9 * time.Second,
	}
	if role == Outside {
		c.VIPs = prefixes("198.51.100.1/32", "2001:db8:51::1/128")
		c.Liveness = prefixes("192.0.2.0/25", "2001:db8:1:1::/64")
	} else {
		c.Inner = prefixes("10.64.0.0/10", "2001:db8:64::/48")
	}
	for i, name := range []string{"ams", "fra", "lhr"} {
		n := string(rune('1' + i))
		c.Sessions = append(c.Sessions,
			Session{Name: name, Address: netip.MustParseAddr("203.0.113." + n + "2"), LocalAddress: netip.MustParseAddr("203.0.113." + n + "1"), Interface: "eth" + n},
			Session{Name: name, Address: netip.MustParseAddr("2001:db8:f:" + n + "::2"), LocalAddress: netip.MustParseAddr("2001:db8:f:" + n + "::1"), Interface: "eth" + n})
	}
	c.Sessions[0].Password = "example-change-me"
	return c
}

func prefixes(ss ...string) (ps []netip.Prefix) {
	for _, s := range ss {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// TestExamples keeps the annotated example files equal to what the templates
// render, and has the real programs parse them.
func TestExamples(t *testing.T) {
	for _, tc := range []struct {
		file   string
		role   Role
		render func(RouterConfig) (string, error)
		check  func(path string) *exec.Cmd
	}{
		{"bird2.conf", Outside, RenderBIRD, checkBIRD},
		{"bird2-inside.conf", Inside, RenderBIRD, checkBIRD},
		{"frr.conf", Outside, RenderFRR, checkFRR},
		{"frr-inside.conf", Inside, RenderFRR, checkFRR},
		{"junos.conf", Outside, RenderJunos, nil},
		{"junos-inside.conf", Inside, RenderJunos, nil},
		{"iosxr.conf", Outside, RenderIOSXR, nil},
		{"iosxr-inside.conf", Inside, RenderIOSXR, nil},
		{"eos.conf", Outside, RenderEOS, nil},
		{"eos-inside.conf", Inside, RenderEOS, nil},
	} {
		t.Run(tc.file, func(t *testing.T) {
			c := example(tc.role)
			c.Sessions[0].TTLSecurity = !strings.HasPrefix(tc.file, "frr")
			got, err := tc.render(c)
			if err != nil {
				t.Fatal(err)
			}
			if *update {
				if err := os.WriteFile(tc.file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(tc.file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s is not what the template renders; run go test ./configs/routers -update", tc.file)
			}
			if tc.check == nil {
				balanced(t, tc.file, got)
				return
			}
			path := filepath.Join(t.TempDir(), tc.file)
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			cmd := tc.check(path)
			if _, err := exec.LookPath(cmd.Path); err != nil {
				t.Skipf("cannot parse %s for real: %v", tc.file, err)
			}
			if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "Unknown command") {
				t.Errorf("%v: %v\n%s", cmd.Args, err, out)
			}
		})
	}
}

// balanced checks what can be checked without the vendor's program: that the file says
// that nobody ran it, closes what it opens, and has no hole where a value should be.
func balanced(t *testing.T, file, text string) {
	t.Helper()
	if !strings.Contains(text, "NOT RUN by shadowcast's tests") {
		t.Errorf("%s does not say that it was not run", file)
	}
	if strings.Contains(text, "<no value>") || strings.Contains(text, " ;") {
		t.Errorf("%s has a hole", file)
	}
	for open, end := range map[string]string{"{": "}", "-set ": "end-set", "route-policy ": "end-policy"} {
		n := 0
		for line := range strings.Lines(text) {
			if open == "{" || !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "!") && !strings.HasPrefix(line, end) {
				n += strings.Count(line, open)
			}
		}
		if m := strings.Count(text, end); n != m {
			t.Errorf("%s: %q %d times, %q %d times", file, open, n, end, m)
		}
	}
	for _, addr := range []string{"203.0.113.12", "2001:db8:f:3::2"} {
		if !strings.Contains(text, "neighbor "+addr) {
			t.Errorf("%s has no session with %s", file, addr)
		}
	}
}

func checkBIRD(path string) *exec.Cmd { return exec.Command("bird", "-p", "-c", path) }
func checkFRR(path string) *exec.Cmd  { return exec.Command("vtysh", "-C", "-f", path) }

// TestFamilyWithoutPrefixes: a family in which nothing is to be accepted accepts
// nothing; a rule without its match would accept everything.
func TestFamilyWithoutPrefixes(t *testing.T) {
	for name, render := range map[string]func(RouterConfig) (string, error){"junos": RenderJunos, "iosxr": RenderIOSXR, "eos": RenderEOS} {
		for _, role := range []Role{Outside, Inside} {
			c := example(role)
			c.VIPs, c.Liveness, c.Inner = family(c.VIPs, false), family(c.Liveness, false), family(c.Inner, false)
			text, err := render(c)
			if err != nil {
				t.Fatal(err)
			}
			balanced(t, name, text)
			for _, bad := range []string{"from {\n            }", "from {\n                protocol bgp;\n            }", "VIP-6", "LIVENESS-6", "INNER-6", "community GRACEFUL-SHUTDOWN;\n            }"} {
				if strings.Contains(text, bad) {
					t.Errorf("%s %s: %q in\n%s", name, role, bad, text)
				}
			}
			if !strings.Contains(text, "APPLIANCE-6") {
				t.Errorf("%s %s: the IPv6 sessions have no policy", name, role)
			}
		}
	}
}

func TestFRRHasNoTTLSecurity(t *testing.T) {
	c := example(Outside)
	c.Sessions[1].TTLSecurity = true
	if _, err := RenderFRR(c); err == nil || !strings.Contains(err.Error(), "sessions[1].ttl_security") {
		t.Errorf("error %v", err)
	}
}

func TestValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		mod  func(*RouterConfig)
		want string
	}{
		"good":        {func(*RouterConfig) {}, ""},
		"own ASN":     {func(c *RouterConfig) { c.ASN = c.ApplianceASN }, "asn: 64512"},
		"role":        {func(c *RouterConfig) { c.Role = "both" }, `role: "both"`},
		"injection":   {func(c *RouterConfig) { c.Sessions[0].Password = `x"; }` }, "sessions[0].password"},
		"newline":     {func(c *RouterConfig) { c.Name = "r1\nrouter bgp 1" }, "name:"},
		"families":    {func(c *RouterConfig) { c.Sessions[0].LocalAddress = netip.MustParseAddr("::1") }, "two addresses of one family"},
		"twice":       {func(c *RouterConfig) { c.Sessions[2].Name = "ams" }, "same address or same name"},
		"host bits":   {func(c *RouterConfig) { c.Liveness = prefixes("192.0.2.1/24") }, "liveness[0]"},
		"interface":   {func(c *RouterConfig) { c.Sessions[0].Interface = "" }, "sessions[0].interface"},
		"bfd too few": {func(c *RouterConfig) { c.BFDMultiplier = 1 }, "bfd_multiplier: 1"},
	} {
		t.Run(name, func(t *testing.T) {
			c := example(Outside)
			tc.mod(&c)
			_, err := RenderBIRD(c)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Fatalf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}
