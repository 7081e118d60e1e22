package replica

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

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
	// A spy that accepts every server gets as far as showing its certificate.
	for want, cfg := range map[string]*tls.Config{"certificate of another fleet": spy.ClientTLS("fra"), "it refuses us": spy.ClientTLS("fra")} {
		if want != "it refuses us" {
			cfg.VerifyConnection = nil
		}
		conn, err := tls.Dial("tcp", n.addr.String(), cfg)
		if err == nil {
			_, _ = conn.Read(make([]byte, 1)) // TLS 1.3: the refusal comes after the client's handshake
			conn.Close()
		}
		waitFor(t, want, func() bool {
			n.mu.Lock()
			defer n.mu.Unlock()
			return slices.ContainsFunc(n.handshakes, func(err error) bool { return pki.Refusal(err) == want })
		})
	}
}

// Whoever answers at a shadow's address must be it.
func TestShadowWithAnotherCertificate(t *testing.T) {
	home, foreign := t.TempDir(), t.TempDir()
	for _, dir := range []string{home, foreign} {
		if _, err := pki.Init(dir, pki.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	ams := identity(t, home, "ams")
	for _, x := range []struct {
		id   *pki.Identity
		want string
	}{{identity(t, foreign, "fra"), "certificate of another fleet"}, {identity(t, home, "lhr"), "wrong name"}} {
		n := startNode(t, newCA(t), "fra", func(c *ReceiverConfig) { c.PeerName = pki.PeerName })
		n.stop()
		n.cfg = x.id.ServerTLS(nil)
		n.start()
		told := make(chan string, 1)
		p := startPublisher(t, nil, "ams", func(c *PublisherConfig) {
			c.TLS, c.PeerName = ams.ClientTLS, pki.PeerName
			c.HandshakeFailed = func(shadow string, source netip.Addr, err error) {
				select {
				case told <- shadow + " " + source.String() + " " + pki.Refusal(err):
				default:
				}
			}
		})
		put(t, p, "s", "doc")
		setShadows(t, p, n)
		p.Complete()
		if got := <-told; got != "fra 127.0.0.1 "+x.want {
			t.Errorf("told of %q, want %q", got, x.want)
		}
	}
}

// rawStream opens a stream to n without the checks of a Publisher. put changes
// what goes out.
func rawStream(t *testing.T, ca *fleetCA, n *node, put func([]byte) []byte) peerv1.Replica_ShadowClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+n.addr.String(), grpc.WithTransportCredentials(credentials.NewTLS(clientConfig(ca.issue(t, "ams"), n.name))),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{put})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	stream, err := peerv1.NewReplicaClient(conn).Shadow(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func clientConfig(c *tls.Config, server string) *tls.Config {
	c.ServerName = server
	return c
}

// rawCodec sends what put makes of a message.
type rawCodec struct{ put func([]byte) []byte }

func (c rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, err := proto.Marshal(v.(proto.Message))
	return mem.BufferSlice{mem.SliceBuffer(c.put(b))}, err
}

func (c rawCodec) Unmarshal(b mem.BufferSlice, v any) error {
	return proto.Unmarshal(b.Materialize(), v.(proto.Message))
}

func (c rawCodec) Name() string { return "proto" }

// Greetings and messages that no Publisher sends.
func TestRefusedMessages(t *testing.T) {
	ca := newCA(t)
	n := startNode(t, ca, "fra")
	hello := func(edit func(*peerv1.Hello)) *peerv1.ToShadow {
		h := &peerv1.Hello{ProtocolVersion: ProtocolVersion, MinProtocolVersion: MinProtocolVersion, Slot: 1, Ticket: 5, Owner: "ams", Shadow: "fra", Incarnation: 1, Epoch: 1}
		edit(h)
		return &peerv1.ToShadow{Kind: &peerv1.ToShadow_Hello{Hello: h}}
	}
	none := func(*peerv1.Hello) {}
	whole := func(b []byte) []byte { return b }
	for _, tt := range []struct {
		name, want string
		first      *peerv1.ToShadow
		put        func([]byte) []byte
		then       *peerv1.ToShadow
	}{
		{"protocol of the past", KindVersion, hello(func(h *peerv1.Hello) { h.ProtocolVersion, h.MinProtocolVersion = 0, 0 }), whole, nil},
		{"protocol of the future", KindVersion, hello(func(h *peerv1.Hello) { h.ProtocolVersion, h.MinProtocolVersion = 99, 98 }), whole, nil},
		{"meant for another", KindName, hello(func(h *peerv1.Hello) { h.Shadow = "lhr" }), whole, nil},
		{"no ticket", KindGreeting, hello(func(h *peerv1.Hello) { h.Ticket = 0 }), whole, nil},
		{"cut short", KindMalformed, hello(none), func(b []byte) []byte { return b[:len(b)-1] }, nil},
		{"too long", KindOversized, hello(none), func([]byte) []byte { return make([]byte, maxMessage+1) }, nil},
		{"a second greeting", KindMalformed, hello(none), whole, hello(none)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := n.refusals(tt.want)
			stream := rawStream(t, ca, n, tt.put)
			if err := stream.Send(tt.first); err != nil {
				t.Fatal(err)
			}
			if tt.then != nil {
				if err := stream.Send(tt.then); err != nil {
					t.Fatal(err)
				}
			}
			for {
				if _, err := stream.Recv(); err != nil {
					break
				}
			}
			if n.refusals(tt.want) == before {
				t.Errorf("not told of as %q: %v", tt.want, n.refused)
			}
		})
	}
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
		if _, err := NewServer(cfg, nil); err == nil {
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

// Who was away for long is found soon after it is back.
func TestTriesAgainSoon(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tries := make(chan struct{}, 1000)
	go func() { // until l is closed
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			tries <- struct{}{}
			c.Close()
		}
	}()
	conn, err := Dial("fra", netip.MustParseAddrPort(l.Addr().String()), newCA(t).issue(t, "ams"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// gRPC's own back-off makes eight tries in three quarters of a minute.
	end, call := time.After(30*time.Second), time.NewTicker(50*time.Millisecond)
	defer call.Stop()
	for n := 0; n < 8; {
		select {
		case <-tries:
			n++
		case <-call.C:
			conn.Connect()
		case <-end:
			t.Fatalf("%d tries in 30 s, want 8 in about 9 s", n)
		}
	}
}
