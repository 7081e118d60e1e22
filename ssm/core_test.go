package ssm

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

func settled(t *testing.T, f *fleet) {
	t.Helper()
	f.run(4 * time.Second)
	check(t, f)
	for _, s := range f.cfg.Slots {
		if got := f.owner(s.Slot); len(got) != 1 || got[0] != s.Home {
			t.Fatalf("slot %d is owned by %v, want its home %s\n%s", s.Slot, got, s.Home, f.trace())
		}
		n := f.node(s.Home)
		if got := n.core.readyShadows(n.core.slots[s.Slot]); len(got) != len(s.Shadows) {
			t.Fatalf("slot %d has ready shadows %v, want %v\n%s", s.Slot, got, s.Shadows, f.trace())
		}
	}
}

func check(t *testing.T, f *fleet) {
	t.Helper()
	if len(f.bad) > 0 {
		t.Fatalf("%v\n%s", f.bad, f.trace())
	}
}

func TestColdStartEveryHomeOwnsItsSlot(t *testing.T) {
	settled(t, newFleet(1, 3, 6))
}

func TestPowerCutIsTakenOverOnce(t *testing.T) {
	f := newFleet(2, 3, 3)
	settled(t, f)
	cut := f.now
	f.crash(f.node("n0"))
	f.run(600 * time.Millisecond)
	check(t, f)
	got := f.owner(1)
	if len(got) != 1 || got[0] == "n0" {
		t.Fatalf("slot 1 is owned by %v %s after the cut\n%s", got, f.now.Sub(cut), f.trace())
	}
	// A second failover in a row, without the dead one.
	f.crash(f.node(got[0]))
	f.run(800 * time.Millisecond)
	check(t, f)
	if again := f.owner(1); len(again) != 1 || again[0] == got[0] {
		t.Fatalf("slot 1 is owned by %v after the second failover\n%s", again, f.trace())
	}
}

// Lost probes alone never claim: the owner may be serving its clients.
func TestSilenceAloneClaimsNothing(t *testing.T) {
	f := newFleet(3, 3, 3)
	settled(t, f)
	f.partition([]Node{"n0"}, true)
	f.run(3 * time.Second)
	check(t, f)
	if got := f.owner(1); !slices.Equal(got, []Node{"n0"}) {
		t.Fatalf("slot 1 is owned by %v after a mere partition\n%s", got, f.trace())
	}
	f.step(f.node("n1"), EvUndeliverable{1})
	f.run(500 * time.Millisecond)
	if got := f.owner(1); !slices.Contains(got, "n1") {
		t.Fatalf("undeliverable packets of the slot: owned by %v\n%s", got, f.trace())
	}
	f.partition([]Node{"n0"}, false)
	f.run(time.Second)
	check(t, f)
	if got := f.owner(1); !slices.Equal(got, []Node{"n1"}) {
		t.Fatalf("after the heal slot 1 is owned by %v, want the highest claim n1\n%s", got, f.trace())
	}
	if f.node("n0").core.slots[1].role != RoleShadow {
		t.Fatalf("the loser is %s, want a shadow\n%s", f.node("n0").core.slots[1].role, f.trace())
	}
}

func TestNobodyClaimsWhileSomebodyHearsTheOwner(t *testing.T) {
	f := newFleet(4, 3, 3)
	settled(t, f)
	f.cut[[2]Node{"n0", "n1"}] = true
	f.cut[[2]Node{"n1", "n0"}] = true
	f.step(f.node("n1"), EvLiveness{"n0", false})
	f.run(2 * time.Second)
	check(t, f)
	if got := f.owner(1); !slices.Equal(got, []Node{"n0"}) {
		t.Fatalf("slot 1 is owned by %v though n2 hears n0\n%s", got, f.trace())
	}
	if got := f.node("n1").core.slots[1].steered.Uplink.Remote; got != "n2" {
		t.Fatalf("n1 forwards packets of slot 1 to %q, want through n2", got)
	}
}

