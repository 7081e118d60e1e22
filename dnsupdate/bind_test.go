package dnsupdate

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// The tests of this file speak to a real BIND of their own, on a high port of the
// loopback interface.

const testZone = "vpn.example."

// bind is a running named.
type bind struct {
	t    *testing.T
	dir  string
	addr string
	log  string
	keys map[string]Key
}

// newBIND writes the configuration of a primary of vpn.example and does not start it.
func newBIND(t *testing.T) *bind {
	t.Helper()
	if _, err := exec.LookPath("named"); err != nil {
		t.Skipf("needs named (Debian's bind9): %v", err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &bind{t: t, dir: t.TempDir(), addr: l.Addr().String(), keys: map[string]Key{}}
	l.Close()
	b.log = filepath.Join(b.dir, "named.log")
	conf := fmt.Sprintf(`options {
	directory %[1]q; pid-file %[1]q "/named.pid"; session-keyfile %[1]q "/session.key"; managed-keys-directory %[1]q;
	listen-on port %[2]s { 127.0.0.1; }; listen-on-v6 { none; };
	recursion no; dnssec-validation no; notify no; allow-transfer { none; };
};
controls { };
`, b.dir, b.port())
	conf = strings.ReplaceAll(conf, `" "/`, "/")
	for _, name := range []string{"fleet", "stranger"} {
		secret := make([]byte, 32)
		rand.Read(secret)
		text := fmt.Sprintf("key %q {\n\talgorithm hmac-sha256;\n\tsecret %q;\n};\n", name, base64.StdEncoding.EncodeToString(secret))
		conf += text
		file := filepath.Join(b.dir, name+".key")
		b.write(file, text)
		if b.keys[name], err = ReadKey(file); err != nil {
			t.Fatal(err)
		}
	}
	conf += fmt.Sprintf("zone \"vpn.example\" {\n\ttype primary;\n\tfile %q;\n\tupdate-policy { grant fleet zonesub ANY; };\n};\n", filepath.Join(b.dir, "zone.db"))
	b.write(filepath.Join(b.dir, "named.conf"), conf)
	b.write(filepath.Join(b.dir, "zone.db"), `$TTL 300
@ SOA ns admin 1 3600 600 86400 60
@ NS ns
ns A 127.0.0.1
old A 192.0.2.99
old TXT "v=something else"
alias CNAME old
`)
	return b
}

func (b *bind) port() string { _, p, _ := net.SplitHostPort(b.addr); return p }

func (b *bind) write(path, text string) {
	b.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// start runs named until the test ends.
func (b *bind) start() *bind {
	b.t.Helper()
	log, err := os.Create(b.log)
	if err != nil {
		b.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("named", "-g", "-n", "1", "-c", filepath.Join(b.dir, "named.conf"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	b.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		if b.t.Failed() {
			text, _ := os.ReadFile(b.log)
			b.t.Logf("named:\n%s", text)
		}
	})
	b.wait("named to answer", func() bool {
		select {
		case <-ended:
			b.t.Fatal("named ended")
		default:
		}
		return len(b.lookup("ns."+testZone, dns.TypeA)) == 1
	})
	return b
}

// lookup asks as any client would: unsigned, over UDP.
func (b *bind) lookup(name string, typ uint16) (out []string) {
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	r, _, err := (&dns.Client{Timeout: time.Second}).Exchange(m, b.addr)
	if err != nil {
		return nil
	}
	for _, rr := range r.Answer {
		if rr.Header().Rrtype == typ {
			out = append(out, strings.Join(strings.Fields(strings.ReplaceAll(rr.String(), name, "@")), " "))
		}
	}
	slices.Sort(out)
	return out
}

func (b *bind) wait(what string, ok func() bool) {
	b.t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("waited 20 s for %s", what)
		}
	}
}

// client is a running Updater and what it told.
type client struct {
	*Updater
	mu  sync.Mutex
	evs []Event
}

func (b *bind) client(mod func(*Config)) *client {
	b.t.Helper()
	c := &client{}
	cfg := Config{Server: b.addr, Zone: testZone, Key: b.keys["fleet"], TTL: 30 * time.Second, OnEvent: func(e Event) { c.mu.Lock(); defer c.mu.Unlock(); c.evs = append(c.evs, e) }}
	if mod != nil {
		mod(&cfg)
	}
	var err error
	if c.Updater, err = New(cfg, slog.New(slog.DiscardHandler)); err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	b.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	})
	return c
}

