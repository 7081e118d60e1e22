package node

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/shadowset"
)

// shadowSets explains the shadow sets with what this appliance knows now.
type shadowSets struct{ a *Appliance }

// ShadowSets implements operator.ShadowSetSource.
func (b shadowSets) ShadowSets(ctx context.Context, n sa.Slot) ([]*v1.ShadowSet, error) {
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
		rtt := map[ssm.Node]time.Duration{}
		if s.Owner == v.Self {
			for _, p := range v.Peers {
				if st, ok := b.a.peers.Stats(string(p.Node)); ok {
					rtt[p.Node] = st.RTT
				}
			}
		}
		out = append(out, explainSet(&b.a.cfg.Fleet, cfg, s, v, rtt))
	}
	return out, nil
}

// Where a candidate's latency comes from, best first.
const (
	rttClients   = "to the clients"
	rttOwner     = "from the owner"
	rttEstimated = "estimated from distance"
)

// explainSet selects the shadows of one slot with what is in v. between are
// round-trip times from the owner, where they are known.
func explainSet(f *config.Fleet, cfg config.Slot, s ssm.SlotView, v ssm.View, between map[ssm.Node]time.Duration) *v1.ShadowSet {
	r := shadowset.Request{Size: len(cfg.Shadows), Weights: f.ShadowSets.Weights()}
	if cfg.Selected {
		r.Size = f.ShadowSets.Size
	}
	owner := string(s.Owner)
	if owner == "" {
		owner = cfg.Home
	}
	source := map[string]string{}
	for _, sh := range s.Shadows {
		r.Current = append(r.Current, string(sh.Node))
	}
	for _, a := range f.Appliances {
		m := a.Member()
		m.Problem, m.Load = fitness(v, ssm.Node(a.Name))
		if i := slices.IndexFunc(s.Shadows, func(sh ssm.ShadowView) bool { return sh.Node == ssm.Node(a.Name) }); i >= 0 && s.Shadows[i].RTT > 0 {
			m.Latency, source[a.Name] = s.Shadows[i].RTT, rttClients
		} else if d := between[ssm.Node(a.Name)]; d > 0 {
			m.Latency, source[a.Name] = d, rttOwner
		}
		if a.Name == owner {
			r.Owner = m
		}
		r.Candidates = append(r.Candidates, m)
	}
	res := shadowset.Select(r)
	x := &v1.ShadowSet{Slot: uint32(s.Slot), Owner: string(s.Owner), Pinned: !cfg.Selected, Shadows: r.Current, Choice: res.Shadows, Shares: res.Shares.String(),
		Score: res.Score, BestScore: res.Better, Margin: r.Weights.Margin * float64(len(res.Shadows))}
	for _, row := range res.Rows {
		c := &v1.ShadowCandidate{Name: row.Name, Member: slices.Contains(r.Current, row.Name), Rank: uint32(row.Rank), Excluded: row.Problem,
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
