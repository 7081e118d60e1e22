package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

func eventsCommand(a *app) *cobra.Command {
	var follow bool
	var since string
	var slot uint32
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what happened, and why",
		Long: `Show the daemon's event log, oldest first: claims, handovers, peers lost and
found, operators' calls. The log is in memory and bounded; the journal has all.

With -o json every event is one line.`,
		Example: `  shadowctl events --since 10m
  shadowctl events --follow --slot 1
  shadowctl events -o json | jq -r 'select(.kind == "claim") | .reason'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req := &v1.WatchEventsRequest{Follow: follow, Slot: slot}
			if since != "" {
				t, err := parseSince(since, time.Now())
				if err != nil {
					return err
				}
				req.Since = timestamppb.New(t)
			}
			client, conn, err := a.dial()
			if err != nil {
				return err
			}
			defer conn.Close()
			stream, err := client.WatchEvents(cmd.Context(), req)
			if err != nil {
				return a.explain(err)
			}
			for {
				m, err := stream.Recv()
				switch {
				case errors.Is(err, io.EOF), follow && status.Code(err) == codes.Canceled && cmd.Context().Err() != nil:
					return nil
				case err != nil:
					return a.explain(err)
				}
				if m.Missed > 0 {
					fmt.Fprintf(a.talk, "shadowctl: %d events missed, the log does not hold them any more\n", m.Missed)
				}
				if a.json() {
					err = a.printLine(m.Event)
				} else {
					_, err = fmt.Fprintln(a.out, eventLine(m.Event))
				}
				if err != nil {
					return err
				}
			}
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with events as they happen")
	cmd.Flags().StringVar(&since, "since", "", "only events since this `time`: a duration ago such as 10m, or 2026-01-31T12:00:00Z")
	cmd.Flags().Uint32Var(&slot, "slot", 0, "only events of this slot `number`")
	return cmd
}

// parseSince reads a duration before now, or a time.
func parseSince(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, usagef("--since %q: want a duration such as 10m, or a time such as 2026-01-31T12:00:00Z", s)
	}
	return t, nil
}

func eventLine(e *v1.Event) string {
	var b strings.Builder
	slot := "-"
	if e.Slot != 0 {
		slot = fmt.Sprint(e.Slot)
	}
	fmt.Fprintf(&b, "%s  %s  slot %-4s  %-7s  %-16s  %s", e.Time.AsTime().Format("2006-01-02T15:04:05.000Z"), e.Node, slot,
		word("SEVERITY", e.Severity), e.Kind, e.Message)
	if e.Reason != "" {
		fmt.Fprintf(&b, ": %s", e.Reason)
	}
	for _, k := range slices.Sorted(maps.Keys(e.Attributes)) {
		fmt.Fprintf(&b, " %s=%s", k, e.Attributes[k])
	}
	return clean(b.String())
}

// stamp renders a time for tables.
func stamp(t *timestamppb.Timestamp) string { return t.AsTime().Format("2006-01-02T15:04:05Z") }
