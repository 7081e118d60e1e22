package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/dnsupdate"
	"github.com/shadowcast/shadowcast/operator"
	"github.com/shadowcast/shadowcast/pki"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/sa/charon/swanctl"
	"github.com/shadowcast/shadowcast/sa/fabric"
	"github.com/shadowcast/shadowcast/sa/slot"
	"github.com/shadowcast/shadowcast/sa/steer"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/geoip"
	"github.com/shadowcast/shadowcast/ssm/member"
	"github.com/shadowcast/shadowcast/ssm/peer"
	"github.com/shadowcast/shadowcast/ssm/refusal"
)

// tickInterval drives the core's timers: once in a probe interval, so that one
// wake-up serves both. What needs to be exact asks for a tick of its own.
func (a *Appliance) tickInterval() time.Duration {
	return max(a.cfg.Fleet.Probe.Interval, 10*time.Millisecond)
}

// messageKind is the datagram kind of a core message, JSON in the payload.
const messageKind peer.Kind = 1

// Appliance is this machine in the fleet.
type Appliance struct {
	cfg     *config.Config
	log     *slog.Logger
	version string
	started time.Time

	core     *ssm.Core
	facts    chan ssm.Event
	ended    chan struct{} // closed when the core loop has ended
	asks     chan func(*ssm.Core)
	steering *steering
	scribe   *queue

	identity  *pki.Identity
	host      *slot.Host
	steer     *steer.Steer
	fabric    *fabric.Fabric
	peers     *peer.Transport
	routes    *routes
	names     *dnsupdate.Updater // nil without names
	replicas  *replicas
	authority *authority
	conns     *swanctl.Config
	unique    *uniques // nil where no connection has a policy that reaches beyond a slot
	// connsDigest names connections, credentials and charon's HA version; a
	// twin with another one would destroy sessions.
	connsDigest string
	registrars  *registrars
	memory      memory
	events      *journal
	moves       *moveLog
	places      *places
	shadowSets  *shadowSets
	tiers       atomic.Pointer[config.Tiers] // as in use: SIGHUP changes them
	geo         atomic.Pointer[geoip.DB]     // nil where no database is configured; SIGHUP reads it again
	hitsSeen    map[sa.Slot]uint64
	upgradeLock *upgradeLock
	redirects   chan struct{} // holds one token: who has it tells clients to leave
	health      *monitor
	refusals    *refusal.Table
	about       *descriptions
	members     *member.Gossip

	incarnation uint64
	alone       atomic.Bool // the core hears no other appliance
	onReady     func()
}

// OnReady sets what is called once, when the appliance serves. Call it before Run.
func (a *Appliance) OnReady(f func()) { a.onReady = f }

// New reads files and checks what can be checked without touching the kernel.
func New(cfg *config.Config, version string, log *slog.Logger) (*Appliance, error) {
	a := &Appliance{cfg: cfg, log: log, version: version, started: time.Now(), facts: make(chan ssm.Event, 1024), ended: make(chan struct{}),
		asks: make(chan func(*ssm.Core)), scribe: newQueue(), hitsSeen: map[sa.Slot]uint64{}}
	a.events = &journal{log: operator.NewEvents(cfg.Node, 10_000, log)}
	a.moves = newMoveLog()
	a.redirects = make(chan struct{}, 1)
	a.refusals = newRefusals(a)
	for _, d := range []string{cfg.RunDir, cfg.StateDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("create directory: %w", err)
		}
	}
	a.memory = memory{cfg.RunDir}
	var err error
	if a.incarnation, err = a.memory.incarnation(); err != nil {
		return nil, err
	}
	issued, err := readTickets(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	if a.identity, err = pki.Load(pki.Files{CA: cfg.PKI.CA, Cert: cfg.PKI.Cert, Key: cfg.PKI.Key}, cfg.Node); err != nil {
		return nil, err
	}
	if a.conns, err = loadConnections(cfg); err != nil {
		return nil, err
	}
	if a.connsDigest, err = a.conns.Digest(charon.V3); err != nil {
		return nil, err
	}
	if a.core, err = ssm.New(coreConfig(cfg, a.incarnation), time.Now()); err != nil {
		return nil, err
	}
	if a.registrars, err = newRegistrars(a, issued); err != nil {
		return nil, err
	}
	a.upgradeLock = newUpgradeLock(a)
	if a.about, err = newDescriptions(a); err != nil {
		return nil, err
	}
	a.health = newMonitor(a)
	a.steering = newSteering(a)
	a.authority = newAuthority(a)
	if a.routes, err = newRoutes(a); err != nil {
		return nil, err
	}
	if a.names, err = newNames(a); err != nil {
		return nil, err
	}
	a.places = newPlaces(a)
	a.shadowSets = newShadowSets(a)
	a.tiers.Store(&cfg.Fleet.Tiers)
	if err := a.openGeoIP(cfg.GeoIPFile); err != nil {
		return nil, err
	}
	return a, nil
}

