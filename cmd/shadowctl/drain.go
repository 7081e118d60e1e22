package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

func drainCommand(a *app) *cobra.Command {
	var dry, wait, yes, maintenance bool
	var reason string
	cmd := &cobra.Command{
		Use:   "drain APPLIANCE",
		Short: "Move everything away from an appliance",
		Long: `Move everything away from an appliance, so that it may stop. Run it on that
appliance.

Its slots find successors; new clients go elsewhere at once; existing sessions
may finish for drain_time; then the slots move one by one, without loss; when no
packet enters any more the VIP is withdrawn. 'undrain' ends it at any time, and
the slots return after the hold-down.

A drain lasts until undrain, over restarts of the daemon; with --maintenance
over reboots as well. --wait follows it to its end and prints the account
(with -o json every step on one line); interrupting shadowctl does not stop the
drain. It asks before it drains; --yes answers for scripts.`,
		Example: `  shadowctl drain ams --dry-run
  shadowctl drain ams --wait --yes
  shadowctl drain ams --maintenance --reason "replace fan 2" --yes`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			plan, err := a.planDrain(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if dry {
				return a.printPlan(plan)
			}
			if !yes {
				if err := a.confirmDrain(cmd.Context(), plan); err != nil {
					return err
				}
			}
			return a.drain(cmd.Context(), &v1.DrainRequest{Appliance: args[0], Maintenance: maintenance, Reason: reason}, wait)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&dry, "dry-run", false, "say what would happen and change nothing")
	f.BoolVarP(&wait, "wait", "w", false, "follow the drain until it is over")
	f.BoolVar(&maintenance, "maintenance", false, "stay drained over a reboot")
	f.StringVar(&reason, "reason", "", "why, for the event log")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

func undrainCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "undrain APPLIANCE",
		Short: "End a drain or maintenance; the slots return after the hold-down",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := askDrain(cmd.Context(), a, func(ctx context.Context, c v1.DrainServiceClient) (*v1.UndrainResponse, error) {
				return c.Undrain(ctx, &v1.UndrainRequest{Appliance: args[0]})
			})
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(r)
			}
			return fields(a.out, "standing", word("STANDING", r.Standing), "because", r.Reason)
		},
	}
}

// askDrain is ask for the DrainService.
func askDrain[T any](ctx context.Context, a *app, question func(context.Context, v1.DrainServiceClient) (T, error)) (T, error) {
	return askConn(ctx, a, v1.NewDrainServiceClient, question)
}

func (a *app) planDrain(ctx context.Context, node string) (*v1.PlanDrainResponse, error) {
	return askDrain(ctx, a, func(ctx context.Context, c v1.DrainServiceClient) (*v1.PlanDrainResponse, error) {
		return c.PlanDrain(ctx, &v1.PlanDrainRequest{Appliance: node})
	})
}

func (a *app) printPlan(p *v1.PlanDrainResponse) error {
	if a.json() {
		return a.printJSON(p)
	}
	t := newTable("SLOT", "SESSIONS", "TO", "PROBLEM", "CANDIDATES")
	for _, m := range p.Moves {
		var cs []string
		for _, c := range m.Candidates {
			if c.Problem != "" {
				cs = append(cs, "("+c.Appliance+")")
				continue
			}
			cs = append(cs, fmt.Sprintf("%s %.1f", c.Appliance, c.Cost))
		}
		t.add(fmt.Sprint(m.Slot), fmt.Sprint(m.Sessions), m.To, m.Problem, strings.Join(cs, ", "))
	}
	if len(p.Moves) == 0 {
		fmt.Fprintf(a.out, "%s owns no slot: nothing has to move\n", p.Appliance)
	} else if err := t.print(a.out); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	last := ""
	if p.LastAnnouncer {
		last = "nobody else that is well announces it: it stays announced as a last resort"
	}
	return fields(a.out, "sessions may stay", span(p.SessionsMayStay), "then it takes", "about "+span(p.Takes), "VIP", last)
}

// confirmDrain tells what would happen and waits for a yes.
func (a *app) confirmDrain(ctx context.Context, p *v1.PlanDrainResponse) error {
	if err := a.mayAsk("drain asks before it moves anything"); err != nil {
		return err
	}
	var sessions uint64
	var stay []string
	for _, m := range p.Moves {
		sessions += m.Sessions
		if m.To == "" {
			stay = append(stay, fmt.Sprintf("slot %d: %s", m.Slot, m.Problem))
		}
	}
	risk := "Every slot has a successor: no loss expected."
	if len(stay) > 0 {
		risk = "NOT ready to move: " + strings.Join(stay, "; ") + ". These slots stay until somebody can take them: stopping the machine would end their sessions."
	}
	return a.confirm(ctx, fmt.Sprintf("Drain %s: move %d slots with %d sessions? %s", p.Appliance, len(p.Moves), sessions, clean(risk)), "not drained")
}

// drain starts a drain and follows it: to its end with wait, else until it has begun.
func (a *app) drain(ctx context.Context, req *v1.DrainRequest, wait bool) error {
	conn, err := a.dialConn()
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := v1.NewDrainServiceClient(conn).Drain(ctx, req)
	if err != nil {
		return a.explain(err)
	}
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return errors.New("the daemon ended the drain without an account; see shadowctl events")
		case status.Code(err) == codes.Canceled && ctx.Err() != nil:
			return fmt.Errorf("interrupted; the drain goes on: shadowctl status; shadowctl undrain %s ends it", req.Appliance)
		case err != nil:
			return a.explain(err)
		}
		if a.json() {
			if err := a.printLine(m); err != nil {
				return err
			}
		} else if p := m.GetProgress(); p != nil {
			what := p.Message
			if p.Reason != "" {
				what += ": " + p.Reason
			}
			if p.Slot != 0 {
				what = fmt.Sprintf("slot %d: %s", p.Slot, what)
			}
			fmt.Fprintf(a.talk, "%8s  %-9s  %s\n", span(p.Elapsed), p.Phase, clean(what))
		}
		if acc := m.GetAccount(); acc != nil {
			return a.drainAccount(acc)
		}
		if !wait {
			fmt.Fprintf(a.talk, "the drain has begun; it goes on by itself (shadowctl drain %s --wait --yes follows it)\n", req.Appliance)
			return nil
		}
	}
}

func (a *app) drainAccount(acc *v1.DrainAccount) error {
	if !a.json() {
		var slots, phases []string
		for _, s := range acc.Slots {
			slots = append(slots, fmt.Sprintf("%d -> %s", s.Slot, s.To))
		}
		for _, p := range acc.Phases {
			phases = append(phases, p.Phase+" "+span(p.Elapsed))
		}
		err := fields(a.out,
			"appliance", acc.Appliance,
			"drained", yesNo(acc.Drained),
			"slots moved", strings.Join(slots, ", "),
			"sessions moved", fmt.Sprint(acc.SessionsMoved),
			"late at old owner", fmt.Sprintf("%d packets, delivered", acc.PacketsLate),
			"clients redirected", some(acc.ClientsRedirected),
			"took", span(acc.Elapsed),
			"phases", strings.Join(phases, ", "),
			"VIP", acc.VipLevel,
		)
		if err != nil {
			return err
		}
	}
	switch {
	case !acc.Drained:
		return fmt.Errorf("the drain of %s was ended before it was done", acc.Appliance)
	case acc.PacketsStillEnter:
		return fmt.Errorf("%s is drained, but routers still send packets to it; they are forwarded as long as it runs", acc.Appliance)
	}
	return nil
}
