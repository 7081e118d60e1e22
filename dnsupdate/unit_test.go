package dnsupdate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

const keyText = `# made for a test
key "fleet.example" { /* not a real one */
	algorithm hmac-sha256; // the default
	secret "c2VjcmV0IG9mIGEgdGVzdA==";
};
`

func TestReadKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "k")
	write := func(text string, mode os.FileMode) {
		t.Helper()
		os.Remove(file)
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write(keyText, 0o600)
	k, err := ReadKey(file)
	if err != nil || k.Name != "fleet.example." || k.Algorithm != dns.HmacSHA256 || k.secret != "c2VjcmV0IG9mIGEgdGVzdA==" {
		t.Fatalf("%v, %v", k, err)
	}
	for name, tc := range map[string]struct {
		text string
		mode os.FileMode
		want string
	}{
		"mode":       {keyText, 0o640, "has mode 0640, want 0600 or 0400"},
		"empty":      {"", 0o600, "no key statement"},
		"algorithm":  {strings.Replace(keyText, "sha256", "md5", 1), 0o600, "unknown algorithm, want hmac-sha224"},
		"secret":     {strings.Replace(keyText, "c2Vj", "?", 1), 0o600, "the secret is no base64"},
		"no secret":  {`key a { algorithm hmac-sha256; };`, 0o600, "algorithm or secret is missing"},
		"semicolon":  {`key a { algorithm hmac-sha256 secret "c2VjcmV0IG9mIGEgdGVzdA=="; };`, 0o600, "without its semicolon"},
		"end":        {`key a { algorithm hmac-sha256; secret "c2VjcmV0IG9mIGEgdGVzdA==";`, 0o600, "does not end"},
		"two":        {keyText + keyText, 0o600, "want one key"},
		"other":      {`key a { algorithm hmac-sha256; bits 5; };`, 0o600, "neither algorithm nor secret"},
		"no name":    {`key { algorithm hmac-sha256; };`, 0o600, "no key statement"},
		"odd name":   {`key "a..b" { algorithm hmac-sha256; };`, 0o600, "no domain name"},
		"no quote":   {`key "a { algorithm hmac-sha256; };`, 0o600, "no key statement"},
		"no comment": {`/* key a`, 0o600, "no key statement"},
	} {
		write(tc.text, tc.mode)
		if k, err := ReadKey(file); err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v, %v, want %q", name, k, err, tc.want)
		} else if strings.Contains(err.Error(), "VjcmV0") {
			t.Errorf("%s: the error shows the secret: %v", name, err)
		}
	}
	if _, err := ReadKey(file + "x"); err == nil {
		t.Error("read a key that is not there")
	}
}

func TestKeyNeverShows(t *testing.T) {
	k, err := parseKey(keyText)
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Key: k}
	js, err := json.Marshal(c.Key)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", k, "config", c)
	for _, s := range []string{fmt.Sprint(k), fmt.Sprintf("%+v %#v %s %q %x", c, c, k, k, k), string(js), log.String()} {
		if strings.Contains(s, "VjcmV0") || strings.Contains(s, "secret of") {
			t.Errorf("%s", s)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(keyText)
	f.Add(`key a{algorithm hmac-sha512;secret AAAA;}`)
	f.Add(`key "`)
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := parseKey(s); err == nil && (k.Name == "" || k.Algorithm == "" || k.secret == "") {
			t.Errorf("%q: %v", s, k)
		}
	})
}

func FuzzMarker(f *testing.F) {
	f.Add("shadowcast owner=ams ticket=3")
	f.Add("shadowcast owner= ticket=-1")
	f.Fuzz(func(t *testing.T, s string) {
		if m, ok := parseMarker(s); ok {
			if again, ok := parseMarker(m.String()); !ok || again != m {
				t.Errorf("%q: %v became %v", s, m, again)
			}
		}
	})
}

func txt(s string) *dns.TXT {
	return &dns.TXT{Hdr: header("ams.vpn.example.", dns.TypeTXT, 30), Txt: []string{s}}
}

