package replica

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

func TestThreeShadows(t *testing.T) {
	ca := newCA(t)
	nodes := []*node{startNode(t, ca, "fra"), startNode(t, ca, "lhr"), startNode(t, ca, "nyc")}
	p := startPublisher(t, ca.issue(t, "ams"), "ams")
	want := map[string]string{}
	for i := range 500 {
		want[sid(i)] = fmt.Sprint("doc ", i)
		put(t, p, sid(i), want[sid(i)])
	}
	setShadows(t, p, nodes...)
	if err := p.SetConfig("abc"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // room for a mistake: nothing may be dialled yet
	for _, n := range nodes {
		if s := statusOf(t, p, n.name); s.Connects != 0 || s.Ready {
			t.Fatalf("dialled before Complete: %+v", s)
		}
	}
	p.Complete()
	waitReady(t, p, "fra", "lhr", "nyc")
	for i := range 100 {
		p.Delete(sid(i))
		delete(want, sid(i))
	}
	for i := 200; i < 300; i++ {
		want[sid(i)] = fmt.Sprint("new doc ", i)
		put(t, p, sid(i), want[sid(i)])
	}
	p.Replay([]Sample{
		{Session: sid(200), SPI: 0x100001, Dst: netip.MustParseAddr("192.0.2.1"), OutSeq: 7, InSeq: 1<<32 | 9, Window: 64, Bitmap: []uint32{1, 2}, ESNVal: true},
		{SPI: 0x100002, Dst: netip.MustParseAddr("2001:db8::1"), InSeq: 3},
	})
	for _, n := range nodes {
		flush(t, p, n.name)
		same(t, n.sink, 1, want)
		n.sink.do(func() {
			x, y := n.sink.samples[0x100001], n.sink.samples[0x100002]
			if x.InSeq != 1<<32|9 || x.OutSeq != 7 || !x.ESNVal || len(x.Bitmap) != 2 || x.Dst.String() != "192.0.2.1" || y.Dst.String() != "2001:db8::1" {
				t.Fatalf("samples %+v %+v", x, y)
			}
			if len(n.sink.configs) == 0 || n.sink.configs[0] != "ams abc" {
				t.Fatalf("configuration digests %q", n.sink.configs)
			}
		})
		s := statusOf(t, p, n.name)
		if s.Lag != 0 || s.OldestAge != 0 || s.SampleAge < 0 || s.Sessions != 400 || s.LastAck.IsZero() || s.Bytes == 0 {
			t.Fatalf("status %+v", s)
		}
		if r := n.recv.Status(1); !r.Connected || r.Owner != "ams" || r.Syncing || r.Highest != 1 || r.Sampled.IsZero() {
			t.Fatalf("receiver %+v", r)
		}
	}
	waitReady(t, p, "fra", "lhr", "nyc")
	if s := statusOf(t, p, "fra"); s.Repairs != 0 || s.Snapshots != 1 {
		t.Fatalf("status %+v", s)
	}
}

func TestResumeSendsOnlyWhatChanged(t *testing.T) {
	ca := newCA(t)
	n := startNode(t, ca, "fra")
	p := startPublisher(t, ca.issue(t, "ams"), "ams")
	want := map[string]string{}
	for i := range 1000 {
		want[sid(i)] = "old"
		put(t, p, sid(i), "old")
	}
	setShadows(t, p, n)
	p.Complete()
	waitReady(t, p, "fra")
	n.stop()
	waitFor(t, "disconnected", func() bool { return !statusOf(t, p, "fra").Connected })
	for range 5 {
		for i := range 10 {
			want[sid(i)] = "new"
			put(t, p, sid(i), "interim")
			put(t, p, sid(i), "new")
		}
	}
	p.Delete(sid(20))
	delete(want, sid(20))
	if s := statusOf(t, p, "fra"); s.Lag != 11 || s.Ready {
		t.Fatalf("lag %d, want 11", s.Lag)
	}
	var before int
	n.sink.do(func() { before = n.sink.puts })
	n.start()
	waitReady(t, p, "fra")
	same(t, n.sink, 1, want)
	n.sink.do(func() {
		if n.sink.puts-before != 10 || n.sink.deletes != 1 || n.sink.begins != 1 {
			t.Fatalf("%d puts, %d deletes, %d snapshots; want 10, 1, 1", n.sink.puts-before, n.sink.deletes, n.sink.begins)
		}
	})
}

func TestSnapshotByDifference(t *testing.T) {
	ca := newCA(t)
	n := startNode(t, ca, "fra")
	stale := map[string]string{}
	for i := range 5000 {
		stale[sid(i)] = "same"
	}
	stale[sid(1)], stale["stray-1"], stale["stray-2"] = "old", "x", "y"
	n.sink.seed(1, stale)
	n.sink.seed(2, map[string]string{"other slot": "kept"})
	p := startPublisher(t, ca.issue(t, "ams"), "ams")
	want := map[string]string{}
	for i := range 5001 {
		want[sid(i)] = "same"
		put(t, p, sid(i), "same")
	}
	setShadows(t, p, n)
	p.Complete()
	waitReady(t, p, "fra")
	same(t, n.sink, 1, want)
	same(t, n.sink, 2, map[string]string{"other slot": "kept"})
	n.sink.do(func() {
		if n.sink.puts != 2 || n.sink.deletes != 2 || n.sink.begins != 1 || n.sink.ends != 1 {
			t.Fatalf("%d puts, %d deletes, want 2 and 2", n.sink.puts, n.sink.deletes)
		}
	})
	// A shadow that lost its memory but kept its sessions is compared again.
	n.stop()
	n.forget()
	n.start()
	waitFor(t, "second snapshot", func() bool { return statusOf(t, p, "fra").Snapshots == 2 })
	waitReady(t, p, "fra")
	n.sink.do(func() {
		if n.sink.puts != 2 {
			t.Fatalf("%d puts, want 2", n.sink.puts)
		}
	})
}

// A Sink that changed behind the protocol's back is found by the digest.
func TestDivergenceIsRepaired(t *testing.T) {
	ca := newCA(t)
	n := startNode(t, ca, "fra")
	p := startPublisher(t, ca.issue(t, "ams"), "ams")
	want := map[string]string{}
	for i := range 100 {
		want[sid(i)] = "doc"
		put(t, p, sid(i), "doc")
	}
	setShadows(t, p, n)
	p.Complete()
	waitReady(t, p, "fra")
	n.sink.seed(1, map[string]string{sid(3): "corrupted", "ghost": "x"})
	waitFor(t, "repair", func() bool { return statusOf(t, p, "fra").Repairs > 0 })
	waitReady(t, p, "fra")
	same(t, n.sink, 1, want)
}

func TestTombstonesRunOut(t *testing.T) {
	ca := newCA(t)
	n := startNode(t, ca, "fra")
	p := startPublisher(t, ca.issue(t, "ams"), "ams", func(c *PublisherConfig) { c.MaxDeleted = 10 })
	for i := range 100 {
		put(t, p, sid(i), "doc")
	}
	setShadows(t, p, n)
	p.Complete()
	waitReady(t, p, "fra")
	n.stop()
	waitFor(t, "disconnected", func() bool { return !statusOf(t, p, "fra").Connected })
	for i := range 50 {
		p.Delete(sid(i))
	}
	p.mu.Lock()
	entries, length := len(p.state.entries), p.state.length
	p.mu.Unlock()
	if entries != 60 || length != 60 {
		t.Fatalf("%d entries, %d in order, want 60: 50 sessions and 10 tombstones", entries, length)
	}
	n.start()
	waitReady(t, p, "fra")
	want := map[string]string{}
	for i := 50; i < 100; i++ {
		want[sid(i)] = "doc"
	}
	same(t, n.sink, 1, want)
	if s := statusOf(t, p, "fra"); s.Snapshots != 2 || s.Repairs != 0 {
		t.Fatalf("status %+v", s)
	}
}

func TestSelection(t *testing.T) {
	ca := newCA(t)
	fra, lhr := startNode(t, ca, "fra"), startNode(t, ca, "lhr")
	var mu sync.Mutex
	premium := map[string]bool{sid(0): true}
	p := startPublisher(t, ca.issue(t, "ams"), "ams", func(c *PublisherConfig) {
		c.Select = func(id, shadow string) bool {
			mu.Lock()
			defer mu.Unlock()
			return shadow == "fra" || premium[id]
		}
	})
	for i := range 10 {
		put(t, p, sid(i), "doc")
	}
	setShadows(t, p, fra, lhr)
	p.Complete()
	waitReady(t, p, "fra", "lhr")
	if n := len(lhr.sink.content(1)); n != 1 {
		t.Fatalf("lhr holds %d, want 1", n)
	}
	mu.Lock()
	premium = map[string]bool{sid(1): true, sid(2): true}
	mu.Unlock()
	p.Reselect()
	flush(t, p, "fra")
	flush(t, p, "lhr")
	same(t, lhr.sink, 1, map[string]string{sid(1): "doc", sid(2): "doc"})
	lhr.sink.do(func() {
		if lhr.sink.deletes != 1 {
			t.Fatalf("%d deletes, want 1", lhr.sink.deletes)
		}
	})
	// Changes that are not for lhr must not make it lag.
	for i := 3; i < 10; i++ {
		put(t, p, sid(i), "more")
	}
	flush(t, p, "lhr")
	waitReady(t, p, "fra", "lhr")
	for _, x := range []struct {
		n    *node
		want int
	}{{fra, 10}, {lhr, 2}} {
		if s := statusOf(t, p, x.n.name); s.Sessions != x.want || s.Repairs != 0 || len(x.n.sink.content(1)) != x.want {
			t.Fatalf("%s: %+v", x.n.name, s)
		}
	}
	// A shadow that leaves and returns is compared anew.
	setShadows(t, p, fra)
	p.Delete(sid(1))
	setShadows(t, p, fra, lhr)
	waitReady(t, p, "lhr")
	same(t, lhr.sink, 1, map[string]string{sid(2): "doc"})
}

func TestRefusedOwners(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	n := startNode(t, ca, "fra", func(c *ReceiverConfig) {
		c.Authority = func(_ sa.Slot, owner string, _ sa.Ticket) error {
			if owner == "outsider" {
				return errors.New("not a member of slot 1")
			}
			return nil
		}
	})
	n.recv.Raise(1, 50, "lhr")
	n.recv.SetReadiness(1, true, "")
	tests := []struct {
		name, self string
		cfg        *tls.Config
		edit       func(*PublisherConfig)
		want       string
		counted    string
	}{
		{"lower ticket", "ams", ca.issue(t, "ams"), func(c *PublisherConfig) { c.Ticket = 49 }, "held by lhr with ticket 50", "superseded"},
		{"ticket of another", "ams", ca.issue(t, "ams"), func(c *PublisherConfig) { c.Ticket = 50 }, "belongs to lhr", "ticket of another"},
		{"no authority", "outsider", ca.issue(t, "outsider"), func(c *PublisherConfig) { c.Ticket = 60 }, "not a member of slot 1", "authority"},
		{"wrong name", "lhr", ca.issue(t, "ams"), func(c *PublisherConfig) { c.Ticket = 60 }, `certificate names "ams"`, KindName},
		{"several names", "lhr", ca.issue(t, "lhr", "ams"), func(c *PublisherConfig) { c.Ticket = 60 }, "2 DNS names", KindName},
		{"shadows itself", "fra2", ca.issue(t, "fra2"), func(c *PublisherConfig) { c.Self = "fra2"; c.Slot = 0 }, "", ""},
		{"other fleet", "ams", other.issue(t, "ams"), func(c *PublisherConfig) { c.Ticket = 60 }, "certificate", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pc := PublisherConfig{Slot: 1, Ticket: 1, Self: tt.self, Incarnation: 1, TLS: func(string) *tls.Config { return tt.cfg }}
			tt.edit(&pc)
			if tt.want == "" {
				if _, err := NewPublisher(pc); err == nil {
					t.Fatal("accepted")
				}
				return
			}
			superseded := make(chan sa.Ticket, 1)
			p := startPublisher(t, tt.cfg, tt.self, func(c *PublisherConfig) {
				*c = pc
				c.Logger = quiet
				c.OnSuperseded = func(shadow string, ticket sa.Ticket, owner string) {
					if shadow != "fra" || owner != "lhr" {
						t.Errorf("superseded at %s by %s", shadow, owner)
					}
					superseded <- ticket
				}
			})
			put(t, p, "s", "doc")
			setShadows(t, p, n)
			before := n.refusals(tt.counted)
			p.Complete()
			waitFor(t, "refusal", func() bool { return strings.Contains(statusOf(t, p, "fra").Reason, tt.want) })
			if tt.counted != "" && n.refusals(tt.counted) == before {
				t.Errorf("not told of as %q", tt.counted)
			}
			if s := statusOf(t, p, "fra"); s.Connected || s.Ready || s.Connects != 0 {
				t.Errorf("status %+v", s)
			}
			if tt.name == "lower ticket" {
				if got := <-superseded; got != 50 || statusOf(t, p, "fra").Superseded != 50 {
					t.Errorf("superseded by %d, want 50", got)
				}
			}
		})
	}
	if len(n.sink.content(1)) != 0 {
		t.Fatal("a refused owner's session arrived")
	}
}

