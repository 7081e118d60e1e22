package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

func registrarCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "registrar",
		Short: "Show and change the appliances that keep the ticket log",
		Long: `The registrars agree on which appliance gets which ticket, the right to take a
slot over once. Taking a slot over never waits for them; arming shadows anew
needs a majority. Any appliance may be asked, the leader decides.`,
	}
	one := func(use, short, example string, call func(context.Context, v1.RegistrarServiceClient, string) (*v1.Registrars, error)) *cobra.Command {
		return &cobra.Command{Use: use + " APPLIANCE", Short: short, Example: example, Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return a.registrars(cmd.Context(), func(ctx context.Context, c v1.RegistrarServiceClient) (*v1.Registrars, error) {
					return call(ctx, c, args[0])
				})
			}}
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "list",
		Short: "Show the registrars, who leads, and what each has applied",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.registrars(cmd.Context(), func(ctx context.Context, c v1.RegistrarServiceClient) (*v1.Registrars, error) {
				return c.ListRegistrars(ctx, &v1.ListRegistrarsRequest{})
			})
		},
	}, one("add", "Make an appliance a registrar", "  shadowctl registrar add nyc && shadowctl registrar remove lhr",
		func(ctx context.Context, c v1.RegistrarServiceClient, name string) (*v1.Registrars, error) {
			return c.AddRegistrar(ctx, &v1.AddRegistrarRequest{Appliance: name})
		}), one("remove", "Make an appliance no registrar any more", "  shadowctl registrar remove lhr",
		func(ctx context.Context, c v1.RegistrarServiceClient, name string) (*v1.Registrars, error) {
			return c.RemoveRegistrar(ctx, &v1.RemoveRegistrarRequest{Appliance: name})
		}))
	return cmd
}

func (a *app) registrars(ctx context.Context, call func(context.Context, v1.RegistrarServiceClient) (*v1.Registrars, error)) error {
	l, err := askConn(ctx, a, v1.NewRegistrarServiceClient, call)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(l)
	}
	leader := l.Leader
	if leader == "" {
		leader = "nobody: no tickets are issued"
	}
	up, voters := 0, 0
	for _, r := range l.Registrars {
		if r.Votes {
			voters++
			if !r.Silent {
				up++
			}
		}
	}
	err = fields(a.out, "leader", leader, "founded", yesNo(l.Founded), "term", strconv.FormatUint(l.Term, 10),
		"reachable", fmt.Sprintf("%d of %d, %d needed", up, voters, l.Majority))
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	t := newTable("REGISTRAR", "MEMBER", "VOTES", "APPLIED", "CONFIGURED", "REMARK")
	for _, r := range l.Registrars {
		applied, remark := strconv.FormatUint(r.Applied, 10), r.Problem
		if r.Silent {
			applied = ""
			if remark == "" {
				remark = "no answer"
			}
		}
		t.add(r.Appliance, r.Member, yesNo(r.Votes), applied, yesNo(r.Listed), remark)
	}
	if err := t.print(a.out); err != nil {
		return err
	}
	if voters%2 == 0 && voters > 0 {
		fmt.Fprintf(a.talk, "%d registrars vote: an even number survives no more failures than one less\n", voters)
	}
	return nil
}