func TestPlannedMoveAndBack(t *testing.T) {
	f := newFleet(5, 3, 3)
	settled(t, f)
	for i, to := range []Node{"n1", "n2", "n0"} {
		owner := f.owner(1)[0]
		f.step(f.node(owner), EvMove{Slot: 1, To: to, ID: uint64(i + 1), Reason: "test"})
		f.run(4 * time.Second)
		check(t, f)
		if got := f.owner(1); !slices.Equal(got, []Node{to}) {
			t.Fatalf("after the move to %s slot 1 is owned by %v\n%s", to, got, f.trace())
		}
	}
}

func TestMoveIsRefusedWithAReason(t *testing.T) {
	f := newFleet(6, 4, 1)
	f.cfg.Slots[0].Shadows = []Node{"n1"}
	f = rebuilt(f)
	settled(t, f)
	for _, to := range []Node{"n0", "n2", "nowhere"} {
		refused := false
		for _, a := range f.node("n0").core.Step(EvMove{Slot: 1, To: to, ID: 9}, f.now) {
			if r, ok := a.(ActReport); ok && r.Phase == "refused" && r.Reason != "" {
				refused = true
			}
		}
		if !refused {
			t.Errorf("a move to %s was not refused", to)
		}
	}
}

func rebuilt(old *fleet) *fleet {
	f := newFleet(6, len(old.nodes), 1)
	f.cfg.Slots = old.cfg.Slots
	for _, n := range f.nodes {
		n.inc = 0
		f.boot(n)
	}
	return f
}

func TestTargetDiesInEveryPhase(t *testing.T) {
	for after := time.Duration(0); after < 400*time.Millisecond; after += 10 * time.Millisecond {
		for _, victim := range []Node{"n0", "n1"} {
			f := newFleet(7, 3, 1)
			settled(t, f)
			f.step(f.node("n0"), EvMove{Slot: 1, To: "n1", ID: 1, Reason: "test"})
			f.run(after)
			f.crash(f.node(victim))
			f.run(6 * time.Second)
			check(t, f)
			if got := f.owner(1); len(got) != 1 || got[0] == victim {
				t.Fatalf("%s dies %s into the move: slot 1 is owned by %v\n%s", victim, after, got, f.trace())
			}
		}
	}
}

// Whoever asked for a move waits for its end: whatever takes the slot away meanwhile,
// there is one.
func TestEveryMoveEnds(t *testing.T) {
	interrupt := map[string]func(*fleet){
		"another claims":      func(f *fleet) { cutOff(f, "n0", "n2") },
		"the target claims":   func(f *fleet) { cutOff(f, "n0", "n1") },
		"the fence was shut":  func(f *fleet) { f.step(f.node("n0"), EvFenceShut{1}) },
		"charon of the owner": func(f *fleet) { f.step(f.node("n0"), EvCharonDied{Slot: 1}) },
	}
	for what, do := range interrupt {
		for after := time.Duration(0); after < 400*time.Millisecond; after += 10 * time.Millisecond {
			f := newFleet(7, 3, 1)
			settled(t, f)
			f.step(f.node("n0"), EvMove{Slot: 1, To: "n1", ID: 1, Reason: "test"})
			f.run(after)
			do(f)
			f.run(6 * time.Second)
			check(t, f)
			var ends []string
			for _, r := range f.reports {
				if r.node == "n0" && r.Move == 1 && (r.Phase == "aborted" || r.Phase == "done" || r.Phase == "refused") {
					ends = append(ends, r.Phase+": "+r.Reason)
				}
			}
			if len(ends) != 1 {
				t.Fatalf("%s %s into the move: it ended %d times: %q\n%s", what, after, len(ends), ends, f.trace())
			}
		}
	}
}

