package registrar

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerv1 "github.com/shadowcast/shadowcast/api/peer/v1"
	"github.com/shadowcast/shadowcast/pki"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm/replica"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wired is a fleet's registrars over TLS on loopback.
type wired struct {
	t     *testing.T
	dir   string
	addrs map[string]netip.AddrPort
	ids   map[string]*pki.Identity
	regs  map[string]*Registrar
}

func identity(t *testing.T, dir, name string) *pki.Identity {
	t.Helper()
	if _, err := pki.Issue(dir, name, []netip.Addr{netip.MustParseAddr("127.0.0.1")}, pki.Options{}); err != nil {
		t.Fatal(err)
	}
	id, err := pki.Load(pki.Files{CA: filepath.Join(dir, pki.CACertFile), Cert: filepath.Join(dir, name+".crt"), Key: filepath.Join(dir, name+".key")}, name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (w *wired) peers(id *pki.Identity) *GRPC {
	g := NewGRPC(func(n string) (netip.AddrPort, bool) { a, ok := w.addrs[n]; return a, ok },
		func(n string) *tls.Config { return id.ClientTLS(n) }, replica.Dial)
	w.t.Cleanup(func() {
		if err := g.Close(); err != nil {
			w.t.Error(err)
		}
	})
	return g
}

func wire(t *testing.T, names ...string) *wired {
	t.Helper()
	w := &wired{t: t, dir: t.TempDir(), addrs: map[string]netip.AddrPort{}, ids: map[string]*pki.Identity{}, regs: map[string]*Registrar{}}
	if _, err := pki.Init(w.dir, pki.Options{}); err != nil {
		t.Fatal(err)
	}
	listeners := map[string]net.Listener{}
	for _, n := range names {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners[n], w.addrs[n] = l, netip.MustParseAddrPort(l.Addr().String())
		w.ids[n] = identity(t, w.dir, n)
	}
	for _, n := range names {
		r, err := New(Config{Self: n, Dir: filepath.Join(w.dir, "log-"+n), Listed: names, Appliances: names, Peers: w.peers(w.ids[n]), Logger: slog.New(slog.DiscardHandler),
			Seen:   func(context.Context) (map[sa.Slot]sa.Ticket, error) { return nil, nil },
			Timing: Timing{Heartbeat: 200 * time.Millisecond, noSync: true}})
		if err != nil {
			t.Fatal(err)
		}
		srv, err := replica.NewServer(w.ids[n].ServerTLS(nil), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Register(srv, func(ctx context.Context) (string, error) { return replica.NameOf(ctx, pki.PeerName) })
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 2)
		go func() { done <- r.Run(ctx) }()
		go func() { done <- srv.Serve(listeners[n]) }()
		t.Cleanup(func() {
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
			srv.Stop()
			<-done
		})
		w.regs[n] = r
	}
	return w
}

func (w *wired) issue(at string, id uint64) sa.Ticket {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		got, err := w.regs[at].Issue(w.t.Context(), Issue{Slot: 9, Node: at, Incarnation: 1, ID: id})
		if err == nil {
			return got
		}
		if time.Now().After(end) {
			w.t.Fatalf("%s gets no ticket: %v", at, err)
		}
	}
}

func TestOverTLS(t *testing.T) {
	w := wire(t, three...)
	var last sa.Ticket
	for i, n := range append(three, three...) {
		got := w.issue(n, uint64(i+1))
		if got <= last {
			t.Fatalf("%s got ticket %d after %d", n, got, last)
		}
		last = got
	}
	// A follower learns with the next heartbeat that the last entry is committed.
	g := w.peers(w.ids["ams"])
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		d, err := g.Describe(t.Context(), "fra")
		if err == nil && d.Node == "fra" && len(d.Members) == 3 && d.Founded && d.Seen[9] == last {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("fra describes %+v, %v; want 3 members and ticket %d", d, err, last)
		}
	}

	t.Run("refusals", func(t *testing.T) {
		g := w.peers(w.ids["ams"])
		ams, fra := w.regs["ams"].current().store.member, w.regs["fra"].current().store.member
		lost := Member{"fra", "00000000000000ff"}
		_, err := g.Raft(t.Context(), lost, ams)
		if status.Code(errors.Unwrap(err)) != codes.FailedPrecondition || !strings.Contains(err.Error(), "the log of fra is "+fra.String()+": another disk") {
			t.Errorf("stream to a lost log: %v", err)
		}
		_, err = g.Raft(t.Context(), fra, Member{"lhr", ams.Number})
		if err == nil || !strings.Contains(err.Error(), `certificate names "ams", but the member calls itself lhr/`) {
			t.Errorf("stream in another's name: %v", err)
		}
		var no *Refused
		_, err = g.Issue(t.Context(), "fra", Issue{Slot: 9, Node: "ams", Incarnation: 1, ID: 77, Floor: 1 << 40}, false)
		if !errors.As(err, &no) || !strings.Contains(err.Error(), "implausible") {
			t.Errorf("a member that lies about its ticket: %v", err)
		}
		_, err = g.Issue(t.Context(), "fra", Issue{Slot: 4095, Incarnation: 1, ID: 78}, false)
		if !errors.As(err, &no) || !strings.Contains(err.Error(), `appliance ""`) {
			t.Errorf("nameless request: %v", err)
		}
		if got := w.issue("lhr", 99); got != last+1 {
			t.Errorf("ticket %d after refusals, want %d", got, last+1)
		}
	})
	t.Run("another fleet", func(t *testing.T) {
		dir := t.TempDir()
		if _, err := pki.Init(dir, pki.Options{}); err != nil {
			t.Fatal(err)
		}
		stranger := identity(t, dir, "ams")
		// It takes any server, so that only the registrar's refusal is seen.
		g := NewGRPC(func(n string) (netip.AddrPort, bool) { a, ok := w.addrs[n]; return a, ok }, func(n string) *tls.Config {
			c := stranger.ClientTLS(n)
			c.VerifyConnection = nil
			return c
		}, replica.Dial)
		defer g.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if got, err := g.Issue(ctx, "fra", Issue{Slot: 9, Node: "ams", Incarnation: 1, ID: 100}, false); err == nil {
			t.Errorf("an appliance of another fleet got ticket %d", got)
		}
		fra := w.regs["fra"].current().store.member
		if c, err := g.Raft(ctx, fra, w.regs["ams"].current().store.member); err == nil {
			c.Close()
			t.Error("an appliance of another fleet joined the ticket log")
		}
	})
}

func FuzzDescription(f *testing.F) {
	f.Add("fra", "fra/0123456789abcdef", "ams/0123456789abcdef", "lhr/0123456789abcdef", uint32(1), uint64(7))
	f.Fuzz(func(t *testing.T, node, member, leader, one string, slot uint32, ticket uint64) {
		d, err := fromDescription(&peerv1.RegistrarDescription{Node: node, Member: member, Leader: leader, Members: []string{one}, Seen: map[uint32]uint64{slot: ticket}})
		if err != nil {
			return
		}
		for n := range d.Seen {
			if !n.Valid() {
				t.Fatalf("slot %d was read", n)
			}
		}
		for _, m := range append(d.Members, d.Member, d.Leader) {
			if m == (Member{}) {
				continue
			}
			if again, err := ParseMember(m.String()); err != nil || again != m {
				t.Fatalf("member %q was read as %v, %v", m, again, err)
			}
		}
	})
}
