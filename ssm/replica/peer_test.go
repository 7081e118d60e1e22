package replica

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	peerv1 "github.com/shadowcast/shadowcast/api/peer/v1"
	"github.com/shadowcast/shadowcast/pki"
)

// identity issues a certificate of the fleet in dir and loads it.
func identity(t *testing.T, dir, name string) *pki.Identity {
	t.Helper()
	if _, err := pki.Issue(dir, name, nil, pki.Options{}); err != nil {
		t.Fatal(err)
	}
	id, err := pki.Load(pki.Files{CA: filepath.Join(dir, pki.CACertFile), Cert: filepath.Join(dir, name+".crt"), Key: filepath.Join(dir, name+".key")}, name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// The certificates that the fleet really uses, both ways.
func TestFleetCertificates(t *testing.T) {
	home, foreign := t.TempDir(), t.TempDir()
	for _, dir := range []string{home, foreign} {
		if _, err := pki.Init(dir, pki.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	ams, fra, lhr, spy := identity(t, home, "ams"), identity(t, home, "fra"), identity(t, home, "lhr"), identity(t, foreign, "ams")
	n := startNode(t, newCA(t), "fra", func(c *ReceiverConfig) { c.PeerName = pki.PeerName })
	n.stop()
	n.cfg = fra.ServerTLS(nil)
	n.start()
	start := func(id *pki.Identity, self string) *Publisher {
		p := startPublisher(t, nil, self, func(c *PublisherConfig) { c.TLS, c.PeerName = id.ClientTLS, pki.PeerName })
		put(t, p, "of "+self, "doc")
		setShadows(t, p, n)
		p.Complete()
		return p
	}
	waitReady(t, start(ams, "ams"), "fra")
	for _, x := range []struct {
		id         *pki.Identity
		self, want string
	}{{spy, "ams", "refuse peer"}, {lhr, "ams", `certificate names "lhr"`}} {
		p := start(x.id, x.self)
		waitFor(t, x.want, func() bool { return strings.Contains(statusOf(t, p, "fra").Reason, x.want) })
	}
	same(t, n.sink, 1, map[string]string{"of ams": "doc"})
}

// pipe forwards TCP connections until it is frozen: then it keeps them open and
// reads nothing, as an appliance does whose processes are stopped.
type pipe struct {
	l      net.Listener
	mu     sync.Mutex
	frozen chan struct{} // nil while it flows; closed by thaw
	wg     sync.WaitGroup
	conns  []net.Conn
}

func newPipe(t *testing.T, to netip.AddrPort) *pipe {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &pipe{l: l}
	p.wg.Go(func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to.String())
			if err != nil {
				a.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, a, b)
			p.mu.Unlock()
			p.wg.Go(func() { p.copy(a, b) })
			p.wg.Go(func() { p.copy(b, a) })
		}
	})
	t.Cleanup(func() {
		p.thaw()
		l.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			c.Close()
		}
		p.mu.Unlock()
		p.wg.Wait()
	})
	return p
}

func (p *pipe) copy(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	var b [32 << 10]byte
	for {
		n, err := from.Read(b[:])
		p.mu.Lock()
		frozen := p.frozen
		p.mu.Unlock()
		if frozen != nil {
			<-frozen
		}
		if n > 0 {
			if _, werr := to.Write(b[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *pipe) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = make(chan struct{})
}

func (p *pipe) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen != nil {
		close(p.frozen)
		p.frozen = nil
	}
}

// A peer that neither answers nor closes: not ready at once, noticed after the
// keep-alive, never in the caller's way, and in step again when it is back.
func TestFrozenPeer(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the 13 s of gRPC's keep-alive")
	}
	ca := newCA(t)
	n := startNode(t, ca, "fra")
	way := newPipe(t, n.addr)
	p := startPublisher(t, ca.issue(t, "ams"), "ams", func(c *PublisherConfig) { c.MaxLag = 100 * time.Millisecond })
	if err := p.SetShadows([]Shadow{{"fra", way.l.Addr().(*net.TCPAddr).AddrPort()}}); err != nil {
		t.Fatal(err)
	}
	p.Complete()
	waitReady(t, p, "fra")
	way.freeze()
	doc := strings.Repeat("x", 5000)
	want := map[string]string{}
	for i := range 3000 {
		id := sid(i % 1000)
		want[id] = fmt.Sprint(doc, i)
		put(t, p, id, want[id]) // 15 MB: more than every buffer on the way
	}
	waitFor(t, "not ready", func() bool { return !statusOf(t, p, "fra").Ready })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := p.Flush(ctx, "fra"); err == nil {
		t.Fatal("flushed to a frozen peer")
	}
	for limit := time.Now().Add(time.Minute); statusOf(t, p, "fra").Connected; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatal("a frozen peer was not noticed")
		}
	}
	way.thaw()
	waitReady(t, p, "fra")
	same(t, n.sink, 1, want)
}

func TestServerNeedsVerifiedClients(t *testing.T) {
	for _, cfg := range []*tls.Config{nil, {}, {ClientAuth: tls.RequireAnyClientCert}, {ClientAuth: tls.VerifyClientCertIfGiven}} {
		if _, err := NewServer(cfg); err == nil {
			t.Errorf("accepted %v", cfg)
		}
	}
}

func TestGreetings(t *testing.T) {
	good := func() *peerv1.Hello {
		return &peerv1.Hello{ProtocolVersion: 1, MinProtocolVersion: 1, Slot: 1, Ticket: 2, Owner: "ams", Shadow: "fra", Incarnation: 3, Epoch: 4}
	}
	tests := []struct {
		want string // empty: accepted
		edit func(*peerv1.Hello)
	}{
		{"", func(*peerv1.Hello) {}},
		{"", func(h *peerv1.Hello) { h.ProtocolVersion = ProtocolVersion + 1 }}, // newer, but speaks ours
		{"owner speaks protocol versions 0 to 0", func(h *peerv1.Hello) { h.ProtocolVersion, h.MinProtocolVersion = 0, 0 }},
		{"owner speaks protocol versions 3 to 4", func(h *peerv1.Hello) { h.ProtocolVersion, h.MinProtocolVersion = 4, 3 }},
		{"owner speaks protocol versions 2 to 1", func(h *peerv1.Hello) { h.MinProtocolVersion = 2 }},
		{"slot 0", func(h *peerv1.Hello) { h.Slot = 0 }},
		{"slot 65537", func(h *peerv1.Hello) { h.Slot = 65537 }},
		{"ticket", func(h *peerv1.Hello) { h.Ticket = 0 }},
		{"incarnation", func(h *peerv1.Hello) { h.Incarnation = 0 }},
		{"epoch", func(h *peerv1.Hello) { h.Epoch = 0 }},
		{"no appliance name", func(h *peerv1.Hello) { h.Owner = strings.Repeat("x", 64) }},
		{"no appliance name", func(h *peerv1.Hello) { h.Owner = "a\nb" }},
		{"meant for", func(h *peerv1.Hello) { h.Shadow = "lhr" }},
		{"shadows itself", func(h *peerv1.Hello) { h.Owner = "fra" }},
	}
	for _, tt := range tests {
		h := good()
		tt.edit(h)
		_, err := readHello(h, "fra")
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%v: %v, want %q", h, err, tt.want)
		}
	}
	if _, err := readHello(nil, "fra"); err == nil {
		t.Error("no greeting accepted")
	}
}
