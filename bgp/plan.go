package bgp

import (
	"net/netip"
	"time"
)

// budget bounds attribute changes per prefix: at most max in window. A change
// for the better leaves one for a later change for the worse, so that an
// appliance that recovered can always still be drained, and comes no sooner than
// dwell after the last change: what has just got worse is not yet well.
//
// Routers that dampen (RFC 2439) count an attribute change as half a flap and
// suppress at two (Cisco's and Juniper's defaults: 500 of a limit of 2000 or
// 3000, half-life 15 minutes): two changes in 15 minutes stay below any of them.
type budget struct {
	window time.Duration
	dwell  time.Duration
	max    int
	spent  map[netip.Prefix][]time.Time
}

// admit reports whether p may change at now, else when it may.
func (b *budget) admit(p netip.Prefix, worse bool, now time.Time) (bool, time.Time) {
	used := b.spent[p]
	for len(used) > 0 && now.Sub(used[0]) >= b.window {
		used = used[1:]
	}
	b.spent[p] = used
	if len(used) == 0 {
		delete(b.spent, p)
	}
	allowed := b.max
	if !worse {
		allowed = max(1, b.max-1)
	}
	if len(used) >= allowed {
		return false, used[len(used)-allowed].Add(b.window)
	}
	if !worse && len(used) > 0 {
		if at := used[len(used)-1].Add(b.dwell); now.Before(at) {
			return false, at
		}
	}
	return true, time.Time{}
}

func (b *budget) spend(p netip.Prefix, now time.Time) { b.spent[p] = append(b.spent[p], now) }

// plan is the difference between what is announced and what is wanted.
type plan struct {
	add      map[netip.Prefix]route
	withdraw map[netip.Prefix]route
	// deferred changes wait for the budget, the first until next.
	deferred map[netip.Prefix]time.Time
	next     time.Time
}

// makePlan compares. Announcing and withdrawing never wait, replacing may; but what is
// told inside says who owns a slot, which is a fact and no estimate.
func makePlan(have, want map[netip.Prefix]route, b *budget, force bool, now time.Time) plan {
	p := plan{
		add:      map[netip.Prefix]route{},
		withdraw: map[netip.Prefix]route{},
		deferred: map[netip.Prefix]time.Time{},
	}
	for prefix, old := range have {
		if _, ok := want[prefix]; !ok {
			p.withdraw[prefix] = old
		}
	}
	for prefix, r := range want {
		old, ok := have[prefix]
		if ok && old == r {
			continue
		}
		if ok && !force && !r.inside {
			if ok, at := b.admit(prefix, r.worseThan(old), now); !ok {
				p.deferred[prefix] = at
				if p.next.IsZero() || at.Before(p.next) {
					p.next = at
				}
				continue
			}
		}
		p.add[prefix] = r
	}
	return p
}
