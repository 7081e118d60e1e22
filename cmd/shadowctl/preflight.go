package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/operator"
	"github.com/shadowcast/shadowcast/preflight"
	"github.com/shadowcast/shadowcast/sa"
)

func preflightCommand(a *app) *cobra.Command {
	var local bool
	cmd := &cobra.Command{
		Use:   "preflight [FILE]",
		Short: "Find what on this machine would break a promise",
		Long: `Find what on this machine would keep an appliance from working, or from keeping its
promises: kernel, strongSwan and its plugins, connections, ports, certificates,
clock, interfaces, offloads, routers, the paths to other appliances, free addresses.
Each finding says what, why it matters, and what mends it. It changes nothing.

Exit code 1 when something is fatal: the daemon could not work.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := config.Load(fileArg(args))
			if err != nil {
				return err
			}
			sessions, routers := askDaemon(cmd.Context(), c.Socket())
			facts := preflight.Gather(cmd.Context(), c, preflight.Network{Routers: !local && sessions == nil, Paths: !local})
			if facts.Sessions = sessions; sessions != nil {
				facts.Routers = routers
			}
			return a.printFindings(preflight.Check(facts))
		},
	}
	cmd.Flags().BoolVar(&local, "local", false, "do not try routers and other appliances")
	return cmd
}

// askDaemon asks the daemon, if one runs, how many sessions each slot has and how it
// stands with the routers. Without one the map is nil.
func askDaemon(ctx context.Context, socket string) (map[sa.Slot]uint64, []preflight.Router) {
	conn, err := operator.Dial(socket)
	if err != nil {
		return nil, nil
	}
	defer conn.Close()
	api := v1.NewOperatorServiceClient(conn)
	slots, err := api.ListSlots(ctx, &v1.ListSlotsRequest{})
	if err != nil {
		return nil, nil
	}
	sessions := map[sa.Slot]uint64{}
	for _, s := range slots.Slots {
		if s.Role != v1.Role_ROLE_NONE {
			sessions[sa.Slot(s.Number)] = s.Sessions
		}
	}
	bgp, err := api.GetBGP(ctx, &v1.GetBGPRequest{})
	if err != nil {
		return sessions, nil
	}
	var routers []preflight.Router
	for _, p := range bgp.Peers {
		r := preflight.Router{Name: p.Name}
		if p.State != "established" {
			r.Err = fmt.Errorf("the session is %s %s", p.State, p.LastError)
		}
		routers = append(routers, r)
	}
	return sessions, routers
}

func (a *app) printFindings(found []preflight.Finding) error {
	if a.json() {
		if found == nil {
			found = []preflight.Finding{}
		}
		if err := a.printValue(found); err != nil {
			return err
		}
	} else {
		for _, f := range found {
			fmt.Fprintf(a.out, "%s: %s\n    why: %s\n    fix: %s\n", f.Severity, clean(f.What), f.Why, f.Fix)
		}
		fmt.Fprintf(a.talk, "%d findings\n", len(found))
	}
	if preflight.Worst(found) == preflight.Fatal {
		return toldError{}
	}
	return nil
}
