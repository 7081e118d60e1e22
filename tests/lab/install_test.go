package lab

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/configs"
	"github.com/shadowcast/shadowcast/docs"
	"github.com/shadowcast/shadowcast/sa/charon/swanctl"
)

func TestDocBlocks(t *testing.T) {
	const doc = "# x\n\n<!-- lab: on each when all is well -->\n```sh\na\n```\n\n<!-- lab: on b safe while c -->\n\n```sh\nd\ne\n```\n" +
		"<!-- lab: file /etc/f on each -->\n```yaml\nf: 1\n```\n<!-- lab: shown -->\n```\ng\n```\n<!-- lab: not run, no compiler -->\n```sh\nh\n```\n"
	got, err := docBlocks(doc)
	if err != nil || len(got) != 5 {
		t.Fatalf("%+v, %v, want 5 blocks", got, err)
	}
	a, b, f, g, h := got[0], got[1], got[2], got[3], got[4]
	each := []string{"a1", "a2"}
	if a.Line != 4 || a.Text != "a\n" || a.When != "all is well" || !a.on("a2", each) || a.on("safe", each) {
		t.Errorf("%+v", a)
	}
	if b.Text != "d\ne\n" || b.When != "while c" || !b.on("safe", each) || b.on("a1", each) {
		t.Errorf("%+v", b)
	}
	if f.File != "/etc/f" || f.Lang != "yaml" || !f.on("a1", each) || !g.Shown || g.Text != "g\n" || h.NotRun != "no compiler" {
		t.Errorf("%+v, %+v, %+v", f, g, h)
	}
	for doc, want := range map[string]string{
		"```sh\na\n```\n":                                         "without a mark",
		"\n<!-- lab: on each -->\ntext\n":                         "line 3: the mark of line 2 stands above no block",
		"<!-- lab: on each\n":                                     "must end in its line",
		"<!-- lab: shown -->\n<!-- lab: shown -->\n":              "a block of its own",
		"<!-- lab: on -->\n```sh\n```\n":                          `the mark "on"`,
		"<!-- lab: on each -->\n```yaml\n```\n":                   `the mark "on each"`,
		"<!-- lab: perhaps -->\n```sh\n```\n":                     `the mark "perhaps"`,
		"<!-- lab: on each -->\n```sh\na\n":                       "within a block",
		"<!-- lab: not run, -->\n```sh\na\n```\n":                 `the mark "not run,"`,
		"<!-- lab: file /etc/f on each when x -->\n```\na\n```\n": "the mark",
	} {
		if _, err := docBlocks(doc); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", doc, err, want)
		}
	}
}

// The document's blocks have marks, and the configuration it shows is right for each
// appliance, with the fleet's section the same.
func TestInstallDocument(t *testing.T) {
	blocks, err := docBlocks(docs.Install)
	if err != nil {
		t.Fatal(err)
	}
	run, digests := 0, []string{}
	for _, b := range blocks {
		if b.Lang == "sh" {
			c, err := splitCommands(b.Text)
			if err != nil || len(c) == 0 {
				t.Errorf("line %d: %q, %v", b.Line, c, err)
			}
			run++
		}
		if b.File != "/etc/shadowcast/shadowcast.yaml" {
			continue
		}
		if _, err := config.Parse([]byte(b.Text)); err != nil {
			t.Errorf("as it stands: %v", err)
		}
		for i, n := range []string{"ams", "fra", "lhr"} {
			c, err := config.Parse([]byte(swapped(b.Text, installSwaps("1"), machineSwaps(n, i+1))))
			if err != nil {
				t.Fatalf("%s: %v", n, err)
			}
			if c.Node != n || c.Self().Address != ApplianceLoopback(i+1) || c.BGP.RouterID != ApplianceLoopback(i+1) || c.Uplinks[0] != devUplink1 ||
				c.BGP.Peers[2].LocalAddress != host(linkNet(insideLink, i+1), 2) || c.Fleet.Probe.Interval != 200*time.Millisecond {
				t.Errorf("%s: %+v", n, c)
			}
			digests = append(digests, c.Fleet.Digest())
		}
	}
	if run < 8 || len(digests) != 3 || digests[0] != digests[1] || digests[0] != digests[2] {
		t.Errorf("%d shell blocks, fleet sections %q", run, digests)
	}
}

