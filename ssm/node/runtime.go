package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/sa/slot"
	"github.com/shadowcast/shadowcast/sa/steer"
	"github.com/shadowcast/shadowcast/sa/xfrm"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/replica"
	"github.com/shadowcast/shadowcast/ssm/session"
)

// mode is what a runtime does with the datagrams of its charon.
type mode string

const (
	modeIdle   mode = "idle"   // charon runs, nothing is fed or published
	modeShadow mode = "shadow" // documents come from the owner and are fed
	modeOwner  mode = "owner"  // charon's datagrams become documents and are published
)

// tickEvery drives the ledger's timers and the audit of a twin.
const tickEvery = 400 * time.Millisecond

// sampleEvery is how often an owner confirms unchanged replay samples; active SAs
// report by themselves every second.
const sampleEvery = time.Second

// slotRuntime keeps one slot running on this appliance. Only run's goroutine
// touches the fields below queue.
type slotRuntime struct {
	a   *Appliance
	n   sa.Slot
	cfg config.Slot
	log *slog.Logger
	dir string

	// Of places: stop ends run, over is closed when it has.
	stop context.CancelFunc
	over chan struct{}

	*queue
	mode   mode
	ticket sa.Ticket // as owner: the tenure
	birth  sa.Birth  // of SAs born here now

	link *charon.Link
	kern *xfrm.Conn
	inst *charon.Instance
	// outdated: inst runs with a strongswan.conf of before; it serves, and is no twin
	// to keep.
	outdated bool
	vici     *charon.Vici
	life     context.CancelFunc // ends what belongs to inst

	ledger  *session.Ledger
	pub     *replica.Publisher
	unpub   context.CancelFunc // ends pub
	sampled time.Time          // when replay samples were last published
	watched map[sa.SPI]bool
	// covers decides which shadows hold which sessions, nil where all hold all; fed are
	// the shadows.
	covers *coverage
	fed    []ssm.Node
	// suspects are sessions that charon deleted and the shadows still hold.
	suspects map[string]time.Time

	twin *twin
	// late are outbound SAs that the kernel lacked when the slot was claimed, and their
	// births; lateIn are inbound ones of sessions that came later, and the last numbers
	// known of them.
	late   map[slot.Outbound]sa.Birth
	lateIn map[sa.SPI]uint64
	// refill is under way: sessions that others hold are awaited.
	refill *refilling
	unsure time.Time // until then charon may repeat what is known
	active bool      // charon was told to serve
	// unique are the sessions whose clients may have only one, nil where no connection says
	// so; charon was asked to send all its sessions again, which takes until recalled.
	unique   *uniqueSlot
	recalled time.Time
	// networks lie behind the clients, beside the pools.
	networks *networks
	noted    time.Time           // when it was last looked who the clients are
	held     []*session.Document // what charon holds after standDown
	// rekeys are under way since a takeover; nil: none.
	rekeys *rekeyPlan
	audit  auditor
	// stay ends a redirect that a drain asked for; nil: none runs.
	stay context.CancelFunc

	// Read by the core loop and the operator API.
	sessions atomic.Int64
	pid      atomic.Int64
	started  atomic.Int64  // when that process was, Unix nanoseconds
	lives    atomic.Uint32 // of charon, that this daemon has seen
	// published and linked are pub and link for readers outside.
	published atomic.Pointer[replica.Publisher]
	linked    atomic.Pointer[charon.Link]
	selects   atomic.Pointer[coverage]     // covers, for the publisher
	some      atomic.Pointer[[]netip.Addr] // of the clients
	// ledgerStats are those of the ledger at the last tick; nil before it was one.
	ledgerStats atomic.Pointer[session.Stats]
	group       *errgroup.Group
	ctx         context.Context
}