// cutOff lets nobody hear n for a while, and packets for its slot come to heir.
func cutOff(f *fleet, n, heir Node) {
	f.partition([]Node{n}, true)
	f.run(time.Second)
	f.step(f.node(heir), EvUndeliverable{1})
	f.run(time.Second)
	f.partition([]Node{n}, false)
}

func TestFrozenOwnerListensFirst(t *testing.T) {
	f := newFleet(8, 3, 3)
	settled(t, f)
	n := f.node("n0")
	n.up = false // frozen: neither ticks nor datagrams; memory stays
	f.setRoute("n0", false)
	f.run(2 * time.Second)
	if got := f.owner(1); len(got) != 1 {
		t.Fatalf("slot 1 is owned by %v while n0 is frozen\n%s", got, f.trace())
	}
	n.up = true
	f.setRoute("n0", true)
	for _, a := range n.core.Step(EvTick{}, f.now) {
		if x, ok := a.(ActFence); ok && x.Open {
			t.Fatalf("the thawed owner opened the fence of slot %d before it listened", x.Slot)
		}
	}
	f.run(2 * time.Second)
	check(t, f)
	if got := f.owner(1); len(got) != 1 || got[0] == "n0" {
		t.Fatalf("after the thaw slot 1 is owned by %v\n%s", got, f.trace())
	}
}

func TestDeadCharonYields(t *testing.T) {
	f := newFleet(9, 3, 1)
	settled(t, f)
	f.step(f.node("n0"), EvCharonDied{1})
	f.run(100 * time.Millisecond)
	check(t, f)
	if got := f.owner(1); len(got) != 1 || got[0] == "n0" {
		t.Fatalf("charon of n0 died: slot 1 is owned by %v\n%s", got, f.trace())
	}
	// Without a ready shadow it is refed in place.
	f = newFleet(9, 1, 1)
	f.run(3 * time.Second)
	f.step(f.node("n0"), EvCharonDied{1})
	if until := f.node("n0").fence[1]; !until.IsZero() {
		t.Fatal("the fence stays open while charon is refed")
	}
	f.run(time.Second)
	check(t, f)
	if got := f.owner(1); len(got) != 1 || f.node("n0").fence[1].IsZero() {
		t.Fatalf("refed in place: owned by %v, fence %v\n%s", got, f.node("n0").fence, f.trace())
	}
}

func TestRandomSchedulesKeepTheInvariants(t *testing.T) {
	seeds := 120
	if testing.Short() {
		seeds = 40
	}
	for seed := range seeds {
		f := newFleet(int64(seed), 3+seed%4, 2)
		f.loss = float64(seed%4) * 0.05
		f.run(3 * time.Second)
		for range 12 {
			n := f.nodes[f.rng.Intn(len(f.nodes))]
			switch f.rng.Intn(6) {
			case 0:
				if n.up {
					f.crash(n)
				}
			case 1, 2:
				if !n.up {
					f.boot(n)
				}
			case 3:
				f.partition([]Node{n.name}, true)
				f.setRoute(n.name, false)
			case 4:
				f.cut = map[[2]Node]bool{}
				for _, x := range f.nodes {
					f.setRoute(x.name, x.up)
				}
			case 5:
				slot := sa.Slot(1 + f.rng.Intn(2))
				for _, o := range f.owner(slot) {
					f.step(f.node(o), EvMove{Slot: slot, To: n.name, ID: uint64(f.rng.Int63()), Reason: "random"})
				}
			}
			f.run(time.Duration(50+f.rng.Intn(1500)) * time.Millisecond)
			if len(f.bad) > 0 {
				t.Fatalf("seed %d: %v\n%s", seed, f.bad, f.trace())
			}
		}
		// Heal: everything up, one owner each, the highest claim.
		f.cut, f.loss = map[[2]Node]bool{}, 0
		for _, n := range f.nodes {
			if !n.up {
				f.boot(n)
			}
			f.setRoute(n.name, true)
		}
		f.run(8 * time.Second)
		for _, s := range f.cfg.Slots {
			got := f.owner(s.Slot)
			if len(f.bad) > 0 || len(got) != 1 {
				t.Fatalf("seed %d: after the heal slot %d is owned by %v, violations %v\n%s", seed, s.Slot, got, f.bad, f.trace())
			}
			high := sa.Ticket(0)
			for k := range f.claimed {
				if k.slot == s.Slot {
					high = max(high, k.t)
				}
			}
			if o := f.node(got[0]).core.slots[s.Slot]; o.ticket != high {
				t.Fatalf("seed %d: slot %d is held by ticket %d, the highest claimed is %d\n%s", seed, s.Slot, o.ticket, high, f.trace())
			}
		}
	}
}