// The shadow at the address must be the one that was meant.
func TestWrongShadow(t *testing.T) {
	ca := newCA(t)
	n := startNode(t, ca, "lhr")
	p := startPublisher(t, ca.issue(t, "ams"), "ams")
	if err := p.SetShadows([]Shadow{{"fra", n.addr}}); err != nil {
		t.Fatal(err)
	}
	p.Complete()
	waitFor(t, "refusal", func() bool { return strings.Contains(statusOf(t, p, "fra").Reason, "not fra") })
	// Nor does a certificate check that is laxer than ours help it.
	lax := ca.issue(t, "ams")
	lax.InsecureSkipVerify = true
	p = startPublisher(t, lax, "ams")
	if err := p.SetShadows([]Shadow{{"fra", n.addr}}); err != nil {
		t.Fatal(err)
	}
	p.Complete()
	waitFor(t, "refusal", func() bool { return strings.Contains(statusOf(t, p, "fra").Reason, "stream is meant for") })
}

// A takeover: the new owner's stream cuts the old one's, whose later changes do
// not arrive.
func TestHigherTicketCutsTheOldOwner(t *testing.T) {
	ca := newCA(t)
	n := startNode(t, ca, "fra")
	old := startPublisher(t, ca.issue(t, "ams"), "ams")
	for i := range 100 {
		put(t, old, sid(i), "of ams")
	}
	setShadows(t, old, n)
	old.Complete()
	waitReady(t, old, "fra")
	for _, way := range []string{"claim", "stream"} {
		t.Run(way, func(t *testing.T) {
			ticket := sa.Ticket(5)
			if way == "claim" {
				n.recv.Raise(1, ticket, "lhr")
				put(t, old, "late", "of ams")
				waitFor(t, "old owner refused", func() bool {
					return statusOf(t, old, "fra").Superseded == ticket && !statusOf(t, old, "fra").Connected
				})
				if _, ok := n.sink.content(1)["late"]; ok {
					t.Fatal("a change of the old owner arrived after Raise")
				}
				return
			}
			p := startPublisher(t, ca.issue(t, "lhr"), "lhr", func(c *PublisherConfig) { c.Ticket = ticket })
			put(t, p, sid(1), "of lhr")
			setShadows(t, p, n)
			p.Complete()
			waitReady(t, p, "fra")
			same(t, n.sink, 1, map[string]string{sid(1): "of lhr"})
		})
	}
}

