package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

func handoverCommand(a *app) *cobra.Command {
	var to string
	var reason string
	var yes bool
	cmd := &cobra.Command{
		Use:   "handover SLOT --to APPLIANCE",
		Short: "Move a slot, with all its sessions, to one of its shadows",
		Long: `Move a slot, with all its sessions, to one of its shadows. Run it on the owner.

Clients keep their session, keys and inner address; no packet is lost when the
target is ready. Progress goes to stderr, the final account to stdout (with
-o json both go to stdout, one line each).

It asks before it moves anything; --yes answers for scripts. Interrupting
shadowctl does not stop a handover that has begun.`,
		Example: `  shadowctl handover 1 --to fra
  shadowctl handover 1 --to fra --yes --reason "new line card"
  shadowctl handover 1 --to fra --yes -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := slotArg(args[0])
			if err != nil {
				return err
			}
			if to == "" {
				return usagef("--to: want the appliance that shall own the slot")
			}
			if !yes {
				if err := a.confirmHandover(cmd.Context(), n, to); err != nil {
					return err
				}
			}
			return a.handover(cmd.Context(), &v1.HandoverRequest{Slot: n, To: to, Reason: reason})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "`appliance` that shall own the slot")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the event log and 'slot show'")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// confirmHandover tells what would happen and waits for a yes.
func (a *app) confirmHandover(ctx context.Context, n uint32, to string) error {
	if err := a.mayAsk("handover asks before it moves a slot"); err != nil {
		return err
	}
	r, err := ask(ctx, a, func(ctx context.Context, c v1.OperatorServiceClient) (*v1.GetSlotResponse, error) {
		return c.GetSlot(ctx, &v1.GetSlotRequest{Number: n})
	})
	if err != nil {
		return err
	}
	s := r.Slot
	risk := to + " is no shadow of this slot"
	if i := slices.IndexFunc(s.Shadows, func(sh *v1.Shadow) bool { return sh.Name == to }); i >= 0 {
		if sh := s.Shadows[i]; sh.Ready {
			risk = to + " is ready: no loss expected"
		} else {
			risk = to + " is NOT ready: " + sh.Reason
		}
	}
	return a.confirm(ctx, fmt.Sprintf("Move slot %d with %d sessions from %s to %s? %s.", n, s.Sessions, s.Owner, to, clean(risk)), "not moved")
}

func (a *app) handover(ctx context.Context, req *v1.HandoverRequest) error {
	client, conn, err := a.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := client.Handover(ctx, req)
	if err != nil {
		return a.explain(err)
	}
	var account *v1.HandoverAccount
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && account == nil:
			return errors.New("the daemon ended the handover without an account; see shadowctl events")
		case errors.Is(err, io.EOF):
			if a.json() {
				return nil
			}
			return a.printAccount(account)
		case status.Code(err) == codes.Canceled && ctx.Err() != nil:
			return fmt.Errorf("interrupted; the handover goes on: shadowctl slot show %d", req.Slot)
		case err != nil:
			return a.explain(err)
		}
		if a.json() {
			if err := a.printLine(m); err != nil {
				return err
			}
		} else if p := m.GetProgress(); p != nil {
			fmt.Fprintf(a.talk, "%8s  %-12s  %s\n", span(p.Elapsed), word("HANDOVER_PHASE", p.Phase), clean(p.Message))
		}
		if acc := m.GetAccount(); acc != nil {
			account = acc
		}
	}
}

func (a *app) printAccount(acc *v1.HandoverAccount) error {
	var phases []string
	for _, p := range acc.Phases {
		phases = append(phases, word("HANDOVER_PHASE", p.Phase)+" "+span(p.Elapsed))
	}
	return fields(a.out,
		"slot", fmt.Sprint(acc.Slot),
		"moved", fmt.Sprintf("%s -> %s with ticket %d", acc.From, acc.To, acc.Ticket),
		"sessions", fmt.Sprint(acc.SessionsMoved),
		"took", span(acc.Elapsed),
		"phases", strings.Join(phases, ", "),
		"held back", span(acc.Hold),
		"late at old owner", fmt.Sprintf("%d packets, delivered", acc.PacketsLate),
	)
}
