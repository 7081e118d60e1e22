package ssm

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// setCore is n1 of a fleet of four, in which n0 owns slot 1, whose set changes.
type setCore struct {
	*Core
	t   *testing.T
	now time.Time
}

func newSetCore(t *testing.T, self Node) *setCore {
	now := time.Unix(1000, 0)
	c, err := New(Config{Self: self, Incarnation: 7, Appliances: []Node{"n0", "n1", "n2", "n3"}, Registrar: "n3", Shadowing: true,
		Slots: []SlotConfig{{Slot: 1, Home: "n0", Shadows: []Node{"n1"}, Dynamic: true}}}, now)
	if err != nil {
		t.Fatal(err)
	}
	return &setCore{c, t, now}
}

// tell is a report of from about slot 1, after a little while.
func (c *setCore) tell(from Node, r SlotReport) []Action {
	c.now = c.now.Add(20 * time.Millisecond)
	r.Slot = 1
	return append(c.Step(EvMessage{from, Message{Kind: KindProbe, Report: &Report{Incarnation: 3, Slots: []SlotReport{r}}}}, c.now), c.Step(EvTick{}, c.now)...)
}

// reported is what c says last of slot 1.
func (c *setCore) reported() (r SlotReport) {
	for range 12 {
		c.now = c.now.Add(50 * time.Millisecond)
		for _, a := range c.Step(EvTick{}, c.now) {
			if x, ok := a.(ActSend); ok && x.Msg.Report != nil && len(x.Msg.Report.Slots) > 0 {
				r = x.Msg.Report.Slots[0]
			}
		}
	}
	return r
}

func has[A Action](as []Action) bool {
	return slices.ContainsFunc(as, func(a Action) bool { _, ok := a.(A); return ok })
}

// joined brings n1 into the set of n0 by version 3, armed with ticket 4.
func joined(t *testing.T) *setCore {
	c := newSetCore(t, "n1")
	if as := c.tell("n0", SlotReport{Owner: "n0", OwnerTicket: 1, Set: []Node{"n1"}, Version: 3}); has[ActShadow](as) {
		t.Fatal("it makes a twin before the shell has told what an earlier daemon left")
	}
	c.Step(EvSlotUp{1}, c.now)
	if as := c.Step(EvTick{}, c.now); !has[ActShadow](as) {
		t.Fatalf("no twin: %+v", as)
	}
	c.Step(EvSlotUp{1}, c.now)
	c.Step(EvMessage{"n3", Message{Kind: KindGrant, Slot: 1, Ticket: 4, Incarnation: 7}}, c.now)
	c.Step(EvPreset{1, 4}, c.now)
	c.Step(EvTwin{Slot: 1, Ready: true}, c.now)
	if r := c.reported(); r.Armed != 4 || !r.Ready || r.Version != 3 {
		t.Fatalf("it reports %+v", r)
	}
	return c
}

func TestAMemberThatLeavesGivesItsTicketBack(t *testing.T) {
	c := joined(t)
	as := c.tell("n0", SlotReport{Owner: "n0", OwnerTicket: 1, Set: []Node{"n2"}, Version: 4})
	if !has[ActLeave](as) || c.Role(1) != RoleNone {
		t.Fatalf("role %s, %+v", c.Role(1), as)
	}
	for _, a := range as {
		if x, ok := a.(ActRemember); ok && (x.Role != RoleShadow || x.Ticket != 4) {
			t.Errorf("it remembers %+v, want the ticket that it must not use again", x)
		}
	}
	if r := c.reported(); r.Armed != 0 || r.Version != 4 {
		t.Errorf("it reports %+v, want no ticket and version 4", r)
	}
	// It is wanted again: a place, and a ticket above the one it gave up.
	if as := c.tell("n0", SlotReport{Owner: "n0", OwnerTicket: 1, Set: []Node{"n2", "n1"}, Version: 5}); !has[ActPlace](as) {
		t.Fatalf("no place: %+v", as)
	}
	c.Step(EvSlotUp{1}, c.now)
	c.Step(EvTick{}, c.now)
	c.now = c.now.Add(time.Second)
	as = c.Step(EvSlotUp{1}, c.now)
	as = append(as, c.Step(EvTick{}, c.now)...)
	i := slices.IndexFunc(as, func(a Action) bool { x, ok := a.(ActSend); return ok && x.Msg.Kind == KindRequest })
	if i < 0 || as[i].(ActSend).Msg.Ticket != 4 {
		t.Errorf("it asks for no ticket above 4: %+v", as)
	}
}

func TestAnOldSetIsNotHeeded(t *testing.T) {
	c := joined(t)
	for _, r := range []struct {
		from Node
		SlotReport
	}{
		{"n0", SlotReport{Owner: "n0", OwnerTicket: 1, Set: []Node{"n2"}, Version: 2}}, // late
		{"n2", SlotReport{Owner: "n0", OwnerTicket: 1, Set: []Node{"n2"}, Version: 9}}, // not the owner
		{"n0", SlotReport{Owner: "n0", OwnerTicket: 1, Set: []Node{"xx"}, Version: 9}}, // no appliance
	} {
		if as := c.tell(r.from, r.SlotReport); has[ActLeave](as) || c.Role(1) != RoleShadow {
			t.Errorf("it left on %+v", r)
		}
	}
}