func newRuntime(a *Appliance, c config.Slot) *slotRuntime {
	r := &slotRuntime{a: a, n: c.Number, cfg: c, log: a.log.With("slot", c.Number), mode: modeIdle, queue: newQueue(),
		dir: filepath.Join(a.cfg.RunDir, "slot-"+strconv.Itoa(int(c.Number))), watched: map[sa.SPI]bool{}, suspects: map[string]time.Time{},
		late: map[slot.Outbound]sa.Birth{}, lateIn: map[sa.SPI]uint64{}, networks: newNetworks(a.cfg, c),
		audit: auditor{repaired: map[string]time.Time{}, enforced: map[string]time.Time{}}}
	r.networks.route = func(ps []netip.Prefix) error {
		a.routes.behind(r.n, ps)
		return a.host.SetPrefixes(r.n, ps)
	}
	return r
}

func (r *slotRuntime) String() string { return fmt.Sprintf("slot %d", r.n) }

// netns is the path of the slot's network namespace.
func (r *slotRuntime) netns() string { return r.a.host.NetnsPath(r.n) }

// run works until ctx ends. It leaves charon and the kernel as they are: they
// go on without the daemon until the fence's deadline.
func (r *slotRuntime) run(ctx context.Context) (err error) {
	r.group, r.ctx = errgroup.WithContext(ctx)
	defer func() {
		if werr := r.group.Wait(); err == nil {
			err = werr
		}
	}()
	if r.kern, err = xfrm.Open(r.netns()); err != nil {
		return fmt.Errorf("run slot %d: %w", r.n, err)
	}
	defer r.kern.Close()
	if r.link, err = charon.OpenLink(r.netns(), charon.LinkOptions{Log: r.log}); err != nil {
		return fmt.Errorf("run slot %d: %w", r.n, err)
	}
	r.linked.Store(r.link)
	r.group.Go(func() error {
		return r.link.Run(r.ctx, func(m charon.Message) { r.do(func() { r.fromCharon(m) }) })
	})
	sub, err := xfrm.Subscribe(r.ctx, r.netns(), xfrm.GroupSA, xfrm.GroupReplay, xfrm.GroupExpire)
	if err != nil {
		return fmt.Errorf("run slot %d: %w", r.n, err)
	}
	r.group.Go(func() error { return r.readKernel(sub) })
	r.group.Go(func() error { return r.measure(r.ctx) })

	r.begin()
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return nil
		case <-r.wake:
			r.work()
		case <-tick.C:
			r.onTick()
		}
		if r.mode == modeShadow {
			r.twin.flush()
		}
	}
}

// begin adopts what an earlier daemon left active, else starts afresh.
func (r *slotRuntime) begin() {
	was, err := r.a.memory.load(r.n)
	r.a.problem(r.n, "read what the last daemon remembered", err)
	if was.Role == ssm.RoleOwner {
		spec, err := r.spec()
		if err != nil {
			r.a.post(ssm.EvSlotDown{Slot: r.n, Reason: err.Error()})
			return
		}
		inst, err := charon.Adopt(r.ctx, spec)
		if errors.Is(err, charon.ErrConfChanged) {
			// Its sessions count more than what it shall do otherwise.
			if inst, err = charon.AdoptAny(r.ctx, spec); err == nil {
				r.outdated = true
				r.a.events.Add(Entry{Slot: r.n, Kind: "adopted", Warn: true, Text: "charon goes on with the settings that it was started with",
					Reason: "pools, client_dns or the release changed; hand the slot over, and it gets the new ones as a twin"})
			}
		}
		if err == nil {
			r.attach(inst)
			r.refill = newReadBack(inst)
			// The configuration may have changed while no daemon ran.
			r.a.problem(r.n, "load connections into the adopted charon", r.configure())
			r.mode, r.ticket = modeIdle, was.Ticket
			r.a.post(ssm.EvAdopted{Slot: r.n, Ticket: was.Ticket, Lives: was.Lives, Set: was.Set, Version: was.Version})
			return
		}
		if !errors.Is(err, charon.ErrNotRunning) {
			r.a.problem(r.n, "go on with the charon of the earlier daemon", err)
		}
	}
	// A daemon that died in the middle of a move may have left it open.
	r.a.problem(r.n, "close the fence of an earlier daemon", r.a.host.CloseFence(r.n))
	if was.Ticket != 0 {
		r.a.post(ssm.EvRestored{Slot: r.n, Ticket: was.Ticket, Owned: was.Role != ssm.RoleShadow})
	}
	r.rebuild()
}

