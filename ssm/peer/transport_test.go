package peer

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/shadowcast/shadowcast/sa"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// logBuffer is a slog target that several goroutines may use.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start opens a transport on loopback and runs it until the test ends.
func start(t testing.TB, cfg Config) (*Transport, <-chan Inbound) {
	t.Helper()
	if !cfg.Listen.IsValid() {
		cfg.Listen = addrPort("127.0.0.1:0")
	}
	if cfg.FleetKey == nil {
		cfg.FleetKey = testKey
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	tr, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	in := make(chan Inbound, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- tr.Run(ctx, func(i Inbound) {
			i.Payload = bytes.Clone(i.Payload)
			select {
			case in <- i:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return tr, in
}

func peers(m map[string]*Transport) map[string]netip.AddrPort {
	a := map[string]netip.AddrPort{}
	for n, t := range m {
		a[n] = t.LocalAddr()
	}
	return a
}

func setPeers(t testing.TB, tr *Transport, m map[string]*Transport) {
	t.Helper()
	if err := tr.SetPeers(peers(m)); err != nil {
		t.Fatal(err)
	}
}

// sendUntil repeats a payload until it arrives.
func sendUntil(t testing.TB, from *Transport, to string, payload string, in <-chan Inbound) Inbound {
	t.Helper()
	limit := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := from.Send(to, 1, []byte(payload)); err != nil {
			t.Fatal(err)
		}
		select {
		case i := <-in:
			if string(i.Payload) == payload {
				return i
			}
		case <-tick.C:
		case <-limit:
			t.Fatalf("%q did not arrive", payload)
		}
	}
}

// wait polls until ok.
func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

func TestLoopback(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(listen, func(t *testing.T) {
			if c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addrPort(listen))); err != nil {
				t.Skip("no such loopback address: ", err)
			} else {
				c.Close()
			}
			ams, _ := start(t, Config{Self: "ams", Incarnation: 1, Listen: addrPort(listen)})
			fra, fraIn := start(t, Config{Self: "fra", Incarnation: 1, Listen: addrPort(listen)})
			setPeers(t, ams, map[string]*Transport{"fra": fra})
			setPeers(t, fra, map[string]*Transport{"ams": ams})
			in := sendUntil(t, ams, "fra", "hello", fraIn)
			if in.From != "ams" || in.Kind != 1 || in.Incarnation != 1 || !in.Restarted || in.Source != ams.LocalAddr() {
				t.Fatalf("inbound %+v", in)
			}
			for range 20 {
				sendUntil(t, ams, "fra", "a", fraIn)
				if err := fra.Send("ams", 1, nil); err != nil {
					t.Fatal(err)
				}
			}
			wait(t, "a round-trip sample", func() bool {
				s, ok := ams.Stats("fra")
				return ok && s.Samples > 5 && s.RTT > 0 && s.RTT < time.Second && s.Confirmed && s.Received > 0
			})
			if n := len(ams.All()); n != 1 {
				t.Fatalf("%d peers, want 1", n)
			}
		})
	}
}

func TestRestartAndOldIncarnation(t *testing.T) {
	ams, _ := start(t, Config{Self: "ams", Incarnation: 5})
	fra, fraIn := start(t, Config{Self: "fra", Incarnation: 1})
	setPeers(t, ams, map[string]*Transport{"fra": fra})
	setPeers(t, fra, map[string]*Transport{"ams": ams})
	sendUntil(t, ams, "fra", "first life", fraIn)
	again, _ := start(t, Config{Self: "ams", Incarnation: 6, Peers: map[string]netip.AddrPort{"fra": fra.LocalAddr()}})
	setPeers(t, fra, map[string]*Transport{"ams": again})
	in := sendUntil(t, again, "fra", "second life", fraIn)
	if in.Incarnation != 6 || !in.Restarted {
		t.Fatalf("inbound %+v", in)
	}
	if err := ams.Send("fra", 1, []byte("ghost")); err != nil {
		t.Fatal(err)
	}
	wait(t, "the old incarnation is refused", func() bool {
		s, _ := fra.Stats("ams")
		return s.Refused[ReasonOldIncarnation] > 0 && s.Refused.Map()["old incarnation"] > 0
	})
}

func TestStrangersAreCountedAndTold(t *testing.T) {
	var mu sync.Mutex
	told := map[string]int{}
	fra, in := start(t, Config{Self: "fra", Incarnation: 1, Refused: func(claimed string, source netip.AddrPort, r Reason) {
		mu.Lock()
		defer mu.Unlock()
		if source.Addr() == netip.MustParseAddr("127.0.0.1") {
			told[claimed+": "+r.String()]++
		}
	},
		Peers: map[string]netip.AddrPort{"ams": addrPort("127.0.0.1:9")}})
	to := map[string]netip.AddrPort{"fra": fra.LocalAddr()}
	stranger, _ := start(t, Config{Self: "mallory", Incarnation: 1, Peers: to})
	foreign, _ := start(t, Config{Self: "ams", Incarnation: 1, Peers: to, FleetKey: sa.Key(strings.Repeat("z", 32))})
	for _, tr := range []*Transport{stranger, foreign} {
		if err := tr.Send("fra", 1, nil); err != nil {
			t.Fatal(err)
		}
	}
	c, err := net.Dial("udp", fra.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, b := range [][]byte{{}, {9}, make([]byte, 4000), append([]byte{7, 1, 3, 0}, "................ams"...)} {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, "all are refused", func() bool {
		s, _ := fra.Stats("ams")
		st := fra.Stray()
		return s.Refused[ReasonAuthentication] == 1 && s.Refused[ReasonVersion] == 1 && s.Refused.Total() == 2 &&
			st[ReasonUnknownSender] == 1 && st[ReasonTruncated] == 2 && st[ReasonOversized] == 1
	})
	if len(in) != 0 {
		t.Fatal("something was handed on")
	}
	want := map[string]int{"mallory: unknown sender": 1, "ams: authentication": 1, "ams: version": 1, ": truncated": 2, ": oversized": 1}
	wait(t, "all are told of", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return maps.Equal(told, want)
	})
}

// The source address may change: what is authentic is the name.
func TestSourceMayDiffer(t *testing.T) {
	var logs logBuffer
	relay, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	fra, fraIn := start(t, Config{Self: "fra", Incarnation: 1, Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	ams, _ := start(t, Config{Self: "ams", Incarnation: 1, Peers: map[string]netip.AddrPort{"fra": fra.LocalAddr()}})
	setPeers(t, fra, map[string]*Transport{"ams": ams})
	sendUntil(t, ams, "fra", "direct", fraIn)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var b [2000]byte
		for {
			n, err := relay.Read(b[:])
			if err != nil {
				return
			}
			_, _ = relay.WriteToUDPAddrPort(b[:n], fra.LocalAddr())
		}
	}()
	defer func() { relay.Close(); <-done }()
	if err := ams.SetPeers(map[string]netip.AddrPort{"fra": relay.LocalAddr().(*net.UDPAddr).AddrPort()}); err != nil {
		t.Fatal(err)
	}
	in := sendUntil(t, ams, "fra", "relayed", fraIn)
	if in.Source != relay.LocalAddr().(*net.UDPAddr).AddrPort() {
		t.Fatalf("source %v", in.Source)
	}
	if !strings.Contains(logs.String(), "source address changed") {
		t.Fatalf("change not logged:\n%s", logs.String())
	}
}

func TestBadInput(t *testing.T) {
	good := func() Config {
		return Config{Self: "ams", Incarnation: 1, Listen: addrPort("127.0.0.1:0"), FleetKey: testKey,
			Peers: map[string]netip.AddrPort{"fra": addrPort("127.0.0.1:4511")}}
	}
	tests := []struct {
		want string
		edit func(*Config)
	}{
		{"own name", func(c *Config) { c.Self = "" }},
		{"printable", func(c *Config) { c.Self = "a b" }},
		{"64 octets", func(c *Config) { c.Self = strings.Repeat("x", 64) }},
		{"incarnation is 0", func(c *Config) { c.Incarnation = 0 }},
		{"fleet key", func(c *Config) { c.FleetKey = testKey[:31] }},
		{"is this appliance", func(c *Config) { c.Peers["ams"] = addrPort("127.0.0.1:1") }},
		{"no address", func(c *Config) { c.Peers["fra"] = netip.AddrPort{} }},
		{"no address", func(c *Config) { c.Peers["fra"] = addrPort("127.0.0.1:0") }},
		{"link-local", func(c *Config) { c.Peers["fra"] = addrPort("[fe80::1%lo]:1") }},
		{"is IPv6", func(c *Config) { c.Peers["fra"] = addrPort("[::1]:1") }},
		{"bind", func(c *Config) { c.Listen = addrPort("192.0.2.1:1") }},
	}
	for _, tt := range tests {
		t.Run(tt.want, func(t *testing.T) {
			c := good()
			tt.edit(&c)
			if tr, err := Open(c); err == nil {
				tr.Close()
				t.Fatal("accepted")
			} else if !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), string(testKey[:31])) {
				t.Fatalf("error %q, want it to say %q", err, tt.want)
			}
		})
	}
	tr, err := Open(good())
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	for what, err := range map[string]error{
		"kind 0":     tr.Send("fra", 0, nil),
		"oversized":  tr.Send("fra", 1, make([]byte, MaxPayload+1)),
		"not a peer": tr.Send("lhr", 1, nil),
	} {
		if err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	if err := tr.Close(); err != nil {
		t.Error(err)
	}
	if err := tr.Send("fra", 1, nil); err == nil {
		t.Error("sent over a closed socket")
	}
	if _, ok := tr.Stats("lhr"); ok {
		t.Error("stats of a stranger")
	}
}

// Many senders, restarts and changes of the peer set at once.
func TestStorm(t *testing.T) {
	hub, in := start(t, Config{Self: "hub", Incarnation: 1})
	all := map[string]*Transport{}
	for i := range 6 {
		name := fmt.Sprintf("p%d", i)
		all[name], _ = start(t, Config{Self: name, Incarnation: 1, Peers: map[string]netip.AddrPort{"hub": hub.LocalAddr()}})
	}
	setPeers(t, hub, all)
	var wg sync.WaitGroup
	for name, tr := range all {
		wg.Go(func() {
			for range 300 {
				if err := tr.Send("hub", 1, []byte(name)); err != nil {
					t.Error(err)
				}
				_ = hub.Send(name, 2, nil)
				_, _ = hub.Stats(name)
			}
		})
	}
	wg.Go(func() {
		for range 50 {
			_ = hub.SetPeers(peers(all))
			_ = hub.All()
		}
	})
	wg.Wait()
	for len(in) > 0 {
		if i := <-in; i.From != string(i.Payload) {
			t.Fatalf("%s arrived as from %s", i.Payload, i.From)
		}
	}
}

func BenchmarkSend(b *testing.B) {
	fra, _ := start(b, Config{Self: "fra", Incarnation: 1})
	ams, _ := start(b, Config{Self: "ams", Incarnation: 1, Peers: map[string]netip.AddrPort{"fra": fra.LocalAddr()}})
	payload := make([]byte, 400)
	b.ReportAllocs()
	for b.Loop() {
		if err := ams.Send("fra", 1, payload); err != nil {
			b.Fatal(err)
		}
	}
}