func TestJudge(t *testing.T) {
	want := Record{Owner: "fra", Ticket: 5, Addresses: []netip.Addr{netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("2001:db8::2")}}
	has := func(texts []string, ttl uint32, addrs ...string) (f found) {
		var rrs []dns.RR
		for _, s := range texts {
			rrs = append(rrs, txt(s))
		}
		for _, a := range addrs {
			ip := netip.MustParseAddr(a)
			if ip.Is4() {
				rrs = append(rrs, &dns.A{Hdr: header("AMS.vpn.example.", dns.TypeA, ttl), A: ip.AsSlice()})
			} else {
				rrs = append(rrs, &dns.AAAA{Hdr: header("ams.vpn.example.", dns.TypeAAAA, ttl), AAAA: ip.AsSlice()})
			}
		}
		if err := f.take("ams.vpn.example.", rrs); err != nil {
			t.Fatal(err)
		}
		return f
	}
	mine := []string{"v=spf1 -all", "shadowcast owner=fra ticket=5"}
	for name, tc := range map[string]struct {
		f    found
		want verdict
	}{
		"nothing":           {found{}, publish},
		"mine":              {has(mine, 30, "2001:db8::2", "198.51.100.2"), upToDate},
		"mine, another TTL": {has(mine, 60, "2001:db8::2", "198.51.100.2"), publish},
		"mine, edited":      {has(mine, 30, "198.51.100.2"), publish},
		"foreign text":      {has([]string{"shadowcast owner=fra"}, 30, "198.51.100.2"), publish},
		"lower ticket":      {has([]string{"shadowcast owner=ams ticket=4"}, 30, "198.51.100.1"), publish},
		"higher ticket":     {has([]string{"shadowcast owner=ams ticket=6"}, 30, "198.51.100.1"), superseded},
		"several markers":   {has([]string{"shadowcast owner=ams ticket=6", "shadowcast owner=fra ticket=5"}, 30), superseded},
	} {
		if got := judge(tc.f, want, 30*time.Second); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
	var f found
	if err := f.take("ams.vpn.example.", []dns.RR{&dns.CNAME{Hdr: header("ams.vpn.example.", dns.TypeCNAME, 1), Target: "x."}}); !errors.Is(err, errCNAME) {
		t.Errorf("a CNAME is %v", err)
	}
}

// fakeServer answers in virtual time.
type fakeServer struct {
	mu      sync.Mutex
	f       found
	fail    error // of every exchange
	racers  int   // updates that lose
	updates int
	asked   []time.Time
}

func (s *fakeServer) ask(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	s.mu.Lock()
	s.asked = append(s.asked, time.Now())
	fail := s.fail
	s.mu.Unlock()
	if fail != nil {
		select {
		case <-time.After(2 * time.Second):
			return nil, fail
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := new(dns.Msg)
	r.SetReply(m)
	r.Authoritative = true
	if m.Opcode == dns.OpcodeQuery {
		if m.Question[0].Qtype == dns.TypeTXT {
			r.Answer = s.f.txt
		}
		return r, nil
	}
	if s.racers > 0 {
		s.racers--
		return nil, errChanged
	}
	s.updates++
	s.f = found{}
	for _, rr := range m.Ns {
		if x, ok := rr.(*dns.TXT); ok && rr.Header().Class == dns.ClassINET {
			s.f.txt = append(s.f.txt, x)
		}
	}
	return r, nil
}

// set changes the server.
func (s *fakeServer) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func runFake(t *testing.T, s *fakeServer) (*Updater, *[]Event) {
	t.Helper()
	evs := &[]Event{}
	u, err := New(Config{Server: "192.0.2.53:53", Zone: "vpn.example", TTL: 30 * time.Second, OnEvent: func(e Event) { *evs = append(*evs, e) }}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	u.ask = s.ask
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return u, evs
}

// TestBackOff: a server that hangs is asked less and less often, at least every 72 s;
// its failure is told once, and so is the success.
func TestBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{fail: errors.New("no answer")}
		u, evs := runFake(t, s)
		began := time.Now()
		u.Want(map[string]Record{"ams": {Owner: "ams", Ticket: 1}})
		if d := time.Since(began); d != 0 {
			t.Errorf("Want took %v while the server hangs", d)
		}
		time.Sleep(30 * time.Minute)
		synctest.Wait()
		var gaps []time.Duration
		for i := 1; i < len(s.asked); i++ {
			gaps = append(gaps, s.asked[i].Sub(s.asked[i-1])-2*time.Second)
		}
		for i, g := range gaps {
			lo := min(retryFirst<<min(i, 10), retryMost)
			if g < lo || g > lo+lo/5 {
				t.Errorf("try %d came %v after the last one, want %v to %v", i+2, g, lo, lo+lo/5)
			}
		}
		if len(gaps) < 20 {
			t.Errorf("%d tries in half an hour", len(gaps))
		}
		s.set(func() { s.fail = nil })
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if len(*evs) != 2 || (*evs)[0].Kind != Failed || (*evs)[1].Kind != Published || s.updates != 1 {
			t.Errorf("%d updates, events %+v", s.updates, *evs)
		}
		if st := u.Status(); len(st) != 1 || !st[0].Published || st[0].Name != "ams.vpn.example." {
			t.Errorf("status %+v", st)
		}
	})
}

// TestNewWishOvertakes: a wish that comes while the server hangs is tried at once after
// it, and the old one is forgotten.
func TestNewWishOvertakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{fail: errors.New("no answer")}
		u, _ := runFake(t, s)
		u.Want(map[string]Record{"ams": {Owner: "ams", Ticket: 1}})
		time.Sleep(10 * time.Minute) // the next try is a minute away
		s.set(func() { s.fail = nil })
		u.Want(map[string]Record{"ams": {Owner: "ams", Ticket: 7}})
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if st := u.Status(); !st[0].Published || st[0].Want.Ticket != 7 {
			t.Errorf("status %+v", st)
		}
		u.Want(nil)
		n := len(s.asked)
		time.Sleep(time.Hour)
		synctest.Wait()
		if len(s.asked) != n || len(u.Status()) != 0 {
			t.Errorf("asked %d times for a name that is not wanted", len(s.asked)-n)
		}
	})
}

