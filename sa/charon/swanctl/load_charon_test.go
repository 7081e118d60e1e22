package swanctl_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/sa/charon/internal/charontest"
	"github.com/shadowcast/shadowcast/sa/charon/swanctl"
)

// TestLoadCharon loads a directory into a real charon, takes things away, loads
// again, and looks at what charon then has.
func TestLoadCharon(t *testing.T) {
	charontest.NeedCharon(t)
	ctx := charontest.Context(t)
	g := charontest.StartGateway(t, ctx)
	dir := t.TempDir()
	for _, name := range []string{"gw", "other"} {
		swanctl.WriteCert(t, dir, name)
	}
	text := strings.Replace(charontest.GatewayConns, "local { auth = psk", "local { auth = pubkey\n certs = gw.pem", 1)
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "swanctl.conf"), []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	load := func() string {
		t.Helper()
		c, err := swanctl.Read(dir)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second changes nothing
			if err := swanctl.Load(ctx, g.VICI, c, charon.V3); err != nil {
				t.Fatal(err)
			}
		}
		want, err := c.Digest(charon.V3)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := swanctl.LoadedDigest(ctx, g.VICI); err != nil || got != want {
			t.Errorf("charon has digest %q, %v, want %q", got, err, want)
		}
		return want
	}
	write(text + `connections { old { version = 2
  local_addrs = 198.51.100.1
  remote_addrs = 192.0.2.1
  local { auth = psk }
  remote { auth = psk } } }
authorities { ca { cacert = other.pem
  crl_uris = http://crl.example/a, http://crl.example/b } }
secrets { eap-x { id = user
  secret = "y" } }
`)
	first := load()
	check(t, ctx, g, "get-conns", "conns", 2)
	check(t, ctx, g, "get-authorities", "authorities", 1)
	check(t, ctx, g, "get-keys", "keys", 2)
	check(t, ctx, g, "get-shared", "keys", 7) // 2 secrets, markers of 4 certificates and of the digest
	if n := certs(t, ctx, g); n < 2 {
		t.Errorf("charon lists %d certificates", n)
	}

	for _, d := range []string{"x509", "x509ca", "private"} {
		if err := os.Remove(filepath.Join(dir, d, "other.pem")); err != nil {
			t.Fatal(err)
		}
	}
	write(text)
	if load() == first {
		t.Error("digest is the same after removals")
	}
	check(t, ctx, g, "get-conns", "conns", 1)
	check(t, ctx, g, "get-authorities", "authorities", 0)
	check(t, ctx, g, "get-keys", "keys", 1)
	check(t, ctx, g, "get-shared", "keys", 4)
	before := certs(t, ctx, g)
	if before == 0 {
		t.Error("charon has no certificate left")
	}

	bad := strings.Replace(text, "esp_proposals = aes128gcm16-esn", "esp_proposals = rot13", 1)
	write(bad)
	c, err := swanctl.Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	err = swanctl.Load(ctx, g.VICI, c, charon.V3)
	if err == nil || !strings.Contains(err.Error(), "swanctl.conf:2: conn rw") {
		t.Errorf("proposal that charon refuses: %v", err)
	}
	if d, err := swanctl.LoadedDigest(ctx, g.VICI); err != nil || d != "" {
		t.Errorf("digest after a refused load: %q, %v", d, err)
	}
}

func check(t *testing.T, ctx context.Context, g *charontest.Gateway, cmd, key string, want int) {
	t.Helper()
	m, err := g.VICI.Call(ctx, cmd, nil)
	if err != nil {
		t.Fatal(err)
	}
	if l, _ := m.Get(key).([]string); len(l) != want {
		t.Errorf("%s: %v, want %d", cmd, l, want)
	}
}

func certs(t *testing.T, ctx context.Context, g *charontest.Gateway) int {
	t.Helper()
	ms, err := g.VICI.Stream(ctx, "list-certs", "list-cert", nil)
	if err != nil {
		t.Fatal(err)
	}
	return len(slices.Clip(ms))
}
