package registrar

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/shadowcast/shadowcast/sa"
)

// TestTicketsRiseForEver plays requests, repetitions, foundings, refusals and
// restores from snapshots against what a ticket log promises: every ticket of a
// slot lies above all earlier ones and above the floor, a repeated request gets
// its own ticket again, and a past life gets none.
func TestTicketsRiseForEver(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &State{}
		highest := map[sa.Slot]sa.Ticket{}
		type asked struct {
			i Issue
			t sa.Ticket
		}
		latest := map[string]asked{} // by slot and node
		ids := uint64(0)
		lives := map[string]uint64{"ams": 1, "fra": 1, "lhr": 1}
		slot := rapid.SampledFrom([]sa.Slot{1, 2, sa.MaxSlot})
		node := rapid.SampledFrom([]string{"ams", "fra", "lhr"})
		t.Repeat(map[string]func(*rapid.T){
			"found": func(t *rapid.T) {
				n, f := slot.Draw(t, "slot"), sa.Ticket(rapid.IntRange(0, 40).Draw(t, "floor"))
				if got, err := s.Apply(Command{Found: &Found{Last: map[sa.Slot]sa.Ticket{n: f}}}); got != 0 || err != nil {
					t.Fatalf("found: %d, %v", got, err)
				}
				highest[n] = max(highest[n], f)
			},
			"issue": func(t *rapid.T) {
				ids++
				i := Issue{Slot: slot.Draw(t, "slot"), Node: node.Draw(t, "node"), ID: ids}
				i.Incarnation = lives[i.Node]
				if rapid.Bool().Draw(t, "floored") {
					i.Floor = highest[i.Slot] + sa.Ticket(rapid.IntRange(-3, 3).Draw(t, "lead"))
					if i.Floor > 1<<60 {
						i.Floor = 0
					}
				}
				got, err := s.Apply(Command{Issue: &i})
				if !s.Founded() {
					if !errors.Is(err, ErrNotFounded) {
						t.Fatalf("issue before the log is founded: %d, %v", got, err)
					}
					return
				}
				if err != nil || got <= highest[i.Slot] || got <= i.Floor {
					t.Fatalf("issue %+v: %d, %v, the highest was %d", i, got, err, highest[i.Slot])
				}
				highest[i.Slot] = got
				latest[fmt.Sprint(i.Slot, i.Node)] = asked{i, got}
			},
			"repeat": func(t *rapid.T) {
				a, ok := latest[fmt.Sprint(slot.Draw(t, "slot"), node.Draw(t, "node"))]
				if !ok || a.i.Incarnation != lives[a.i.Node] {
					t.Skip("nothing to repeat")
				}
				if got, err := s.Apply(Command{Issue: &a.i}); err != nil || got != a.t {
					t.Fatalf("repeated %+v: %d, %v, want %d again", a.i, got, err, a.t)
				}
			},
			"reboot": func(t *rapid.T) { lives[node.Draw(t, "node")]++ },
			"past life": func(t *rapid.T) {
				n, who := slot.Draw(t, "slot"), node.Draw(t, "node")
				a, ok := latest[fmt.Sprint(n, who)]
				if !ok || a.i.Incarnation < 2 {
					t.Skip("no life has passed")
				}
				i := a.i
				i.ID, i.Incarnation = 1<<63, i.Incarnation-1
				if got, err := s.Apply(Command{Issue: &i}); !errors.Is(err, ErrPastLife) {
					t.Fatalf("a past life got %d, %v", got, err)
				}
			},
			"implausible": func(t *rapid.T) {
				if !s.Founded() {
					t.Skip("not founded")
				}
				n := slot.Draw(t, "slot")
				ids++
				i := Issue{Slot: n, Node: "ams", Incarnation: lives["ams"], ID: ids, Floor: highest[n] + maxLead + 1}
				if got, err := s.Apply(Command{Issue: &i}); !errors.Is(err, ErrImplausible) {
					t.Fatalf("floor %d above %d: %d, %v", i.Floor, highest[n], got, err)
				}
			},
			"restore": func(t *rapid.T) {
				b, err := s.Encode()
				if err != nil {
					t.Fatal(err)
				}
				r, err := DecodeState(b)
				if err != nil {
					t.Fatal(err)
				}
				if again, _ := r.Encode(); !bytes.Equal(b, again) {
					t.Fatalf("snapshot changed:\n%s\n%s", b, again)
				}
				s = r
			},
			"": func(t *rapid.T) {
				for n, h := range highest {
					if got := s.Last()[n]; got != h {
						t.Fatalf("slot %d: last is %d, want %d", n, got, h)
					}
				}
			},
		})
	})
}

func TestBadEntries(t *testing.T) {
	for text, want := range map[string]string{
		``:                   "unexpected end",
		`{"v":2,"found":{}}`: "version 2, want 1",
		`{"v":1}`:            "one of found and issue",
		`{"v":1,"found":{"last":{}},"issue":{"slot":1}}`:                            "one of found and issue",
		`{"v":1,"found":{"last":{"4096":1}}}`:                                       "slot 4096, want 1 to 4095",
		`{"v":1,"issue":{"slot":0,"node":"ams","incarnation":1,"id":1}}`:            "slot 0, want 1 to 4095",
		`{"v":1,"issue":{"slot":1,"node":"","incarnation":1,"id":1}}`:               `appliance ""`,
		`{"v":1,"issue":{"slot":1,"node":"ams","incarnation":0,"id":1}}`:            "incarnation or request number is missing",
		`{"v":1,"issue":{"slot":1,"node":"ams","incarnation":1,"id":1,"ticket":7}}`: `unknown field "ticket"`,
		`{"v":1,"issue":{"slot":1,"node":"ams","incarnation":1,"id":1}}{}`:          "after top-level value",
	} {
		if _, err := DecodeCommand([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	for text, want := range map[string]string{
		`{"v":1,"founded":true,"slots":[{"slot":1,"last":3},{"slot":1,"last":4}]}`:                                         "comes twice",
		`{"v":1,"founded":true,"slots":[{"slot":1,"last":3,"grants":[{"node":"ams","incarnation":1,"id":1,"ticket":4}]}]}`: "not one of 1 to 3",
		`{"v":1,"founded":true,"slots":[{"slot":1,"last":3,"grants":[{"node":"ams","incarnation":0,"id":1,"ticket":3}]}]}`: "incarnation",
	} {
		if _, err := DecodeState([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func FuzzDecodeCommand(f *testing.F) {
	for _, c := range []Command{{Found: &Found{Last: map[sa.Slot]sa.Ticket{1: 7}}}, {Issue: &Issue{Slot: 1, Node: "ams", Incarnation: 1, ID: 9, Floor: 3}}} {
		b, err := EncodeCommand(c)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeCommand(b)
		if err != nil {
			return
		}
		again, err := EncodeCommand(c)
		if err != nil {
			t.Fatalf("%s was read but cannot be written: %v", b, err)
		}
		if _, err := DecodeCommand(again); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
	})
}

func FuzzDecodeState(f *testing.F) {
	f.Add([]byte(`{"v":1,"founded":true,"slots":[{"slot":1,"last":3,"grants":[{"node":"ams","incarnation":1,"id":1,"ticket":3}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeState(b)
		if err != nil {
			return
		}
		again, err := s.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeState(again); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
	})
}