// loadConnections reads the operators' swanctl connections and refuses those
// that would break a guarantee.
func loadConnections(cfg *config.Config) (*swanctl.Config, error) {
	c, err := swanctl.Read(cfg.SwanctlDir)
	if err != nil {
		return nil, err
	}
	if err := c.Check(swanctl.Rules{VIPs: cfg.Fleet.VIPs}); err != nil {
		return nil, err
	}
	return c, nil
}

func coreConfig(cfg *config.Config, incarnation uint64) ssm.Config {
	c := ssm.Config{Self: ssm.Node(cfg.Node), Incarnation: incarnation, Shadowing: cfg.Shadowing,
		ProbeInterval: cfg.Fleet.Probe.Interval, ProbeLost: cfg.Fleet.Probe.Lost, DeadMan: cfg.Fleet.DeadMan,
		HoldCap: cfg.Fleet.Handover.HoldCap, HoldDown: cfg.Fleet.Handover.HoldDown,
		DrainTime: cfg.Fleet.Handover.DrainTime, DrainRate: float64(cfg.Fleet.Handover.DrainRate),
		Redirect: redirectOf(cfg.Redirect), ShedLoad: float64(cfg.Fleet.Handover.ShedLoad) / 100, DampHalfLife: cfg.Fleet.Handover.ReturnDamping}
	for _, a := range cfg.Fleet.Appliances {
		c.Appliances = append(c.Appliances, ssm.Node(a.Name))
	}
	// Every core asks its own shell, which knows the way to the ticket log.
	c.Registrar = c.Self
	for _, s := range cfg.Fleet.Slots {
		sc := ssm.SlotConfig{Slot: s.Number, Home: ssm.Node(s.Home), Dynamic: cfg.Fleet.Changes(s)}
		for _, n := range s.Shadows {
			sc.Shadows = append(sc.Shadows, ssm.Node(n))
		}
		c.Slots = append(c.Slots, sc)
	}
	return c
}

