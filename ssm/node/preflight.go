package node

import (
	"context"
	"fmt"

	"github.com/shadowcast/shadowcast/preflight"
)

// inspect looks at the machine once and tells what should be different. It does so
// beside the start: what the daemon cannot do without, its start names itself, and the speaker tells of
// the routers.
func (a *Appliance) inspect(ctx context.Context) error {
	found := preflight.Check(preflight.Gather(ctx, a.cfg, preflight.Network{Paths: true}))
	if ctx.Err() != nil {
		return nil
	}
	for _, f := range found {
		a.events.Add(Entry{Kind: "preflight", Warn: f.Severity > preflight.Info, Text: f.What, Reason: f.Why + "; " + f.Fix})
	}
	a.events.Add(Entry{Kind: "preflight", Text: fmt.Sprintf("looked at the machine: %d findings", len(found))})
	return nil
}
