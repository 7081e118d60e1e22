package replica

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"iter"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/shadowcast/shadowcast/sa"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fleetCA issues certificates for tests.
type fleetCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newCA(t testing.TB) *fleetCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test fleet"}, IsCA: true,
		BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &fleetCA{cert, key, pool}
}

// issue returns the TLS configuration of an appliance, for both directions.
func (ca *fleetCA) issue(t testing.TB, names ...string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: names, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		RootCAs: ca.pool, ClientCAs: ca.pool, ClientAuth: tls.RequireAndVerifyClientCert}
}

// memSink keeps what it is sent. Batches are applied by a worker, so that done
// comes later than Apply, as with a real twin.
type memSink struct {
	mu      sync.Mutex
	docs    map[sa.Slot]map[string]Change
	digest  map[sa.Slot]*Digest
	samples map[sa.SPI]Sample
	configs []string
	owners  map[string]int // changes applied, by owner
	puts    int
	deletes int
	replays int
	begins  int
	ends    int
	delay   time.Duration // per batch
	fail    error         // of the next batch
	hold    chan struct{} // batches wait for it to close
	work    chan func()
	over    chan struct{}
}

func newSink(t testing.TB) *memSink {
	s := &memSink{docs: map[sa.Slot]map[string]Change{}, digest: map[sa.Slot]*Digest{}, samples: map[sa.SPI]Sample{},
		owners: map[string]int{}, work: make(chan func(), 10*maxOutstanding), over: make(chan struct{})}
	go func() {
		defer close(s.over)
		for f := range s.work {
			f()
		}
	}()
	t.Cleanup(func() { close(s.work); <-s.over })
	return s
}

func (s *memSink) slot(n sa.Slot) map[string]Change {
	if s.docs[n] == nil {
		s.docs[n], s.digest[n] = map[string]Change{}, &Digest{}
	}
	return s.docs[n]
}

func (s *memSink) Apply(b Batch, done func(error)) { s.work <- func() { done(s.apply(b)) } }

func (s *memSink) apply(b Batch) error {
	s.mu.Lock()
	delay, hold, fail := s.delay, s.hold, s.fail
	s.fail = nil
	s.mu.Unlock()
	if hold != nil {
		<-hold
	}
	time.Sleep(delay)
	if fail != nil {
		return fail
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	docs, d := s.slot(b.Slot), s.digest[b.Slot]
	for _, c := range b.Changes {
		s.owners[b.Owner]++
		if old, ok := docs[c.ID]; ok {
			d.Toggle(c.ID, old.Hash)
			delete(docs, c.ID)
		}
		if c.Delete {
			s.deletes++
			continue
		}
		s.puts++
		docs[c.ID] = c
		d.Toggle(c.ID, c.Hash)
	}
	for _, x := range b.Samples {
		s.samples[x.SPI] = x
	}
	if b.Replay {
		s.replays++
	}
	switch b.Boundary {
	case SnapshotBegin:
		s.begins++
	case SnapshotEnd:
		s.ends++
	}
	return nil
}

func (s *memSink) Inventory(n sa.Slot) (items []Item, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.slot(n) {
		items = append(items, c.Item)
	}
	return items, nil
}

func (s *memSink) Digest(n sa.Slot) (Digest, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	docs := s.slot(n)
	return *s.digest[n], len(docs)
}

func (s *memSink) Config(_ sa.Slot, owner, digest string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.configs = append(s.configs, owner+" "+digest)
}

func (s *memSink) Docs(n sa.Slot) iter.Seq[Change] {
	s.mu.Lock()
	all := make([]Change, 0, len(s.slot(n)))
	for _, c := range s.slot(n) {
		all = append(all, c)
	}
	s.mu.Unlock()
	return slices.Values(all)
}

// do runs f with the sink locked.
func (s *memSink) do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// seed puts sessions into the sink behind everybody's back.
func (s *memSink) seed(n sa.Slot, docs map[string]string) {
	s.do(func() {
		m, d := s.slot(n), s.digest[n]
		for id, doc := range docs {
			if old, ok := m[id]; ok {
				d.Toggle(id, old.Hash)
			}
			m[id] = Change{Item: Item{id, HashOf([]byte(doc))}, Doc: []byte(doc)}
			d.Toggle(id, m[id].Hash)
		}
	})
}

// content returns the sink's sessions of a slot as text.
func (s *memSink) content(n sa.Slot) map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := map[string]string{}
	for id, c := range s.slot(n) {
		m[id] = string(c.Doc)
	}
	return m
}

// node is one shadow: a receiver behind a TLS listener, which can be stopped and
// started again at the same address with the same memory.
type node struct {
	t    testing.TB
	name string
	cfg  *tls.Config
	rc   ReceiverConfig
	sink *memSink
	recv *Receiver
	addr netip.AddrPort
	srv  *grpc.Server
	done chan struct{}
	old  bool // speaks protocol version 1

	mu         sync.Mutex
	refused    map[string]int // by kind
	handshakes []error        // that failed
}

// refusals is how many of a kind there were.
func (n *node) refusals(kind string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.refused[kind]
}

var quiet = slog.New(slog.DiscardHandler)

func startNode(t testing.TB, ca *fleetCA, name string, edit ...func(*ReceiverConfig)) *node {
	t.Helper()
	n := &node{t: t, name: name, cfg: ca.issue(t, name), sink: newSink(t)}
	n.rc = ReceiverConfig{Self: name, Sink: n.sink, Logger: quiet,
		Authority: func(sa.Slot, string, sa.Ticket) error { return nil },
		OnRefused: func(x Refusal) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.refused[x.Kind]++
			if x.Source != netip.MustParseAddr("127.0.0.1") || x.Err == nil {
				t.Errorf("refusal %+v, want its source and error", x)
			}
		}}
	n.refused = map[string]int{}
	for _, f := range edit {
		f(&n.rc)
	}
	n.forget()
	n.start()
	t.Cleanup(func() { n.stop(); n.recv.Close() })
	return n
}

// forget replaces the receiver by one without memory.
func (n *node) forget() {
	if n.recv != nil {
		n.recv.Close()
	}
	var err error
	if n.recv, err = NewReceiver(n.rc); err != nil {
		n.t.Fatal(err)
	}
	for slot := range sa.Slot(10) {
		n.recv.SetReadiness(slot, true, "")
	}
}

func (n *node) start() {
	n.t.Helper()
	at := "127.0.0.1:0"
	if n.addr.IsValid() {
		at = n.addr.String()
	}
	var l net.Listener
	waitFor(n.t, "the listener", func() (ok bool) {
		var err error
		l, err = net.Listen("tcp", at)
		return err == nil
	})
	n.addr = l.Addr().(*net.TCPAddr).AddrPort()
	srv, err := NewServer(n.cfg, func(source netip.Addr, err error) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if source == netip.MustParseAddr("127.0.0.1") {
			n.handshakes = append(n.handshakes, err)
		}
	})
	if err != nil {
		n.t.Fatal(err)
	}
	if n.old {
		n.recv.Register(registrar{srv, n.recv})
	} else {
		n.recv.Register(srv)
	}
	n.srv, n.done = srv, make(chan struct{})
	done := n.done
	go func() { defer close(done); _ = srv.Serve(l) }()
}

func (n *node) stop() {
	if n.srv != nil {
		n.srv.Stop()
		<-n.done
		n.srv = nil
	}
}

func (n *node) shadow() Shadow { return Shadow{n.name, n.addr} }

// startPublisher runs a publisher until the test ends.
func startPublisher(t testing.TB, cfg *tls.Config, self string, edit ...func(*PublisherConfig)) *Publisher {
	t.Helper()
	pc := PublisherConfig{Slot: 1, Ticket: 1, Self: self, Incarnation: 1, Logger: quiet,
		TLS: func(string) *tls.Config { return cfg }, DigestEvery: 50 * time.Millisecond}
	for _, f := range edit {
		f(&pc)
	}
	p, err := NewPublisher(pc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return p
}

func setShadows(t testing.TB, p *Publisher, nodes ...*node) {
	t.Helper()
	var set []Shadow
	for _, n := range nodes {
		set = append(set, n.shadow())
	}
	if err := p.SetShadows(set); err != nil {
		t.Fatal(err)
	}
}

func put(t testing.TB, p *Publisher, id, doc string) {
	t.Helper()
	if err := p.Put(id, []byte(doc), HashOf([]byte(doc))); err != nil {
		t.Fatal(err)
	}
}

func flush(t testing.TB, p *Publisher, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := p.Flush(ctx, name); err != nil {
		t.Fatal(err)
	}
}

func statusOf(t testing.TB, p *Publisher, name string) ShadowStatus {
	t.Helper()
	for _, s := range p.Status() {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no shadow %s", name)
	return ShadowStatus{}
}

// waitFor polls until ok.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("did not happen: %s", what)
		}
	}
}

func waitReady(t testing.TB, p *Publisher, names ...string) {
	t.Helper()
	for _, n := range names {
		waitFor(t, n+" ready", func() bool { return statusOf(t, p, n).Ready })
	}
}

// same compares the sink with what it should hold.
func same(t testing.TB, s *memSink, n sa.Slot, want map[string]string) {
	t.Helper()
	got := s.content(n)
	if len(got) != len(want) {
		t.Fatalf("sink holds %d sessions, want %d", len(got), len(want))
	}
	for id, doc := range want {
		if got[id] != doc {
			t.Fatalf("session %s is %.40q, want %.40q", id, got[id], doc)
		}
	}
}

func sid(i int) string { return fmt.Sprintf("session-%06d", i) }