func TestRestartedOwnerAndFreshTicket(t *testing.T) {
	ca := newCA(t)
	n := startNode(t, ca, "fra")
	cfg := ca.issue(t, "ams")
	p := startPublisher(t, cfg, "ams", func(c *PublisherConfig) { c.Incarnation = 10 })
	put(t, p, "a", "1")
	setShadows(t, p, n)
	p.Complete()
	waitReady(t, p, "fra")
	if err := p.SetTicket(7); err != nil {
		t.Fatal(err)
	}
	if err := p.SetTicket(6); err == nil {
		t.Fatal("took a lower ticket")
	}
	waitFor(t, "the fresh ticket", func() bool { return n.recv.Status(1).Highest == 7 })
	waitReady(t, p, "fra")
	if s := statusOf(t, p, "fra"); s.Snapshots != 1 || s.Connects != 2 {
		t.Fatalf("status %+v", s)
	}
	again := startPublisher(t, cfg, "ams", func(c *PublisherConfig) { c.Incarnation, c.Ticket = 11, 7 })
	put(t, again, "a", "2")
	setShadows(t, again, n)
	again.Complete()
	waitReady(t, again, "fra")
	waitFor(t, "old incarnation refused", func() bool { return n.refusals(KindOldIncarnation) > 0 })
	same(t, n.sink, 1, map[string]string{"a": "2"})
	p.Close()
	p.Close()
}

