package lab

import (
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

// enterBy makes packets from outside router r1 enter at one appliance and those from
// r2 at another.
func enterBy(l *Lab, at map[string]string) error {
	for _, a := range l.Appliances() {
		if err := a.Prepare(); err != nil {
			return err
		}
		for i := range a.Config.BGP.Peers {
			p := &a.Config.BGP.Peers[i]
			if entry := at[p.Name]; entry != "" && entry != a.Name {
				p.MEDAdd = uint32(100 * (a.N + 1))
			}
		}
	}
	return nil
}

func slotsOf(ss []*attached) []uint32 {
	var out []uint32
	for _, s := range ss {
		if !slices.Contains(out, s.slot) {
			out = append(out, s.slot)
		}
	}
	return out
}

// owners are the living appliances that hold the slot according to themselves, with
// the tickets they hold it by.
func owners(t *T, l *Lab, slot uint32) map[string]uint64 {
	out := map[string]uint64{}
	for _, a := range l.Appliances() {
		if !a.daemon.Alive() {
			continue
		}
		if x := slotAt(t.Context(), a, slot); x != nil && x.Owner == a.Name && x.Role == v1.Role_ROLE_OWNER {
			out[a.Name] = x.OwnerTicket
		}
	}
	return out
}

// split waits until the slot has n owners.
func split(t *T, l *Lab, slot uint32, n int) map[string]uint64 {
	var got map[string]uint64
	ctx, cancel := contextOf(t, 20*time.Second)
	defer cancel()
	err := poll(ctx, 50*time.Millisecond, fmt.Sprintf("%d owners of slot %d", n, slot), func() (bool, error) {
		got = owners(t, l, slot)
		return len(got) == n, nil
	})
	if err != nil {
		t.Fatalf("%v; there are %v", err, got)
	}
	t.Logf("slot %d is owned by %v", slot, got)
	return got
}

// soleFor is how long a healed fleet must stay with one owner.
const soleFor = 3 * time.Second

// united waits until every living appliance names the same owner of the slot, checks
// that the highest ticket of before has won, and that there is no other owner for a
// while.
func united(t *T, l *Lab, slot uint32, before map[string]uint64) *Appliance {
	ctx, cancel := contextOf(t, 20*time.Second)
	defer cancel()
	said := ""
	one := func() (string, uint64) {
		names, ticket, views := map[string]bool{}, uint64(0), []string{}
		for _, a := range l.Appliances() {
			if !a.daemon.Alive() {
				continue
			}
			x := slotAt(t.Context(), a, slot)
			if x == nil {
				return "", 0
			}
			names[x.Owner], ticket = true, x.OwnerTicket
			views = append(views, fmt.Sprintf("%s as %s: %s by %d", a.Name, x.Role, x.Owner, x.OwnerTicket))
		}
		said = strings.Join(views, ", ")
		own := owners(t, l, slot)
		for n := range names {
			if _, owns := own[n]; owns && len(names) == 1 && len(own) == 1 {
				return n, ticket
			}
		}
		return "", 0
	}
	var who string
	var ticket uint64
	if err := poll(ctx, 50*time.Millisecond, fmt.Sprintf("one owner of slot %d", slot), func() (bool, error) {
		who, ticket = one()
		return who != "", nil
	}); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	winner, highest := "", uint64(0)
	for n, k := range before {
		if k > highest {
			winner, highest = n, k
		}
	}
	// A ticket above all of them was taken afterwards: by a shadow that found the
	// winner overtaken, or by the winner itself.
	if ticket < highest || ticket == highest && who != winner {
		t.Errorf("slot %d: %s owns by ticket %d, of %v", slot, who, ticket, before)
	}
	for end := time.Now().Add(soleFor); time.Now().Before(end); pause(t, 100*time.Millisecond) {
		if own := owners(t, l, slot); len(own) != 1 || own[who] == 0 {
			t.Errorf("slot %d: the owners are %v after it had one, %s", slot, own, who)
			break
		}
	}
	t.Logf("slot %d: %s owns by ticket %d; before: %v", slot, who, ticket, before)
	return l.Appliance(who)
}

// usable checks that traffic flows without a loss and that every session can be rekeyed
// from its client.
func (p party) usable(t *T, l *Lab) {
	p.control(t, l)
	for _, s := range p {
		t.Check(s.Client.RekeyChild(t.Context()))
		t.Check(s.Client.RekeyIKE(t.Context()))
	}
	p.control(t, l)
}

// lives plays one phase after which every session is there as before.
func (p party) lives(t *T, l *Lab, name string, do func(observations)) []Scene {
	scs := p.scene(t, l, name, func(os observations) {
		do(os)
		for _, s := range p { // what ends with the story has its time to end
			t.Check(s.Stream.WaitReceived(t.Context(), 200))
		}
	})
	for _, sc := range scs {
		kept(t, sc)
	}
	return scs
}
