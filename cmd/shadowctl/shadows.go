package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

func shadowsCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "shadows",
		Short: "Show who shadows the slots, and why these",
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "list",
		Short: "List the shadow set of every slot",
		Long: `List the shadow set of every slot. CHOICE is what would be chosen with what is
measured now; it differs from SHADOWS where another set is better by the margin
or a member cannot serve. FROM tells who decides: the configuration names the
shadows, they were selected at the start, or the owner of the slot changes them.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.shadowSets(cmd.Context(), 0)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(r)
			}
			t := newTable("SLOT", "OWNER", "SHADOWS", "FROM", "CHOICE", "SHARES", "SCORE")
			for _, s := range r.Sets {
				t.add(fmt.Sprint(s.Slot), s.Owner, strings.Join(s.Shadows, " "), setSource(s), strings.Join(s.Choice, " "), s.Shares, fmt.Sprintf("%.2f", s.Score))
			}
			return t.print(a.out)
		},
	}, &cobra.Command{
		Use:   "explain SLOT",
		Short: "Show every candidate for a slot with its score and what excluded it",
		Long: `Show every candidate for a slot with its score, term by term, and what excluded
it. Failure domains come first: a candidate that shares more than necessary with
another member is not chosen whatever its score. Loads and round-trip times are
those that this appliance knows, so the owner of the slot knows best. Where it
changes the set while the slot serves, WANTED is whom it shall consist of and what
that waits for, GOING those whose tickets are not void yet.`,
		Example: "  shadowctl shadows explain 7",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := slotArg(args[0])
			if err != nil {
				return err
			}
			r, err := a.shadowSets(cmd.Context(), n)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(r.Sets[0])
			}
			return explainSet(a, r.Sets[0])
		},
	})
	return cmd
}

func (a *app) shadowSets(ctx context.Context, slot uint32) (*v1.GetShadowSetsResponse, error) {
	return askConn(ctx, a, v1.NewShadowSetServiceClient, func(ctx context.Context, c v1.ShadowSetServiceClient) (*v1.GetShadowSetsResponse, error) {
		return c.GetShadowSets(ctx, &v1.GetShadowSetsRequest{Slot: slot})
	})
}

func setSource(s *v1.ShadowSet) string {
	if s.Pinned {
		return "configuration"
	}
	if s.Dynamic {
		return "its owner"
	}
	return "selection"
}

// explainChange tells what the owner of a set that changes is about to do.
func explainChange(a *app, s *v1.ShadowSet) error {
	wanted, leaving := strings.Join(s.Wanted, " "), strings.Join(s.Leaving, " ")
	switch {
	case len(s.Wanted) == 0:
		wanted = "its owner knows"
	case wanted == strings.Join(s.Shadows, " "):
		wanted = "the present set"
	}
	if s.Reason != "" {
		wanted += ": " + s.Reason
	}
	if leaving == "" {
		leaving = "none"
	}
	return fields(a.out, "wanted", wanted, "going", leaving)
}

func explainSet(a *app, s *v1.ShadowSet) error {
	verdict := "the present set"
	if strings.Join(s.Choice, " ") != strings.Join(s.Shadows, " ") {
		verdict = strings.Join(s.Choice, " ")
	}
	err := fields(a.out, "slot", fmt.Sprint(s.Slot), "owner", s.Owner, "shadows", strings.Join(s.Shadows, " "), "from", setSource(s),
		"would choose now", verdict, "members share", s.Shares,
		"score", fmt.Sprintf("%.2f; the best without a present set %.2f; replaced from a gain of %.2f", s.Score, s.BestScore, s.Margin))
	if err == nil && s.Dynamic {
		err = explainChange(a, s)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	t := newTable("CANDIDATE", "SHADOW", "CHOSEN", "SCORE", "DISPERSION", "LOAD", "LATENCY", "NEAREST", "RTT", "SHARES", "EXCLUDED")
	for _, c := range s.Candidates {
		chosen := ""
		if c.Rank > 0 {
			chosen = fmt.Sprint(c.Rank)
		}
		if c.Excluded != "" {
			t.add(c.Name, yesNo(c.Member), chosen, "", "", "", "", "", "", c.Shares, c.Excluded)
			continue
		}
		t.add(c.Name, yesNo(c.Member), chosen, fmt.Sprintf("%.2f", c.Score), fmt.Sprintf("%.2f", c.Dispersion), fmt.Sprintf("%.2f", c.Load),
			fmt.Sprintf("%.2f", c.Latency), fmt.Sprintf("%.0f km, %s", c.NearestKm, c.Nearest), span(c.Rtt)+" "+c.RttSource, c.Shares, "")
	}
	return t.print(a.out)
}
