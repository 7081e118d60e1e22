package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/configs"
)

// prometheus is Debian's Prometheus on the server's machine, scraping every appliance
// and evaluating the shipped rules, their durations shortened.
type prometheus struct {
	lab  *Lab
	proc *Proc
}

const (
	promBinary = "/usr/bin/prometheus"
	promListen = "127.0.0.1:9090"
	// What is left of the rules' durations: `for` and the ranges of increase and rate.
	// Nothing else of a rule is touched.
	promFor, promRange = "2s", "90s"
	promInterval       = "2s"
)

var (
	ruleFor   = regexp.MustCompile(`(?m)^( +for: ).*$`)
	ruleRange = regexp.MustCompile(`\[[0-9a-z]+\]`)
)

// shortRules are the shipped rules with short durations.
func shortRules() string {
	return ruleRange.ReplaceAllString(ruleFor.ReplaceAllString(configs.Alerts, "${1}"+promFor), "["+promRange+"]")
}

// ruleNames are the alerts of the shipped rules in their order.
func ruleNames() (out []string) {
	for _, m := range regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(configs.Alerts, -1) {
		out = append(out, m[1])
	}
	return out
}

// startPrometheus starts it and waits until it answers. The daemons answer scrapes on
// their own loopbacks, so each is put through: port 9600 + n for appliance n.
func (l *Lab) startPrometheus(ctx context.Context) (*prometheus, error) {
	p := &prometheus{lab: l}
	srv := l.Node("srv")
	var targets []string
	for _, a := range l.Appliances() {
		addr := fmt.Sprintf("127.0.0.1:%d", 9600+a.N)
		targets = append(targets, fmt.Sprintf("      - {targets: [%q], labels: {instance: %s}}", addr, a.Name))
		if err := l.putThrough(srv, addr, a); err != nil {
			return nil, err
		}
	}
	dir := filepath.Join(l.dir, "prometheus")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make directory of Prometheus: %w", err)
	}
	conf := fmt.Sprintf("global: {scrape_interval: %s, scrape_timeout: %[1]s, evaluation_interval: %[1]s}\nrule_files: [alerts.yaml]\nscrape_configs:\n  - job_name: shadowcast\n    static_configs:\n%s\n",
		promInterval, strings.Join(targets, "\n"))
	for file, text := range map[string]string{"prometheus.yml": conf, "alerts.yaml": shortRules()} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("write configuration of Prometheus: %w", err)
		}
	}
	log := filepath.Join(l.out, "prometheus.log")
	var err error
	if p.proc, err = l.start(srv, "Prometheus", log, nil, promBinary, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+promListen, "--log.level=warn"); err != nil {
		return nil, err
	}
	return p, answering(ctx, p.proc, log, func() error {
		_, err := p.get(ctx, "/-/ready")
		return err
	})
}

// putThrough answers at addr inside n with what the appliance's own endpoint says, and
// with an error while it says nothing. As Prometheus does, it keeps its connection.
func (l *Lab) putThrough(n *Netns, addr string, a *Appliance) error {
	var ln net.Listener
	err := inNamespace(n.Name, func() (err error) {
		ln, err = net.Listen("tcp4", addr)
		return err
	})
	if err != nil {
		return fmt.Errorf("put scrapes of %s through: %w", a.Name, err)
	}
	c := a.ns.httpClient(true)
	s := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := a.fetchBy(r.Context(), c, "/metrics")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		_, _ = w.Write(b) // the scraper may have gone
	})}
	l.wg.Go(func() { _ = s.Serve(ln) }) // ends by Close
	l.onClose(func() error {
		c.CloseIdleConnections()
		return s.Close()
	})
	return nil
}

// get asks the HTTP API.
func (p *prometheus) get(ctx context.Context, path string) ([]byte, error) {
	b, err := p.lab.Node("srv").fetch(ctx, "http://"+promListen+path)
	if err != nil {
		return nil, fmt.Errorf("ask Prometheus: %w", err)
	}
	return b, nil
}

// firing are the alerts that fire now, each with the labels of one of its instances.
func (p *prometheus) firing(ctx context.Context) (map[string]string, error) {
	b, err := p.get(ctx, "/api/v1/alerts")
	if err != nil {
		return nil, err
	}
	var r struct {
		Status string
		Data   struct {
			Alerts []struct {
				State       string
				Annotations map[string]string
				Labels      map[string]string
			}
		}
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, fmt.Errorf("read the alerts of Prometheus: %w", err)
	}
	if r.Status != "success" {
		return nil, errors.New("read the alerts of Prometheus: " + r.Status)
	}
	out := map[string]string{}
	for _, a := range r.Data.Alerts {
		if a.State == "firing" {
			out[a.Labels["alertname"]] = a.Annotations["summary"]
		}
	}
	return out, nil
}
