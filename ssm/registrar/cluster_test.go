package registrar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// cluster is a fleet's registrars, connected in memory, in virtual time.
type cluster struct {
	t     *testing.T
	root  string
	nodes []string
	seen  map[string]map[sa.Slot]sa.Ticket

	mu    sync.Mutex
	up    map[string]*running
	cut   map[[2]string]bool
	conns map[net.Conn][2]string

	ids    uint64
	issued map[sa.Ticket]string // of slot 1
	last   sa.Ticket
}

type running struct {
	r    *Registrar
	stop context.CancelFunc
	done chan error
}

func play(t *testing.T, listed, nodes []string, f func(*cluster)) {
	t.Helper()
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{t: t, root: root, nodes: nodes, seen: map[string]map[sa.Slot]sa.Ticket{}, up: map[string]*running{},
			cut: map[[2]string]bool{}, conns: map[net.Conn][2]string{}, issued: map[sa.Ticket]string{}}
		defer func() {
			for _, n := range nodes {
				c.kill(n)
			}
		}()
		for _, n := range nodes {
			c.start(n, listed)
		}
		f(c)
	})
}

func (c *cluster) dir(n string) string { return filepath.Join(c.root, n) }

func (c *cluster) start(n string, listed []string) {
	r, err := New(Config{Self: n, Dir: c.dir(n), Listed: listed, Appliances: c.nodes, Peers: memory{c, n}, Logger: slog.New(slog.DiscardHandler),
		Seen:   func(context.Context) (map[sa.Slot]sa.Ticket, error) { return c.seen[n], nil },
		Report: func(_ bool, text, reason string) { c.t.Logf("%s: %s (%s)", n, text, reason) },
		Timing: Timing{SnapshotEvery: 16, noSync: true}})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	x := &running{r, stop, make(chan error, 1)}
	go func() { x.done <- r.Run(ctx) }()
	c.mu.Lock()
	c.up[n] = x
	c.mu.Unlock()
}

// kill ends a registrar and all its connections.
func (c *cluster) kill(n string) {
	c.mu.Lock()
	x := c.up[n]
	delete(c.up, n)
	c.mu.Unlock()
	if x == nil {
		return
	}
	c.hangUp(func(p [2]string) bool { return p[0] == n || p[1] == n })
	x.stop()
	if err := <-x.done; err != nil {
		c.t.Errorf("%s: %v", n, err)
	}
}

func (c *cluster) hangUp(which func([2]string) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn, p := range c.conns {
		if which(p) {
			conn.Close()
			delete(c.conns, conn)
		}
	}
}

// part cuts every link between the two sides; heal ends it.
func (c *cluster) part(a, b []string) {
	c.mu.Lock()
	for _, x := range a {
		for _, y := range b {
			c.cut[[2]string{x, y}], c.cut[[2]string{y, x}] = true, true
		}
	}
	c.mu.Unlock()
	c.hangUp(func(p [2]string) bool { return c.cut[p] })
}

func (c *cluster) heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.cut)
}

func (c *cluster) at(n string) *Registrar {
	c.mu.Lock()
	defer c.mu.Unlock()
	if x := c.up[n]; x != nil {
		return x.r
	}
	return nil
}

// eventually waits up to a minute of virtual time.
func (c *cluster) eventually(what string, f func() bool) {
	c.t.Helper()
	for range 600 {
		if f() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	c.t.Fatalf("never: %s", what)
}

func (c *cluster) leader() string {
	for _, n := range c.nodes {
		if r := c.at(n); r != nil {
			if p := r.current(); p != nil && p.leads() {
				return n
			}
		}
	}
	return ""
}

// members are those that the leader names.
func (c *cluster) members() []Member {
	l := c.leader()
	if l == "" {
		return nil
	}
	d, err := c.at(l).Describe(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return d.Members
}

// issue asks at n for a ticket of slot 1 once.
func (c *cluster) issue(n string) (sa.Ticket, error) {
	c.t.Helper()
	c.ids++
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Second)
	defer cancel()
	t, err := c.at(n).Issue(ctx, Issue{Slot: 1, Node: n, Incarnation: 1, ID: c.ids})
	if err == nil {
		if t <= c.last || c.issued[t] != "" {
			c.t.Fatalf("%s got ticket %d after %d (given to %q)", n, t, c.last, c.issued[t])
		}
		c.issued[t], c.last = n, t
	}
	return t, err
}

// gets waits until n gets a ticket.
func (c *cluster) gets(n string) {
	c.t.Helper()
	c.eventually(n+" gets a ticket", func() bool {
		_, err := c.issue(n)
		return err == nil
	})
}

// memory is one appliance's Peers.
type memory struct {
	c    *cluster
	self string
}

var errUnreachable = errors.New("unreachable")

func (m memory) reach(n string) (*Registrar, error) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	if x := m.c.up[n]; x != nil && !m.c.cut[[2]string{m.self, n}] {
		return x.r, nil
	}
	return nil, errUnreachable
}

