package node

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/ssm/session"
)

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func siteNetworks(allowed ...string) *networks {
	return newNetworks(&config.Config{Fleet: config.Fleet{Networks: prefixes(allowed...)}}, config.Slot{Number: 1, Pools: prefixes("10.1.0.0/16")})
}

// takesFor is a session that takes packets for ranges "from-to".
func takesFor(t *testing.T, id string, ranges ...[2]string) *session.Document {
	t.Helper()
	d := &session.Document{SessionID: id}
	for _, r := range ranges {
		a, err := charon.NewTS(charon.RemoteTS, charon.TS{ToPort: 65535, From: netip.MustParseAddr(r[0]), To: netip.MustParseAddr(r[1])})
		if err != nil {
			t.Fatal(err)
		}
		d.Children = append(d.Children, session.Child{Add: session.Attrs{a}})
	}
	return d
}

func TestNetworksBehindClients(t *testing.T) {
	x := siteNetworks("10.60.0.0/16", "fd00:60::/48")
	list := func() string { ps, _ := x.list(); return fmt.Sprint(ps) }
	if x.note(takesFor(t, "road", [2]string{"10.1.0.5", "10.1.0.5"})); x.dirty {
		t.Error("an inner address of the pool changed the networks")
	}
	x.note(takesFor(t, "a", [2]string{"10.60.1.0", "10.60.1.255"}, [2]string{"fd00:60::", "fd00:60::ffff"}))
	x.note(takesFor(t, "b", [2]string{"10.60.1.0", "10.60.1.255"}, [2]string{"10.60.2.0", "10.60.3.127"})) // no prefix by itself
	const both = "[10.60.1.0/24 10.60.2.0/24 10.60.3.0/25 fd00:60::/112]"
	if got := list(); got != both || !x.dirty {
		t.Errorf("networks are %s (dirty %v), want %s", got, x.dirty, both)
	}
	x.dirty = false
	if x.note(takesFor(t, "a", [2]string{"10.60.1.0", "10.60.1.255"}, [2]string{"fd00:60::", "fd00:60::ffff"})); x.dirty {
		t.Error("the same again changed the networks")
	}
	x.forget("a")
	if got, want := list(), "[10.60.1.0/24 10.60.2.0/24 10.60.3.0/25]"; got != want || !x.dirty {
		t.Errorf("networks are %s (dirty %v) without a, want %s", got, x.dirty, want)
	}
	x.reset([]*session.Document{takesFor(t, "c", [2]string{"10.60.9.0", "10.60.9.255"})})
	if got, want := list(), "[10.60.9.0/24]"; got != want {
		t.Errorf("networks are %s after a new beginning, want %s", got, want)
	}
}

// A selector that only overlaps what is allowed is not routed at all: a client that asks
// for everything must not draw the networks of others.
func TestNetworksBeyondWhatIsAllowed(t *testing.T) {
	x := siteNetworks("10.60.0.0/16")
	beyond := x.note(takesFor(t, "greedy", [2]string{"0.0.0.0", "255.255.255.255"}, [2]string{"10.60.1.0", "10.60.1.255"}, [2]string{"10.1.0.0", "10.2.0.0"}))
	if got, want := fmt.Sprint(beyond), "[0.0.0.0/0 10.1.0.0/16 10.2.0.0/32]"; got != want {
		t.Errorf("beyond is %s, want %s", got, want)
	}
	if ps, _ := x.list(); fmt.Sprint(ps) != "[10.60.1.0/24]" {
		t.Errorf("networks are %v, want what is allowed alone", ps)
	}
	if again := x.note(takesFor(t, "greedy", [2]string{"0.0.0.0", "255.255.255.255"})); again != nil {
		t.Errorf("told again: %v", again)
	}
	x.forget("greedy")
	if anew := x.note(takesFor(t, "greedy", [2]string{"0.0.0.0", "255.255.255.255"})); len(anew) != 1 {
		t.Errorf("a new session is told %v", anew)
	}
	if none := siteNetworks(); none.note(takesFor(t, "x", [2]string{"10.60.1.0", "10.60.1.255"})) == nil {
		t.Error("without fleet.networks a site is routed")
	}
}

func TestNetworksHaveABound(t *testing.T) {
	x := siteNetworks("10.0.0.0/8")
	for i := range maxNetworks + 3 {
		a := fmt.Sprintf("10.60.%d.%d", i/256, i%256)
		x.note(takesFor(t, a, [2]string{a, a}))
	}
	if ps, over := x.list(); len(ps) != maxNetworks || over != 3 {
		t.Errorf("%d networks and %d more, want %d and 3", len(ps), over, maxNetworks)
	}
}
