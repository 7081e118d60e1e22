package ssm

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

// wireMessages has one message of every kind with every field that the kind uses.
var wireMessages = []Message{
	{Kind: KindProbe, Report: &Report{Incarnation: 1764208000000000000, Hears: []Node{"fra", "lhr"}, Slots: []SlotReport{
		{Slot: 1, Owner: "ams", OwnerTicket: 7, Up: true, RTT: 12 * time.Millisecond, Set: []Node{"fra", "lhr"}, Version: 4},
		{Slot: 2, Owner: "fra", OwnerTicket: 5, OwnerLife: 1764207000000000000, Armed: 8, Ready: true, Seen: 41, Up: true},
		{Slot: 3, Owner: "lhr", OwnerTicket: 3, OwnerLife: 1764206000000000000, Spent: 9, Version: 2},
	}, Standing: StandingDegraded, Level: LevelDegraded, Risk: 0.125, Load: 0.5, Sessions: 12,
		Wish: &Wish{Standing: StandingDraining, Cause: "nvme.spare", For: time.Minute, Asks: true}}},
	{Kind: KindClaim, Slot: 2, Ticket: 8, Owner: "ams", Incarnation: 1764208000000000000},
	{Kind: KindRequest, Slot: 2, Ticket: 8, Incarnation: 1764208000000000000},
	{Kind: KindGrant, Slot: 2, Ticket: 9, Incarnation: 1764208000000000000},
	{Kind: KindYield, Slot: 2, Ticket: 9, Owner: "fra"},
	{Kind: KindRearm, Slot: 2, Ticket: 9},
	{Kind: KindTake, Slot: 2, Ticket: 8, Owner: "fra", Move: 77, Hold: 30 * time.Millisecond},
	{Kind: KindTaken, Slot: 2, Move: 77},
	{Kind: KindFlipped, Slot: 2, Owner: "fra", Move: 77},
	{Kind: KindDrained, Slot: 2, Move: 77},
	{Kind: KindAbort, Slot: 2, Move: 77, Reason: "being armed anew"},
}

// TestWireForm compares every message with docs/wire-formats.md as it stands in
// testdata: appliances of adjacent versions must understand each other.
func TestWireForm(t *testing.T) {
	golden, err := os.ReadFile("testdata/messages.golden")
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(golden), []byte("\n"))
	if len(lines) != len(wireMessages) {
		t.Fatalf("%d lines in testdata/messages.golden, want %d", len(lines), len(wireMessages))
	}
	for i, want := range wireMessages {
		b, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(b, lines[i]) {
			t.Errorf("%s is written\n%s, want\n%s", want.Kind, b, lines[i])
		}
		var got Message
		if err := json.Unmarshal(lines[i], &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s is read as %+v (%v), want %+v", want.Kind, got, err, want)
		}
	}
}

// An appliance that does not name lives yet is understood: its claims count as made
// by the present life.
func TestClaimWithoutALifeIsObeyed(t *testing.T) {
	f := newFleet(30, 3, 1)
	settled(t, f)
	var m Message
	if err := json.Unmarshal([]byte(`{"k":"claim","s":1,"t":90,"o":"n1","later":{}}`), &m); err != nil {
		t.Fatal(err)
	}
	n0 := f.node("n0")
	f.step(n0, EvMessage{"n1", m})
	if s := n0.core.slots[1]; s.role == RoleOwner || s.owner != "n1" || s.ticket != 90 {
		t.Errorf("n0 is %s and takes %s by ticket %d for the owner, want n1 by 90", s.role, s.owner, s.ticket)
	}
}

// FuzzMessage lets an appliance of the fleet say anything: the core must go on, and
// keep every fence closed but those of slots that it holds.
func FuzzMessage(f *testing.F) {
	for _, m := range wireMessages {
		b, err := json.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, b)
	}
	f.Add([]byte(`{"k":"claim","s":1,"t":18446744073709551615,"o":"n9"}`), []byte(`{"k":"probe","p":{"i":1,"s":[{"n":1,"o":"","t":4294967295,"x":4294967295,"a":1}]}}`))
	f.Add([]byte(`{"k":"probe","p":{"i":1,"s":[{"n":3,"o":"n1","t":4,"w":["n0","n0"],"y":3}]}}`), []byte(`{"k":"probe","p":{"i":1,"s":[{"n":3,"o":"n1","t":4,"w":["n2","n1"],"y":18446744073709551615}]}}`))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		now := time.Unix(1000, 0)
		c, err := New(Config{Self: "n0", Incarnation: 2, Appliances: []Node{"n0", "n1", "n2"}, Registrar: "n1", Shadowing: true,
			Slots: []SlotConfig{{Slot: 1, Home: "n0", Shadows: []Node{"n1"}}, {Slot: 2, Home: "n1", Shadows: []Node{"n0"}}, {Slot: 3, Home: "n1", Dynamic: true}}}, now)
		if err != nil {
			t.Fatal(err)
		}
		open := map[int]bool{}
		step := func(ev Event) {
			for _, x := range c.Step(ev, now) {
				if x, ok := x.(ActFence); ok {
					open[int(x.Slot)] = x.Open
				}
			}
			for _, s := range c.list {
				if open[int(s.cfg.Slot)] && s.role != RoleOwner && s.role != RoleTaking && s.role != RoleDraining && s.role != RoleResuming {
					t.Fatalf("the fence of slot %d is open in role %s", s.cfg.Slot, s.role)
				}
			}
		}
		tell := func(b []byte) {
			var m Message
			if json.Unmarshal(b, &m) == nil {
				step(EvMessage{"n1", m})
			}
		}
		step(EvAdopted{Slot: 1, Ticket: 5})
		step(EvSlotUp{2})
		for i := range 30 {
			now = now.Add(50 * time.Millisecond)
			step(EvMessage{"n1", Message{Kind: KindProbe, Report: &Report{Incarnation: 1, Slots: []SlotReport{{Slot: 2, Owner: "n1", OwnerTicket: 3}}}}})
			step(EvTick{})
			switch i {
			case 12:
				tell(a)
			case 16:
				tell(b)
			}
		}
	})
}

// Whatever a reason is made of, it does not make a message too long to be sent.
func TestClippedReasonsFit(t *testing.T) {
	for _, x := range []string{"a", "é", "€", "😀", "<", "&", `"`, `\`, "\x01", "\n", "\xff", "\u2028"} {
		s := clip(strings.Repeat(x, 1000))
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(b) - 2; n > maxReason+3 || n < maxReason/3 { // \n is two octets, reckoned as six
			t.Errorf("%q takes %d octets, want about %d at most", x, n, maxReason)
		}
		if clip(s) != s && len(s) < maxReason {
			t.Errorf("%q is clipped twice", x)
		}
	}
	if got := clip("asked for"); got != "asked for" {
		t.Errorf("a short reason becomes %q", got)
	}
}
