package session

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/shadowcast/shadowcast/sa/charon"
)

func selector(t *testing.T, from, to string) charon.Attr {
	t.Helper()
	a, err := charon.NewTS(charon.RemoteTS, charon.TS{ToPort: 65535, From: netip.MustParseAddr(from), To: netip.MustParseAddr(to)})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestNetworksAreTheRemoteSelectorsOfAllChildren(t *testing.T) {
	local, err := charon.NewTS(charon.LocalTS, charon.TS{ToPort: 65535, From: netip.MustParseAddr("10.99.0.0"), To: netip.MustParseAddr("10.99.255.255")})
	if err != nil {
		t.Fatal(err)
	}
	d := &Document{Children: []Child{
		{Add: Attrs{local, selector(t, "10.60.2.0", "10.60.2.255"), selector(t, "10.1.0.5", "10.1.0.5")}},
		{Add: Attrs{selector(t, "10.60.2.0", "10.60.2.255"), selector(t, "fd00:60::", "fd00:60::ffff")}}, // the same after a rekey
		{Add: Attrs{selector(t, "10.60.9.9", "10.60.9.1")}},                                              // ends before it begins
	}}
	if got, want := fmt.Sprint(d.Networks()), "[10.1.0.5-10.1.0.5 10.60.2.0-10.60.2.255 fd00:60::-fd00:60::ffff]"; got != want {
		t.Errorf("networks are %s, want %s", got, want)
	}
	if got := (&Document{}).Networks(); got != nil {
		t.Errorf("networks of nothing are %v", got)
	}
}
