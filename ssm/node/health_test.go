package node

import (
	"log/slog"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/operator"
	"github.com/shadowcast/shadowcast/ssm"
)

// newTestMonitor is the monitor of the example's appliance in a directory of its
// own; nothing is read of this machine's hardware.
func newTestMonitor(t *testing.T) *monitor {
	t.Helper()
	c, err := config.Parse([]byte(config.Example()))
	if err != nil {
		t.Fatal(err)
	}
	c.StateDir, c.RunDir = t.TempDir(), t.TempDir()
	return newMonitor(&Appliance{cfg: c, events: &journal{log: operator.NewEvents(c.Node, 1000, slog.New(slog.DiscardHandler))}})
}

// healthyPeers is a view of two others that are heard and well.
func healthyPeers(now time.Time) ssm.View {
	return ssm.View{Peers: []ssm.PeerView{{Node: "fra", Heard: now}, {Node: "par", Heard: now}}}
}
