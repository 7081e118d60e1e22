package registrar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/shadowcast/shadowcast/sa"
)

// MaxMembers is how many registrars a fleet has at most, but while one is replaced.
const MaxMembers = 5

// Config is what a Registrar needs.
type Config struct {
	Self string // name of this appliance
	Dir  string // of the log
	// Listed are the appliances that the fleet's configuration names as
	// registrars: they found the log.
	Listed []string
	// Appliances are all of the fleet.
	Appliances []string
	Peers      Peers
	// Seen returns the highest ticket of each slot that this appliance knows of
	// by hearsay. It may be called at any time and concurrently.
	Seen func(context.Context) (map[sa.Slot]sa.Ticket, error)
	// Report tells the operator of a change; nil: nobody.
	Report func(warn bool, text, reason string)
	Timing Timing
	Logger *slog.Logger
}

// ErrNoLeader says that no majority of the registrars can be reached. The caller
// asks again.
var ErrNoLeader = errors.New("no registrar leads: is a majority of them up and connected?")

// Registrar is one appliance's part of the ticket log.
type Registrar struct {
	cfg Config
	log *slog.Logger

	mu      sync.Mutex
	own     *member // nil: this appliance keeps no log, or is not running
	problem error   // why it does not run though it should
	running bool
	good    string // who answered last
	said    map[string]string
	readers sync.WaitGroup // of streams from others
	waiting int            // tend's own: rounds in which a blank log could not begin
}

// New checks the configuration. Nothing is opened before Run.
func New(c Config) (*Registrar, error) {
	switch {
	case c.Self == "" || c.Dir == "" || c.Peers == nil || c.Seen == nil || c.Logger == nil:
		return nil, errors.New("make registrar: name, directory, peers, tickets seen or logger is missing")
	case len(c.Listed) == 0:
		return nil, errors.New("make registrar: no registrars are listed")
	case !slices.Contains(c.Appliances, c.Self):
		return nil, fmt.Errorf("make registrar: %s is not among the appliances %v", c.Self, c.Appliances)
	}
	if c.Report == nil {
		c.Report = func(bool, string, string) {}
	}
	c.Listed = slices.Sorted(slices.Values(c.Listed))
	return &Registrar{cfg: c, log: c.Logger, said: map[string]string{}}, nil
}