func (m memory) Raft(ctx context.Context, to, from Member) (net.Conn, error) {
	r, err := m.reach(to.Node)
	if err != nil {
		return nil, err
	}
	a, b := net.Pipe()
	m.c.mu.Lock()
	m.c.conns[a], m.c.conns[b] = [2]string{m.self, to.Node}, [2]string{m.self, to.Node}
	m.c.mu.Unlock()
	if err := r.Accept(ctx, b, to); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

func (m memory) Describe(ctx context.Context, n string) (Description, error) {
	r, err := m.reach(n)
	if err != nil {
		return Description{}, err
	}
	return r.Describe(ctx)
}

func (m memory) Issue(ctx context.Context, n string, i Issue, forwarded bool) (sa.Ticket, error) {
	r, err := m.reach(n)
	if err != nil {
		return 0, err
	}
	return r.ServeIssue(ctx, i, forwarded)
}

func (m memory) Change(ctx context.Context, n string, c Change, forwarded bool) error {
	r, err := m.reach(n)
	if err != nil {
		return err
	}
	return r.ServeChange(ctx, c, forwarded)
}

func (m memory) Enrol(_ context.Context, n string) (Member, error) {
	r, err := m.reach(n)
	if err != nil {
		return Member{}, err
	}
	return r.Enrol()
}

var (
	three = []string{"ams", "fra", "lhr"}
	five  = []string{"ams", "fra", "lhr", "nyc", "sin"}
)

// without returns names but for those.
func without(names []string, but ...string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return slices.Contains(but, n) })
}

func TestEverybodyGetsTickets(t *testing.T) {
	for _, listed := range [][]string{{"fra"}, three, five} {
		t.Run(fmt.Sprint(len(listed)), func(t *testing.T) {
			play(t, listed, five, func(c *cluster) {
				for range 3 {
					for _, n := range five {
						c.gets(n)
					}
				}
				if got := len(c.members()); got != len(listed) {
					c.t.Errorf("%d members, want %d", got, len(listed))
				}
			})
		})
	}
}

func TestRepeatedRequestGetsItsTicketAgain(t *testing.T) {
	play(t, three, three, func(c *cluster) {
		c.gets("ams")
		i := Issue{Slot: 1, Node: "lhr", Incarnation: 7, ID: 99}
		first, err := c.at("lhr").Issue(c.t.Context(), i)
		if err != nil {
			c.t.Fatal(err)
		}
		c.last = first
		was := c.leader()
		c.kill(was)
		ask := without(three, was)
		c.gets(ask[0])
		again, err := c.at(ask[1]).Issue(c.t.Context(), i)
		if err != nil || again != first {
			c.t.Errorf("the same request got %d and, from the next leader, %d (%v)", first, again, err)
		}
		i.Incarnation, i.ID = 6, 100
		var no *Refused
		if got, err := c.at(ask[0]).Issue(c.t.Context(), i); !errors.As(err, &no) {
			c.t.Errorf("a past life got %d, %v", got, err)
		}
	})
}

func TestLeaderDiesAndReturns(t *testing.T) {
	play(t, three, three, func(c *cluster) {
		for range 4 {
			c.gets("ams")
			was := c.leader()
			c.kill(was)
			for _, n := range without(three, was) {
				c.gets(n)
			}
			c.start(was, three)
			c.gets(was)
		}
	})
}

func TestPartition(t *testing.T) {
	play(t, three, three, func(c *cluster) {
		c.gets("ams")
		was := c.leader()
		rest := without(three, was)
		c.part([]string{was}, rest)
		c.gets(rest[0])
		c.eventually("the cut-off leader steps down", func() bool { return !c.at(was).current().leads() })
		if got, err := c.issue(was); !errors.Is(err, ErrNoLeader) {
			c.t.Errorf("a registrar without a majority issued %d, %v", got, err)
		}
		c.gets(rest[1])
		c.heal()
		c.gets(was)
	})
}

func TestMajorityDown(t *testing.T) {
	play(t, three, three, func(c *cluster) {
		c.gets("ams")
		c.kill("fra")
		c.kill("lhr")
		c.eventually("nothing is issued", func() bool {
			_, err := c.issue("ams")
			return errors.Is(err, ErrNoLeader)
		})
		c.start("fra", three)
		c.gets("ams")
		c.kill("ams")
		c.kill("fra")
		for _, n := range three {
			c.start(n, three)
		}
		c.gets("lhr")
	})
}