// An event of the twin before must not count for the one that is being built.
func TestWhatTheLastTwinSaidIsForgotten(t *testing.T) {
	c := joined(t)
	c.Step(EvCharonDied{1}, c.now) // a new twin
	c.Step(EvTwin{Slot: 1, Ready: true}, c.now)
	c.Step(EvSeen{1, 1, 99}, c.now)
	if r := c.reported(); r.Ready || r.Seen != 0 {
		t.Errorf("it reports %+v of a twin that is being built", r)
	}
}

// owns makes n0 the owner of slot 1 with n1 as a ready shadow under ticket 2.
func owns(t *testing.T) *setCore {
	c := newSetCore(t, "n0")
	c.Step(EvSlotUp{1}, c.now)
	for _, n := range []Node{"n1", "n2", "n3"} {
		c.tell(n, SlotReport{})
	}
	c.now = c.now.Add(time.Second)
	c.Step(EvTick{}, c.now)
	c.Step(EvMessage{"n3", Message{Kind: KindGrant, Slot: 1, Ticket: 1, Incarnation: 7}}, c.now)
	if c.Role(1) != RoleOwner {
		t.Fatalf("it is %s", c.Role(1))
	}
	c.ready("n1", 2, 1)
	return c
}

// ready makes n a complete, armed shadow that heeds version v.
func (c *setCore) ready(n Node, armed int, v uint64) []Action {
	as := c.Step(EvReplica{1, n, true}, c.now)
	return append(as, c.tell(n, SlotReport{Owner: "n0", OwnerTicket: 1, Armed: sa.Ticket(armed), Ready: true, Up: true, Version: v})...)
}

func (c *setCore) set() (set, leaving []Node) {
	for _, x := range c.View().Slots[0].Shadows {
		if x.Leaving {
			leaving = append(leaving, x.Node)
		} else {
			set = append(set, x.Node)
		}
	}
	return set, leaving
}

func (c *setCore) want(step string, set, leaving []Node) {
	c.t.Helper()
	if s, l := c.set(); !slices.Equal(s, set) || !slices.Equal(l, leaving) {
		c.t.Fatalf("%s: the set is %v, going are %v; want %v and %v", step, s, l, set, leaving)
	}
}

func TestAShadowGoesWhenItsReplacementIsReady(t *testing.T) {
	c := owns(t)
	c.Step(EvShadowSet{1, []Node{"n2", "n0", "xx"}}, c.now)
	c.tell("n1", SlotReport{Owner: "n0", OwnerTicket: 1, Armed: 2, Ready: true, Version: 1})
	c.want("the replacement comes first", []Node{"n1", "n2"}, nil)
	c.tell("n2", SlotReport{Owner: "n0", OwnerTicket: 1, Armed: 3, Up: true, Version: 2})
	c.want("armed and not complete", []Node{"n1", "n2"}, nil)
	as := c.ready("n2", 3, 2)
	c.want("the replacement is ready", []Node{"n2"}, []Node{"n1"})
	if has[ActFeed](as) {
		t.Error("one that has not left yet is not fed any more")
	}
	// What n1 said before it knew does not count, nor does a new birth forget it.
	c.tell("n1", SlotReport{Owner: "n0", OwnerTicket: 1, Version: 2})
	c.want("a late report", []Node{"n2"}, []Node{"n1"})
	if c.slots[1].lowest != 2 {
		t.Errorf("births reckon with ticket %d, want 2 until it is void", c.slots[1].lowest)
	}
	as = c.tell("n1", SlotReport{Owner: "n0", OwnerTicket: 1, Version: 3})
	c.want("it has left", []Node{"n2"}, nil)
	if c.slots[1].lowest != 3 || !has[ActFeed](as) {
		t.Errorf("births reckon with ticket %d, want 3; fed are %v", c.slots[1].lowest, c.slots[1].fed)
	}
}

func TestADeadShadowIsReplacedAtOnceAndItsTicketCounts(t *testing.T) {
	c := owns(t)
	for range 60 {
		c.tell("n2", SlotReport{Owner: "n0", OwnerTicket: 1, Version: 1})
		c.tell("n3", SlotReport{Owner: "n0", OwnerTicket: 1, Version: 1})
		c.now = c.now.Add(20 * time.Millisecond)
	}
	c.Step(EvShadowSet{1, []Node{"n2"}}, c.now)
	as := c.tell("n2", SlotReport{Owner: "n0", OwnerTicket: 1, Version: 1})
	c.want("n1 is silent", []Node{"n2"}, []Node{"n1"})
	if !has[ActFeed](as) || slices.Contains(c.slots[1].fed, "n1") {
		t.Errorf("fed are %v", c.slots[1].fed)
	}
	c.ready("n2", 3, 3)
	if c.slots[1].lowest != 2 {
		t.Errorf("births reckon with ticket %d, want that of the dead one", c.slots[1].lowest)
	}
	// It is wanted again, and has to give its ticket back first.
	c.Step(EvShadowSet{1, []Node{"n2", "n1"}}, c.now)
	c.tell("n1", SlotReport{Owner: "n0", OwnerTicket: 1, Armed: 2, Ready: true, Version: 1})
	c.want("it is back with its old ticket", []Node{"n2"}, []Node{"n1"})
	c.tell("n1", SlotReport{Owner: "n0", OwnerTicket: 1, Version: 3})
	c.want("it has given it back", []Node{"n2", "n1"}, nil)
}

