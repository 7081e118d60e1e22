package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

func peersCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "peers",
		Short: "Show the other appliances as this one sees them",
		Long: `Show the other appliances as this one sees them: probes, replication, what they
own, and why one is refused. CONFIG says whether its fleet section equals ours.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := ask(cmd.Context(), a, func(ctx context.Context, c v1.OperatorServiceClient) (*v1.GetPeersResponse, error) {
				return c.GetPeers(ctx, &v1.GetPeersRequest{})
			})
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(r)
			}
			return printPeers(a.out, r.Peers)
		},
	}
}

func printPeers(w io.Writer, peers []*v1.Peer) error {
	t := newTable("PEER", "SITE", "ADDRESS", "STATE", "RTT", "JITTER", "LOSS", "HEARD", "OWNS", "REPLICATION", "CONFIG", "VERSION", "REASON")
	for _, p := range peers {
		heard := "never"
		if p.LastHeard != nil {
			heard = short(time.Since(p.LastHeard.AsTime())) + " ago"
		}
		var owns []string
		for _, c := range p.Claims {
			owns = append(owns, fmt.Sprint(c.Slot))
		}
		digest := "equal"
		if !p.FleetDigestEqual {
			digest = "differs"
		}
		state := word("PEER_STATE", p.State)
		if p.Draining {
			state += ", draining"
		}
		t.add(p.Name, p.Site, p.Address, state, span(p.Rtt), span(p.Jitter), fmt.Sprintf("%.1f%%", 100*p.Loss), heard,
			strings.Join(owns, " "), word("REPLICATION_STATE", p.Replication), digest, p.Version, p.Reason)
	}
	return t.print(w)
}

func bgpCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "bgp",
		Short: "Show BGP peers and what is announced to them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := ask(cmd.Context(), a, func(ctx context.Context, c v1.OperatorServiceClient) (*v1.GetBGPResponse, error) {
				return c.GetBGP(ctx, &v1.GetBGPRequest{})
			})
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(r)
			}
			if !r.Enabled {
				fmt.Fprintln(a.talk, "shadowctl: this appliance has no bgp section in its configuration, nothing is announced")
				return nil
			}
			if err := fields(a.out, "as", fmt.Sprint(r.Asn), "router id", r.RouterId, "level", word("BGP_LEVEL", r.Level)); err != nil {
				return err
			}
			fmt.Fprintln(a.out)
			peers := newTable("PEER", "ADDRESS", "AS", "ROLE", "STATE", "SINCE", "BFD", "ANNOUNCED", "FLAPS", "LAST ERROR")
			for _, p := range r.Peers {
				since := ""
				if p.Since != nil {
					since = stamp(p.Since)
				}
				peers.add(p.Name, p.Address, fmt.Sprint(p.Asn), p.Role, p.State, since, p.Bfd, fmt.Sprint(p.Announced), fmt.Sprint(p.Flaps), p.LastError)
			}
			if err := peers.print(a.out); err != nil {
				return err
			}
			fmt.Fprintln(a.out)
			routes := newTable("PREFIX", "KIND", "SLOT", "MED", "LEVEL", "TO", "COMMUNITIES")
			for _, n := range r.Announcements {
				routes.add(n.Prefix, n.Kind, number(n.Slot), fmt.Sprint(n.Med), word("BGP_LEVEL", n.Level), strings.Join(n.Peers, " "), strings.Join(n.Communities, " "))
			}
			return routes.print(a.out)
		},
	}
}