func TestSlowSinkLags(t *testing.T) {
	ca := newCA(t)
	n, quick := startNode(t, ca, "fra"), startNode(t, ca, "lhr")
	type change struct {
		shadow string
		ready  bool
	}
	changes := make(chan change, 100)
	p := startPublisher(t, ca.issue(t, "ams"), "ams", func(c *PublisherConfig) {
		c.MaxLag = 100 * time.Millisecond
		c.OnReady = func(s string, ready bool, _ string) { changes <- change{s, ready} }
	})
	setShadows(t, p, n, quick)
	p.Complete()
	var seen []change // announced about fra
	announced := func(n int) {
		t.Helper()
		limit := time.After(20 * time.Second)
		for len(seen) < n {
			select {
			case c := <-changes:
				if c.shadow == "fra" {
					seen = append(seen, c)
				}
			case <-limit:
				t.Fatalf("announced only %v", seen)
			}
		}
	}
	announced(1)
	waitReady(t, p, "fra", "lhr")
	hold := make(chan struct{})
	n.sink.do(func() { n.sink.hold = hold })
	doc := strings.Repeat("x", 10000)
	// The held-up shadow must not cost anything but the sessions themselves, and
	// Put must not wait for it.
	for round := range 30 {
		for i := range 200 {
			put(t, p, sid(i), fmt.Sprint(doc, round))
		}
	}
	waitFor(t, "lag shown", func() bool {
		s := statusOf(t, p, "fra")
		return !s.Ready && strings.Contains(s.Reason, "lags by") && s.Lag > 0 && s.Lag <= 200 && s.OldestAge > 100*time.Millisecond
	})
	flush(t, p, "lhr")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := p.Flush(ctx, "fra"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "lags by") && !strings.Contains(err.Error(), "fra") {
		t.Fatalf("flush: %v", err)
	}
	// Age counts from the first change, however often the session changes again.
	for range 10 {
		put(t, p, sid(0), fmt.Sprint(time.Now()))
	}
	if s := statusOf(t, p, "fra"); s.OldestAge < 100*time.Millisecond {
		t.Fatalf("oldest change %v, want above 100ms", s.OldestAge)
	}
	n.sink.do(func() { n.sink.hold = nil })
	close(hold)
	waitReady(t, p, "fra")
	var puts int
	n.sink.do(func() { puts = n.sink.puts })
	if puts > 4000 {
		t.Fatalf("%d puts reached the slow sink out of 6000: not coalesced", puts)
	}
	announced(3)
	if !seen[0].ready || seen[1].ready || !seen[2].ready {
		t.Fatalf("announced %v", seen)
	}
}