func TestConfigNamesTheContradiction(t *testing.T) {
	base := Config{Self: "a", Appliances: []Node{"a", "b"}, Registrar: "a"}
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"self":      {func(c *Config) { c.Self = "x" }, `appliance "x"`},
		"registrar": {func(c *Config) { c.Registrar = "x" }, `registrar "x"`},
		"home":      {func(c *Config) { c.Slots = []SlotConfig{{Slot: 1, Home: "x"}} }, `slot 1 names appliance "x"`},
		"range":     {func(c *Config) { c.Slots = []SlotConfig{{Slot: 0, Home: "a"}} }, "slot 0 is out of range"},
		"own":       {func(c *Config) { c.Slots = []SlotConfig{{Slot: 1, Home: "a", Shadows: []Node{"a"}}} }, "its own shadow"},
	} {
		cfg := base
		c.change(&cfg)
		if _, err := New(cfg, time.Unix(0, 0)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q in it", name, err, c.want)
		}
	}
}

// A charon that is refilled while its process stands still, and listens afterwards,
// must not be forgotten: the slot would stay dark for good.
func TestRefeedOutlivesAFreeze(t *testing.T) {
	f := newFleet(31, 3, 1)
	settled(t, f)
	n0 := f.node("n0")
	for _, n := range []Node{"n1", "n2"} { // nobody is ready, so it is refed in place
		f.step(f.node(n), EvTwin{Slot: 1, Reason: "test"})
	}
	f.run(300 * time.Millisecond)
	f.step(n0, EvCharonDied{1})
	if !n0.core.slots[1].refeeding {
		t.Fatalf("n0 does not refeed\n%s", f.trace())
	}
	for _, n := range []Node{"n1", "n2"} {
		f.step(f.node(n), EvTwin{Slot: 1, Ready: true})
	}
	f.run(60 * time.Millisecond) // n0 hears that they are ready, the refeed takes longer
	n0.up = false
	f.run(800 * time.Millisecond)
	n0.up = true
	f.step(n0, EvTick{}) // before the word that charon runs
	if r := n0.core.slots[1].role; r != RoleResuming {
		t.Fatalf("n0 is %s after the freeze, want resuming\n%s", r, f.trace())
	}
	f.run(3 * time.Second)
	check(t, f)
	if got := f.owner(1); len(got) != 1 || f.node(got[0]).fence[1].IsZero() || f.node(got[0]).core.slots[1].refeeding {
		t.Fatalf("slot 1 is owned by %v, fence of n0 %v\n%s", got, n0.fence, f.trace())
	}
}

// A charon that dies while nobody owns its slot is built again: its home must be
// able to found it.
func TestCharonOfAnUnownedSlotIsBuiltAgain(t *testing.T) {
	now := time.Unix(1000, 0)
	c, err := New(Config{Self: "n0", Incarnation: 1, Appliances: []Node{"n0", "n1"}, Registrar: "n1",
		Slots: []SlotConfig{{Slot: 1, Home: "n0", Shadows: []Node{"n1"}}}}, now)
	if err != nil {
		t.Fatal(err)
	}
	c.Step(EvSlotUp{1}, now)
	c.Step(EvCharonDied{1}, now)
	for range 4 {
		now = now.Add(50 * time.Millisecond)
		for _, a := range c.Step(EvTick{}, now) {
			if _, ok := a.(ActBuild); ok {
				return
			}
		}
	}
	t.Error("the slot is not built again")
}

