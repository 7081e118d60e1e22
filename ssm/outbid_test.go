package ssm

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// A claim of a life that has ended, still told by a third appliance, must not cost
// the slot; but clients may have seen numbers of its block, so the owner rises.
func TestClaimOfAnEndedLifeOutbidsAndTakesNothing(t *testing.T) {
	f := newFleet(20, 3, 1)
	settled(t, f)
	n1 := f.node("n1")
	f.crash(n1)
	f.run(time.Second)
	f.boot(n1)
	f.run(3 * time.Second)
	owner, dead := f.node(f.owner(1)[0]), Message{Kind: KindClaim, Slot: 1, Ticket: 99, Owner: "n1", Incarnation: 1}
	if owner.name == "n1" {
		t.Fatalf("n1 owns the slot\n%s", f.trace())
	}
	f.counter[1] = 99
	// The shadow that hears of it tells the owner.
	other := f.node("n2")
	if other == owner {
		other = f.node("n0")
	}
	f.step(other, EvMessage{"n1", dead})
	if s := other.core.slots[1]; s.owner != owner.name || s.armed != 0 {
		t.Fatalf("the shadow follows %s, armed with %d, want %s and 0: what it holds lies below 99", s.owner, s.armed, owner.name)
	}
	f.run(3 * time.Second)
	check(t, f)
	if got := f.owner(1); !slices.Equal(got, []Node{owner.name}) {
		t.Fatalf("slot 1 is owned by %v\n%s", got, f.trace())
	}
	for _, n := range f.nodes {
		if s := n.core.slots[1]; s.owner != owner.name || s.ticket <= 99 {
			t.Errorf("%s takes %s by ticket %d for the owner, want %s above 99", n.name, s.owner, s.ticket, owner.name)
		}
	}
	// One that lives is obeyed, as always.
	f.step(owner, EvMessage{"n1", Message{Kind: KindClaim, Slot: 1, Ticket: 200, Owner: "n1", Incarnation: 2}})
	if owner.core.slots[1].role == RoleOwner {
		t.Error("the claim of a living appliance by a higher ticket was not obeyed")
	}
}

// n1 claims where nobody but the registrar hears it, and loses its memory. Nobody
// knows by which ticket: the owner must rise above all that were issued.
func TestOwnerRisesAboveWhatARebootedMemberMayHaveClaimed(t *testing.T) {
	f := newFleet(21, 3, 1)
	f.cfg.Slots[0].Shadows = []Node{"n1"}
	for _, n := range f.nodes {
		n.inc = 0
		f.boot(n)
	}
	settled(t, f)
	f.partition([]Node{"n0"}, true)
	f.run(500 * time.Millisecond)
	f.step(f.node("n1"), EvUndeliverable{1})
	f.run(700 * time.Millisecond)
	if got := f.owner(1); !slices.Equal(got, []Node{"n0", "n1"}) {
		t.Fatalf("owners in the partition: %v\n%s", got, f.trace())
	}
	spent := f.node("n1").core.slots[1].ticket
	// n2 forgets as well, so that nobody is left to tell of the claim.
	f.crash(f.node("n1"))
	f.crash(f.node("n2"))
	f.run(300 * time.Millisecond)
	f.partition([]Node{"n0"}, false)
	f.boot(f.node("n1"))
	f.boot(f.node("n2"))
	f.run(3 * time.Second)
	check(t, f)
	if s := f.node("n0").core.slots[1]; s.role != RoleOwner || s.ticket <= spent {
		t.Fatalf("n0 is %s by ticket %d; n1 had claimed by %d\n%s", s.role, s.ticket, spent, f.trace())
	}
}

