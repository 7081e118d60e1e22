package lab

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// metricsAddr is where each daemon of the lab answers scrapes, in its own
// namespace.
var metricsAddr = netip.MustParseAddrPort("127.0.0.1:9501")

// Fetch gets a page of the appliance's HTTP endpoint.
func (a *Appliance) Fetch(ctx context.Context, path string) ([]byte, error) {
	return a.fetchBy(ctx, a.ns.httpClient(false), path)
}

// fetchBy does so by a client of the appliance's namespace.
func (a *Appliance) fetchBy(ctx context.Context, c *http.Client, path string) ([]byte, error) {
	b, err := get(ctx, c, fmt.Sprintf("http://%s%s", metricsAddr, path))
	if err != nil {
		return nil, fmt.Errorf("fetch %s of %s: %w", path, a.Name, err)
	}
	return b, nil
}

// httpClient connects from inside the namespace, and keeps its connections or makes a
// new one each time.
func (n *Netns) httpClient(keep bool) *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: !keep,
		DialContext: func(_ context.Context, network, addr string) (conn net.Conn, err error) {
			err = inNamespace(n.Name, func() (err error) {
				conn, err = net.Dial(network, addr)
				return err
			})
			return conn, err
		}}}
}

// fetch gets a page from inside the namespace.
func (n *Netns) fetch(ctx context.Context, url string) ([]byte, error) {
	return get(ctx, n.httpClient(false), url)
}

func get(ctx context.Context, c *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %.200s", resp.Status, bytes.TrimSpace(b))
	}
	return b, err
}

// scrape takes the metrics of a running appliance, keeps them with the artefacts,
// and has them checked by promtool, where it is installed, and its library.
func scrape(t *T, a *Appliance, file string) []byte {
	b, err := a.Fetch(t.Context(), "/metrics")
	t.Check(err)
	t.Check(os.WriteFile(filepath.Join(a.lab.OutDir(), file), b, 0o644))
	problems, err := promlint.New(bytes.NewReader(b)).Lint()
	t.Check(err)
	for _, p := range problems {
		t.Errorf("metrics of %s: %s: %s", a.Name, p.Metric, p.Text)
	}
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Logf("promtool is not installed: the metrics were checked by its library alone")
		return b
	}
	cmd := exec.CommandContext(t.Context(), tool, "check", "metrics")
	cmd.Stdin = bytes.NewReader(b)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("metrics of %s: promtool check metrics: %v: %s", a.Name, err, out)
	}
	return b
}
