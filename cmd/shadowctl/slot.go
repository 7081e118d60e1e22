package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/sa"
)

func slotCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "slot",
		Short: "Look at slots, the virtual gateways",
		Long: `A slot is a virtual gateway: the unit that one appliance owns, others shadow,
and a handover moves.`,
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "list",
		Short: "List all slots of the fleet as this appliance sees them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := ask(cmd.Context(), a, func(ctx context.Context, c v1.OperatorServiceClient) (*v1.ListSlotsResponse, error) {
				return c.ListSlots(ctx, &v1.ListSlotsRequest{})
			})
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(r)
			}
			return printSlots(a.out, r.Slots)
		},
	}, &cobra.Command{
		Use:     "show SLOT",
		Short:   "Show one slot: shadows, fence, charon, steering, counters",
		Example: "  shadowctl slot show 1",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := slotArg(args[0])
			if err != nil {
				return err
			}
			r, err := ask(cmd.Context(), a, func(ctx context.Context, c v1.OperatorServiceClient) (*v1.GetSlotResponse, error) {
				return c.GetSlot(ctx, &v1.GetSlotRequest{Number: n})
			})
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(r.Slot)
			}
			return printSlot(a.out, r.Slot)
		},
	})
	return cmd
}

// slotArg reads a slot number.
func slotArg(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || !sa.Slot(n).Valid() {
		return 0, usagef("slot %q: want a number of 1 to %d", s, sa.MaxSlot)
	}
	return uint32(n), nil
}

func printSlots(w io.Writer, slots []*v1.Slot) error {
	t := newTable("SLOT", "HOME", "OWNER", "HERE", "STATE", "TICKET", "SESSIONS", "SHADOWS", "REASON")
	for _, s := range slots {
		t.add(fmt.Sprint(s.Number), s.Home, s.Owner, word("ROLE", s.Role), word("SLOT_STATE", s.State), number(s.Ticket),
			fmt.Sprint(s.Sessions), shadowList(s.Shadows), s.Reason)
	}
	return t.print(w)
}

// shadowList names a shadow set, those in brackets not ready.
func shadowList(shadows []*v1.Shadow) string {
	var names []string
	for _, sh := range shadows {
		if sh.Ready {
			names = append(names, sh.Name)
		} else {
			names = append(names, "("+sh.Name+")")
		}
	}
	return strings.Join(names, " ")
}

func printSlot(w io.Writer, s *v1.Slot) error {
	owner := s.Owner
	if s.OwnerTicket != 0 {
		owner += fmt.Sprintf(" with ticket %d", s.OwnerTicket)
	}
	if s.OwnedSince != nil {
		owner += " since " + stamp(s.OwnedSince)
	}
	fence := word("FENCE_STATE", s.GetFence().GetState())
	if r := s.GetFence().GetRemaining(); r != nil {
		fence = "open, closes in " + span(r) + " unless refreshed"
	}
	charon := word("CHARON_STATE", s.GetCharon().GetState())
	if c := s.GetCharon(); c.GetPid() != 0 {
		charon += fmt.Sprintf(", pid %d, up %s, %s", c.Pid, span(c.Uptime), plural(int(c.Restarts), "restart"))
	}
	steer := s.GetSteering()
	steering := ""
	if steer != nil {
		steering = fmt.Sprintf("from uplinks %s, from peers %s", word("STEER_ACTION", steer.Uplink), word("STEER_ACTION", steer.Peer))
		if steer.Via != "" {
			steering += ", via " + steer.Via
		}
	}
	err := fields(w,
		"slot", fmt.Sprint(s.Number),
		"home", s.Home,
		"owner", owner,
		"because", s.OwnedReason,
		"here", strings.TrimSpace(word("ROLE", s.Role)+", "+word("SLOT_STATE", s.State)),
		"ticket", number(s.Ticket),
		"reason", s.Reason,
		"sessions", fmt.Sprint(s.Sessions),
		"pools", strings.Join(s.Pools, " "),
		"networks", strings.Join(s.Networks, " "),
		"fence", fence,
		"charon", charon,
		"steering", steering,
	)
	if err != nil {
		return err
	}
	if len(s.Shadows) > 0 {
		fmt.Fprintln(w)
		t := newTable("SHADOW", "READY", "TICKET", "SESSIONS", "LAG", "REPLAY AGE", "DIGESTS", "REASON")
		for _, sh := range s.Shadows {
			lag := fmt.Sprintf("%d", sh.LagMessages)
			if sh.Lag != nil && sh.LagMessages > 0 {
				lag += " (" + span(sh.Lag) + ")"
			}
			digests := "equal"
			if !sh.DigestsEqual {
				digests = "differ"
			}
			reason := sh.Reason
			if s.Role != v1.Role_ROLE_OWNER {
				// Only the owner knows what its shadows have.
				t.add(sh.Name, yesNo(sh.Ready), number(sh.Ticket), "-", "-", "-", "-", reason)
				continue
			}
			if !sh.Connected && reason == "" {
				reason = "not connected"
			}
			t.add(sh.Name, yesNo(sh.Ready), number(sh.Ticket), fmt.Sprint(sh.Sessions), lag, span(sh.ReplayAge), digests, reason)
		}
		if err := t.print(w); err != nil {
			return err
		}
	}
	if len(s.Counters) > 0 {
		fmt.Fprintln(w)
		t := newTable("COUNTER", "VALUE")
		for _, k := range slices.Sorted(maps.Keys(s.Counters)) {
			t.add(k, fmt.Sprint(s.Counters[k]))
		}
		return t.print(w)
	}
	return nil
}
