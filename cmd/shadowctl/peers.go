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
own, and what of it was refused. CONFIG says whether its fleet section equals
ours; LOSS is the share of probes lost from it and to it, REPLICATION the least
advanced stream between the two. GOSSIP is what membership says, which decides
nothing; sites, labels and processors are in -o json. The second table counts refusals by reason,
peer and address: names of refused senders are seldom authentic.`,
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
			refused := map[string]uint64{}
			for _, x := range r.Refusals {
				refused[x.Peer] += x.Count
			}
			if err := printPeers(a.out, r.Peers, refused); err != nil || len(r.Refusals) == 0 {
				return err
			}
			fmt.Fprintln(a.out)
			return printRefusals(a.out, r.Refusals)
		},
	}
}

// printPeers prints the peers; refused, if not nil, are the refusals under each
// peer's name.
func printPeers(w io.Writer, peers []*v1.Peer, refused map[string]uint64) error {
	head := []string{"PEER", "SITE", "ADDRESS", "STATE", "RTT", "JITTER", "LOSS", "HEARD", "GOSSIP", "OWNS", "REPLICATION", "CONFIG", "VERSION", "REASON"}
	if refused != nil {
		head = append(head, "REFUSED")
	}
	t := newTable(head...)
	for _, p := range peers {
		heard := "never"
		if p.LastHeard != nil {
			heard = short(time.Since(p.LastHeard.AsTime())) + " ago"
		}
		var owns []string
		for _, c := range p.Claims {
			owns = append(owns, fmt.Sprint(c.Slot))
		}
		digest, version := "unknown", "unknown"
		if p.Described {
			digest, version = "differs", fmt.Sprintf("%s/%d", p.Version, p.ProtocolVersion)
			if p.FleetDigestEqual {
				digest = "equal"
			}
		}
		state := word("PEER_STATE", p.State)
		if p.Draining {
			state += ", draining"
		}
		cells := []string{p.Name, p.Site, p.Address, state, span(p.Rtt), span(p.Jitter), fmt.Sprintf("%.1f%%/%.1f%%", 100*p.Loss, 100*p.LossOut), heard, membership(p),
			strings.Join(owns, " "), word("REPLICATION_STATE", p.Replication), digest, version, p.Reason}
		if refused != nil {
			cells = append(cells, fmt.Sprint(refused[p.Name]))
		}
		t.add(cells...)
	}
	return t.print(w)
}

// membership says what gossip knows of p, and since when.
func membership(p *v1.Peer) string {
	if p.Membership == "" {
		return ""
	}
	return p.Membership + " " + short(time.Since(p.MembershipSince.AsTime()))
}

func printRefusals(w io.Writer, refusals []*v1.Refusal) error {
	t := newTable("REFUSED ON", "REASON", "PEER", "SOURCE", "COUNT", "LAST", "DETAIL")
	for _, r := range refusals {
		t.add(r.Channel, r.Reason, r.Peer, r.Source, fmt.Sprint(r.Count), short(time.Since(r.Last.AsTime()))+" ago", r.Detail)
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