func TestFailingSink(t *testing.T) {
	ca := newCA(t)
	n := startNode(t, ca, "fra")
	p := startPublisher(t, ca.issue(t, "ams"), "ams")
	setShadows(t, p, n)
	p.Complete()
	waitReady(t, p, "fra")
	n.sink.do(func() { n.sink.fail = errors.New("no such pool") })
	put(t, p, "a", "1")
	flush(t, p, "fra")
	same(t, n.sink, 1, map[string]string{"a": "1"})
	if s := statusOf(t, p, "fra"); s.Snapshots != 2 {
		t.Fatalf("%d snapshots, want 2: what a failed batch left is unknown", s.Snapshots)
	}
}

func TestReadiness(t *testing.T) {
	ca := newCA(t)
	n := startNode(t, ca, "fra")
	n.recv.SetReadiness(1, false, "credentials differ")
	p := startPublisher(t, ca.issue(t, "ams"), "ams")
	setShadows(t, p, n)
	p.Complete()
	waitFor(t, "reason", func() bool { return statusOf(t, p, "fra").Reason == "twin: credentials differ" })
	n.recv.SetReadiness(1, true, "")
	waitReady(t, p, "fra")
	n.recv.SetReadiness(1, false, "a child is missing in the kernel")
	waitFor(t, "reason", func() bool { return strings.Contains(statusOf(t, p, "fra").Reason, "a child is missing") })
	n.recv.SetReadiness(1, true, "")
	n.sink.do(func() { clear(n.sink.docs) })
	n.recv.Forget(1)
	waitFor(t, "second snapshot", func() bool { return statusOf(t, p, "fra").Snapshots == 2 })
	waitReady(t, p, "fra")
}

func TestFetch(t *testing.T) {
	ca := newCA(t)
	n := startNode(t, ca, "fra")
	docs := map[string]string{}
	for i := range 3000 {
		docs[sid(i)] = strings.Repeat("d", i%700+1)
	}
	n.sink.seed(1, docs)
	n.recv.Raise(1, 9, "ams")
	cfg := ca.issue(t, "ams")
	fc := FetchConfig{Slot: 1, Ticket: 9, Self: "ams", Incarnation: 1, TLS: func(string) *tls.Config { return cfg }}
	got := map[string]string{}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	k, err := Fetch(ctx, fc, n.shadow(), func(c Change) error { got[c.ID] = string(c.Doc); return nil })
	if err != nil || k != len(docs) {
		t.Fatalf("%d sessions, %v", k, err)
	}
	same(t, n.sink, 1, got)
	fc.Ticket = 8
	if _, err := Fetch(ctx, fc, n.shadow(), nil); err == nil || !strings.Contains(err.Error(), "held by ams with ticket 9") {
		t.Fatalf("lower ticket: %v", err)
	}
	fc.Self, fc.Ticket = "lhr", 10
	if _, err := Fetch(ctx, fc, n.shadow(), nil); err == nil || !strings.Contains(err.Error(), "certificate names") {
		t.Fatalf("wrong name: %v", err)
	}
	fc.Self = "ams"
	if _, err := Fetch(ctx, fc, n.shadow(), func(Change) error { return errors.New("full") }); err == nil || !strings.Contains(err.Error(), "full") {
		t.Fatalf("failing put: %v", err)
	}
}