// TestLostRaces: a race that is lost is run again at once, a few times.
func TestLostRaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{racers: conflicts - 1}
		u, evs := runFake(t, s)
		u.Want(map[string]Record{"ams": {Owner: "ams", Ticket: 1}})
		synctest.Wait()
		if s.updates != 1 || len(*evs) != 1 || (*evs)[0].Kind != Published {
			t.Errorf("%d updates, %+v", s.updates, *evs)
		}
		s.set(func() { s.racers, s.f = conflicts, found{} })
		u.Want(map[string]Record{"ams": {Owner: "ams", Ticket: 2}})
		synctest.Wait()
		if e := (*evs)[len(*evs)-1]; e.Kind != Failed || !strings.Contains(e.Reason, "somebody else has just changed") {
			t.Errorf("%+v", *evs)
		}
	})
}

// TestVerify: a name is looked at again and again, and mended when it was changed.
func TestVerify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{}
		u, evs := runFake(t, s)
		u.Want(map[string]Record{"ams": {Owner: "ams", Ticket: 3}})
		time.Sleep(time.Minute)
		s.set(func() { s.f = found{txt: []dns.RR{txt("shadowcast owner=fra ticket=9")}} })
		time.Sleep(verifyEvery)
		synctest.Wait()
		if e := (*evs)[len(*evs)-1]; e.Kind != Superseded {
			t.Errorf("%+v", *evs)
		}
		s.set(func() { s.f = found{} })
		time.Sleep(verifyEvery)
		synctest.Wait()
		if e := (*evs)[len(*evs)-1]; e.Kind != Published || s.updates != 2 {
			t.Errorf("%d updates, %+v", s.updates, *evs)
		}
	})
}

// TestHangs: a real connection that is taken and never answered costs one time-out a
// try and nothing else.
func TestHangs(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	k, err := parseKey(keyText)
	if err != nil {
		t.Fatal(err)
	}
	u, err := New(Config{Server: l.Addr().String(), Zone: "vpn.example", Key: k, TTL: time.Second, Timeout: 50 * time.Millisecond}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	u.Want(map[string]Record{"ams": {Owner: "ams", Ticket: 1}})
	for u.Status()[0].Problem == "" {
		time.Sleep(5 * time.Millisecond)
	}
	if p := u.Status()[0].Problem; !strings.Contains(p, "no answer") {
		t.Errorf("problem %q", p)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestUnsigned: an answer without a signature is no success.
func TestUnsigned(t *testing.T) {
	pc, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &dns.Server{Listener: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		m.Authoritative = true
		_ = w.WriteMsg(m)
	})}
	go srv.ActivateAndServe()
	defer srv.Shutdown()
	k, err := parseKey(keyText)
	if err != nil {
		t.Fatal(err)
	}
	u, err := New(Config{Server: pc.Addr().String(), Zone: "vpn.example", Key: k, TTL: time.Second}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.settle(t.Context(), "ams.vpn.example.", Record{Owner: "ams", Ticket: 1}); err == nil || !strings.Contains(err.Error(), "not signed") {
		t.Errorf("error %v", err)
	}
}

func TestNew(t *testing.T) {
	for want, c := range map[string]Config{
		`server "ns"`: {Server: "ns", Zone: "x", TTL: time.Second},
		`zone ""`:     {Server: "ns:53", TTL: time.Second},
		"ttl 1.5s":    {Server: "ns:53", Zone: "x", TTL: 1500 * time.Millisecond},
	} {
		if _, err := New(c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestQualify(t *testing.T) {
	u := &Updater{cfg: Config{Zone: "vpn.example."}}
	var got []string
	for _, n := range []string{"ams", "AMS.vpn.example.", "ams.vpn.example", "vpn.example", "ams.vpn.example.org"} {
		got = append(got, u.qualify(n))
	}
	if want := []string{"ams.vpn.example.", "ams.vpn.example.", "ams.vpn.example.", "vpn.example.", "ams.vpn.example.org.vpn.example."}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