// Run runs the appliance until ctx ends, then takes the VIP back and leaves
// charons, namespaces and steering as they are: they serve on until the fences'
// deadlines, and a restarted daemon adopts them.
func (a *Appliance) Run(ctx context.Context) error {
	key, err := pki.LoadFleetKey(a.cfg.FleetKeyFile)
	if err != nil {
		return err
	}
	if err := a.prepareKernel(ctx); err != nil {
		return err
	}
	defer a.host.Close()
	defer a.steer.Close()
	me := a.self()
	addrs := map[string]netip.AddrPort{}
	for _, p := range a.cfg.Fleet.Appliances {
		if p.Name != a.cfg.Node {
			addrs[p.Name] = p.Probe()
		}
	}
	a.peers, err = peer.Open(peer.Config{Self: a.cfg.Node, Incarnation: uint64(time.Now().UnixNano()), Listen: me.Probe(), FleetKey: key, Peers: addrs, Logger: a.log, Refused: a.refusedDatagram})
	if err != nil {
		return err
	}
	if a.members, err = newMembers(a, key); err != nil {
		return errors.Join(err, a.peers.Close())
	}
	if a.unique, err = newUniques(a, a.conns.Unique(), key); err != nil {
		return errors.Join(err, a.peers.Close())
	}
	if a.replicas, err = newReplicas(a); err != nil {
		return errors.Join(err, a.peers.Close())
	}

	// The core loop ends last but one: the slots and the network go on while
	// the VIP is withdrawn, so that packets on their way are still served.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, gctx := errgroup.WithContext(work)
	g.Go(func() error { return a.loop(gctx) })
	g.Go(func() error { return a.scribe.run(gctx) })
	g.Go(func() error { return a.peers.Run(gctx, a.fromPeer) })
	g.Go(func() error { return ignore(a.steer.Run(gctx, a.fromSteering), gctx) })
	g.Go(func() error { return a.fabric.Run(gctx) })
	g.Go(func() error { return a.replicas.run(gctx) })
	g.Go(func() error { return a.registrars.run(gctx) })
	g.Go(func() error { return a.about.run(gctx) })
	g.Go(func() error { return a.runMembers(gctx) })
	g.Go(func() error { return a.routes.run(gctx) })
	g.Go(func() error { return a.watchRoutes(gctx) })
	g.Go(func() error { return a.serveOperator(gctx) })
	g.Go(func() error { return a.watchFitness(gctx) })
	g.Go(func() error { return a.inspect(gctx) })
	if a.cfg.Metrics.IsValid() {
		g.Go(func() error { return a.serveMetrics(gctx) })
	}
	if a.cfg.Health.Enabled {
		g.Go(func() error { return a.health.run(gctx) })
	}
	if a.names != nil {
		g.Go(func() error { return a.names.Run(gctx) })
		g.Go(func() error { return a.keepNames(gctx) })
	}
	if a.routes.speaker != nil {
		g.Go(func() error { return a.routes.speaker.Run(gctx) })
	}
	g.Go(func() error { return a.places.run(gctx, g.Go) })
	g.Go(func() error { return a.shadowSets.run(gctx) })
	if a.unique != nil {
		for _, p := range a.unique.others {
			g.Go(func() error { return p.run(gctx) })
		}
	}
	if err := a.restoreStandings(); err != nil {
		a.problem(0, "read the standings that were asked for", err)
	}
	if a.onReady != nil {
		a.onReady()
	}
	g.Go(func() error {
		select {
		case <-ctx.Done():
			a.events.Add(Entry{Kind: "stop", Text: "the daemon stops", Reason: "it was told to"})
			a.stopDrain(gctx)
			a.routes.withdraw()
			a.lastPackets(gctx)
			stop()
		case <-gctx.Done():
		}
		return nil
	})
	return g.Wait()
}

// ignore turns the end of ctx into success.
func ignore(err error, ctx context.Context) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// prepareKernel builds namespaces and steering. Slots found open stay open.
func (a *Appliance) prepareKernel(ctx context.Context) (err error) {
	cfg := a.cfg
	// First, so that no tunnel ever carries anything in the clear.
	if a.fabric, err = newFabric(a); err != nil {
		return err
	}
	if err := a.fabric.Protect(); err != nil {
		return err
	}
	a.host, err = slot.New(slot.Config{NetnsPrefix: cfg.NetnsPrefix, PinDir: filepath.Join(cfg.BPFDir, "slot"), Tunnel: TunnelName, TunnelLocal: a.self().Address, Log: a.log})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(cfg.BPFDir, "steer"), 0o700); err != nil {
		return fmt.Errorf("create the pin directory (is a bpf file system mounted at /sys/fs/bpf?): %w", err)
	}
	if a.steer, err = steer.New(steer.Config{PinDir: filepath.Join(cfg.BPFDir, "steer")}); err != nil {
		return err
	}
	if err := a.host.Set(ctx, a.places.desired()); err != nil {
		return err
	}
	return a.steer.Set(a.steering.initial())
}

