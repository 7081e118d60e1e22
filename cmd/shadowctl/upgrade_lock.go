package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

func upgradeLockCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "upgrade-lock",
		Short: "Let upgrades go one at a time",
		Long: `The upgrade lock is held by at most one appliance of the fleet. The registrars
vote on it; it outlives reboots, and ends by itself when its time is over.`,
	}
	var ttl time.Duration
	var reason string
	acquire := &cobra.Command{
		Use:     "acquire",
		Short:   "Take the lock for this appliance, or prolong it",
		Example: "  shadowctl upgrade-lock acquire --ttl 1h --reason 'kernel update' && shadowctl drain $(hostname) --wait --yes",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.upgradeLock(cmd.Context(), func(ctx context.Context, c v1.UpgradeLockServiceClient) (*v1.UpgradeLock, error) {
				return c.AcquireUpgradeLock(ctx, &v1.AcquireUpgradeLockRequest{Ttl: durationpb.New(ttl), Reason: reason})
			})
		},
	}
	acquire.Flags().DurationVar(&ttl, "ttl", 30*time.Minute, "how long, 1m to 24h; then it ends by itself")
	acquire.Flags().StringVar(&reason, "reason", "", "why, for whoever finds it held")
	cmd.AddCommand(acquire, &cobra.Command{
		Use:   "release",
		Short: "Give back the lock that this appliance holds",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.upgradeLock(cmd.Context(), func(ctx context.Context, c v1.UpgradeLockServiceClient) (*v1.UpgradeLock, error) {
				return c.ReleaseUpgradeLock(ctx, &v1.ReleaseUpgradeLockRequest{})
			})
		},
	}, &cobra.Command{
		Use:   "show",
		Short: "Show who holds the lock, and what each registrar says",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.upgradeLock(cmd.Context(), func(ctx context.Context, c v1.UpgradeLockServiceClient) (*v1.UpgradeLock, error) {
				return c.GetUpgradeLock(ctx, &v1.GetUpgradeLockRequest{})
			})
		},
	})
	return cmd
}

func (a *app) upgradeLock(ctx context.Context, call func(context.Context, v1.UpgradeLockServiceClient) (*v1.UpgradeLock, error)) error {
	l, err := askConn(ctx, a, v1.NewUpgradeLockServiceClient, call)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(l)
	}
	who := l.Holder
	if who == "" {
		who = "nobody"
	}
	if err := fields(a.out, "held by", who, "for another", span(l.Left), "reason", l.Reason); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	t := newTable("REGISTRAR", "PROMISED TO", "LEFT")
	for _, v := range l.Votes {
		to := v.Holder
		if v.Silent {
			to = "(no answer)"
		}
		t.add(v.Registrar, to, span(v.Left))
	}
	return t.print(a.out)
}
