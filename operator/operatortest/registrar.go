package operatortest

import (
	"context"
	"slices"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/operator"
)

// Registrars is the fake's RegistrarSource: ams leads, lhr is silent.
type Registrars struct {
	*Fake
	added, removed []string
}

func (r *Registrars) List(context.Context) (*v1.Registrars, error) {
	out := &v1.Registrars{Leader: "ams", Founded: true, Term: 3}
	for _, n := range append([]string{"ams", "fra", "lhr"}, r.added...) {
		if slices.Contains(r.removed, n) {
			continue
		}
		g := &v1.Registrar{Appliance: n, Member: n + "/00000000000000a1", Votes: true, Applied: 41, Listed: !slices.Contains(r.added, n)}
		if n == "lhr" {
			g.Silent, g.Applied = true, 0
		}
		out.Registrars = append(out.Registrars, g)
	}
	out.Majority = uint32(len(out.Registrars)/2 + 1)
	return out, r.Err
}

func (r *Registrars) Add(ctx context.Context, name string) (*v1.Registrars, error) {
	if slices.Contains([]string{"ams", "fra", "lhr"}, name) {
		return nil, operator.Refused("REGISTRARS_UNCHANGED", "%s is a registrar already", name)
	}
	r.added = append(r.added, name)
	return r.List(ctx)
}

func (r *Registrars) Remove(ctx context.Context, name string) (*v1.Registrars, error) {
	r.removed = append(r.removed, name)
	return r.List(ctx)
}
