package prometheus

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/shadowcast/shadowcast/metrics"
)

var update = flag.Bool("update", false, "write docs/metrics.md")

const reference = "../../docs/metrics.md"

type rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func rules(t *testing.T) []rule {
	t.Helper()
	var f struct {
		Groups []struct {
			Rules []rule `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "alerts.yaml")), &f); err != nil {
		t.Fatal(err)
	}
	var all []rule
	for _, g := range f.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) < 20 {
		t.Fatalf("%d rules found in alerts.yaml", len(all))
	}
	return all
}

// promtool checks the rules and plays their tests.
func TestPromtool(t *testing.T) {
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed: scripts/deps.sh")
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yaml"}, {"test", "rules", "alerts_test.yaml"}} {
		if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

// Every rule has a test in which it fires, one in which it does not, a severity,
// and a row in the runbook.
func TestEveryRuleIsTested(t *testing.T) {
	var f struct {
		Tests []struct {
			Rules []struct {
				Alert string `yaml:"alertname"`
				Exp   []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		} `yaml:"tests"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "alerts_test.yaml")), &f); err != nil {
		t.Fatal(err)
	}
	fires, quiet := map[string]bool{}, map[string]bool{}
	for _, x := range f.Tests {
		for _, r := range x.Rules {
			if len(r.Exp) > 0 {
				fires[r.Alert] = true
			} else {
				quiet[r.Alert] = true
			}
		}
	}
	runbook := read(t, "../../docs/operations.md")
	for _, r := range rules(t) {
		if !fires[r.Alert] || !quiet[r.Alert] {
			t.Errorf("%s: tested that it fires: %t, that it is quiet: %t", r.Alert, fires[r.Alert], quiet[r.Alert])
		}
		switch r.Labels["severity"] {
		case "critical", "warning", "info":
		default:
			t.Errorf("%s has the severity %q", r.Alert, r.Labels["severity"])
		}
		if !strings.Contains(runbook, "| `"+r.Alert+"` | ") {
			t.Errorf("%s has no row in the runbook, docs/operations.md", r.Alert)
		}
	}
}

var metricName = regexp.MustCompile(`\bshadowcast_[a-z0-9_]+\b`)

// known returns the metrics that exist, with the names that a histogram has.
func known() map[string]metrics.Metric {
	out := map[string]metrics.Metric{}
	for _, m := range metrics.Reference() {
		out[m.Name] = m
		if m.Type == "histogram" {
			for _, s := range []string{"_bucket", "_sum", "_count"} {
				out[m.Name+s] = m
			}
		}
	}
	return out
}

var selector = regexp.MustCompile(`\b(shadowcast_[a-z0-9_]+)\{([^}]*)\}`)
var matcher = regexp.MustCompile(`([a-z_]+)(=~|!~|!=|=)"`)

// check says which metrics and labels of a query do not exist.
func check(t *testing.T, where, expr string) {
	t.Helper()
	k := known()
	for _, name := range metricName.FindAllString(expr, -1) {
		if _, ok := k[name]; !ok {
			t.Errorf("%s: no metric is called %s", where, name)
		}
	}
	for _, s := range selector.FindAllStringSubmatch(expr, -1) {
		for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
			if m[1] == "instance" || m[1] == "job" || m[1] == "le" && k[s[1]].Type == "histogram" {
				continue
			}
			if !strings.Contains(" "+strings.Join(k[s[1]].Labels, " ")+" ", " "+m[1]+" ") {
				t.Errorf("%s: %s has no label %s", where, s[1], m[1])
			}
		}
	}
}

func TestRulesNameMetrics(t *testing.T) {
	for _, r := range rules(t) {
		if r.Alert != "ShadowcastDown" && !metricName.MatchString(r.Expr) {
			t.Errorf("%s asks for no metric of ours", r.Alert)
		}
		check(t, r.Alert, r.Expr)
	}
}

// The dashboard's queries name metrics and labels that exist, and promtool can
// parse them.
func TestDashboard(t *testing.T) {
	type target struct{ Expr string }
	var d struct {
		Panels []struct {
			Type, Title string
			Targets     []target
		}
		Templating struct {
			List []struct {
				Name  string
				Query any
			}
		}
		Annotations struct{ List []target }
	}
	if err := json.Unmarshal([]byte(read(t, "../grafana/shadowcast.json")), &d); err != nil {
		t.Fatal(err)
	}
	var exprs []string
	for _, p := range d.Panels {
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q asks for nothing", p.Title)
		}
		for _, x := range p.Targets {
			if !metricName.MatchString(x.Expr) && !strings.Contains(x.Expr, "up{") {
				t.Errorf("panel %q asks for no metric of ours: %s", p.Title, x.Expr)
			}
			check(t, "panel "+p.Title, x.Expr)
			exprs = append(exprs, x.Expr)
		}
	}
	for _, a := range d.Annotations.List {
		check(t, "annotation", a.Expr)
		exprs = append(exprs, a.Expr)
	}
	for _, v := range d.Templating.List {
		check(t, "variable "+v.Name, fmt.Sprint(v.Query))
	}
	if len(exprs) < 25 {
		t.Errorf("%d queries found in the dashboard", len(exprs))
	}
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed: scripts/deps.sh")
	}
	// As recording rules the queries are parsed.
	text := "groups:\n- name: dashboard\n  rules:\n"
	for i, e := range exprs {
		q, err := json.Marshal(strings.NewReplacer("$instance", "x", "$slot", "x").Replace(e))
		if err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf("  - record: dashboard:query:%d\n    expr: %s\n", i, q)
	}
	file := t.TempDir() + "/queries.yaml"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, "check", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("promtool check rules: %v\n%s", err, out)
	}
}

// docs/metrics.md lists exactly what there is.
func TestReference(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Metrics\n\nWhat `/metrics` of an appliance tells, beside the usual `go_*` and `process_*`. Written by `go test ./configs/prometheus -update`.\n" +
		"How to scrape it, alerts and dashboard: [operations](operations.md#metrics).\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n")
	for _, m := range metrics.Reference() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", m.Name, m.Type, strings.Join(m.Labels, ", "), m.Help)
	}
	if *update {
		if err := os.WriteFile(reference, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, reference); got != b.String() {
		t.Errorf("docs/metrics.md differs from the program: go test ./configs/prometheus -update")
	}
}
