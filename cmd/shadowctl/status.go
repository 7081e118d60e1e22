package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

func statusCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show this appliance, its slots and its peers",
		Long: `Show this appliance, all slots of the fleet as it sees them, and its peers.

A slot is safe when one of its shadows is ready: it then survives the loss of
its owner. The last column says why something is not as it should be.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := ask(cmd.Context(), a, func(ctx context.Context, c v1.OperatorServiceClient) (*v1.GetStatusResponse, error) {
				return c.GetStatus(ctx, &v1.GetStatusRequest{})
			})
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(st)
			}
			if err := printAppliance(a.out, st.Appliance, st.Slots); err != nil {
				return err
			}
			fmt.Fprintln(a.out)
			if err := printSlots(a.out, st.Slots); err != nil {
				return err
			}
			if len(st.Peers) == 0 {
				return nil
			}
			fmt.Fprintln(a.out)
			return printPeers(a.out, st.Peers, nil)
		},
	}
}

// covered counts the slots owned here that a shadow could take over now.
func covered(slots []*v1.Slot) (n int) {
	for _, s := range slots {
		if s.Role == v1.Role_ROLE_OWNER && slices.ContainsFunc(s.Shadows, func(x *v1.Shadow) bool { return x.Ready }) {
			n++
		}
	}
	return n
}

func printAppliance(w io.Writer, p *v1.Appliance, slots []*v1.Slot) error {
	state := "in service"
	if p.GetDraining() {
		state = "draining: takes no new sessions"
	}
	shadowing := "on"
	if !p.GetShadowing() {
		shadowing = "OFF: a dead appliance takes its sessions with it"
	}
	return fields(w,
		"appliance", fmt.Sprintf("%s (%s)", p.GetName(), cmp.Or(p.GetSite(), "no site")),
		"state", state,
		"version", p.GetVersion(),
		"up", span(p.GetUptime()),
		"boot", p.GetBoot(),
		"shadowing", shadowing,
		"sessions", fmt.Sprintf("%d in %s owned, %d of them with a ready shadow; twins of %s of others", p.GetSessions(), plural(int(p.GetSlotsActive()), "slot"), covered(slots), plural(int(p.GetSlotsShadowed()), "slot")),
		"fleet", p.GetFleetDigest(),
	)
}