// Run keeps the log of this appliance, if it has one, until ctx ends. A log that
// cannot be opened is reported and the appliance forwards only.
func (r *Registrar) Run(ctx context.Context) error {
	has, err := exists(r.cfg.Dir)
	if err != nil {
		return fmt.Errorf("look for the ticket log: %w", err)
	}
	r.mu.Lock()
	r.running = true
	if has || slices.Contains(r.cfg.Listed, r.cfg.Self) {
		r.open()
	}
	r.mu.Unlock()
	defer r.stop()
	t := time.NewTicker(r.tendEvery())
	defer t.Stop()
	for {
		r.tend(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// open opens the log; r.mu is held.
func (r *Registrar) open() {
	p, err := openMember(r.cfg.Dir, r.cfg.Self, r.cfg.Peers, r.cfg.Timing, r.log)
	if err != nil {
		r.problem = err
		r.cfg.Report(true, "this registrar's log does not run; others issue tickets while they are a majority", err.Error())
		return
	}
	r.own, r.problem = p, nil
}

func (r *Registrar) stop() {
	r.mu.Lock()
	p := r.own
	r.own, r.running = nil, false
	r.mu.Unlock()
	if p != nil {
		if err := p.close(); err != nil {
			r.log.Warn("close the ticket log", "reason", err)
		}
	}
	r.readers.Wait()
}

func (r *Registrar) current() *member {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.own
}

func (r *Registrar) heartbeat() time.Duration {
	if r.cfg.Timing.Heartbeat != 0 {
		return r.cfg.Timing.Heartbeat
	}
	return time.Second
}

// tendEvery paces founding and joining.
func (r *Registrar) tendEvery() time.Duration { return r.heartbeat() / 2 }

// callTime bounds a question to another appliance.
func (r *Registrar) callTime() time.Duration { return 2 * r.heartbeat() }

// Accept takes a stream to the log of member to, and owns it. An
// error says why it is refused; the stream is closed then.
func (r *Registrar) Accept(ctx context.Context, c net.Conn, to Member) error {
	p, err := r.logOf(to)
	if err == nil {
		err = p.streams.hand(ctx, c)
	}
	if err != nil {
		c.Close()
	}
	return err
}

// logOf returns the log of member to, which must be the one on this disk.
func (r *Registrar) logOf(to Member) (*member, error) {
	p := r.current()
	switch {
	case p == nil:
		return nil, fmt.Errorf("%s keeps no ticket log", r.cfg.Self)
	case p.store.member != to:
		return nil, fmt.Errorf("%s is asked for, but the log of %s is %s: another disk", to, r.cfg.Self, p.store.member)
	}
	return p, nil
}

// Describe tells what this appliance knows of the log.
func (r *Registrar) Describe(ctx context.Context) (Description, error) {
	d := Description{Node: r.cfg.Self}
	r.mu.Lock()
	p := r.own
	if r.problem != nil {
		d.Problem = r.problem.Error()
	}
	r.mu.Unlock()
	seen, err := r.cfg.Seen(ctx)
	if err != nil {
		return d, err
	}
	d.Seen = map[sa.Slot]sa.Ticket{}
	for n, t := range seen {
		d.Seen[n] = max(d.Seen[n], t)
	}
	if p == nil {
		return d, nil
	}
	if d.Members, err = p.members(); err != nil {
		return d, err
	}
	founded, last, broken := p.fsm.look()
	for n, t := range last {
		d.Seen[n] = max(d.Seen[n], t)
	}
	if broken != nil {
		d.Problem = broken.Error()
	}
	d.Member, d.Leader, d.Founded = p.store.member, p.leader(), founded
	d.Term, d.Applied = p.raft.CurrentTerm(), p.raft.AppliedIndex()
	return d, nil
}

// Issue gets the next ticket of a slot from whoever leads. It returns
// ErrNoLeader, or another error, when no ticket can be had now; the same request
// may then be made again, here or elsewhere, and gets one ticket in all.
func (r *Registrar) Issue(ctx context.Context, i Issue) (sa.Ticket, error) {
	return r.ServeIssue(ctx, i, false)
}

// ServeIssue is Issue for another appliance; a forwarded request goes no further.
func (r *Registrar) ServeIssue(ctx context.Context, i Issue, forwarded bool) (sa.Ticket, error) {
	if err := i.Validate(); err != nil {
		return 0, refuse(err)
	}
	var t sa.Ticket
	err := r.route(ctx, forwarded, func(p *member) (err error) {
		t, err = r.lead(ctx, p, i)
		return err
	}, func(ctx context.Context, node string) (err error) {
		t, err = r.cfg.Peers.Issue(ctx, node, i, r.keepsLog())
		return err
	})
	return t, err
}

func (r *Registrar) keepsLog() bool { return r.current() != nil }

// route does what the leader must do: here, or at whoever leads, or through
// another registrar.
func (r *Registrar) route(ctx context.Context, forwarded bool, here func(*member) error, there func(context.Context, string) error) error {
	if p := r.current(); p != nil && p.leads() {
		return here(p)
	}
	if forwarded {
		return ErrNoLeader
	}
	var last error
	tried := map[string]bool{r.cfg.Self: true}
	try := func(node string) bool {
		if node == "" || tried[node] || ctx.Err() != nil {
			return false
		}
		tried[node] = true
		ctx, cancel := context.WithTimeout(ctx, r.callTime())
		defer cancel()
		err := there(ctx, node)
		last = err
		var no *Refused
		if err == nil || errors.As(err, &no) {
			r.mu.Lock()
			r.good = node
			r.mu.Unlock()
			return true
		}
		return false
	}
	if p := r.current(); p != nil {
		if try(p.leader().Node) {
			return last
		}
	}
	r.mu.Lock()
	good := r.good
	r.mu.Unlock()
	if try(good) {
		return last
	}
	// Somebody knows the leader, also one that the configuration does not name.
	if try(r.findLeader(ctx)) {
		return last
	}
	return ErrNoLeader
}

// findLeader asks everybody; the one named in the highest term counts.
func (r *Registrar) findLeader(ctx context.Context) string {
	var name string
	var term uint64
	for _, d := range r.describe(ctx, r.cfg.Appliances) {
		if d.Leader != (Member{}) && d.Term >= term {
			name, term = d.Leader.Node, d.Term
		}
	}
	return name
}

// describe asks others at the same time; who does not answer is left out.
func (r *Registrar) describe(ctx context.Context, nodes []string) map[string]Description {
	ctx, cancel := context.WithTimeout(ctx, r.callTime())
	defer cancel()
	out := map[string]Description{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, n := range nodes {
		if n == r.cfg.Self {
			continue
		}
		wg.Go(func() {
			if d, err := r.cfg.Peers.Describe(ctx, n); err == nil && d.Node == n {
				mu.Lock()
				out[n] = d
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return out
}

// lead issues a ticket as the leader.
func (r *Registrar) lead(ctx context.Context, p *member, i Issue) (sa.Ticket, error) {
	seen, err := r.cfg.Seen(ctx)
	if err != nil {
		return 0, err
	}
	// What this appliance has heard of guards a log that was founded anew.
	if t := seen[i.Slot]; t > i.Floor {
		i.Floor = t
	}
	return r.apply(p, Command{Issue: &i})
}

func (r *Registrar) apply(p *member, c Command) (sa.Ticket, error) {
	b, err := EncodeCommand(c)
	if err != nil {
		return 0, err
	}
	f := p.raft.Apply(b, r.callTime())
	switch err := f.Error(); {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrEnqueueTimeout), errors.Is(err, raft.ErrRaftShutdown):
		return 0, ErrNoLeader
	case err != nil:
		return 0, fmt.Errorf("append to the ticket log: %w", err)
	}
	o := f.Response().(outcome)
	if errors.Is(o.err, ErrPastLife) || errors.Is(o.err, ErrImplausible) {
		return 0, refuse(o.err)
	}
	return o.ticket, o.err
}

// Refused is an answer that will not change by asking again.
type Refused struct{ Reason string }

func (e *Refused) Error() string { return e.Reason }

func refuse(err error) error { return &Refused{err.Error()} }

// once reports a state of affairs when it changes.
func (r *Registrar) once(topic string, warn bool, text, reason string) {
	r.mu.Lock()
	was := r.said[topic]
	r.said[topic] = text + reason
	r.mu.Unlock()
	if was != text+reason {
		r.cfg.Report(warn, text, reason)
	}
}