// rebuild starts a fresh charon over empty kernel state and reports EvSlotUp.
func (r *slotRuntime) rebuild() {
	if err := r.startCharon(); err != nil {
		r.a.post(ssm.EvSlotDown{Slot: r.n, Reason: err.Error()})
		return
	}
	r.a.post(ssm.EvSlotUp{Slot: r.n})
}

// readKernel passes notifications on. A malformed one is reported and skipped.
func (r *slotRuntime) readKernel(sub *xfrm.Subscription) error {
	defer sub.Close()
	for {
		e, err := sub.Next()
		switch {
		case r.ctx.Err() != nil:
			return nil
		case err != nil:
			r.a.problem(r.n, "read a kernel notification", err)
		default:
			r.do(func() { r.fromKernel(e) })
		}
	}
}

func (r *slotRuntime) spec() (charon.Spec, error) {
	text, err := r.conf().Text()
	return charon.Spec{Name: r.String(), Dir: r.dir, Netns: r.netns(), Conf: text, NeedHA: true}, err
}

// conf is the configuration of the slot's charon.
func (r *slotRuntime) conf() charon.Conf {
	c := charon.Conf{Slot: r.n, RunDir: r.dir, Pool4: r.cfg.Pool4(), Pool6: r.cfg.Pool6(), LogFile: filepath.Join(r.dir, "charon.log")}
	var servers []string
	for _, a := range r.a.cfg.Fleet.ClientDNS {
		servers = append(servers, a.String())
	}
	if len(servers) > 0 {
		c.Extra = map[string]string{"plugins.attr.dns": strings.Join(servers, ", ")}
	}
	return c
}

// startCharon replaces charon and everything it installed. The fence is closed.
func (r *slotRuntime) startCharon() error {
	r.detach()
	spec, err := r.spec()
	if err != nil {
		return err
	}
	if old := r.inst; old != nil {
		if err := old.Kill(); err != nil {
			return fmt.Errorf("end the old charon: %w", err)
		}
		<-old.Done()
		old.Close()
	} else if err := charon.Kill(r.dir); err != nil { // an earlier daemon's, with whatever configuration
		return fmt.Errorf("end the old charon: %w", err)
	}
	r.inst, r.outdated = nil, false
	if err := r.kern.FlushSA(); err != nil {
		return fmt.Errorf("flush SAs: %w", err)
	}
	if err := r.kern.FlushPolicy(); err != nil {
		return fmt.Errorf("flush policies: %w", err)
	}
	inst, err := charon.Start(r.ctx, spec)
	if err != nil {
		return err
	}
	r.attach(inst)
	return r.configure()
}

// configure learns the HA version of charon and gives it the operators'
// connections.
func (r *slotRuntime) configure() error {
	release, err := r.vici.Version(r.ctx)
	if err != nil {
		return fmt.Errorf("ask charon for its version: %w", err)
	}
	v, err := charon.VersionOf(release)
	if err != nil {
		return err
	}
	r.link.SetVersion(v)
	if err := r.a.load(r.ctx, r.vici, v); err != nil {
		return fmt.Errorf("load connections: %w", err)
	}
	return nil
}