// The section of the gateway that becomes a fleet has marks that the scenario knows, and
// the gateway's configuration is found wrong and right.
func TestMigrateDocument(t *testing.T) {
	text, err := docSection(docs.Operations, migrateHeading)
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := docBlocks(text)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(docs.Operations, "\n")
	var mistakes []int
	for _, b := range blocks {
		if !strings.HasPrefix(lines[b.Line-1], "```") || !strings.HasPrefix(lines[b.Line-2], docMark) {
			t.Errorf("no block begins in line %d of the document", b.Line)
		}
		if b.Lang == "sh" {
			if c, err := splitCommands(b.Text); err != nil || len(c) == 0 {
				t.Errorf("line %d: %q, %v", b.Line, c, err)
			}
		}
		if b.File == "" {
			continue
		}
		c, err := swanctl.Parse(t.TempDir(), "office.conf", b.Text)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		if err := c.Check(swanctl.Rules{VIPs: []netip.Addr{VIP}}); err != nil {
			n = strings.Count(err.Error(), "\n") + 1
		}
		mistakes = append(mistakes, n)
	}
	if !slices.Equal(mistakes, []int{7, 0}) {
		t.Errorf("the files have %v mistakes, want 7 before and none after", mistakes)
	}
	if _, err := docSection(docs.Operations, "### None such"); err == nil {
		t.Error("a section that is not there was found")
	}
}

func TestParseFindings(t *testing.T) {
	got, err := parseFindings("fatal: a: b\n    why: c\n    fix: d e\nwarning: f\n    why: g\n    fix: h\n2 findings\n")
	if want := []finding{{"fatal", "a: b", "c", "d e"}, {"warning", "f", "g", "h"}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	if f := find(got, "f"); f == nil || f.fix != "h" || find(got, "x") != nil {
		t.Errorf("found %+v", f)
	}
	if _, err := parseFindings("fatal: a\n    why: c\n"); err == nil {
		t.Error("a finding without a fix was taken")
	}
}

func TestUnitFile(t *testing.T) {
	u, err := parseUnit(configs.Unit)
	if err != nil {
		t.Fatal(err)
	}
	if u.one("Service.Type", "") != "notify" || !slices.Contains(u.list("Unit.Requires"), "shadowcast-netns.service") || u.one("Service.UMask", "") != "0077" {
		t.Errorf("%+v", u)
	}
	reload, err := u.commands("Service.ExecReload", "42")
	if err != nil || len(reload) != 1 || !slices.Equal(reload[0].argv, []string{"/bin/kill", "-HUP", "42"}) {
		t.Errorf("ExecReload %+v, %v", reload, err)
	}
	argv, err := u.confine()
	if err != nil || !slices.Contains(argv, "--memlock=unlimited") || !slices.Contains(argv, "--no-new-privs") || !strings.Contains(strings.Join(argv, " "), "+net_admin") {
		t.Errorf("confined by %q, %v", argv, err)
	}
	for s, want := range map[string]time.Duration{"10s": 10 * time.Second, "2min": 2 * time.Minute, "1min 5s": 65 * time.Second, "90": 90 * time.Second} {
		if d, err := unitTime(s); err != nil || d != want {
			t.Errorf("%s: %s, %v", s, d, err)
		}
	}
	if _, err := unitTime("soon"); err == nil {
		t.Error("a time that is none was taken")
	}
	u, err = parseUnit("# c\n[Service]\nExecStart=/bin/a \\\n  b\nExecStartPre=-/bin/c\nX=1\nX=\nX=2\n")
	if err != nil {
		t.Fatal(err)
	}
	start, err := u.commands("Service.ExecStart", "")
	pre, perr := u.commands("Service.ExecStartPre", "")
	if err != nil || perr != nil || !slices.Equal(start[0].argv, []string{"/bin/a", "b"}) || !pre[0].may || start[0].may || !slices.Equal(u["Service.X"], []string{"2"}) {
		t.Errorf("%+v, %v, %+v, %v, %+v", start, err, pre, perr, u)
	}
	for _, text := range []string{"a=b\n", "[Service]\nnothing\n"} {
		if _, err := parseUnit(text); err == nil {
			t.Errorf("%q was taken for a unit", text)
		}
	}
	for _, line := range []string{`/bin/sh -c "x"`, "/bin/a %i", "a", "/bin/a $X"} {
		if _, err := (unitFile{"Service.ExecStart": {line}}).commands("Service.ExecStart", ""); err == nil {
			t.Errorf("%q was taken", line)
		}
	}
}
