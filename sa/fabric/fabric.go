package fabric

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shadowcast/shadowcast/sa/charon"
)

// Times of Run.
const (
	// answer bounds one vici command. A charon that takes longer hangs, and is
	// replaced: its SAs go on in the kernel.
	answer = 15 * time.Second
	// Restarts wait longer each time, unless charon lived for long.
	firstRestart = 100 * time.Millisecond
	maxRestart   = 10 * time.Second
	long         = 30 * time.Second
)

// Fabric runs the charon of one appliance's peer tunnels.
type Fabric struct {
	cfg   Config
	spec  charon.Spec
	table *table // Run's goroutine only
	again chan struct{}

	mu   sync.Mutex
	last []PeerStatus
	pid  int
}

// New checks the configuration and the credential files and changes nothing.
func New(cfg Config) (*Fabric, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("configure the fabric: %w", err)
	}
	if _, err := cfg.credentials(); err != nil {
		return nil, fmt.Errorf("configure the fabric: %w", err)
	}
	cfg.Peers = slices.Clone(cfg.Peers)
	dir := dirOf(cfg.RunDir)
	text, err := conf(dir)
	if err != nil {
		return nil, fmt.Errorf("configure the fabric: %w", err)
	}
	f := &Fabric{cfg: cfg, spec: charon.Spec{Name: "fabric", Dir: dir, Netns: cfg.Netns, Conf: text}, table: newTable(&cfg), again: make(chan struct{}, 1)}
	f.last = f.table.status()
	return f, nil
}

func (f *Fabric) String() string { return "fabric" }

// Protect installs the block policies. From then on nothing passes between
// appliances unprotected; Run lets it pass protected.
func (f *Fabric) Protect() error { return setBlocks(f.cfg.Netns, f.cfg.blocks()) }

// Reload has charon take the credential files as they are now. SAs go on; what is
// negotiated from now on is proven by the new ones. A failure is noticed, and what was
// loaded before stays.
func (f *Fabric) Reload() {
	select {
	case f.again <- struct{}{}:
	default:
	}
}

// Status describes the tunnel to each peer, in the order of Config.Peers. It is
// what charon said last; its SAs go on while it is dead.
func (f *Fabric) Status() []PeerStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.last)
}

// PID is charon's process, 0 while none runs.
func (f *Fabric) PID() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pid
}

// Run keeps a charon running and every tunnel up until ctx ends. It adopts one that
// an earlier daemon left and leaves its own behind. Failures are noticed and
// repeated; they are no reason to end the daemon.
func (f *Fabric) Run(ctx context.Context) error {
	if len(f.cfg.Peers) == 0 {
		// The fleet may have been larger.
		if err := CleanUp(ctx, f.cfg.RunDir, f.cfg.Netns); err != nil {
			f.notify(Notice{Warn: true, Text: "cannot remove the fabric of a larger fleet", Reason: err.Error()})
		}
		<-ctx.Done()
		return nil
	}
	wait := firstRestart
	for {
		began := time.Now()
		err := f.live(ctx)
		f.setPID(0)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > long {
			wait = firstRestart
		}
		f.notify(Notice{Warn: true, Text: "the fabric's charon starts over", Reason: err.Error()})
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, maxRestart)
	}
}

// errDied ends a life.
var errDied = errors.New("it ended")

// live follows one life of charon, from start or adoption to its end.
func (f *Fabric) live(ctx context.Context) error {
	inst, err := f.adoptOrStart(ctx)
	if err != nil {
		return err
	}
	defer inst.Close()
	f.setPID(inst.PID())
	v := charon.NewVici(inst.Vici())
	defer v.Close()

	g, ctx := errgroup.WithContext(ctx)
	changed := make(chan struct{}, 1)
	kick := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-inst.Done():
			return errDied
		}
	})
	g.Go(func() error { return f.follow(ctx, v, kick) })
	g.Go(func() error {
		err := f.drive(ctx, v, changed)
		return errors.Join(err, killHung(ctx, inst, err))
	})
	return g.Wait()
}

// killHung ends a charon that did not answer in time. Killing is right: asked to
// end, it would delete the SAs.
func killHung(ctx context.Context, inst *charon.Instance, err error) error {
	if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return inst.Kill()
}

// adoptOrStart returns a running charon. One with the configuration of an earlier
// release is killed, so that its SAs go on until the next one has its own.
func (f *Fabric) adoptOrStart(ctx context.Context) (*charon.Instance, error) {
	inst, err := charon.Adopt(ctx, f.spec)
	if err == nil {
		return inst, nil
	}
	switch {
	case errors.Is(err, charon.ErrNotRunning):
	case errors.Is(err, charon.ErrConfChanged):
		if err := charon.Kill(f.spec.Dir); err != nil {
			return nil, err
		}
	default:
		return nil, err
	}
	return charon.Start(ctx, f.spec)
}