// A restarted daemon remembers which lives its ticket is newer than.
func TestAdoptedOwnerRisesOnlyAboveLivesItDoesNotKnow(t *testing.T) {
	for name, c := range map[string]struct {
		lives map[Node]uint64
		rises bool
	}{
		"the same life": {map[Node]uint64{"n1": 7, "n2": 7}, false},
		"another life":  {map[Node]uint64{"n1": 6, "n2": 7}, true},
		"unknown":       {nil, true},
	} {
		now := time.Unix(1000, 0)
		c0, err := New(Config{Self: "n0", Incarnation: 3, Appliances: []Node{"n0", "n1", "n2"}, Registrar: "n2", Shadowing: true,
			Slots: []SlotConfig{{Slot: 1, Home: "n0", Shadows: []Node{"n1", "n2"}}}}, now)
		if err != nil {
			t.Fatal(err)
		}
		c0.Step(EvAdopted{Slot: 1, Ticket: 5, Lives: c.lives}, now)
		asked := false
		for range 40 {
			now = now.Add(50 * time.Millisecond)
			for _, n := range []Node{"n1", "n2"} {
				c0.Step(EvMessage{n, Message{Kind: KindProbe, Report: &Report{Incarnation: 7, Hears: []Node{"n0"}, Slots: []SlotReport{{Slot: 1, Owner: "n0", OwnerTicket: 5, OwnerLife: 3}}}}}, now)
			}
			for _, a := range c0.Step(EvTick{}, now) {
				if x, ok := a.(ActSend); ok && x.Msg.Kind == KindRequest {
					asked = true
				}
			}
		}
		if got := c0.Role(1); got != RoleOwner {
			t.Errorf("%s: the adopted slot is in role %s", name, got)
		}
		if asked != c.rises {
			t.Errorf("%s: a new ticket was asked for: %v, want %v", name, asked, c.rises)
		}
	}
}

// A daemon that finds its slot without a charon does not own it any more, but its
// ticket may have been sent in: the owner rises above it.
func TestOwnerRisesAboveADaemonThatFindsItsCharonDead(t *testing.T) {
	f := newFleet(23, 3, 1)
	settled(t, f)
	f.crash(f.node("n1"))
	f.run(500 * time.Millisecond)
	f.node("n1").inc-- // the daemon only: its run directory is as it was
	f.boot(f.node("n1"))
	f.counter[1] = 50
	f.step(f.node("n1"), EvRestored{Slot: 1, Ticket: 50, Owned: true})
	f.run(2 * time.Second)
	check(t, f)
	if s := f.node("n0").core.slots[1]; s.role != RoleOwner || s.ticket <= 50 {
		t.Fatalf("n0 is %s by ticket %d, want the owner above 50\n%s", s.role, s.ticket, f.trace())
	}
}

// A home that lost its memory must not found its slot anew while somebody holds a
// complete twin, be it armed or not: both get their tickets from the same registrar.
func TestHomeFoundsNothingOverACompleteTwin(t *testing.T) {
	f := newFleet(24, 3, 1)
	settled(t, f)
	f.node("n2").up = false // the registrar stands still
	for _, n := range []Node{"n0", "n1"} {
		f.setRoute(n, true)
	}
	f.step(f.node("n1"), EvMessage{"n0", Message{Kind: KindRearm, Slot: 1, Ticket: 90}})
	f.node("n1").core.slots[1].armed = 0
	f.run(500 * time.Millisecond)
	f.crash(f.node("n0"))
	f.run(200 * time.Millisecond)
	f.boot(f.node("n0"))
	f.run(2 * time.Second)
	f.node("n2").up = true
	f.run(3 * time.Second)
	check(t, f)
	for _, r := range f.reports[1:] {
		if r.node == "n0" && r.Kind == "claim" && r.Reason == "nobody held the slot" && f.node("n0").inc == 2 && r.Text != "n0 owns the slot by ticket 1" {
			t.Errorf("n0 founded the slot anew: %s\n%s", r.Text, f.trace())
		}
	}
	if got := f.owner(1); !slices.Equal(got, []Node{"n1"}) {
		t.Errorf("slot 1 is owned by %v, want n1, which holds its sessions\n%s", got, f.trace())
	}
}

