package node

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/replica"
	"github.com/shadowcast/shadowcast/ssm/session"
)

// Times of a change of who holds what.
const (
	// unreadyFor is how long a shadow must be not ready before the next one takes its
	// place: a stream that is opened again is no loss.
	unreadyFor = 2 * time.Second
	// overlapFor is how long a shadow keeps what it need not hold any more, after the
	// others were told: who claims meanwhile must not lack what it is said to hold.
	overlapFor = time.Second
)

// coverage decides which shadows hold which sessions of a slot that is owned here: a
// session whose tier has k shadows is kept on the first k of an order in which those
// that are ready come first. Who comes further to the front gets what it lacks, then
// the core is told of the new order, and only then those behind drop what they need
// not hold. One goroutine changes it; Select of the publisher reads it.
type coverage struct {
	tiers   config.Tiers
	first   string               // the target of a move, "" without one
	order   []string             // that is wanted
	told    []string             // to the core
	toldAt  time.Time            // zero: never
	unready map[string]time.Time // since when

	mu     sync.Mutex
	copies map[string]int // shadows of a session, by its id
	place  map[string]int // of a shadow: it holds sessions with more copies than that
}

// newCoverage returns the coverage of a tenure, nil where sessions have no tiers.
func newCoverage(t config.Tiers) *coverage {
	if !t.Enabled() {
		return nil
	}
	return &coverage{tiers: t, unready: map[string]time.Time{}, copies: map[string]int{}, place: map[string]int{}}
}

// holds reports whether a shadow shall hold a session.
func (c *coverage) holds(id, shadow string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, known := c.copies[id]
	return !known || c.place[shadow] < k
}

// note takes the tier of a session.
func (c *coverage) note(d *session.Document) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.copies[d.SessionID] = max(c.tiers.Shadows[d.Tier], 1)
}

func (c *coverage) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.copies, id)
}

// arrange brings the order up to date with who shadows the slot and who is ready, and
// reports whether somebody shall hold other sessions than before, and whether the core
// is to be told of told.
func (c *coverage) arrange(shadows []string, ready func(string) bool, now time.Time) (again, tell bool) {
	c.order = slices.DeleteFunc(c.order, func(n string) bool { return !slices.Contains(shadows, n) })
	for _, n := range shadows {
		if !slices.Contains(c.order, n) {
			c.order = append(c.order, n)
		}
		if ready(n) {
			delete(c.unready, n)
		} else if _, since := c.unready[n]; !since {
			c.unready[n] = now
		}
	}
	maps.DeleteFunc(c.unready, func(n string, _ time.Time) bool { return !slices.Contains(shadows, n) })
	slices.SortStableFunc(c.order, func(a, b string) int { return cmp.Compare(c.rank(a, now), c.rank(b, now)) })

	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.place, func(n string, _ int) bool { return !slices.Contains(c.order, n) })
	settled := slices.Equal(c.told, c.order) && now.Sub(c.toldAt) >= overlapFor
	for i, n := range c.order {
		p, known := c.place[n]
		want := i
		if was := slices.Index(c.told, n); was >= 0 && !settled {
			want = min(i, was) // it may have left and come back meanwhile
		}
		if !known || want < p || settled && want > p {
			c.place[n], again = want, true
		}
	}
	if slices.Equal(c.told, c.order) {
		return again, false
	}
	// The first time nobody holds anything by another order yet. Afterwards those who come
	// further to the front must have what that takes; who is last for not being ready
	// claims nothing.
	for i, n := range c.order {
		was := slices.Index(c.told, n)
		if forward := was < 0 || i < was; !c.toldAt.IsZero() && forward && (again || !ready(n) && c.rank(n, now) < 2) {
			return again, false
		}
	}
	c.told, c.toldAt = slices.Clone(c.order), now
	return again, true
}

// rank sorts who goes first: the target of a move, those that are ready or were a
// moment ago, the others.
func (c *coverage) rank(n string, now time.Time) int {
	since, not := c.unready[n]
	switch {
	case n == c.first:
		return 0
	case !not || now.Sub(since) < unreadyFor:
		return 1
	}
	return 2
}

// selected reports whether a shadow shall hold a session; for the publisher.
func (r *slotRuntime) selected(id, shadow string) bool {
	c := r.selects.Load()
	return c == nil || c.holds(id, shadow)
}

// tierOf is the tier of a session by its connection and identity.
func (a *Appliance) tierOf(connection, identity string) string {
	return a.tiers.Load().Of(connection, identity)
}

// cover is what the runtime of an owner does about tiers, now and then.
func (r *slotRuntime) cover(pub *replica.Publisher, now time.Time) {
	if r.covers == nil {
		return
	}
	status := map[string]replica.ShadowStatus{}
	var shadows []string
	for _, n := range r.fed {
		shadows = append(shadows, string(n))
	}
	for _, s := range pub.Status() {
		status[s.Name] = s
	}
	again, tell := r.covers.arrange(shadows, func(n string) bool { return status[n].Ready && status[n].Lag == 0 }, now)
	if again {
		pub.Reselect()
	}
	if !tell {
		return
	}
	var order []ssm.Node
	for _, n := range r.covers.told {
		order = append(order, ssm.Node(n))
	}
	r.a.post(ssm.EvCover{Slot: r.n, Order: order})
	r.a.events.Add(Entry{Slot: r.n, Kind: "cover", Text: "sessions are kept on " + strings.Join(r.covers.told, ", ") + ", the first " + r.covers.sizes(),
		Reason: "by their tiers"})
}

// sizes says how many shadows each tier has.
func (c *coverage) sizes() string {
	var out []string
	for _, t := range slices.SortedFunc(maps.Keys(c.tiers.Shadows), func(a, b string) int {
		return cmp.Or(cmp.Compare(c.tiers.Shadows[a], c.tiers.Shadows[b]), cmp.Compare(a, b))
	}) {
		out = append(out, fmt.Sprintf("%d for %s", c.tiers.Shadows[t], t))
	}
	return strings.Join(out, ", ")
}

// retier applies other tiers to the live sessions of every slot owned here.
func (a *Appliance) retier(t config.Tiers) {
	a.tiers.Store(&t)
	for _, r := range a.places.all() {
		r.do(func() {
			if r.mode != modeOwner {
				return
			}
			r.retier(t)
		})
	}
}

func (r *slotRuntime) retier(t config.Tiers) {
	old := r.covers
	switch {
	case !t.Enabled():
		// Without tiers all shadows hold all sessions.
		r.selects.Store(nil)
		r.covers = nil
		if old != nil {
			r.a.post(ssm.EvCover{Slot: r.n})
		}
	case old == nil:
		r.covers = newCoverage(t)
		r.selects.Store(r.covers)
	default:
		old.tiers = t
	}
	for _, d := range r.ledger.Docs() {
		r.publish(d)
	}
	r.cover(r.pub, time.Now())
	r.pub.Reselect()
}

// coverFirst has the target of a move hold every session.
func (r *slotRuntime) coverFirst(n ssm.Node) {
	if r.covers != nil && r.mode == modeOwner {
		r.covers.first = string(n)
		r.cover(r.pub, time.Now())
	}
}