// attach follows one life of charon.
func (r *slotRuntime) attach(inst *charon.Instance) {
	ctx, cancel := context.WithCancel(r.ctx)
	r.inst, r.life = inst, cancel
	if r.unique != nil {
		r.unique.askAgain()
	}
	r.link.SetPeer(inst.PID())
	r.started.Store(inst.Started().UnixNano())
	r.lives.Add(1)
	r.pid.Store(int64(inst.PID()))
	vici := charon.NewVici(charon.ViciSocket(r.dir))
	r.vici = vici
	r.group.Go(func() error {
		select {
		case <-ctx.Done():
		case <-inst.Done():
			r.do(func() {
				if r.inst == inst {
					r.pid.Store(0)
					r.a.post(ssm.EvCharonDied{Slot: r.n})
				}
			})
		}
		return nil
	})
	r.group.Go(func() error { defer vici.Close(); return r.follows(ctx, vici) })
}

func (r *slotRuntime) detach() {
	if r.life != nil {
		r.life()
		r.life = nil
	}
	r.pid.Store(0)
}

func (r *slotRuntime) fromCharon(m charon.Message) {
	if r.mode == modeOwner || r.refill != nil {
		r.ownerMessage(m)
	}
}

func (r *slotRuntime) fromKernel(e xfrm.Event) {
	switch r.mode {
	case modeShadow:
		r.twin.kernel(e)
	case modeOwner:
		r.ownerKernel(e)
	}
}

// fromSteering receives IKE headers and watched ESP packets of this slot.
func (r *slotRuntime) fromSteering(e steer.Event) {
	if r.mode == modeOwner || r.refill != nil {
		r.ownerPacket(e)
	}
}

func (r *slotRuntime) onTick() {
	switch r.mode {
	case modeShadow:
		r.twin.tick(time.Now())
		r.auditDue(time.Now())
	case modeOwner:
		now := time.Now()
		r.output(r.ledger.Tick(now))
		stats := r.ledger.Stats()
		r.ledgerStats.Store(&stats)
		r.forgetSuspects(now)
		r.endDismissed(now)
		r.noteClients(now)
		r.rekeyDue(now)
		r.auditDue(now)
		r.cover(r.pub, now)
		if now.Sub(r.sampled) > sampleEvery {
			// Nothing changed: the shadows' last samples are as good as new.
			r.sampled = now
			r.pub.Replay(nil)
		}
	}
}

// activate reports whether charon was told.
func (r *slotRuntime) activate() bool {
	err := r.link.Activate(r.ctx)
	r.a.problem(r.n, "activate charon", err)
	if r.mode == modeOwner {
		r.active = true
		r.audit.next = time.Now().Add(confirmAfter)
		r.rekeyWorn()
		r.planTakenOver()
	}
	return err == nil
}

// standDown ends an ownership: nothing is published any more, charon becomes
// passive behind the closed fence.
func (r *slotRuntime) standDown() {
	if r.ledger != nil {
		r.held = r.ledger.Docs()
	}
	r.endOwner()
	r.mode = modeIdle
	if r.inst != nil {
		r.a.problem(r.n, "passivate charon", r.link.Passivate(r.ctx))
	}
	r.a.post(ssm.EvPassivated{Slot: r.n})
}

// measure reports the round-trip time to the slot's clients now and then.
func (r *slotRuntime) measure(ctx context.Context) error {
	t := time.NewTicker(3 * time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			r.ping(ctx)
		}
	}
}

func (r *slotRuntime) ping(ctx context.Context) {
	addrs := ask(ctx, r.queue, r.clients)
	if len(addrs) == 0 {
		return
	}
	if d := pingRTT(ctx, addrs); d.best > 0 {
		r.a.post(ssm.EvRTT{Slot: r.n, RTT: d.best, Worst: d.worst})
	}
}

// ask runs f in the goroutine of q and returns its result, the zero value when
// ctx ends first.
func ask[T any](ctx context.Context, q *queue, f func() T) (v T) {
	ch := make(chan T, 1)
	q.do(func() { ch <- f() })
	select {
	case v = <-ch:
	case <-ctx.Done():
	}
	return v
}