// shadowOfSilent returns the core of an armed shadow n1 whose owner n0 is silent
// since the returned time, on the brink of a claim.
func shadowOfSilent(t *testing.T) (*Core, time.Time) {
	t.Helper()
	now := time.Unix(1000, 0)
	c, err := New(Config{Self: "n1", Incarnation: 1, Appliances: []Node{"n0", "n1"}, Registrar: "n0", Shadowing: true,
		Slots: []SlotConfig{{Slot: 1, Home: "n0", Shadows: []Node{"n1"}}}}, now)
	if err != nil {
		t.Fatal(err)
	}
	c.Step(EvSlotUp{1}, now)
	for i := range 6 {
		now = now.Add(50 * time.Millisecond)
		c.Step(EvMessage{"n0", Message{Kind: KindProbe, Report: &Report{Incarnation: 1, Slots: []SlotReport{{Slot: 1, Owner: "n0", OwnerTicket: 1}}}}}, now)
		c.Step(EvTick{}, now)
		switch i {
		case 1:
			c.Step(EvSlotUp{1}, now)
			c.Step(EvTwin{Slot: 1, Ready: true}, now)
		case 2:
			c.Step(EvMessage{"n0", Message{Kind: KindGrant, Slot: 1, Ticket: 2, Incarnation: 1}}, now)
			c.Step(EvPreset{1, 2}, now)
		}
	}
	if s := c.slots[1]; s.role != RoleShadow || s.armed != 2 || !s.ready {
		t.Fatalf("n1 is %s, armed with %d, ready %v", s.role, s.armed, s.ready)
	}
	return c, now
}

func claims(actions []Action) bool {
	return slices.ContainsFunc(actions, func(a Action) bool { _, own := a.(ActOwn); return own })
}

// A late tick may come before what waits in the sockets has been read: the route
// is back, and this process does not know it yet.
func TestLateTickReadsBeforeItClaims(t *testing.T) {
	for _, gap := range []time.Duration{80 * time.Millisecond, 130 * time.Millisecond, 170 * time.Millisecond, 400 * time.Millisecond} {
		c, now := shadowOfSilent(t)
		for range 4 { // n0 is suspected, but its route is there
			now = now.Add(50 * time.Millisecond)
			c.Step(EvTick{}, now)
		}
		c.Step(EvLiveness{"n0", false}, now.Add(-time.Millisecond))
		if c.Role(1) == RoleOwner {
			// Suspected already: arrange the other order, in which the late tick itself
			// finds both true.
			c, now = shadowOfSilent(t)
			c.Step(EvLiveness{"n0", false}, now)
			now = now.Add(50 * time.Millisecond)
			c.Step(EvTick{}, now)
			now = now.Add(50 * time.Millisecond)
			c.Step(EvTick{}, now)
			now = now.Add(50 * time.Millisecond)
			c.Step(EvTick{}, now)
		}
		now = now.Add(gap)
		if claims(c.Step(EvTick{}, now)) {
			t.Errorf("gap %s: the late tick claimed at once", gap)
		}
		c.Step(EvLiveness{"n0", true}, now)
		for range 20 {
			now = now.Add(50 * time.Millisecond)
			if claims(c.Step(EvTick{}, now)) {
				t.Fatalf("gap %s: claimed though the route is back", gap)
			}
		}
	}
}

// An appliance that is always late still claims: else a busy one would never take
// over.
func TestAlwaysLateStillClaims(t *testing.T) {
	c, now := shadowOfSilent(t)
	c.Step(EvLiveness{"n0", false}, now)
	for range 40 {
		now = now.Add(90 * time.Millisecond)
		if claims(c.Step(EvTick{}, now)) {
			return
		}
	}
	t.Errorf("no claim in %s of late ticks", 40*90*time.Millisecond)
}

// The owner's own report needs no life for its slots; a third one's names it.
func TestReportsNameTheLifeOfTheOwner(t *testing.T) {
	f := newFleet(22, 3, 1)
	settled(t, f)
	for _, n := range f.nodes {
		s := n.core.slots[sa.Slot(1)]
		want := uint64(1)
		if n.name == "n0" {
			want = 0
		}
		if r := n.core.slotReport(s); r.Owner != "n0" || r.OwnerLife != want {
			t.Errorf("%s reports owner %s in life %d, want n0 in %d", n.name, r.Owner, r.OwnerLife, want)
		}
	}
}