// follow kicks whenever an SA comes or goes.
func (f *Fabric) follow(ctx context.Context, v *charon.Vici, kick func()) error {
	for {
		err := v.Events(ctx, kick, func(charon.Event) { kick() })
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, charon.ErrEventsLost) {
			return err
		}
		kick()
	}
}

// drive loads the connections and keeps the tunnels up.
func (f *Fabric) drive(ctx context.Context, v *charon.Vici, changed <-chan struct{}) error {
	if err := f.load(ctx, v); err != nil {
		return err
	}
	// Again: an operator may have flushed what earlier daemons set.
	if err := f.Protect(); err != nil {
		return err
	}
	f.table.begin(time.Now())
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.again:
			if err := f.load(ctx, v); err != nil {
				f.notify(Notice{Warn: true, Text: "the fabric keeps its credentials", Reason: err.Error()})
			}
			continue
		case <-changed:
		case <-t.C:
		}
		if err := f.round(ctx, v); err != nil {
			return err
		}
		t.Reset(f.table.wait(time.Now()))
	}
}

// round looks at the SAs once and acts.
func (f *Fabric) round(ctx context.Context, v *charon.Vici) error {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	sas, err := v.ListSAs(ctx, true)
	if err != nil {
		return err
	}
	acts := f.table.look(time.Now(), sas)
	f.mu.Lock()
	f.last = f.table.status()
	f.mu.Unlock()
	for _, n := range f.table.take() {
		f.notify(n)
	}
	for _, a := range acts {
		// None waits for the peer. What charon refuses (an SA that has just gone)
		// the next round sees.
		var err error
		switch {
		case a.initiate != "":
			err = v.Initiate(ctx, a.initiate, childName, -time.Millisecond)
		case a.endIKE != 0:
			err = v.TerminateIKE(ctx, charon.Target{ID: a.endIKE}, false, -time.Millisecond)
		default:
			err = v.TerminateChild(ctx, charon.Target{ID: a.endChild}, -time.Millisecond)
		}
		if err != nil && !errors.Is(err, charon.ErrRefused) {
			return err
		}
	}
	return nil
}

// load brings charon's credentials and connections to the configuration. What it
// has already stays as it is, and so do SAs.
func (f *Fabric) load(ctx context.Context, v *charon.Vici) error {
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	r, err := f.cfg.credentials()
	if err != nil {
		return err
	}
	defer clear(r.key)
	cmds, err := f.cfg.commands(r)
	if err != nil {
		return err
	}
	for _, c := range cmds {
		if _, err := v.Call(ctx, c.name, c.m); err != nil {
			return fmt.Errorf("load %s: %w", c.what, err)
		}
	}
	have, err := v.Call(ctx, "get-conns", nil)
	if err != nil {
		return err
	}
	names, _ := have.Get("conns").([]string)
	for _, n := range names {
		if slices.ContainsFunc(f.cfg.Peers, func(p Peer) bool { return p.Name == n }) {
			continue
		}
		if err := f.unload(ctx, v, n); err != nil {
			return fmt.Errorf("unload former peer %s: %w", n, err)
		}
	}
	return nil
}

// unload forgets a peer that left the fleet, and ends its SAs.
func (f *Fabric) unload(ctx context.Context, v *charon.Vici, name string) error {
	m, err := message("name", name)
	if err != nil {
		return err
	}
	if _, err := v.Call(ctx, "unload-conn", m); err != nil {
		return err
	}
	err = v.TerminateIKE(ctx, charon.Target{Name: name}, false, -time.Millisecond)
	if errors.Is(err, charon.ErrRefused) { // it has none
		return nil
	}
	return err
}

// CleanUp ends the charon below runDir, which deletes its SAs and policies, and removes the
// block policies of a namespace, "" for the calling thread's. It works after a crash.
func CleanUp(ctx context.Context, runDir, netns string) error {
	if err := errors.Join(charon.End(ctx, dirOf(runDir)), setBlocks(netns, nil)); err != nil {
		return fmt.Errorf("remove the fabric: %w", err)
	}
	return nil
}

// dirOf is the directory of the fabric's charon.
func dirOf(runDir string) string { return filepath.Join(runDir, "fabric") }

func (f *Fabric) setPID(pid int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pid = pid
}

func (f *Fabric) notify(n Notice) {
	if f.cfg.Notify != nil {
		f.cfg.Notify(n)
	}
}
