package sim

import (
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm"
)

// node is one appliance: a core, and a model of the shell around it.
type node struct {
	w      *World
	index  int
	name   ssm.Node
	core   *ssm.Core
	skew   time.Duration // of its clock
	drift  float64       // of its clock, share
	routes []bool        // whose liveness routes it has

	machine bool // has power
	daemon  bool // shadowcastd runs
	frozen  bool
	wakes   uint64 // of the freeze that counts
	stalls  uint64 // how often the daemon was stopped or killed
	inbox   []ssm.Event
	life    uint64 // of the daemon; what an earlier one arranged is void
	inc     uint64 // of the run directory

	diedAt  time.Duration // when it last lost power
	quietAt time.Duration // World.shaken before that

	shells map[sa.Slot]*shell
	log    map[sa.Slot]sa.Ticket // ticket log, on disk

	level     ssm.Level
	predicted ssm.Standing
	operated  ssm.Standing
}

func (n *node) clock() time.Time {
	d := n.w.now + time.Duration(float64(n.w.now)*n.drift)
	return time.Unix(1_700_000_000, 0).Add(n.skew + d)
}

func (n *node) ready() bool { return n.daemon && !n.frozen }

// boot starts the machine, if it is off, and the daemon.
func (n *node) boot() {
	if n.daemon {
		return
	}
	if !n.machine { // run directory and kernel are empty
		n.machine = true
		n.inc++
		n.shells = map[sa.Slot]*shell{}
		for _, s := range n.w.cfg.Slots {
			n.shells[s.Slot] = newShell(n, s.Slot)
		}
	}
	n.life++
	n.daemon, n.frozen, n.inbox, n.level = true, false, nil, ssm.LevelNone
	cfg := n.w.cfg
	cfg.Self, cfg.Incarnation = n.name, n.inc
	core, err := ssm.New(cfg, n.clock())
	if err != nil {
		n.w.fail("new core: %v", err)
		return
	}
	n.core = core
	n.w.logf("%s starts, incarnation %d", n.name, n.inc)
	for _, s := range cfg.Slots {
		if n.member(s) || n.shells[s.Slot].memory.role != "" {
			n.shells[s.Slot].begin()
		}
	}
	n.later(0, ssm.EvStanding{Source: ssm.SourceHealth, Standing: n.predicted})
	n.later(0, ssm.EvStanding{Source: ssm.SourceOperator, Standing: n.operated})
	n.w.routeOf(n, true)
	for _, o := range n.w.nodes {
		if o.daemon && o != n && n.w.connected(o, n) {
			n.w.route(n, o, true, 100*time.Millisecond)
		}
	}
	n.ticks()
}

func (n *node) member(s ssm.SlotConfig) bool {
	if s.Home == n.name {
		return true
	}
	for _, x := range s.Shadows {
		if x == n.name {
			return true
		}
	}
	return false
}

func (n *node) ticks() {
	life := n.life
	var tick func()
	tick = func() {
		if n.life != life || !n.daemon {
			return
		}
		if !n.frozen {
			n.tick()
		}
		n.w.after(tickInterval, tick)
	}
	n.w.after(time.Duration(n.w.rng.Intn(int(tickInterval))), tick)
}

func (n *node) tick() {
	if n.core.WatchesEntry() {
		n.step(ssm.EvEntry{Packets: 7})
	}
	for _, s := range n.core.Unheard() {
		if n.w.rng.Intn(6) == 0 { // clients' packets enter here, too
			n.shells[s].undelivered = n.w.now
			n.step(ssm.EvUndeliverable{Slot: s})
		}
	}
	n.step(ssm.EvTick{})
	for _, s := range n.w.cfg.Slots {
		n.shells[s.Slot].sends()
	}
}

// later answers the core after d, unless the daemon is another one by then.
func (n *node) later(d time.Duration, ev ssm.Event) {
	life := n.life
	n.w.after(d, func() {
		if n.life == life {
			n.post(ev)
		}
	})
}