// The largest report fits in a datagram, whatever the names and numbers.
func TestReportFitsInADatagram(t *testing.T) {
	for _, nodes := range []int{2, 7} {
		var names []Node
		for i := range nodes {
			names = append(names, Node(strings.Repeat("x", 62)+strconv.Itoa(i)))
		}
		cfg := Config{Self: names[0], Incarnation: math.MaxInt64, Appliances: names, Registrar: names[0], Shadowing: true}
		for i := range 20 {
			cfg.Slots = append(cfg.Slots, SlotConfig{Slot: sa.MaxSlot - sa.Slot(i), Home: names[1], Shadows: []Node{names[0]}})
		}
		now := time.Unix(1000, 0)
		c, err := New(cfg, now)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names[1:] {
			c.Step(EvMessage{n, Message{Kind: KindProbe, Report: &Report{Incarnation: 1}}}, now)
		}
		c.fit.wish = &Wish{Standing: StandingWithdrawn, Cause: "a.long.name.of.a.signal", For: time.Hour, Asks: true, Holds: true}
		for _, s := range c.slots {
			s.owner, s.ticket, s.life, s.armed, s.ready, s.role, s.up = names[1], 1<<20, math.MaxInt64, 1<<20, true, RoleShadow, true
			s.known = true
			s.seen = 1 << 40
			s.path.add(time.Second-1, time.Second-1)
		}
		told := map[sa.Slot]bool{}
		for range 20 {
			now = now.Add(50 * time.Millisecond)
			for _, a := range c.Step(EvTick{}, now) {
				x, ok := a.(ActSend)
				if !ok || x.Msg.Kind != KindProbe {
					continue
				}
				b, err := json.Marshal(x.Msg)
				if err != nil || len(b) > reportRoom {
					t.Fatalf("%d names: a probe of %d octets, want at most %d (%v)", nodes, len(b), reportRoom, err)
				}
				for _, s := range x.Msg.Report.Slots {
					told[s.Slot] = true
				}
			}
		}
		if len(told) != len(cfg.Slots) {
			t.Errorf("%d names: %d of %d slots were told of in a second", nodes, len(told), len(cfg.Slots))
		}
	}
}

// The others' silence counts only while this process runs: one that is starved of
// its processor suspects nobody for it, and tells nobody that it hears nobody.
func TestOneThatStoodStillSuspectsNobody(t *testing.T) {
	for _, gap := range []time.Duration{120 * time.Millisecond, 160 * time.Millisecond, 500 * time.Millisecond} {
		c, now := shadowOfSilent(t)
		now = now.Add(gap)
		c.Step(EvTick{}, now)
		if c.suspected("n0") {
			t.Errorf("after a gap of %s n0 is suspected", gap)
		}
		for range 4 {
			now = now.Add(50 * time.Millisecond)
			c.Step(EvTick{}, now)
		}
		if !c.suspected("n0") {
			t.Errorf("gap of %s: n0 is not suspected after four more silent intervals", gap)
		}
	}
}

// The charon that replaces a dead one knows no session: the next daemon must not
// adopt it as that of an owner.
func TestRestoredOwnerForgetsThatItOwned(t *testing.T) {
	f := newFleet(25, 3, 1)
	settled(t, f)
	n1 := f.node("n1")
	for _, owned := range []bool{true, false} {
		var got []ActRemember
		for _, a := range n1.core.Step(EvRestored{Slot: 1, Ticket: 50, Owned: owned}, f.now) {
			if x, ok := a.(ActRemember); ok {
				got = append(got, x)
			}
		}
		switch {
		case owned && (len(got) != 1 || got[0].Role != RoleNone || got[0].Ticket != 50):
			t.Errorf("owned by ticket 50: remembers %+v, want role none and the ticket", got)
		case !owned && len(got) != 0:
			t.Errorf("armed with ticket 50: remembers %+v, want what it did", got)
		}
	}
}
