package operatortest

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/sa"
)

// ShadowSets is the fake's ShadowSetSource: what it has is what it would choose,
// and one more appliance drains. The owner of slot 2
// changes its set.
type ShadowSets struct{ *Fake }

func (f ShadowSets) ShadowSets(_ context.Context, n sa.Slot) ([]*v1.ShadowSet, error) {
	var out []*v1.ShadowSet
	for _, s := range f.slots {
		if n != 0 && s.Number != uint32(n) {
			continue
		}
		x := &v1.ShadowSet{Slot: s.Number, Owner: s.Owner, Shares: "nothing", Margin: 0.2 * float64(len(s.Shadows))}
		for i, sh := range s.Shadows {
			x.Shadows, x.Choice = append(x.Shadows, sh.Name), append(x.Choice, sh.Name)
			x.Candidates = append(x.Candidates, &v1.ShadowCandidate{Name: sh.Name, Member: true, Rank: uint32(i + 1), Dispersion: 0.25, Load: 0.5, Latency: 0.75,
				Score: 1.5, NearestKm: 358, Nearest: s.Owner, Rtt: durationpb.New(8 * time.Millisecond), RttSource: "to the clients", Shares: "nothing"})
			x.Score += 1.5
		}
		x.BestScore = x.Score
		x.Candidates = append(x.Candidates, &v1.ShadowCandidate{Name: "par", Excluded: "is draining", Shares: "nothing"})
		if s.Number == 2 {
			x.Dynamic, x.Wanted, x.Leaving = true, []string{"par"}, []string{"nyc"}
			x.Reason = "par would be better for 10s; a change waits 50s more"
		}
		out = append(out, x)
	}
	return out, f.Err
}