// Shadows come and go, owners too, sessions change all the time; in the end
// everybody agrees.
func TestStorm(t *testing.T) {
	ca := newCA(t)
	nodes := []*node{startNode(t, ca, "fra"), startNode(t, ca, "lhr"), startNode(t, ca, "nyc")}
	p := startPublisher(t, ca.issue(t, "ams"), "ams", func(c *PublisherConfig) { c.MaxDeleted = 20 })
	setShadows(t, p, nodes...)
	p.Complete()
	var mu sync.Mutex
	want := map[string]string{}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for w := range 2 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := sid(w*1000 + i*7%200)
				mu.Lock()
				if i%3 == 0 {
					p.Delete(id)
					delete(want, id)
				} else {
					want[id] = fmt.Sprint("doc ", i)
					put(t, p, id, want[id])
				}
				mu.Unlock()
				if i%10 == 0 {
					p.Replay([]Sample{{Session: id, SPI: sa.SPI(i%50 + 1), Dst: netip.MustParseAddr("192.0.2.1"), InSeq: uint64(i)}})
					time.Sleep(100 * time.Microsecond)
				}
			}
		})
	}
	for round := range 12 {
		n := nodes[round%3]
		switch round % 4 {
		case 0:
			n.stop()
			n.start()
		case 1:
			n.stop()
			n.forget()
			n.start()
		case 2:
			setShadows(t, p, nodes[(round+1)%3], nodes[(round+2)%3])
			setShadows(t, p, nodes...)
		case 3:
			n.sink.do(func() { n.sink.fail = errors.New("storm") })
			if err := p.SetTicket(sa.Ticket(round)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(30 * time.Millisecond)
	}
	close(stop)
	wg.Wait()
	for _, n := range nodes {
		n.sink.do(func() { n.sink.fail = nil })
		flush(t, p, n.name)
		same(t, n.sink, 1, want)
		waitReady(t, p, n.name)
		if s := statusOf(t, p, n.name); s.Repairs != 0 {
			t.Errorf("%s: %d repairs: the streams disagreed with themselves", n.name, s.Repairs)
		}
	}
}

// Documents are keys: neither logs, errors nor status may show them.
func TestNothingLeaks(t *testing.T) {
	ca := newCA(t)
	var logs bytes.Buffer
	var mu sync.Mutex
	log := slog.New(slog.NewTextHandler(writer(func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return logs.Write(b)
	}), &slog.HandlerOptions{Level: slog.LevelDebug}))
	n := startNode(t, ca, "fra", func(c *ReceiverConfig) { c.Logger = log })
	p := startPublisher(t, ca.issue(t, "ams"), "ams", func(c *PublisherConfig) { c.Logger = log })
	const secret = "c2VjcmV0LWtleS1ieXRlcw"
	put(t, p, "a", secret)
	setShadows(t, p, n)
	p.Complete()
	waitReady(t, p, "fra")
	n.sink.do(func() { n.sink.fail = errors.New("refused") })
	put(t, p, "b", secret+"2")
	flush(t, p, "fra")
	waitFor(t, "the log names the state change", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(logs.String(), "shadow ready")
	})
	err := p.Put(strings.Repeat("x", 300), []byte(secret), Hash{})
	c := Change{Item: Item{ID: "a"}, Doc: []byte(secret)}
	all := fmt.Sprint(err, p.Status(), n.recv.Status(1), c, fmt.Sprintf("%+v %#v %x", c, c, c))
	mu.Lock()
	defer mu.Unlock()
	for _, s := range []string{secret, fmt.Sprintf("%x", secret), fmt.Sprint([]byte(secret))} {
		if strings.Contains(all+logs.String(), s) {
			t.Fatalf("%q shows in:\n%s\n%s", s, all, logs.String())
		}
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }
