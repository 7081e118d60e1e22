package node

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/operator"
	"github.com/shadowcast/shadowcast/pki"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm/replica"
)

// docSink is a twin that only tells what it holds.
type docSink []replica.Change

func (s docSink) Apply(_ replica.Batch, done func(error))   { done(errNoShadow) }
func (s docSink) Inventory(sa.Slot) ([]replica.Item, error) { return nil, errNoShadow }
func (s docSink) Digest(sa.Slot) (replica.Digest, int)      { return replica.Digest{}, 0 }
func (s docSink) Config(_ sa.Slot, _, _ string)             {}
func (s docSink) Docs(sa.Slot) iter.Seq[replica.Change] {
	return func(yield func(replica.Change) bool) {
		for _, c := range s {
			if !yield(c) {
				return
			}
		}
	}
}

// shadowOf serves what it holds to ams, once it has heard of the claim by ticket 9.
func shadowOf(t *testing.T, id *pki.Identity, name string, knows func() bool, cs ...replica.Change) replica.Shadow {
	t.Helper()
	recv, err := replica.NewReceiver(replica.ReceiverConfig{Self: name, Sink: docSink(cs), PeerName: pki.PeerName, Legacy: legacy, Logger: slog.New(slog.DiscardHandler),
		Authority: func(n sa.Slot, owner string, ticket sa.Ticket) error {
			if owner != "ams" || ticket != 9 || !knows() {
				return errors.New("it does not shadow the slot for it yet")
			}
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := replica.NewServer(id.ServerTLS(nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	recv.Register(srv)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Stop(); <-done; recv.Close() })
	return replica.Shadow{Name: name, Addr: l.Addr().(*net.TCPAddr).AddrPort()}
}

// Over the wire: the one that answers counts, whoever does not know of the claim is asked
// again, and whoever is somebody else is not believed.
func TestFetchSessions(t *testing.T) {
	dir := t.TempDir()
	if _, err := pki.Init(dir, pki.Options{}); err != nil {
		t.Fatal(err)
	}
	ids := map[string]*pki.Identity{}
	for _, n := range []string{"ams", "fra", "lhr"} {
		if _, err := pki.Issue(dir, n, []netip.Addr{netip.MustParseAddr("127.0.0.1")}, pki.Options{Validity: time.Hour}); err != nil {
			t.Fatal(err)
		}
		id, err := pki.Load(pki.Files{CA: filepath.Join(dir, pki.CACertFile), Cert: filepath.Join(dir, n+".crt"), Key: filepath.Join(dir, n+".key")}, n)
		if err != nil {
			t.Fatal(err)
		}
		ids[n] = id
	}
	a := &Appliance{cfg: &config.Config{Node: "ams"}, log: slog.New(slog.DiscardHandler), identity: ids["ams"], incarnation: 1,
		events: &journal{log: operator.NewEvents("ams", 10, slog.New(slog.DiscardHandler))}}
	asked := 0
	fra := shadowOf(t, ids["fra"], "fra", func() bool { asked++; return asked > 2 }, changeOf(t, goldenDoc(t, 4)))
	lhr := shadowOf(t, ids["lhr"], "lhr", func() bool { return true }, changeOf(t, goldenDoc(t, 6)))
	another := shadowOf(t, ids["lhr"], "osl", func() bool { return true }, changeOf(t, goldenDoc(t, 99)))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var g errgroup.Group
	quick, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	got := gather(quick, 7, []replica.Shadow{fra, lhr}, a.fetcher(7, 9), g.Go)
	if len(got.docs) != 1 || got.docs[0].Rev != 6 || len(got.answered) != 2 || asked < 3 {
		t.Errorf("%d documents, answered %v, silent %v, asked %d times", len(got.docs), got.answered, got.silent, asked)
	}
	short, stop2 := context.WithTimeout(ctx, 500*time.Millisecond)
	defer stop2()
	if got := gather(short, 7, []replica.Shadow{another}, a.fetcher(7, 9), g.Go); len(got.docs) != 0 || len(got.silent) != 1 {
		t.Errorf("another appliance is believed: %d documents, answered %v", len(got.docs), got.answered)
	}
	lower, stop3 := context.WithTimeout(ctx, 500*time.Millisecond)
	defer stop3()
	if got := gather(lower, 7, []replica.Shadow{lhr}, a.fetcher(7, 8), g.Go); len(got.docs) != 0 || len(got.silent) != 1 {
		t.Errorf("a lower ticket is served: %d documents, silent %v", len(got.docs), got.silent)
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}