// While an owner renews its ticket, a shadow that is not armed may have a ticket on
// the way, which must not let it claim behind the owner.
func TestRenewalWaitsForShadowsThatAreNotArmedYet(t *testing.T) {
	now := time.Unix(1000, 0)
	c, err := New(Config{Self: "n0", Incarnation: 1, Appliances: []Node{"n0", "n1"}, Registrar: "n1", Shadowing: true,
		Slots: []SlotConfig{{Slot: 1, Home: "n0", Shadows: []Node{"n1"}}}}, now)
	if err != nil {
		t.Fatal(err)
	}
	tell := func(armed sa.Ticket, up bool) (rearm, preset bool) {
		now = now.Add(50 * time.Millisecond)
		c.Step(EvMessage{"n1", Message{Kind: KindProbe, Report: &Report{Incarnation: 3, Hears: []Node{"n0"},
			Slots: []SlotReport{{Slot: 1, Owner: "n0", OwnerTicket: 5, OwnerLife: 1, Up: up, Armed: armed}}}}}, now)
		for _, a := range c.Step(EvTick{}, now) {
			switch x := a.(type) {
			case ActSend:
				rearm = rearm || x.Msg.Kind == KindRearm && x.Msg.Ticket == 9
			case ActPreset:
				preset = true
			}
		}
		return rearm, preset
	}
	c.Step(EvAdopted{Slot: 1, Ticket: 5}, now) // knows no life of n1: it will rise
	for range 12 {
		tell(0, true)
	}
	c.Step(EvMessage{"n1", Message{Kind: KindGrant, Slot: 1, Ticket: 9, Incarnation: 1}}, now)
	if rearm, preset := tell(0, true); !rearm || preset {
		t.Errorf("n1 is not armed: asked to rise %v, went on %v; want true, false", rearm, preset)
	}
	// What it said last is older than what it may have been granted since.
	if rearm, preset := tell(0, false); !rearm || preset {
		t.Errorf("n1 is not up: asked to rise %v, went on %v; want true, false", rearm, preset)
	}
	if rearm, preset := tell(7, true); !rearm || preset {
		t.Errorf("n1 is armed below: asked to rise %v, went on %v; want true, false", rearm, preset)
	}
	if _, preset := tell(10, true); !preset {
		t.Error("n1 is armed above, and the owner does not go on")
	}
}

// What comes from inside finds a way through a shadow where the owner's own
// announcement is missing, and a shadow that is leaving offers none.
func TestShadowsAnnounceAWayToTheOwner(t *testing.T) {
	f := newFleet(71, 3, 1)
	settled(t, f)
	told := func(n Node) ([]sa.Slot, []sa.Slot) {
		a := f.node(n).core.announced
		return a.Pools, a.Backup
	}
	expect := func(n Node, pools, backup []sa.Slot) {
		t.Helper()
		if p, b := told(n); !slices.Equal(p, pools) || !slices.Equal(b, backup) {
			t.Errorf("%s announces %v, and a way to %v, want %v and %v\n%s", n, p, b, pools, backup, f.trace())
		}
	}
	one := []sa.Slot{1}
	expect("n0", one, nil)
	expect("n1", nil, one)
	expect("n2", nil, one)
	f.step(f.node("n2"), EvStanding{Source: SourceOperator, Standing: StandingDraining, Reason: "asked"})
	expect("n2", nil, nil)
	f.step(f.node("n2"), EvStanding{Source: SourceOperator})
	expect("n2", nil, one)
	f.step(f.node("n0"), EvMove{Slot: 1, To: "n1", ID: 1})
	f.run(500 * time.Millisecond)
	expect("n0", one, nil) // both, until the new announcement has arrived
	expect("n1", one, nil)
	f.run(poolOverlap)
	expect("n0", nil, one)
	check(t, f)
}