// Nobody at all is never wanted: what there is stays.
// What shadowed the slot goes on shadowing it, and so does its old owner: a new set
// would cost all cover at once.
func TestANewOwnerKeepsTheSet(t *testing.T) {
	c := joined(t)
	c.tell("n0", SlotReport{Owner: "n0", OwnerTicket: 1, Set: []Node{"n1", "n2"}, Version: 4})
	c.Step(EvLiveness{"n0", false}, c.now)
	for range 100 {
		c.now = c.now.Add(50 * time.Millisecond)
		c.Step(EvUndeliverable{1}, c.now)
		c.Step(EvTick{}, c.now)
	}
	if c.Role(1) != RoleOwner {
		t.Fatalf("it is %s, want the owner of a slot whose owner is silent", c.Role(1))
	}
	c.want("after the takeover", []Node{"n2", "n0"}, nil)
}

func TestAnEmptyWishChangesNothing(t *testing.T) {
	c := owns(t)
	c.Step(EvShadowSet{1, nil}, c.now)
	c.ready("n1", 2, 1)
	c.want("an empty wish", []Node{"n1"}, nil)
}

// What a restarted daemon tells must be newer than what its earlier life told: one that
// was let go by that number would not hear that it is wanted again (simulator, seed 12919).
func TestARestartedOwnerRemembersItsNumbers(t *testing.T) {
	c := owns(t)
	c.Step(EvShadowSet{1, []Node{"n2"}}, c.now)
	var told ActRemember
	for _, a := range c.Step(EvTick{}, c.now) {
		if r, ok := a.(ActRemember); ok {
			told = r
		}
	}
	last := c.reported().Version
	if told.Version != last || last < 2 {
		t.Fatalf("it remembers version %d and reports %d", told.Version, last)
	}
	c = newSetCore(t, "n0")
	c.Step(EvAdopted{Slot: 1, Ticket: 1, Set: told.Set, Version: told.Version}, c.now)
	if r := c.reported(); r.Version <= last {
		t.Errorf("it reports version %d after a restart, %d before", r.Version, last)
	}
}

// A restarted daemon may remember an older version than the others have heard.
func TestARestartedOwnerGoesOnNumbering(t *testing.T) {
	c := newSetCore(t, "n0")
	c.Step(EvAdopted{Slot: 1, Ticket: 1, Set: []Node{"n1"}}, c.now)
	c.tell("n1", SlotReport{Owner: "n0", OwnerTicket: 1, Armed: 2, Ready: true, Version: 6})
	if r := c.reported(); r.Version <= 6 || !slices.Equal(r.Set, []Node{"n1"}) {
		t.Errorf("it reports %+v, want a version above 6 and n1", r)
	}
}

// A datagram holds 1,200 octets, whatever the names and sets.
func TestReportsOfLargeSetsFit(t *testing.T) {
	cfg := Config{Self: "n0", Incarnation: 1764208000000000000, Registrar: "n0", Shadowing: true}
	for i := range 8 {
		cfg.Appliances = append(cfg.Appliances, Node(fmt.Sprintf("n%d", i)+strings.Repeat("x", 22*min(i, 1))))
	}
	for i := range 16 {
		cfg.Slots = append(cfg.Slots, SlotConfig{Slot: sa.Slot(4000 + i), Home: "n0", Dynamic: true})
	}
	now := time.Unix(1000, 0)
	c, err := New(cfg, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range c.list {
		s.role, s.owner, s.ticket, s.set, s.version, s.up = RoleOwner, "n0", 1<<40, cfg.Appliances[1:6], 1<<30, true
		s.path.add(time.Hour, time.Hour)
		s.spent, s.leaving, s.known = 1<<41, map[Node]uint64{}, true
	}
	told := map[sa.Slot]bool{}
	for range 40 {
		now = now.Add(60 * time.Millisecond)
		for _, n := range cfg.Appliances[1:] {
			c.Step(EvMessage{n, Message{Kind: KindProbe, Report: &Report{Incarnation: 1}}}, now)
		}
		for _, a := range c.Step(EvTick{}, now) {
			x, ok := a.(ActSend)
			if !ok || x.Msg.Report == nil {
				continue
			}
			b, err := json.Marshal(x.Msg)
			if err != nil || len(b) > reportRoom {
				t.Fatalf("a report has %d octets (%v), want at most %d", len(b), err, reportRoom)
			}
			for _, r := range x.Msg.Report.Slots {
				told[r.Slot] = true
			}
		}
	}
	if len(told) != len(cfg.Slots) {
		t.Errorf("%d of %d slots were reported", len(told), len(cfg.Slots))
	}
}
