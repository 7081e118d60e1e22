package member

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

var fleetKey = sa.Key("0123456789abcdef0123456789abcdef")

// one is a member under test and what it told.
type one struct {
	*Gossip
	stop func()

	mu      sync.Mutex
	refused map[string]int // "reason name source"
}

func (o *one) count(key string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.refused[key]
}

// places reserves an address for each name.
func places(t *testing.T, names ...string) map[string]netip.AddrPort {
	t.Helper()
	out := map[string]netip.AddrPort{}
	for i, n := range names {
		ip := fmt.Sprintf("127.0.9.%d", i+1)
		l, err := net.Listen("tcp", ip+":0")
		if err != nil {
			t.Fatal(err)
		}
		out[n] = l.Addr().(*net.TCPAddr).AddrPort()
		l.Close()
	}
	return out
}

func start(t *testing.T, name string, at map[string]netip.AddrPort, edit func(*Config)) *one {
	t.Helper()
	o := &one{refused: map[string]int{}}
	c := Config{Self: name, Fleet: "ours", Key: fleetKey, Bind: at[name], Others: map[string]netip.AddrPort{}, Logger: slog.New(slog.DiscardHandler), joinEvery: 50 * time.Millisecond,
		About:   Meta{Version: "v1", Site: "site of " + name, Lat: 52, Lon: 4, Processors: 2},
		Changed: func(string, State) {},
		Refused: func(reason, peer string, source netip.Addr, detail string) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.refused[reason+"|"+peer+"|"+source.String()]++
			if strings.Contains(detail, string(fleetKey)) {
				t.Errorf("key in %q", detail)
			}
		}}
	for n, a := range at {
		if n != name {
			c.Others[n] = a
		}
	}
	if edit != nil {
		edit(&c)
	}
	var err error
	if o.Gossip, err = New(c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	o.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run %s: %v", name, err)
		}
	})
	t.Cleanup(o.stop)
	return o
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

func TestMembersMeetAndLeave(t *testing.T) {
	at := places(t, "ams", "fra")
	ams, fra := start(t, "ams", at, nil), start(t, "fra", at, nil)
	wait(t, "both know each other", func() bool { return ams.State("fra").Presence == Alive && fra.State("ams").Presence == Alive })
	if m := ams.State("fra").Meta; m.Site != "site of fra" || m.Version != "v1" || m.Processors != 2 || m.Lat != 52 {
		t.Errorf("metadata %+v", m)
	}
	fra.stop()
	wait(t, "fra is gone", func() bool { return ams.State("fra").Presence == Gone })
	if len(ams.refused) != 0 {
		t.Errorf("refused %v", ams.refused)
	}
}

// Whoever is not of the fleet is refused with a reason, and nobody counts it as
// a member.
func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		edit       func(*Config)
	}{
		{"another key", RefuseKey + "||127.0.0.1", func(c *Config) { c.Key = sa.Key(strings.Repeat("x", 32)) }},
		{"another fleet", RefuseFleet + "||127.0.0.1", func(c *Config) { c.Fleet = "theirs" }},
		{"a name that is not ours", RefuseName + "|mallory|127.0.9.2", func(c *Config) { c.Self = "mallory" }},
		{"the name of another", RefuseAddress + "|lhr|127.0.9.2", func(c *Config) { c.Self = "lhr"; delete(c.Others, "lhr") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			at := places(t, "ams", "fra", "lhr")
			ams := start(t, "ams", at, nil)
			start(t, "fra", at, tt.edit)
			wait(t, "it is refused", func() bool { return ams.count(tt.want) > 0 })
			for _, n := range []string{"fra", "lhr", "mallory"} {
				if s := ams.State(n); s.Presence == Alive {
					t.Errorf("%s counts as %+v", n, s)
				}
			}
		})
	}
}

// Octets that no memberlist sends.
func TestMalformed(t *testing.T) {
	at := places(t, "ams")
	ams := start(t, "ams", at, nil)
	c, err := net.Dial("udp", at["ams"].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	wait(t, "rubbish is refused", func() bool {
		_, _ = c.Write([]byte{244, 200, 1}) // a label that is cut short
		_, _ = c.Write([]byte("hello"))     // no label
		return ams.count(RefuseMessage+"||127.0.0.1") > 0 && ams.count(RefuseFleet+"||127.0.0.1") > 0
	})
}

func TestBadConfig(t *testing.T) {
	at := places(t, "ams")
	good := Config{Self: "ams", Fleet: "f", Key: fleetKey, Bind: at["ams"], About: Meta{Version: "v1", Site: "s", Processors: 1}, Logger: slog.Default(),
		Refused: func(string, string, netip.Addr, string) {}, Changed: func(string, State) {}}
	for want, edit := range map[string]func(*Config){
		"missing":    func(c *Config) { c.Self = "" },
		"512":        func(c *Config) { c.About.Site = strings.Repeat("s", 600) },
		"identifier": func(c *Config) { c.Fleet = strings.Repeat("f", 300) },
	} {
		c := good
		edit(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q in it", err, want)
		}
	}
}

func FuzzMeta(f *testing.F) {
	f.Add([]byte(`{"v":1,"d":"v1","s":"amsterdam","la":52.3,"lo":4.9,"c":8}`))
	f.Add([]byte(`{"v":2}`))
	f.Add([]byte(`{"v":1,"d":"v1","s":"s","la":1e999}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decode(b)
		if err != nil {
			return
		}
		again, err := m.encode()
		if err != nil {
			return // unescaped by JSON, and so too long now
		}
		if n, err := decode(again); err != nil || n != m {
			t.Fatalf("%+v became %+v, %v", m, n, err)
		}
	})
}
