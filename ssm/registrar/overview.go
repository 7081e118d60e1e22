package registrar

import (
	"context"
	"maps"
	"slices"
	"strings"
)

// Overview is the ticket log as seen from here.
type Overview struct {
	Leader  Member // none if nobody is known to lead
	Founded bool
	Term    uint64
	Members []Member
	// Told are the descriptions by those that answered, this appliance's among them.
	Told map[string]Description
}

// Majority is how many members must be reachable for tickets to be issued.
func (o Overview) Majority() int { return len(o.Members)/2 + 1 }

// Overview asks every appliance.
func (r *Registrar) Overview(ctx context.Context) (Overview, error) {
	mine, err := r.Describe(ctx)
	if err != nil {
		return Overview{}, err
	}
	o := Overview{Told: r.describe(ctx, r.cfg.Appliances)}
	o.Told[r.cfg.Self] = mine
	var best Description
	for _, n := range slices.Sorted(maps.Keys(o.Told)) {
		d := o.Told[n]
		if len(d.Members) == 0 {
			continue
		}
		// The leader of the highest term knows best, else whoever has applied most.
		leads := func(d Description) bool { return d.Leader != (Member{}) && d.Leader == d.Member }
		switch {
		case len(best.Members) == 0,
			leads(d) && !leads(best),
			leads(d) == leads(best) && (d.Term > best.Term || d.Term == best.Term && d.Applied > best.Applied):
			best = d
		}
	}
	o.Founded, o.Term, o.Members, o.Leader = best.Founded, best.Term, best.Members, best.Leader
	slices.SortFunc(o.Members, func(a, b Member) int { return strings.Compare(a.String(), b.String()) })
	return o, nil
}