func (c *client) saw(k Kind, text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.evs, func(e Event) bool { return e.Kind == k && strings.Contains(e.Reason, text) })
}

func record(owner string, ticket uint64, addrs ...string) Record {
	r := Record{Owner: owner, Ticket: ticket}
	for _, a := range addrs {
		r.Addresses = append(r.Addresses, netip.MustParseAddr(a))
	}
	return r
}

// TestBIND: a name follows its owner, lower tickets give way, and what others have
// beside it stays.
func TestBIND(t *testing.T) {
	b := newBIND(t).start()
	ams, fra := b.client(nil), b.client(nil)
	name, old := "ams."+testZone, "old."+testZone
	ams.Want(map[string]Record{"ams": record("ams", 3, "198.51.100.1", "2001:db8::1"), old: record("ams", 3, "198.51.100.1")})
	b.wait("the name", func() bool {
		return ams.saw(Published, "ams owns with ticket 3") && len(b.lookup(old, dns.TypeTXT)) == 2
	})
	check := func(what, name string, typ uint16, want ...string) {
		t.Helper()
		if got := b.lookup(name, typ); !slices.Equal(got, want) {
			t.Errorf("%s: %s is %q, want %q", what, dns.TypeToString[typ], got, want)
		}
	}
	check("published", name, dns.TypeA, "@ 30 IN A 198.51.100.1")
	check("published", name, dns.TypeAAAA, "@ 30 IN AAAA 2001:db8::1")
	check("published", name, dns.TypeTXT, `@ 30 IN TXT "shadowcast owner=ams ticket=3"`)
	check("beside another TXT", old, dns.TypeA, "@ 30 IN A 198.51.100.1")
	if got := strings.Join(b.lookup(old, dns.TypeTXT), " "); !strings.Contains(got, "v=something else") || !strings.Contains(got, "owner=ams") {
		t.Errorf("TXT of a name with others': %s", got)
	}

	// A takeover: ams is dead and takes nothing back.
	fra.Want(map[string]Record{"ams": record("fra", 5, "198.51.100.2")})
	b.wait("the new owner", func() bool { return fra.saw(Published, "fra owns with ticket 5") })
	check("after the takeover", name, dns.TypeA, "@ 30 IN A 198.51.100.2")
	check("after the takeover", name, dns.TypeAAAA)
	check("after the takeover", name, dns.TypeTXT, `@ 30 IN TXT "shadowcast owner=fra ticket=5"`)

	// An owner that does not know that it is none any more.
	ams.Want(map[string]Record{"ams": record("ams", 4, "198.51.100.1")})
	b.wait("the late one to give way", func() bool { return ams.saw(Superseded, "fra has it with ticket 5, above ours, 4") })
	check("after the late one", name, dns.TypeA, "@ 30 IN A 198.51.100.2")

	// The return.
	ams.Want(map[string]Record{"ams": record("ams", 6, "198.51.100.1")})
	b.wait("the return", func() bool { return ams.saw(Published, "ams owns with ticket 6") })
	check("after the return", name, dns.TypeA, "@ 30 IN A 198.51.100.1")

	fra.Want(map[string]Record{"alias": record("fra", 9, "198.51.100.2")})
	b.wait("the alias to be told", func() bool { return fra.saw(Failed, "is an alias (CNAME)") })
}

