package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

func sessionCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "session",
		Short: "Look at clients' sessions",
		Long:  "A session is one IKE_SA with its children, its inner address and its sequence state.",
	}
	cmd.AddCommand(sessionListCommand(a), sessionShowCommand(a))
	return cmd
}

func sessionListCommand(a *app) *cobra.Command {
	var slot, limit uint32
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the sessions held here, as owner or as shadow",
		Example: `  shadowctl session list --slot 1
  shadowctl session list -o json | jq -r '.sessions[].id'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all := &v1.ListSessionsResponse{}
			_, err := ask(cmd.Context(), a, func(ctx context.Context, c v1.OperatorServiceClient) (struct{}, error) {
				for {
					size := uint32(1000)
					if limit > 0 {
						size = min(size, limit-uint32(len(all.Sessions)))
					}
					r, err := c.ListSessions(ctx, &v1.ListSessionsRequest{Slot: slot, PageSize: size, PageToken: all.NextPageToken})
					if err != nil {
						return struct{}{}, err
					}
					all.Sessions, all.NextPageToken = append(all.Sessions, r.Sessions...), r.NextPageToken
					if r.NextPageToken == "" || limit > 0 && uint32(len(all.Sessions)) >= limit {
						return struct{}{}, nil
					}
				}
			})
			if err != nil {
				return err
			}
			if all.NextPageToken != "" {
				fmt.Fprintf(a.talk, "shadowctl: the first %d sessions, there are more\n", len(all.Sessions))
			}
			if a.json() {
				return a.printJSON(all)
			}
			t := newTable("ID", "SLOT", "IDENTITY", "CLIENT", "INNER", "CONNECTION", "TIER", "CHILDREN", "HELD BY", "SINCE")
			for _, s := range all.Sessions {
				since := ""
				if s.Established != nil {
					since = stamp(s.Established)
				}
				t.add(s.Id, fmt.Sprint(s.Slot), s.Identity, s.Client, strings.Join(s.InnerAddresses, " "), s.Connection, s.Tier,
					fmt.Sprint(s.Children), strings.Join(s.HeldBy, " "), since)
			}
			return t.print(a.out)
		},
	}
	cmd.Flags().Uint32Var(&slot, "slot", 0, "only sessions of this slot `number`")
	cmd.Flags().Uint32Var(&limit, "limit", 0, "stop after this many (0: all)")
	return cmd
}

func sessionShowCommand(a *app) *cobra.Command {
	var reveal bool
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show one session and its document",
		Long: `Show one session and its document, the JSON that appliances exchange.

Key material is redacted. --reveal-keys shows it; only root may ask, and the
daemon records who did. With -o json the document alone is printed.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := ask(cmd.Context(), a, func(ctx context.Context, c v1.OperatorServiceClient) (*v1.GetSessionResponse, error) {
				return c.GetSession(ctx, &v1.GetSessionRequest{Id: args[0], RevealKeys: reveal})
			})
			if err != nil {
				return err
			}
			if a.json() {
				return a.printIndented(r.Document)
			}
			s := r.Session
			spis := ""
			if s.IkeSpiInitiator != "" {
				spis = s.IkeSpiInitiator + "_" + s.IkeSpiResponder
			}
			since := ""
			if s.Established != nil {
				since = stamp(s.Established)
			}
			encap := "plain ESP"
			if s.UdpEncapsulated {
				encap = "ESP in UDP"
			}
			err = fields(a.out,
				"session", s.Id,
				"slot", fmt.Sprint(s.Slot),
				"here", word("ROLE", s.Role),
				"identity", s.Identity,
				"connection", s.Connection,
				"tier", s.Tier,
				"client", s.Client,
				"inner", strings.Join(s.InnerAddresses, " "),
				"ike spis", spis,
				"proposal", s.Proposal,
				"children", fmt.Sprintf("%d, %s", s.Children, encap),
				"since", since,
				"held by", strings.Join(s.HeldBy, " "),
			)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.out)
			return a.printIndented(r.Document)
		},
	}
	cmd.Flags().BoolVar(&reveal, "reveal-keys", false, "show key material (root only, recorded by the daemon)")
	return cmd
}
