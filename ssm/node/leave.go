package node

import (
	"context"
	"fmt"
	"time"

	"github.com/shadowcast/shadowcast/ssm"
)

// After the VIP is withdrawn, packets that were on their way still enter. Nothing
// stops before none has come for lastQuiet, or lastLimit is over: somebody may send
// by a route of his own.
const (
	lastQuiet = 300 * time.Millisecond
	lastLimit = 2 * time.Second
	lastLook  = 50 * time.Millisecond
)

// lastPackets waits until no packet enters here any more.
func (a *Appliance) lastPackets(ctx context.Context) {
	if a.routes.speaker == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastLimit)
	defer cancel()
	var n uint64
	since := time.Now()
	for time.Since(since) < lastQuiet {
		now, ok := n, false
		if err := a.ask(ctx, func(*ssm.Core) { now, ok = a.entries() }); err == nil && ok && now != n {
			n, since = now, time.Now()
		}
		select {
		case <-ctx.Done():
			a.events.Add(Entry{Kind: "stop", Warn: true, Text: "packets still enter here while the daemon ends",
				Reason: fmt.Sprintf("the VIP was withdrawn %s ago and routers go on sending", lastLimit)})
			return
		case <-time.After(lastLook):
		}
	}
}

// routeLostFor is how long the liveness route of an appliance that is heard may be
// missing: routers take seconds to learn it again after a restart.
const routeLostFor = 10 * time.Second

// watchRoutes tells when routers have lost an appliance that is alive.
func (a *Appliance) watchRoutes(ctx context.Context) error {
	w := routeWatch{}
	every := time.NewTicker(routeLostFor / 4)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-every.C:
			v, err := a.view(ctx)
			if err != nil {
				continue
			}
			for _, e := range w.look(v, now) {
				a.events.Add(e)
			}
		}
	}
}

// routeWatch is since when each appliance has been heard without its route; the
// zero time once that was told.
type routeWatch map[ssm.Node]time.Time

// look returns what is to be told.
func (w routeWatch) look(v ssm.View, now time.Time) (out []Entry) {
	for _, p := range v.Peers {
		since, known := w[p.Node]
		switch {
		case !p.RouteLost || p.Suspect:
			if known && since.IsZero() && !p.Suspect {
				out = append(out, Entry{Kind: "bgp", Text: "liveness of " + string(p.Node) + " is announced again"})
			}
			delete(w, p.Node)
		case !known:
			w[p.Node] = now
		case !since.IsZero() && now.Sub(since) >= routeLostFor:
			w[p.Node] = time.Time{}
			out = append(out, Entry{Kind: "bgp", Warn: true, Text: "liveness of " + string(p.Node) + " withdrawn, but it is heard",
				Reason: "a router filters or dampens its routes, or its BGP session is down; nobody takes over"})
		}
	}
	return out
}
