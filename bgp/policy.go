package bgp

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/server"
)

const gshutSet = "graceful-shutdown"

// installPolicies makes GoBGP refuse by default in both directions and adds the
// exceptions. They are global policies with one neighbour set per router: GoBGP
// knows per-neighbour policies only for route-server clients.
func installPolicies(ctx context.Context, s *server.BgpServer, c Config) error {
	sets := []*api.DefinedSet{{
		DefinedType: api.DefinedType_DEFINED_TYPE_COMMUNITY,
		Name:        gshutSet,
		List:        []string{GracefulShutdown.String()},
	}}
	sets = append(sets, livenessSets(c)...)
	export := &api.Policy{Name: "export"}
	var outside []string
	for _, p := range c.Peers {
		host := netip.PrefixFrom(p.Address, p.Address.BitLen()).String()
		set := "peer-" + p.Name
		sets = append(sets, &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_NEIGHBOR, Name: set, List: []string{host}})
		export.Statements = append(export.Statements, exportStatements(p, c, set)...)
		if p.Role == Outside {
			outside = append(outside, host)
		}
	}
	// GoBGP runs our own routes through the import policy as well.
	imports := &api.Policy{Name: "import", Statements: []*api.Statement{{
		Name:       "own",
		Conditions: &api.Conditions{RouteType: api.Conditions_ROUTE_TYPE_LOCAL},
		Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
	}}}
	// An empty set would match everything.
	if len(outside) > 0 {
		sets = append(sets, &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_NEIGHBOR, Name: "outside", List: outside})
		for _, d := range livenessSets(c) {
			imports.Statements = append(imports.Statements, &api.Statement{
				Name: d.Name,
				Conditions: &api.Conditions{
					PrefixSet:   &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: d.Name},
					NeighborSet: &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: "outside"},
				},
				Actions: &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
			})
		}
	}
	for _, d := range sets {
		if err := s.AddDefinedSet(ctx, &api.AddDefinedSetRequest{DefinedSet: d}); err != nil {
			return fmt.Errorf("add policy set %s: %w", d.Name, err)
		}
	}
	for dir, p := range map[api.PolicyDirection]*api.Policy{
		api.PolicyDirection_POLICY_DIRECTION_IMPORT: imports,
		api.PolicyDirection_POLICY_DIRECTION_EXPORT: export,
	} {
		a := &api.PolicyAssignment{Name: "global", Direction: dir, DefaultAction: api.RouteAction_ROUTE_ACTION_REJECT}
		if len(p.Statements) > 0 {
			if err := s.AddPolicy(ctx, &api.AddPolicyRequest{Policy: p}); err != nil {
				return fmt.Errorf("add policy %s: %w", p.Name, err)
			}
			a.Policies = []*api.Policy{{Name: p.Name}}
		}
		if err := s.SetPolicyAssignment(ctx, &api.SetPolicyAssignmentRequest{Assignment: a}); err != nil {
			return fmt.Errorf("assign policy %s: %w", p.Name, err)
		}
	}
	return nil
}

// livenessSets are the host routes inside the fleet's ranges, a set of each family
// that has any.
func livenessSets(c Config) (sets []*api.DefinedSet) {
	for _, v6 := range []bool{false, true} {
		bits := uint32(32)
		if v6 {
			bits = 128
		}
		var ps []*api.Prefix
		for _, p := range c.FleetLiveness {
			if p.Addr().Is6() == v6 {
				ps = append(ps, &api.Prefix{IpPrefix: p.String(), MaskLengthMin: bits, MaskLengthMax: bits})
			}
		}
		if len(ps) > 0 {
			sets = append(sets, &api.DefinedSet{DefinedType: api.DefinedType_DEFINED_TYPE_PREFIX, Name: livenessSet(v6), Prefixes: ps})
		}
	}
	return sets
}

func livenessSet(v6 bool) string {
	if v6 {
		return "fleet-liveness-6"
	}
	return "fleet-liveness-4"
}

// exportStatements lets the local routes meant for p's side pass. The first
// statement that matches ends the evaluation.
func exportStatements(p Peer, c Config, set string) []*api.Statement {
	origin := api.OriginType_ORIGIN_TYPE_IGP
	if p.Role == Inside {
		origin = api.OriginType_ORIGIN_TYPE_INCOMPLETE
	}
	conditions := func() *api.Conditions {
		return &api.Conditions{
			NeighborSet: &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: set},
			RouteType:   api.Conditions_ROUTE_TYPE_LOCAL,
			Origin:      origin,
		}
	}
	statement := func(name string, prepend uint8, add []Community) *api.Statement {
		st := &api.Statement{
			Name:       name,
			Conditions: conditions(),
			Actions:    &api.Actions{RouteAction: api.RouteAction_ROUTE_ACTION_ACCEPT},
		}
		if prepend > 0 {
			st.Actions.AsPrepend = &api.AsPrependAction{Asn: c.ASN, Repeat: uint32(prepend)}
		}
		if len(add) > 0 {
			st.Actions.Community = &api.CommunityAction{Type: api.CommunityAction_TYPE_ADD}
			for _, c := range add {
				st.Actions.Community.Communities = append(st.Actions.Community.Communities, c.String())
			}
		}
		return st
	}
	if p.Role == Inside {
		return []*api.Statement{statement(set, 0, nil)}
	}
	drain := statement(set+"-drain", p.DrainPrepend, slices.Concat(p.Communities, p.DrainCommunities))
	drain.Conditions.CommunitySet = &api.MatchSet{Type: api.MatchSet_TYPE_ANY, Name: gshutSet}
	// Liveness routes are what they are everywhere: only VIPs are prepended and tagged.
	vip := statement(set+"-vip", p.Prepend, p.Communities)
	if v6 := p.Address.Is6(); slices.ContainsFunc(c.FleetLiveness, func(x netip.Prefix) bool { return x.Addr().Is6() == v6 }) {
		vip.Conditions.PrefixSet = &api.MatchSet{Type: api.MatchSet_TYPE_INVERT, Name: livenessSet(v6)}
	}
	if p.MEDAdd > 0 {
		vip.Actions.Med = &api.MedAction{Type: api.MedAction_TYPE_MOD, Value: int64(p.MEDAdd)}
	}
	return []*api.Statement{drain, vip, statement(set, 0, nil)}
}
