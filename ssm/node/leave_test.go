package node

import (
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/ssm"
)

// TestRouteWatch: a route that is missing for long while its appliance is heard is
// told once, and its return; a dead appliance's is not.
func TestRouteWatch(t *testing.T) {
	w := routeWatch{}
	now := time.Unix(1000, 0)
	view := func(lost, suspect bool) ssm.View {
		return ssm.View{Peers: []ssm.PeerView{{Node: "fra", RouteLost: lost, Suspect: suspect}}}
	}
	for i, tc := range []struct {
		after         time.Duration
		lost, suspect bool
		want          string
	}{
		{0, true, false, ""},
		{9 * time.Second, true, false, ""},
		{10 * time.Second, true, false, "liveness of fra withdrawn, but it is heard"},
		{30 * time.Second, true, false, ""},
		{31 * time.Second, false, false, "liveness of fra is announced again"},
		{32 * time.Second, true, false, ""},
		{40 * time.Second, false, false, ""}, // a short gap
		{41 * time.Second, true, true, ""},
		{60 * time.Second, true, true, ""}, // dead: somebody else's event
		{61 * time.Second, true, false, ""},
		{71 * time.Second, true, false, "liveness of fra withdrawn, but it is heard"},
	} {
		got := ""
		for _, e := range w.look(view(tc.lost, tc.suspect), now.Add(tc.after)) {
			got += e.Text
		}
		if got != tc.want {
			t.Errorf("step %d: %q, want %q", i, got, tc.want)
		}
	}
}
