package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/geoip"
	"github.com/shadowcast/shadowcast/ssm/shadowset"
)

// chooseEvery is how often an owner looks at the shadow sets of its slots.
const chooseEvery = time.Second

// shadowSets chooses the shadow sets of the slots that are owned here, and explains
// all of them with what this appliance knows now.
type shadowSets struct {
	a        *Appliance
	mu       sync.Mutex
	keepers  map[sa.Slot]*shadowset.Keeper
	verdicts map[sa.Slot]shadowset.Verdict
	where    map[sa.Slot]whereabouts
}

func newShadowSets(a *Appliance) *shadowSets {
	return &shadowSets{a: a, keepers: map[sa.Slot]*shadowset.Keeper{}, verdicts: map[sa.Slot]shadowset.Verdict{}, where: map[sa.Slot]whereabouts{}}
}

// run tells the core whom the slots that it owns shall have for shadows.
func (b *shadowSets) run(ctx context.Context) error {
	t := time.NewTicker(chooseEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		v, err := b.a.view(ctx)
		if err != nil {
			return nil // ctx has ended
		}
		for _, s := range v.Slots {
			if want := b.judge(s, v, time.Now()); len(want) > 0 && !slices.Equal(want, s.Wanted) {
				b.a.post(ssm.EvShadowSet{Slot: s.Slot, Want: want})
			}
		}
	}
}

// judge returns whom s shall have for shadows, nil where that is not decided here.
func (b *shadowSets) judge(s ssm.SlotView, v ssm.View, now time.Time) []ssm.Node {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := b.keepers[s.Slot]
	switch {
	case !s.Dynamic || s.Role != ssm.RoleOwner:
		delete(b.keepers, s.Slot)
		delete(b.verdicts, s.Slot)
		return nil
	case k == nil:
		k = &shadowset.Keeper{Pace: b.a.cfg.Fleet.ShadowSets.Pace()}
		b.keepers[s.Slot] = k
	}
	cfg, _ := b.a.cfg.Fleet.Slot(s.Slot)
	r, _ := request(&b.a.cfg.Fleet, cfg, s, v, measured{b.between(v), b.clientsOf(s.Slot)})
	var notReady []string
	for _, n := range r.Current {
		if !slices.ContainsFunc(s.Shadows, func(x ssm.ShadowView) bool { return string(x.Node) == n && x.Ready }) {
			notReady = append(notReady, n)
		}
	}
	verdict := k.Step(r, notReady, now)
	b.verdicts[s.Slot] = verdict
	want := make([]ssm.Node, 0, len(verdict.Want))
	for _, n := range verdict.Want {
		want = append(want, ssm.Node(n))
	}
	return want
}

// between are the round-trip times from here to the other appliances.
func (b *shadowSets) between(v ssm.View) map[ssm.Node]time.Duration {
	rtt := map[ssm.Node]time.Duration{}
	for _, p := range v.Peers {
		if st, ok := b.a.peers.Stats(string(p.Node)); ok {
			rtt[p.Node] = st.RTT
		}
	}
	return rtt
}

// ShadowSets implements operator.ShadowSetSource.
func (b *shadowSets) ShadowSets(ctx context.Context, n sa.Slot) ([]*v1.ShadowSet, error) {
	v, err := b.a.view(ctx)
	if err != nil {
		return nil, err
	}
	var out []*v1.ShadowSet
	for _, s := range v.Slots {
		if n != 0 && s.Slot != n {
			continue
		}
		cfg, _ := b.a.cfg.Fleet.Slot(s.Slot)
		var known measured
		b.mu.Lock()
		if s.Owner == v.Self {
			known = measured{b.between(v), b.clientsOf(s.Slot)}
		}
		x := explainSet(&b.a.cfg.Fleet, cfg, s, v, known)
		if verdict, ok := b.verdicts[s.Slot]; ok {
			x.Wanted, x.Reason = verdict.Want, verdict.Reason
		}
		b.mu.Unlock()
		out = append(out, x)
	}
	return out, nil
}

// Where a candidate's latency comes from, best first.
const (
	rttClients   = "to the clients"
	rttGeoIP     = "to the clients by GeoIP"
	rttOwner     = "from the owner"
	rttEstimated = "estimated from distance"
)

// measured is what the owner of a slot knows: round-trip times to the other appliances,
// and where clients are.
type measured struct {
	between map[ssm.Node]time.Duration
	clients []geoip.Place
}