// loop is the only goroutine that touches the core.
func (a *Appliance) loop(ctx context.Context) error {
	defer close(a.ended)
	tick := time.NewTicker(a.tickInterval())
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev := <-a.facts:
			a.step(ev)
		case f := <-a.asks:
			// Who asks sees what it has posted before.
			for range len(a.facts) {
				a.step(<-a.facts)
			}
			f(a.core)
		case <-tick.C:
			// What came before the tick is judged before it: a late one must not claim
			// on what has been said otherwise since.
			for range len(a.facts) {
				a.step(<-a.facts)
			}
			a.lookForUndelivered()
			a.lookForEntry()
			a.step(ssm.EvTick{})
		}
	}
}

func (a *Appliance) step(ev ssm.Event) {
	a.execute(a.core.Step(ev, time.Now()))
	a.alone.Store(a.core.Alone())
}

// post hands a fact to the core loop.
func (a *Appliance) post(ev ssm.Event) {
	select {
	case a.facts <- ev:
	case <-a.ended:
	}
}

// Pulse returns when the core loop has answered, or the error of ctx.
func (a *Appliance) Pulse(ctx context.Context) error { return a.ask(ctx, func(*ssm.Core) {}) }

// view returns a snapshot of the core.
func (a *Appliance) view(ctx context.Context) (v ssm.View, err error) {
	err = a.ask(ctx, func(c *ssm.Core) { v = c.View() })
	return v, err
}

// ask runs f, which must not keep the core, in the core loop.
func (a *Appliance) ask(ctx context.Context, f func(*ssm.Core)) error {
	done := make(chan struct{})
	select {
	case a.asks <- func(c *ssm.Core) { f(c); close(done) }:
		<-done
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *Appliance) fromPeer(in peer.Inbound) {
	if in.Restarted {
		a.about.tell(in.From)
	}
	refuse := func(reason, detail string) {
		a.refusals.Add(refusal.Key{Channel: fromProbes, Reason: reason, Peer: in.From, Source: in.Source.Addr()}, detail, in.At)
	}
	switch in.Kind {
	case leaseKind:
		a.upgradeLock.fromPeer(in.From, in.Payload)
	case aboutKind:
		a.about.fromPeer(in)
	case messageKind:
		var m ssm.Message
		if err := json.Unmarshal(in.Payload, &m); err != nil {
			refuse("malformed", err.Error())
			return
		}
		a.post(ssm.EvMessage{From: ssm.Node(in.From), Msg: m})
	default:
		refuse("unknown kind", fmt.Sprintf("datagram kind %d is not known here", in.Kind))
	}
}

func (a *Appliance) fromSteering(e steer.Event) {
	a.at(e.Slot, func(r *slotRuntime) { r.fromSteering(e) })
}

// lookForUndelivered compares the packets forwarded to silent owners with the
// last look: new ones cannot be delivered.
func (a *Appliance) lookForUndelivered() {
	silent := a.core.Unheard()
	if len(silent) == 0 {
		clear(a.hitsSeen)
		return
	}
	for _, n := range silent {
		h, err := a.steer.SlotHits(n)
		if err != nil {
			a.problem(n, "read steering counters", err)
			continue
		}
		was, known := a.hitsSeen[n]
		a.hitsSeen[n] = h.Remote
		if known && h.Remote > was {
			a.step(ssm.EvUndeliverable{Slot: n})
		}
	}
}

// peerHits counts packets of slot n that came through the tunnel and were
// delivered here.
func (a *Appliance) peerHits(n sa.Slot) uint64 {
	h, err := a.steer.SlotHits(n)
	a.problem(n, "read steering counters", err)
	return h.LocalPeer
}

// load gives a fresh charon the operators' connections.
func (a *Appliance) load(ctx context.Context, v *charon.Vici, ha charon.Version) error {
	return swanctl.Load(ctx, v, a.conns, ha)
}

// known refuses names that are in no certificate of an appliance of this fleet.
func (a *Appliance) known(name string) error {
	if !a.appliance(name).Address.IsValid() {
		return fmt.Errorf("%q is no appliance of this fleet", name)
	}
	return nil
}

func (a *Appliance) self() config.Appliance { return a.appliance(a.cfg.Node) }

func (a *Appliance) appliance(name string) config.Appliance {
	for _, p := range a.cfg.Fleet.Appliances {
		if p.Name == name {
			return p
		}
	}
	return config.Appliance{}
}
