package node

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/operator"
	"github.com/shadowcast/shadowcast/pki"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/registrar"
	"github.com/shadowcast/shadowcast/ssm/replica"
)

const (
	// issuers is how many requests for tickets are under way at most.
	issuers = 8
	// issueTime bounds one of them; the core asks again.
	issueTime = 5 * time.Second
	// dryPatience is how long tickets may be missing before the operator is told: an
	// election or a starting fleet takes less.
	dryPatience = 10 * time.Second
)

// registrars is this appliance's way to the ticket log, and its part of it.
type registrars struct {
	a      *Appliance
	log    *registrar.Registrar
	peers  *registrar.GRPC
	server *grpc.Server
	work   chan ticketKey

	mu      sync.Mutex
	pending map[ticketKey]*ticketRequest
	dry     time.Time // since when no request got a ticket; zero: the last one did
	told    bool      // the operator knows
}

type ticketKey struct {
	slot        sa.Slot
	node        ssm.Node
	incarnation uint64
}

// ticketRequest keeps its number until it is answered, so that a request whose
// answer was lost spends one ticket.
type ticketRequest struct {
	id    uint64
	floor sa.Ticket
	busy  bool
}

func newRegistrars(a *Appliance, issuedBefore map[sa.Slot]sa.Ticket) (*registrars, error) {
	x := &registrars{a: a, work: make(chan ticketKey, 1024), pending: map[ticketKey]*ticketRequest{}}
	x.peers = registrar.NewGRPC(func(n string) (netip.AddrPort, bool) {
		p := a.appliance(n)
		return p.Registrar(), p.Address.IsValid()
	}, func(n string) *tls.Config { return a.identity.ClientTLS(n) }, func(n string, at netip.AddrPort, cfg *tls.Config) (*grpc.ClientConn, error) {
		return replica.DialWatched(n, at, cfg, func(source netip.Addr, err error) { a.refusedHandshake(fromRegistrars, n, source, err) })
	})
	c := registrar.Config{Self: a.cfg.Node, Dir: filepath.Join(a.cfg.StateDir, "registrar"), Listed: a.cfg.Fleet.Registrars, Peers: x.peers, Logger: a.log,
		Seen: func(ctx context.Context) (map[sa.Slot]sa.Ticket, error) {
			seen := maps.Clone(issuedBefore)
			err := a.ask(ctx, func(c *ssm.Core) {
				for n, t := range c.Tickets() {
					seen[n] = max(seen[n], t)
				}
			})
			return seen, err
		},
		Report: func(warn bool, text, reason string) {
			a.events.Add(Entry{Kind: "registrar", Warn: warn, Text: text, Reason: reason})
		}}
	for _, p := range a.cfg.Fleet.Appliances {
		c.Appliances = append(c.Appliances, p.Name)
	}
	var err error
	if x.log, err = registrar.New(c); err != nil {
		return nil, err
	}
	if x.server, err = replica.NewServer(a.identity.ServerTLS(a.known), func(source netip.Addr, err error) { a.refusedHandshake(fromRegistrars, "", source, err) }); err != nil {
		return nil, err
	}
	x.log.Register(x.server, func(ctx context.Context) (string, error) { return replica.NameOf(ctx, pki.PeerName) })
	return x, nil
}

// readTickets reads what the single registrar of earlier releases has issued. The
// file stays: the log that replaced it begins above it.
func readTickets(dir string) (map[sa.Slot]sa.Ticket, error) {
	path := filepath.Join(dir, "tickets.json")
	last := map[sa.Slot]sa.Ticket{}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return last, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ticket log: %w", err)
	}
	if err := json.Unmarshal(b, &last); err != nil {
		return nil, fmt.Errorf("read ticket log %s: %w (do not delete it: tickets must never repeat)", path, err)
	}
	return last, nil
}

// run keeps the log and serves other appliances until ctx ends.
func (x *registrars) run(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", x.a.self().Registrar().String())
	if err != nil {
		return fmt.Errorf("listen for registrars: %w", err)
	}
	stop := context.AfterFunc(ctx, x.server.Stop)
	defer stop()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return ignore(x.server.Serve(l), gctx) })
	g.Go(func() error { return x.log.Run(gctx) })
	for range issuers {
		g.Go(func() error { return x.issueAll(gctx) })
	}
	return errors.Join(g.Wait(), x.peers.Close())
}