func TestLostDisk(t *testing.T) {
	play(t, three, three, func(c *cluster) {
		c.gets("ams")
		for _, n := range three { // each in turn, so that nobody of the beginning is left
			old := c.at(n).current().store.member
			c.kill(n)
			if err := os.RemoveAll(c.dir(n)); err != nil {
				c.t.Fatal(err)
			}
			for range 40 { // more than a snapshot leaves in the log
				c.gets(without(three, n)[0])
			}
			for _, x := range without(three, n) {
				if err := c.at(x).current().raft.Snapshot().Error(); err != nil {
					c.t.Fatal(err)
				}
			}
			c.start(n, three)
			c.eventually(n+" is a member again", func() bool {
				p := c.at(n).current()
				ms := c.members()
				return p != nil && len(ms) == 3 && slices.Contains(ms, p.store.member) && !slices.Contains(ms, old)
			})
			c.eventually(n+" has the log", func() bool {
				_, last, _ := c.at(n).current().fsm.look()
				return last[1] == c.last
			})
			c.gets(n)
		}
	})
}

// TestBlankLogNeverVotes: of three registrars one is down and another has lost its
// disk. The third one alone holds the log, and must not win an election with the
// vote of the blank one.
func TestBlankLogNeverVotes(t *testing.T) {
	play(t, three, three, func(c *cluster) {
		c.gets("ams")
		down := c.leader()
		blank := without(three, down)[0]
		c.kill(blank)
		c.gets(without(three, down, blank)[0])
		c.kill(down)
		if err := os.RemoveAll(c.dir(blank)); err != nil {
			c.t.Fatal(err)
		}
		c.start(blank, three)
		time.Sleep(time.Minute)
		if l := c.leader(); l != "" {
			c.t.Fatalf("%s leads by the vote of %s, whose disk is lost", l, blank)
		}
		for _, n := range without(three, down) {
			if got, err := c.issue(n); err == nil {
				c.t.Fatalf("%s got ticket %d without a majority", n, got)
			}
		}
		c.start(down, three)
		c.gets(blank)
	})
}

func TestFoundedAboveWhatIsKnown(t *testing.T) {
	play(t, three, three, func(c *cluster) {
		c.seen["lhr"] = map[sa.Slot]sa.Ticket{1: 41, 2: 7}
		c.seen["ams"] = map[sa.Slot]sa.Ticket{1: 12}
		c.last = 41
		c.gets("fra")
		if c.last != 42 {
			c.t.Errorf("first ticket %d, want 42", c.last)
		}
		// A later one that somebody heard of lifts it as well.
		c.seen[c.leader()] = map[sa.Slot]sa.Ticket{1: 60}
		c.last = 60
		c.gets("fra")
	})
}

func TestNotFoundedWithoutEverybody(t *testing.T) {
	play(t, three, three, func(c *cluster) {
		// One that never came up may hold the log of the single registrar.
		c.kill("lhr")
		time.Sleep(time.Minute)
		if got, err := c.issue("ams"); !errors.Is(err, ErrNoLeader) {
			c.t.Fatalf("ticket %d, %v before every registrar was up once", got, err)
		}
		c.start("lhr", three)
		c.gets("ams")
	})
}

func TestAddAndRemove(t *testing.T) {
	play(t, three, five, func(c *cluster) {
		c.gets("sin")
		ctx := c.t.Context()
		if err := c.at("sin").Add(ctx, "nyc"); err != nil {
			c.t.Fatal(err)
		}
		var no *Refused
		if err := c.at("sin").Add(ctx, "nyc"); !errors.As(err, &no) || err.Error() != "nyc is a registrar already" {
			c.t.Errorf("added twice: %v", err)
		}
		if err := c.at("ams").Add(ctx, "par"); !errors.As(err, &no) || err.Error() != `"par" is no appliance of this fleet` {
			c.t.Errorf("added a stranger: %v", err)
		}
		// Replace all that founded the log, the leader among them.
		if err := c.at("ams").Add(ctx, "sin"); err != nil {
			c.t.Fatal(err)
		}
		for _, n := range three {
			c.eventually(n+" is removed", func() bool {
				err := c.at("nyc").Remove(ctx, n)
				if errors.As(err, &no) && err.Error() == n+" is no registrar" {
					err = nil // the leader removed itself before it could say so
				}
				return err == nil
			})
			c.gets("ams")
		}
		if got := c.members(); len(got) != 2 || got[0].Node != "nyc" || got[1].Node != "sin" {
			c.t.Errorf("members are %v, want nyc and sin", got)
		}
		c.kill("sin")
		c.eventually("the rest is no majority", func() bool {
			err := c.at("nyc").Remove(ctx, "nyc")
			return err != nil
		})
		c.start("sin", three)
		c.gets("fra")
	})
}

func TestStreamToAnotherDiskIsRefused(t *testing.T) {
	play(t, three, three, func(c *cluster) {
		c.gets("ams")
		from := c.at("ams").current().store.member
		to := c.at("fra").current().store.member
		lost := Member{"fra", "0123456789abcdef"}
		if _, err := (memory{c, "ams"}).Raft(c.t.Context(), lost, from); err == nil || err.Error() != fmt.Sprintf("%s is asked for, but the log of fra is %s: another disk", lost, to) {
			c.t.Errorf("stream to a lost log: %v", err)
		}
	})
}
