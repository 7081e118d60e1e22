package sa

import (
	"testing"

	"pgregory.net/rapid"
)

func TestBlockArithmetic(t *testing.T) {
	for _, tt := range []struct {
		birth Birth
		g     Ticket
		block uint64
		ok    bool
	}{
		{Birth{5, 5}, 5, 0, true},
		{Birth{5, 5}, 4, 0, false}, // an earlier owner
		{Birth{5, 5}, 6, 1, true},
		{Birth{7, 5}, 5, 0, true},  // the birth tenure, base above it
		{Birth{7, 5}, 6, 0, false}, // a ticket the owner did not know of
		{Birth{7, 5}, 7, 0, false},
		{Birth{7, 5}, 8, 1, true},
		{Birth{7, 5}, 7 + 63, 63, true},
		{Birth{7, 5}, 7 + 64, 0, false},
		{Birth{7, 5}, ^Ticket(0), 0, false},
	} {
		n, err := tt.birth.Block(tt.g)
		if (err == nil) != tt.ok || n != tt.block {
			t.Errorf("%+v, ticket %d: block %d, %v", tt.birth, tt.g, n, err)
		}
	}
	for _, tt := range []struct{ own, lowest, want Ticket }{{5, 0, 5}, {5, 6, 5}, {5, 9, 8}, {5, 5, 5}, {5, 3, 5}} {
		if got := BaseFor(tt.own, tt.lowest); got != tt.want {
			t.Errorf("BaseFor(%d, %d) = %d, want %d", tt.own, tt.lowest, got, tt.want)
		}
	}
	b := Birth{7, 5}
	for g, want := range map[Ticket]bool{5: false, 6: false, 8: false, 7 + RekeyDistance: false, 8 + RekeyDistance: true, 7 + 64: true} {
		if b.NeedsRekey(g) != want {
			t.Errorf("ticket %d: NeedsRekey %v", g, !want)
		}
	}
}

// TestBlocksAreDisjoint: every number that any two tickets may use on one SA
// is used by one of them only, fits into 32 bits, and rises with the ticket.
func TestBlocksAreDisjoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		own := Ticket(rapid.Uint64Range(1, 1<<60).Draw(t, "own"))
		lowest := Ticket(rapid.Uint64Range(0, uint64(own)+100).Draw(t, "lowest"))
		birth := Birth{Base: BaseFor(own, lowest), Tenure: own}
		if birth.Base < own {
			t.Fatalf("base %d lies below the tenure %d", birth.Base, own)
		}
		a := own + Ticket(rapid.IntRange(0, 200).Draw(t, "a"))
		b := own + Ticket(rapid.IntRange(0, 200).Draw(t, "b"))
		if a == b {
			return
		}
		if a > b {
			a, b = b, a
		}
		na, erra := birth.Block(a)
		nb, errb := birth.Block(b)
		if erra != nil || errb != nil {
			return
		}
		// The last number of a's block lies below the first of b's.
		lastA, firstB, lastB := FirstSeq(na)+BlockSize-1, FirstSeq(nb)+1, FirstSeq(nb)+BlockSize-1
		if lastA >= firstB {
			t.Fatalf("tickets %d and %d share numbers: %d..%d and %d..%d", a, b, FirstSeq(na)+1, lastA, firstB, lastB)
		}
		if lastB >= 1<<32 {
			t.Fatalf("number %d exceeds 32 bits", lastB)
		}
	})
}

// The model plays what DESIGN calls tickets: a registrar's log that issues each
// number once, appliances that claim, crash and reboot, and partitions. It
// knows nothing of blocks: package sa says where a holder sends, and the model
// writes down who sent where.
type world struct {
	*rapid.T
	next Ticket
	apps []*app
	sas  []*birthRecord
}

// app is one appliance. All but side and boot is lost when it crashes.
type app struct {
	name, side, boot int
	live             bool
	own              Ticket         // owner under this ticket, 0 if passive
	armed            Ticket         // may claim with it
	heard            Ticket         // highest claim it knows of
	granted          map[*app]grant // to whom it gave tickets as owner
	sas              map[*birthRecord]bool
}

type grant struct {
	ticket Ticket
	boot   int
}

type birthRecord struct {
	birth Birth
	sent  map[uint64]tenure
}

type tenure struct {
	name, boot int
	ticket     Ticket
}

const registrars = 3 // the first appliances

func (w *world) reach(a, b *app) bool { return a.live && b.live && a.side == b.side }

// issue gives to a fresh ticket, if a majority of registrars is within reach.
func (w *world) issue(to *app) Ticket {
	n := 0
	for _, r := range w.apps[:registrars] {
		if w.reach(to, r) {
			n++
		}
	}
	if n <= registrars/2 {
		return 0
	}
	w.next++
	return w.next
}