// TestBINDRace: of many that want a name at once the highest ticket has it in the end.
func TestBINDRace(t *testing.T) {
	b := newBIND(t).start()
	var cs []*client
	for i := range 6 {
		c := b.client(nil)
		cs = append(cs, c)
		c.Want(map[string]Record{"race": record(fmt.Sprintf("a%d", i), uint64(10+i), fmt.Sprintf("198.51.100.%d", i+1))})
	}
	b.wait("everybody to be done", func() bool {
		return cs[5].saw(Published, "ticket 15") && !slices.ContainsFunc(cs[:5], func(c *client) bool { s := c.Status(); return s[0].Next.IsZero() })
	})
	b.wait("the highest ticket to have the name", func() bool {
		return slices.Equal(b.lookup("race."+testZone, dns.TypeA), []string{"@ 30 IN A 198.51.100.6"})
	})
	if got := b.lookup("race."+testZone, dns.TypeTXT); len(got) != 1 || !strings.Contains(got[0], "owner=a5 ticket=15") {
		t.Errorf("TXT %q", got)
	}
}

// TestBINDRefuses: what a real server says is told in words that name the cause.
func TestBINDRefuses(t *testing.T) {
	b := newBIND(t).start()
	unknown, guessed := b.keys["fleet"], b.keys["fleet"]
	unknown.Name, guessed.secret = "nobody.", base64.StdEncoding.EncodeToString(make([]byte, 32))
	skew := func(d time.Duration) func(*Config) {
		return func(c *Config) { c.Now = func() time.Time { return time.Now().Add(d) } }
	}
	for name, tc := range map[string]struct {
		mod  func(*Config)
		want string
	}{
		"unknown key":   {func(c *Config) { c.Key = unknown }, "does not know key nobody. (hmac-sha256.) (BADKEY)"},
		"wrong secret":  {func(c *Config) { c.Key = guessed }, "another secret or algorithm for key fleet. (hmac-sha256.) (BADSIG)"},
		"not granted":   {func(c *Config) { c.Key = b.keys["stranger"] }, "does its update-policy or allow-update grant key stranger."},
		"clock ahead":   {skew(time.Hour), "BADTIME): ours is 1h0m0s ahead"},
		"clock behind":  {skew(-time.Hour), "BADTIME): the server's is 1h0m0s ahead"},
		"another zone":  {func(c *Config) { c.Zone = "other.example." }, "REFUSED"},
		"cut algorithm": {func(c *Config) { c.Key.Algorithm = dns.HmacSHA512 }, "BADKEY"},
	} {
		t.Run(name, func(t *testing.T) {
			c := b.client(tc.mod)
			c.Want(map[string]Record{"refused": record("ams", 1, "198.51.100.1")})
			b.wait("the reason", func() bool { s := c.Status(); return s[0].Problem != "" })
			s := c.Status()[0]
			t.Log(s.Problem)
			if !strings.Contains(s.Problem, tc.want) {
				t.Errorf("problem %q, want %q", s.Problem, tc.want)
			}
			if s.Published || !s.Next.After(time.Now()) {
				t.Errorf("state %+v", s)
			}
		})
	}
	if got := b.lookup("refused."+testZone, dns.TypeA); got != nil {
		t.Errorf("the name is there: %q", got)
	}
}

// TestBINDComesLate: the server is away when the name is wanted; the name follows when
// it is there.
func TestBINDComesLate(t *testing.T) {
	b := newBIND(t)
	c := b.client(nil)
	c.Want(map[string]Record{"late": record("ams", 1, "198.51.100.1")})
	b.wait("the failure", func() bool { return c.saw(Failed, "connection refused") })
	b.start()
	b.wait("the name", func() bool { return c.saw(Published, "ams owns with ticket 1") })
	if got := b.lookup("late."+testZone, dns.TypeA); !slices.Equal(got, []string{"@ 30 IN A 198.51.100.1"}) {
		t.Errorf("A %q", got)
	}
}