// A daemon that starts says nothing of its slots before it knows whether an earlier one's
// charon still serves them: others would believe that they are orphans.
func TestRestartedDaemonDeniesNothingItHasNotLookedAt(t *testing.T) {
	f := newFleet(81, 3, 3)
	settled(t, f)
	n := f.node("n0")
	cfg := f.cfg
	cfg.Self, cfg.Incarnation, cfg.Shadowing = "n0", 99, true
	c, err := New(cfg, f.now)
	if err != nil {
		t.Fatal(err)
	}
	told := func() (out []SlotReport) {
		for range 10 {
			f.now = f.now.Add(20 * time.Millisecond)
			for _, a := range c.Step(EvTick{}, f.now) {
				if x, ok := a.(ActSend); ok && x.Msg.Report != nil {
					out = x.Msg.Report.Slots
				}
			}
		}
		return out
	}
	if got := told(); len(got) != 0 {
		t.Errorf("before it has looked it tells of %+v", got)
	}
	c.Step(EvAdopted{Slot: 1, Ticket: n.core.slots[1].ticket}, f.now)
	if got := told(); len(got) != 1 || got[0].Slot != 1 || got[0].Owner != "n0" {
		t.Errorf("the slot that it found is told as %+v", got)
	}
	c.Step(EvRestored{Slot: 2, Ticket: 1, Owned: true}, f.now)
	if got := told(); len(got) != 2 {
		t.Errorf("one whose charon is dead is not told of: %+v", got)
	}
}

// What the owner told last may still be on its way into the target's kernel, while its
// daemon has acknowledged it: the target opens when it is there, and not at all if it
// does not come.
func TestMoveWaitsForTheKernel(t *testing.T) {
	for _, comes := range []bool{true, false} {
		f := newFleet(11, 3, 1)
		settled(t, f)
		f.step(f.node("n1"), EvTwin{Slot: 1, Ready: true, Behind: true})
		f.step(f.node("n0"), EvMove{Slot: 1, To: "n1", ID: 1, Reason: "test"})
		f.run(600 * time.Millisecond)
		if m := f.node("n0").core.slots[1].move; m == nil || m.phase != phaseTake || f.node("n1").core.slots[1].role != RoleShadow {
			t.Fatalf("n1 does not wait: %+v\n%s", m, f.trace())
		}
		if comes {
			f.step(f.node("n1"), EvTwin{Slot: 1, Ready: true})
		}
		f.run(time.Second)
		want := map[bool]Node{true: "n1", false: "n0"}[comes]
		if got := f.owner(1); !slices.Equal(got, []Node{want}) || f.node("n0").core.slots[1].move != nil {
			t.Errorf("children come %t: owners %v, want %s\n%s", comes, got, want, f.trace())
		}
	}
}

// Everybody that hears a claim knows its reason, also where it is told again without one
// or its ticket was known before.
func TestTheReasonOfAClaimIsKnown(t *testing.T) {
	f := newFleet(5, 3, 1)
	settled(t, f)
	f.step(f.node("n0"), EvMove{Slot: 1, To: "n1", ID: 1, Reason: "somebody asked for it"})
	f.run(4 * time.Second)
	ticket := f.node("n1").core.slots[1].ticket
	for _, n := range []Node{"n0", "n1", "n2"} {
		if n != "n1" {
			f.step(f.node(n), EvMessage{"n1", Message{Kind: KindClaim, Slot: 1, Ticket: ticket, Owner: "n1"}})
		}
		if got := f.node(n).core.View().Slots[0].Why; got != "planned move from n0: somebody asked for it" {
			t.Errorf("%s says %q", n, got)
		}
	}
}