// settle lets the appliances that see each other agree on the highest claim.
func (w *world) settle() {
	for _, a := range w.apps {
		for _, b := range w.apps {
			if w.reach(a, b) {
				a.heard = max(a.heard, b.heard)
			}
		}
	}
	for _, a := range w.apps {
		if !a.live {
			continue
		}
		if a.armed <= a.heard {
			a.armed = 0 // overtaken
		}
		if a.own == 0 {
			continue
		}
		if a.own < a.heard {
			// Lost: first hand over what the winner lacks.
			for _, b := range w.apps {
				if w.reach(a, b) && b.own == b.heard && b.own > a.own {
					for s := range a.sas {
						b.sas[s] = true
					}
				}
			}
			a.own = 0
			continue
		}
		// A higher ticket was lost, perhaps used: take a fresh one before its
		// holder is a member again.
		for b, g := range a.granted {
			if w.reach(a, b) && b.boot != g.boot {
				if g.ticket > a.own {
					fresh := w.issue(a)
					if fresh == 0 {
						continue
					}
					a.own, a.heard = fresh, fresh
				}
				delete(a.granted, b)
			}
		}
	}
}

// send makes every owner send a packet on every SA it has.
func (w *world) send() {
	for _, a := range w.apps {
		if !a.live || a.own == 0 {
			continue
		}
		for s := range a.sas {
			n, err := s.birth.Block(a.own)
			if err != nil {
				continue
			}
			me := tenure{a.name, a.boot, a.own}
			if other, ok := s.sent[n]; ok && other != me {
				w.Fatalf("block %d of the SA %+v is used by %+v and %+v", n, s.birth, other, me)
			}
			s.sent[n] = me
		}
	}
}

// arm gives b a ticket above the owner's, and all SAs.
func (w *world) arm(a, b *app) {
	if g, ok := a.granted[b]; ok && g.boot != b.boot {
		return // not a member until settled
	}
	t := w.issue(b)
	if t == 0 {
		return
	}
	b.armed = t
	a.granted[b] = grant{t, b.boot}
	for s := range a.sas {
		b.sas[s] = true
	}
}

func (w *world) birth(a *app) {
	var lowest Ticket
	for b, g := range a.granted {
		if b.boot == g.boot && b.armed == g.ticket && (lowest == 0 || g.ticket < lowest) {
			lowest = g.ticket
		}
	}
	s := &birthRecord{birth: Birth{BaseFor(a.own, lowest), a.own}, sent: map[uint64]tenure{}}
	w.sas = append(w.sas, s)
	a.sas[s] = true
	for b := range a.granted {
		if w.reach(a, b) && b.armed != 0 {
			b.sas[s] = true
		}
	}
}

func (a *app) crash() {
	*a = app{name: a.name, side: a.side, boot: a.boot + 1, granted: map[*app]grant{}, sas: map[*birthRecord]bool{}}
}

// survivorIsHighest: with everybody up and connected, the owner sends at or
// above every block that any client has seen.
func (w *world) survivorIsHighest() {
	var owner *app
	for _, a := range w.apps {
		if a.own == 0 {
			continue
		}
		if owner != nil {
			w.Fatalf("two owners after healing: %d with ticket %d and %d with ticket %d", owner.name, owner.own, a.name, a.own)
		}
		owner = a
	}
	if owner == nil {
		return
	}
	for s := range owner.sas {
		n, err := s.birth.Block(owner.own)
		if err != nil {
			continue
		}
		for seen, by := range s.sent {
			if seen > n {
				w.Fatalf("owner %d sends in block %d of the SA %+v, %+v sent in block %d", owner.name, n, s.birth, by, seen)
			}
		}
	}
}

// TestRandomSchedules plays random schedules of issuing, claiming, crashing,
// partitioning and healing.
func TestRandomSchedules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{T: t}
		for i := range rapid.IntRange(3, 6).Draw(t, "appliances") {
			w.apps = append(w.apps, &app{name: i, live: true, granted: map[*app]grant{}, sas: map[*birthRecord]bool{}})
		}
		first := w.apps[0]
		first.own = w.issue(first)
		first.heard = first.own
		pick := func(label string) *app { return rapid.SampledFrom(w.apps).Draw(t, label) }
		steps := map[string]func(*rapid.T){
			"arm": func(*rapid.T) {
				if a, b := pick("owner"), pick("shadow"); a != b && a.own != 0 && b.own == 0 && w.reach(a, b) {
					w.arm(a, b)
				}
			},
			"claim": func(*rapid.T) {
				if a := pick("claimer"); a.live && a.armed > a.heard {
					a.own, a.heard, a.armed = a.armed, a.armed, 0
					a.granted = map[*app]grant{}
				}
			},
			"birth": func(*rapid.T) {
				if a := pick("owner"); a.live && a.own != 0 && len(w.sas) < 8 {
					w.birth(a)
				}
			},
			"crash":  func(*rapid.T) { pick("victim").crash() },
			"reboot": func(*rapid.T) { pick("victim").live = true },
			"partition": func(t *rapid.T) {
				for _, a := range w.apps {
					a.side = rapid.IntRange(0, 1).Draw(t, "side")
				}
			},
			"heal": func(*rapid.T) {
				for _, a := range w.apps {
					a.side, a.live = 0, true
				}
				w.settle()
				w.survivorIsHighest()
			},
			"": func(*rapid.T) {
				w.settle()
				w.send()
			},
		}
		t.Repeat(steps)
	})
}
