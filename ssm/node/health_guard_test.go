package node

import (
	"context"
	"strings"
	"testing"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/ssm"
)

// A cause that three appliances have at once drains none of them, and is told once.
func TestGuardHoldsACommonCauseBack(t *testing.T) {
	m := newTestMonitor(t)
	first := m.hot(10, testStart, healthyPeers) // to learn the cause's name
	if first.Wish == nil {
		t.Fatalf("no wish: %+v", first)
	}
	m = newTestMonitor(t)
	ev := m.hot(60, testStart, func(now time.Time) ssm.View {
		v := healthyPeers(now)
		for i := range v.Peers {
			v.Peers[i].Wish = &ssm.Wish{Standing: ssm.StandingDraining, Cause: first.Wish.Cause, For: now.Sub(testStart)}
		}
		return v
	})
	if ev.Standing != ssm.StandingDegraded || ev.Wish == nil || ev.Wish.Holds {
		t.Errorf("the standing is %+v with the wish %+v, want degraded without the lease", ev, ev.Wish)
	}
	const alarm = "the fleet guard holds a predicted drain back"
	if n := strings.Count(m.eventTexts(), alarm); n != 1 {
		t.Errorf("the guard's alarm is told %d times in\n%s", n, m.eventTexts())
	}
	r, err := m.Health(context.Background(), false)
	if err != nil || !strings.Contains(r.Guard, "common cause") || r.State != v1.Standing_STANDING_DEGRADED || r.Raw != v1.Standing_STANDING_DRAINING {
		t.Errorf("the API says %v (%v)", r, err)
	}
	// Peers that are dead or silent have no say.
	m = newTestMonitor(t)
	if ev := m.hot(30, testStart, func(now time.Time) ssm.View {
		return ssm.View{Peers: []ssm.PeerView{{Node: "fra", Suspect: true, Heard: now, Wish: &ssm.Wish{Standing: ssm.StandingDraining, Cause: first.Wish.Cause, Holds: true}},
			{Node: "par", Wish: &ssm.Wish{Standing: ssm.StandingDraining, Cause: first.Wish.Cause, Holds: true}}}}
	}); ev.Standing != ssm.StandingDraining {
		t.Errorf("beside dead peers the standing is %s", ev.Standing)
	}
}
