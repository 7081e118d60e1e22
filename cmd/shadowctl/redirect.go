package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

func redirectCommand(a *app) *cobra.Command {
	req := &v1.RedirectRequest{}
	var yes bool
	cmd := &cobra.Command{
		Use:   "redirect APPLIANCE",
		Short: "Tell clients to go to another gateway (IKEv2 REDIRECT)",
		Long: `Tell the clients of an appliance's slots to go to another gateway (IKEv2
REDIRECT, RFC 5685). Run it on that appliance.

It is for clients that must leave: a VIP or a site is given up, or nobody can take
their slot over. They begin a new session at the other gateway, with a new inner
address there; a drain or a handover to a shadow keeps the session and needs none of
this.

A client that was told loses its session here: it ends it itself, or charon does
after 30 s. A client that never said that it follows redirects is left alone.

It tells the clients at the configured rate and waits for what becomes of them.
Interrupting it tells no more. It asks first; --yes answers for scripts.`,
		Example: `  shadowctl redirect ams --to 203.0.113.1 --dry-run
  shadowctl redirect ams --to 198.51.100.2 --vip 198.51.100.1 --yes
  shadowctl redirect ams --to vpn.example.net --client alice@example.net --yes`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Appliance = args[0]
			plan := &v1.RedirectRequest{Appliance: req.Appliance, Gateway: req.Gateway, Slot: req.Slot, Vip: req.Vip, Client: req.Client, DryRun: true}
			acc, err := a.redirect(cmd.Context(), plan)
			if err != nil {
				return err
			}
			if req.DryRun {
				if a.json() {
					return a.printJSON(acc)
				}
				return fields(a.out, "appliance", acc.Appliance, "gateway", acc.Gateway, "clients", fmt.Sprint(acc.Sessions))
			}
			if !yes {
				err := a.mayAsk("redirect asks before it ends sessions")
				if err == nil {
					err = a.confirm(cmd.Context(), fmt.Sprintf("Tell %d clients of %s to go to %s? Those that can be told lose their session here.",
						acc.Sessions, acc.Appliance, clean(acc.Gateway)), "nobody was told")
				}
				if err != nil {
					return err
				}
			}
			acc, err = a.redirect(cmd.Context(), req)
			if err != nil {
				return err
			}
			return a.redirectAccount(acc)
		},
	}
	f := cmd.Flags()
	f.StringVar(&req.Gateway, "to", "", "address or name of the other `gateway`; redirect.gateway of the configuration by default")
	f.Uint32Var(&req.Slot, "slot", 0, "only clients of this `slot`")
	f.StringVar(&req.Vip, "vip", "", "only clients of this `VIP`")
	f.StringVar(&req.Client, "client", "", "only the client of this outer or inner address or identity")
	f.Uint32Var(&req.Rate, "rate", 0, "clients told in a second; redirect.rate of the configuration by default")
	f.BoolVar(&req.DryRun, "dry-run", false, "say how many would be told and change nothing")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// redirect asks for it and follows it to its end.
func (a *app) redirect(ctx context.Context, req *v1.RedirectRequest) (*v1.RedirectAccount, error) {
	conn, err := a.dialConn()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stream, err := v1.NewDrainServiceClient(conn).Redirect(ctx, req)
	if err != nil {
		return nil, a.explain(err)
	}
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil, errors.New("the daemon ended the redirect without an account; see shadowctl events")
		case status.Code(err) == codes.Canceled && ctx.Err() != nil:
			return nil, errors.New("interrupted; no more clients are told, those that were told leave")
		case err != nil:
			return nil, a.explain(err)
		}
		if acc := m.GetAccount(); acc != nil {
			return acc, nil
		}
		p := m.GetProgress()
		if a.json() {
			if err := a.printLine(m); err != nil {
				return nil, err
			}
			continue
		}
		fmt.Fprintf(a.talk, "slot %d: told %s (%d of %d)\n", p.Slot, clean(p.Client), p.Told, p.Of)
	}
}

func (a *app) redirectAccount(acc *v1.RedirectAccount) error {
	if a.json() {
		return a.printLine(&v1.RedirectResponse{Event: &v1.RedirectResponse_Account{Account: acc}})
	}
	return fields(a.out,
		"appliance", acc.Appliance,
		"gateway", acc.Gateway,
		"clients", fmt.Sprint(acc.Sessions),
		"went", fmt.Sprint(acc.Went),
		"ended", fmt.Sprintf("%d, acknowledged and did not go", acc.Ended),
		"stay", fmt.Sprintf("%d, cannot be told", acc.Stayed),
		"took", span(acc.Elapsed),
	)
}

// some is a count that is worth a line, "" for none.
func some(n uint64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}