// issue begins to get a ticket. It runs in the core loop and never waits: with too
// much under way it does nothing, and the core asks again.
func (x *registrars) issue(act ssm.ActIssue) {
	k := ticketKey{act.Slot, act.Node, act.Incarnation}
	x.mu.Lock()
	defer x.mu.Unlock()
	q := x.pending[k]
	if q == nil {
		q = &ticketRequest{id: requestNumber()}
		x.pending[k] = q
	}
	q.floor = act.Floor
	if q.busy {
		return
	}
	select {
	case x.work <- k:
		q.busy = true
	default:
	}
}

func requestNumber() uint64 {
	var b [8]byte
	rand.Read(b[:])                             // never fails
	return binary.NativeEndian.Uint64(b[:]) | 1 // 0 is no number
}

func (x *registrars) issueAll(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case k := <-x.work:
			x.getTicket(ctx, k)
		}
	}
}

func (x *registrars) getTicket(ctx context.Context, k ticketKey) {
	x.mu.Lock()
	q := *x.pending[k]
	x.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, issueTime)
	defer cancel()
	t, err := x.log.Issue(ctx, registrar.Issue{Slot: k.slot, Node: string(k.node), Incarnation: k.incarnation, ID: q.id, Floor: q.floor})
	var no *registrar.Refused
	x.mu.Lock()
	x.pending[k].busy = false
	if err == nil || errors.As(err, &no) {
		delete(x.pending, k)
	}
	told := x.told
	switch {
	case err == nil:
		x.dry, x.told = time.Time{}, false
	case x.dry.IsZero():
		x.dry = time.Now()
	case time.Since(x.dry) > dryPatience:
		x.told = true
	}
	tell := x.told && !told
	x.mu.Unlock()
	switch {
	case err == nil:
		if told {
			x.a.events.Add(Entry{Kind: "registrar", Text: "tickets are issued again"})
		}
		x.a.post(ssm.EvIssued{Slot: k.slot, Ticket: t, Node: k.node, Incarnation: k.incarnation})
	case no != nil:
		x.a.problem(k.slot, "get a ticket", err)
	case tell:
		x.a.events.Add(Entry{Kind: "registrar", Warn: true, Text: "no ticket is to be had now: what is shadowed stays so, lost cover is not renewed", Reason: err.Error()})
	}
}

// List, Add and Remove answer RegistrarService.
func (x *registrars) List(ctx context.Context) (*v1.Registrars, error) {
	o, err := x.log.Overview(ctx)
	if err != nil {
		return nil, err
	}
	out := &v1.Registrars{Leader: o.Leader.Node, Founded: o.Founded, Term: o.Term, Majority: uint32(o.Majority())}
	listed := x.a.cfg.Fleet.Registrars
	shown := map[string]bool{}
	for _, m := range o.Members {
		d, heard := o.Told[m.Node]
		g := &v1.Registrar{Appliance: m.Node, Member: m.String(), Votes: true, Silent: !heard, Applied: d.Applied, Listed: slices.Contains(listed, m.Node), Problem: d.Problem}
		if heard && d.Member != m {
			g.Silent, g.Problem = true, "its disk is another one now"
		}
		shown[m.Node] = true
		out.Registrars = append(out.Registrars, g)
	}
	for _, p := range x.a.cfg.Fleet.Appliances {
		d, heard := o.Told[p.Name]
		if is := slices.Contains(listed, p.Name); !shown[p.Name] && (is || d.Member != registrar.Member{}) {
			out.Registrars = append(out.Registrars, &v1.Registrar{Appliance: p.Name, Member: d.Member.String(), Silent: !heard, Applied: d.Applied, Listed: is, Problem: d.Problem})
		}
	}
	return out, nil
}

func (x *registrars) Add(ctx context.Context, name string) (*v1.Registrars, error) {
	return x.changed(ctx, x.log.Add(ctx, name))
}

func (x *registrars) Remove(ctx context.Context, name string) (*v1.Registrars, error) {
	return x.changed(ctx, x.log.Remove(ctx, name))
}

func (x *registrars) changed(ctx context.Context, err error) (*v1.Registrars, error) {
	var no *registrar.Refused
	switch {
	case errors.As(err, &no):
		return nil, operator.Refused("REGISTRARS_UNCHANGED", "%s", no.Reason)
	case errors.Is(err, registrar.ErrNoLeader):
		return nil, operator.Refused("REGISTRARS_NO_LEADER", "%v", err)
	case err != nil:
		return nil, err
	}
	return x.List(ctx)
}
