package node

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/ssm/session"
)

// maxNetworks bounds the networks behind the clients of one slot: each is a route here
// and an announcement to every inside peer.
const maxNetworks = 1000

// networks are those behind the clients of one slot (site-to-site): what the remote
// selectors of its sessions name within fleet.networks. It belongs to the slot's runtime.
type networks struct {
	allowed *netipx.IPSet
	pools   []netip.Prefix
	of      map[string][]netip.Prefix // by session
	users   map[netip.Prefix]int      // sessions
	told    map[string]bool           // sessions whose excess is in the event log
	dirty   bool                      // what is routed is not what is here
	full    bool                      // more than maxNetworks, said
	// route has them routed and announced, and no others.
	route func([]netip.Prefix) error
}

func newNetworks(cfg *config.Config, s config.Slot) *networks {
	var b netipx.IPSetBuilder
	for _, p := range cfg.Fleet.Networks {
		b.AddPrefix(p)
	}
	allowed, _ := b.IPSet() // prefixes that Parse accepted make no error
	return &networks{allowed: allowed, pools: s.Pools, of: map[string][]netip.Prefix{}, users: map[netip.Prefix]int{}, told: map[string]bool{}}
}

// note takes over what a session names now. beyond is what it names outside the pools
// and fleet.networks, told once.
func (x *networks) note(d *session.Document) (beyond []netip.Prefix) {
	var ps []netip.Prefix
	for _, r := range d.Networks() {
		switch {
		case slices.ContainsFunc(x.pools, func(p netip.Prefix) bool { return p.Contains(r.From()) && p.Contains(r.To()) }):
		case x.allowed.ContainsRange(r):
			ps = append(ps, r.Prefixes()...)
		case !x.told[d.SessionID]:
			beyond = append(beyond, r.Prefixes()...)
		}
	}
	if len(beyond) > 0 {
		x.told[d.SessionID] = true
	}
	slices.SortFunc(ps, netip.Prefix.Compare)
	x.set(d.SessionID, slices.Compact(ps))
	return beyond
}

// forget drops a session.
func (x *networks) forget(id string) {
	delete(x.told, id)
	x.set(id, nil)
}

// reset begins anew with docs.
func (x *networks) reset(docs []*session.Document) {
	now := map[string]bool{}
	for _, d := range docs {
		now[d.SessionID] = true
		x.note(d)
	}
	for id := range x.of {
		if !now[id] {
			x.forget(id)
		}
	}
	x.dirty = true
}

func (x *networks) set(id string, ps []netip.Prefix) {
	old := x.of[id]
	if slices.Equal(old, ps) {
		return
	}
	for _, p := range ps {
		x.users[p]++
	}
	for _, p := range old {
		if x.users[p]--; x.users[p] == 0 {
			delete(x.users, p)
		}
	}
	if x.of[id] = ps; len(ps) == 0 {
		delete(x.of, id)
	}
	x.dirty = true
}

// list returns the networks, sorted; over says how many more there are than may be.
func (x *networks) list() (ps []netip.Prefix, over int) {
	ps = slices.SortedFunc(maps.Keys(x.users), netip.Prefix.Compare)
	if len(ps) > maxNetworks {
		return ps[:maxNetworks], len(ps) - maxNetworks
	}
	return ps, 0
}

// noteNetworks follows the networks behind a client, and says which are not routed.
func (r *slotRuntime) noteNetworks(d *session.Document) {
	beyond := r.networks.note(d)
	if len(beyond) == 0 || r.mode != modeOwner {
		return
	}
	var s []string
	for _, p := range beyond[:min(len(beyond), 5)] {
		s = append(s, p.String())
	}
	r.a.events.Add(Entry{Slot: r.n, Kind: "networks", Warn: true, Text: fmt.Sprintf("session %s takes packets for %s, which is not routed", d.SessionID, strings.Join(s, ", ")),
		Reason: "neither the slot's pools nor fleet.networks have it"})
}

// routeNetworks has the networks of the slot's sessions routed and announced as its pools
// are. While sessions are read back (refill) what an earlier daemon routed stays.
func (r *slotRuntime) routeNetworks() {
	x := r.networks
	if !x.dirty || r.refill != nil {
		return
	}
	ps, over := x.list()
	x.dirty = false
	if (over > 0) != x.full {
		if x.full = over > 0; x.full {
			r.a.events.Add(Entry{Slot: r.n, Kind: "networks", Warn: true, Text: fmt.Sprintf("%d networks behind clients are not routed", over),
				Reason: fmt.Sprintf("a slot has at most %d", maxNetworks)})
		}
	}
	r.a.problem(r.n, "route the networks behind clients", x.route(ps))
}