// do runs f after d, unless the daemon is another one by then. A frozen daemon
// does it when it thaws.
func (n *node) do(d time.Duration, f func()) {
	life := n.life
	var try func()
	try = func() {
		switch {
		case n.life != life || !n.daemon:
		case n.frozen:
			n.w.after(20*time.Millisecond, try)
		default:
			f()
		}
	}
	n.w.after(d, try)
}

// maxInbox is what the sockets of a frozen daemon hold.
const maxInbox = 300

func (n *node) post(ev ssm.Event) {
	switch {
	case !n.daemon:
	case n.frozen:
		if len(n.inbox) < maxInbox {
			n.inbox = append(n.inbox, ev)
		}
	default:
		n.step(ev)
	}
}

func (n *node) step(ev ssm.Event) {
	if n.w.violation != "" {
		return
	}
	n.w.steps++
	for _, a := range n.core.Step(ev, n.clock()) {
		n.act(a)
	}
	n.checkFences()
}

func (n *node) crash() {
	if !n.machine {
		return
	}
	n.w.died(n)
	n.diedAt, n.quietAt = n.w.now, n.w.shaken
	n.machine, n.daemon, n.frozen = false, false, false
	n.life++
	n.shells = nil
	n.w.logf("%s loses power", n.name)
	n.w.routeOf(n, false)
}

func (n *node) killDaemon() {
	if !n.daemon {
		return
	}
	n.stall()
	n.daemon, n.frozen = false, false
	n.life++
	n.w.logf("daemon of %s is killed", n.name)
	n.w.routeOf(n, false)
}

func (n *node) freeze(d time.Duration) {
	if !n.ready() {
		return
	}
	n.stall()
	n.frozen = true
	n.wakes++
	wake := n.wakes
	n.w.logf("%s freezes for %s", n.name, d)
	if d > 400*time.Millisecond { // BFD notices
		n.w.after(350*time.Millisecond, func() {
			if n.frozen && n.wakes == wake {
				n.w.routeOf(n, false)
			}
		})
	}
	n.w.after(d, func() {
		if n.wakes == wake {
			n.thaw()
		}
	})
}

// stall runs before the daemon stops or dies. Half of the times its last act is a
// tick, after which it is known which fences must close by themselves: those of
// slots that a ready shadow covers.
func (n *node) stall() {
	n.stalls++
	if n.frozen || n.w.rng.Intn(2) == 0 {
		return
	}
	n.tick()
	var guarded []sa.Slot
	for _, v := range n.core.View().Slots {
		if v.Role == ssm.RoleOwner && slices.ContainsFunc(v.Shadows, func(x ssm.ShadowView) bool { return x.Ready }) {
			guarded = append(guarded, v.Slot)
		}
	}
	stalls, deadMan := n.stalls, n.w.cfg.WithDefaults().DeadMan
	n.w.after(deadMan+time.Millisecond, func() {
		if n.stalls != stalls || !n.machine || n.ready() {
			return
		}
		for _, g := range guarded {
			if n.shells[g].isOpen() {
				n.w.fail("I2: the daemon of %s has been still for %s, and the fence of slot %d, which a ready shadow covers, is open", n.name, deadMan, g)
			}
		}
	})
}

func (n *node) thaw() {
	if !n.frozen {
		return
	}
	n.frozen = false
	n.w.trouble()
	n.w.logf("%s thaws", n.name)
	in := n.inbox
	n.inbox = nil
	// Which of the waiting channels is read first is chance.
	if n.w.rng.Intn(2) == 0 {
		n.tick()
	}
	for _, ev := range in {
		n.step(ev)
	}
	n.w.routeOf(n, true)
}

func (n *node) charonDies(s sa.Slot) {
	if !n.machine {
		return
	}
	sh := n.shells[s]
	if !sh.charon {
		return
	}
	n.w.logf("charon of slot %d on %s dies", s, n.name)
	sh.charon = false
	if sh.adopting {
		return // the starting daemon will see
	}
	n.post(ssm.EvCharonDied{Slot: s})
}