// request asks for the shadows of one slot with what is in v and what is known besides. It
// also tells where each candidate's latency comes from.
func request(f *config.Fleet, cfg config.Slot, s ssm.SlotView, v ssm.View, known measured) (shadowset.Request, map[string]string) {
	r := shadowset.Request{Size: len(cfg.Shadows), Weights: f.ShadowSets.Weights()}
	if cfg.Selected {
		r.Size = f.ShadowSets.Size
	}
	owner := string(s.Owner)
	if owner == "" {
		owner = cfg.Home
	}
	// The home of a slot that is elsewhere shadows it besides those that are chosen.
	besides := ""
	if s.Dynamic && owner != cfg.Home {
		besides = cfg.Home
	}
	for _, sh := range s.Shadows {
		if n := string(sh.Node); n != besides && !sh.Leaving {
			r.Current = append(r.Current, n)
		}
	}
	if s.Wanted != nil { // the set is on its way to that
		r.Current = nil
		for _, n := range s.Wanted {
			r.Current = append(r.Current, string(n))
		}
	}
	source := map[string]string{}
	for _, a := range f.Appliances {
		m := a.Member()
		if m.Problem, m.Load = fitness(v, ssm.Node(a.Name)); a.Name == besides && m.Problem == "" {
			m.Problem = "is the home and shadows the slot anyway"
		}
		if i := slices.IndexFunc(s.Shadows, func(sh ssm.ShadowView) bool { return sh.Node == ssm.Node(a.Name) }); i >= 0 && s.Shadows[i].RTT > 0 {
			m.Latency, source[a.Name] = s.Shadows[i].RTT, rttClients
		} else if d := geoip.Estimate(m, known.clients); d > 0 {
			m.Latency, source[a.Name] = d, rttGeoIP
		} else if d := known.between[ssm.Node(a.Name)]; d > 0 {
			m.Latency, source[a.Name] = d, rttOwner
		}
		if a.Name == owner {
			r.Owner = m
		}
		r.Candidates = append(r.Candidates, m)
	}
	return r, source
}

// explainSet selects the shadows of one slot and says why.
func explainSet(f *config.Fleet, cfg config.Slot, s ssm.SlotView, v ssm.View, known measured) *v1.ShadowSet {
	r, source := request(f, cfg, s, v, known)
	res := shadowset.Select(r)
	x := &v1.ShadowSet{Slot: uint32(s.Slot), Owner: string(s.Owner), Pinned: !cfg.Selected, Dynamic: s.Dynamic, Choice: res.Shadows, Shares: res.Shares.String(),
		Score: res.Score, BestScore: res.Better, Margin: r.Weights.Margin * float64(len(res.Shadows))}
	for _, sh := range s.Shadows {
		if sh.Leaving {
			x.Leaving = append(x.Leaving, string(sh.Node))
		} else {
			x.Shadows = append(x.Shadows, string(sh.Node))
		}
	}
	for _, row := range res.Rows {
		c := &v1.ShadowCandidate{Name: row.Name, Member: slices.Contains(x.Shadows, row.Name), Rank: uint32(row.Rank), Excluded: row.Problem,
			Dispersion: row.Terms.Dispersion, Load: row.Terms.Load, Latency: row.Terms.Latency, Score: row.Terms.Score,
			NearestKm: row.Nearest, Nearest: row.NearestName, Rtt: durationpb.New(row.Latency), RttSource: source[row.Name], Shares: row.Shares.String()}
		if row.Estimated {
			c.RttSource = rttEstimated
		}
		x.Candidates = append(x.Candidates, c)
	}
	return x
}

// fitness returns why n cannot be a shadow now, "" if it can, and its load.
func fitness(v ssm.View, n ssm.Node) (problem string, load float64) {
	standing := v.Standing
	load = v.Load
	if n != v.Self {
		i := slices.IndexFunc(v.Peers, func(p ssm.PeerView) bool { return p.Node == n })
		if i < 0 || v.Peers[i].Heard.IsZero() {
			return "was never heard", 0
		}
		p := v.Peers[i]
		if p.Suspect {
			return "is silent", p.Load
		}
		standing, load = p.Standing, p.Load
	}
	if standing >= ssm.StandingDraining {
		return "is " + standing.String(), load
	}
	return "", load
}
