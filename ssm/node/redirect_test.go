package node

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shadowcast/shadowcast/sa/charon"
)

// fakeRedirects is a charon whose clients behave as their names say.
type fakeRedirects struct {
	sas  []charon.IKESA
	told map[uint32]time.Time
	when []time.Time
}

func (f *fakeRedirects) Redirect(_ context.Context, t charon.Target, _ string) (int, error) {
	f.told[t.ID] = time.Now()
	f.when = append(f.when, time.Now())
	for _, s := range f.sas {
		if s.UniqueID == t.ID && s.RemoteID == "gone" {
			return 0, fmt.Errorf("no such SA: %w", charon.ErrRefused)
		}
	}
	return 1, nil
}

func (f *fakeRedirects) ListSAs(context.Context, bool) (out []charon.IKESA, err error) {
	for _, s := range f.sas {
		at, told := f.told[s.UniqueID]
		if told && (s.RemoteID == "follows" && time.Since(at) > time.Second || s.RemoteID == "ignores" && time.Since(at) > 30*time.Second) {
			continue
		}
		out = append(out, s)
	}
	return out, nil
}

func clientSA(id uint32, who, gateway string) charon.IKESA {
	return charon.IKESA{UniqueID: id, State: "ESTABLISHED", RemoteID: who, Local: netip.AddrPortFrom(netip.MustParseAddr(gateway), 500),
		Remote: netip.MustParseAddrPort("203.0.113.9:500"), RemoteVIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 1, 0, byte(id)})}}
}

func TestTellClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRedirects{told: map[uint32]time.Time{}}
		for i, who := range []string{"follows", "follows", "ignores", "cannot", "gone"} {
			f.sas = append(f.sas, clientSA(uint32(i+1), who, "198.51.100.1"))
		}
		half := clientSA(6, "follows", "198.51.100.1")
		half.State = "CONNECTING"
		f.sas = append(f.sas, half, clientSA(7, "follows", "198.51.100.2")) // the latter is there already
		var names []string
		got, err := tellClients(t.Context(), make(chan struct{}, 1), f, redirectOrder{gateway: "198.51.100.2", rate: 2}, func(s charon.IKESA, n, of int) {
			names = append(names, fmt.Sprintf("%s %d/%d", s.RemoteID, n, of))
		})
		if want := (redirectTally{sessions: 5, went: 2, ended: 1, stayed: 1}); err != nil || got != want {
			t.Errorf("tally %+v, %v, want %+v", got, err, want)
		}
		if want := []string{"follows 1/5", "follows 2/5", "ignores 3/5", "cannot 4/5", "gone 5/5"}; !slices.Equal(names, want) {
			t.Errorf("told %v, want %v", names, want)
		}
		for i := 1; i < len(f.when); i++ {
			if d := f.when[i].Sub(f.when[i-1]); d < 500*time.Millisecond {
				t.Errorf("client %d was told %v after the one before, want 2 a second", i+1, d)
			}
		}
	})
}

// One who is told to stop stops; and only one may tell at a time.
func TestTellClientsEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeRedirects{told: map[uint32]time.Time{}}
		for i := range 100 {
			f.sas = append(f.sas, clientSA(uint32(i+1), "cannot", "198.51.100.1"))
		}
		turn := make(chan struct{}, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		turn <- struct{}{}
		if _, err := tellClients(ctx, turn, f, redirectOrder{gateway: "x", rate: 1}, func(charon.IKESA, int, int) {}); err == nil || len(f.when) != 0 {
			t.Errorf("told %d while another had the turn, error %v", len(f.when), err)
		}
		<-turn
		ctx, cancel = context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer cancel()
		if _, err := tellClients(ctx, turn, f, redirectOrder{gateway: "x", rate: 1}, func(charon.IKESA, int, int) {}); err == nil || len(f.when) != 4 {
			t.Errorf("told %d in 3.5 s at 1 a second, want 4; error %v", len(f.when), err)
		}
		select {
		case turn <- struct{}{}:
		default:
			t.Error("the turn was not given back")
		}
	})
}

func TestRedirectConcerns(t *testing.T) {
	s := clientSA(3, "alice", "198.51.100.1")
	for name, x := range map[string]struct {
		o    redirectOrder
		want bool
	}{
		"all":           {redirectOrder{gateway: "g"}, true},
		"of the VIP":    {redirectOrder{gateway: "g", vip: netip.MustParseAddr("198.51.100.1")}, true},
		"of another":    {redirectOrder{gateway: "g", vip: netip.MustParseAddr("198.51.100.2")}, false},
		"by identity":   {redirectOrder{gateway: "g", client: "alice"}, true},
		"by outer":      {redirectOrder{gateway: "g", client: "203.0.113.9"}, true},
		"by inner":      {redirectOrder{gateway: "g", client: "10.1.0.3"}, true},
		"somebody else": {redirectOrder{gateway: "g", client: "bob"}, false},
	} {
		if got := x.o.concerns(s); got != x.want {
			t.Errorf("%s: %t, want %t", name, got, x.want)
		}
	}
}
