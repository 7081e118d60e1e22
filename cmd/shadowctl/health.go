package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

func healthCommand(a *app) *cobra.Command {
	var watch, signals bool
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Show the predicted risk of this appliance, its causes, and what would happen next",
		Long: `Show the predicted risk of this appliance, its causes, and what would happen next.

The risk is the probability of failing within 30 days and within an hour. States:
normal, watch, degraded (others are preferred by the routers), draining (slots
and new clients move away), withdrawn (a hard limit was passed). Docs:
docs/health.md.`,
		Example: `  shadowctl health --watch
  shadowctl health -o json | jq '.causes[] | {device, term, share}'
  shadowctl health clear --serial S4X0123
  shadowctl health replay /var/lib/shadowcast/trace --svg health.svg`,
		Args: cobra.NoArgs,
	}
	show := &cobra.Command{Use: "show", Short: "Show it (what 'health' alone does)", Args: cobra.NoArgs}
	run := func(cmd *cobra.Command, _ []string) error {
		for {
			r, err := askConn(cmd.Context(), a, v1.NewHealthServiceClient, func(ctx context.Context, c v1.HealthServiceClient) (*v1.GetHealthResponse, error) {
				return c.GetHealth(ctx, &v1.GetHealthRequest{Signals: signals})
			})
			if err != nil {
				return err
			}
			switch {
			case a.json() && watch:
				err = a.printLine(r)
			case a.json():
				err = a.printJSON(r)
			default:
				if watch {
					fmt.Fprint(a.out, "\x1b[H\x1b[2J") // home, clear
				}
				err = a.printHealth(r)
			}
			if err != nil || !watch {
				return err
			}
			select {
			case <-cmd.Context().Done():
				return nil
			case <-time.After(2 * time.Second):
			}
		}
	}
	show.RunE, cmd.RunE = run, run
	for _, c := range []*cobra.Command{cmd, show} {
		c.Flags().BoolVarP(&watch, "watch", "w", false, "show it anew every two seconds (with -o json one line each)")
		c.Flags().BoolVar(&signals, "signals", false, "list the newest value of every signal")
	}
	cmd.AddCommand(show, healthClear(a), healthReplay(a))
	return cmd
}

func healthClear(a *app) *cobra.Command {
	var serial string
	var all bool
	cmd := &cobra.Command{
		Use:   "clear",
		Short: "Forget latched hard limits, after the part was looked at",
		Long: `Forget latched hard limits, after the part was looked at. A limit that is still
passed latches again with the next reading. Recovery keeps its hold and goes one
state at a time.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (serial == "") == !all {
				return usagef("want --serial of one part, or --all")
			}
			r, err := askConn(cmd.Context(), a, v1.NewHealthServiceClient, func(ctx context.Context, c v1.HealthServiceClient) (*v1.ClearHealthResponse, error) {
				return c.ClearHealth(ctx, &v1.ClearHealthRequest{Serial: serial})
			})
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(r)
			}
			return fields(a.out, "cleared", fmt.Sprint(r.Cleared))
		},
	}
	cmd.Flags().StringVar(&serial, "serial", "", "serial number of the part, as 'health' shows it")
	cmd.Flags().BoolVar(&all, "all", false, "every latched limit")
	return cmd
}

func (a *app) printHealth(r *v1.GetHealthResponse) error {
	if !r.Enabled {
		fmt.Fprintln(a.talk, "health is switched off in the configuration (health.enabled)")
	}
	next := ""
	if n := r.Next; n != nil {
		next = word("STANDING", n.State)
		if n.At != nil {
			next += " in " + short(max(0, time.Until(n.At.AsTime())))
		}
		next += ", " + n.Why
	}
	since := ""
	if r.Since != nil {
		since = short(time.Since(r.Since.AsTime())) + " ago"
	}
	err := fields(a.out, "appliance", r.Appliance, "state", word("STANDING", r.State), "since", since, "because", r.Why, "next", next,
		"risk in 30 days", fmt.Sprintf("%.2f%% (%.2f%% by evidence)", 100*r.Risk_30D, 100*r.Evidence_30D), "risk in an hour", fmt.Sprintf("%.2f%%", 100*r.Risk_1H),
		"time to failure", median(r), "trend", trend(r.Trend), "confidence", fmt.Sprintf("%.0f%% of the signals speak", 100*r.Confidence), "fleet guard", r.Guard)
	if err != nil {
		return err
	}
	if len(r.Limits) > 0 {
		t := newTable("LIMIT", "DEVICE", "SINCE", "CLEARED BY", "DETAIL")
		for _, l := range r.Limits {
			by := "operator, new serial"
			if l.UntilBoot {
				by = "operator, reboot"
			}
			t.add(l.Limit, l.Device, short(time.Since(l.Since.AsTime()))+" ago", by, l.Detail)
		}
		fmt.Fprintln(a.out)
		if err := t.print(a.out); err != nil {
			return err
		}
	}
	t := newTable("SHARE", "OF", "HAZARD", "AGE", "DEVICE", "CAUSE")
	for _, c := range r.Causes {
		t.add(fmt.Sprintf("%.0f%%", 100*c.Share), "R"+c.Horizon, fmt.Sprintf("%.4f", c.Hazard), span(c.Age), c.Device, c.Detail)
	}
	fmt.Fprintln(a.out)
	if err := t.print(a.out); err != nil {
		return err
	}
	return a.printHealthRest(r)
}

func (a *app) printHealthRest(r *v1.GetHealthResponse) error {
	if len(r.Silent) > 0 {
		t := newTable("SILENT", "DEVICE", "SIGNAL", "WHY")
		for _, s := range r.Silent {
			t.add(s.Source, s.Device, s.Signal, s.Why)
		}
		fmt.Fprintln(a.out)
		if err := t.print(a.out); err != nil {
			return err
		}
	}
	if len(r.Signals) > 0 {
		t := newTable("DEVICE", "SIGNAL", "VALUE", "UNIT", "AGE")
		for _, s := range r.Signals {
			t.add(s.Device, s.Signal, fmt.Sprintf("%.6g", s.Value), s.Unit, short(time.Since(s.At.AsTime())))
		}
		fmt.Fprintln(a.out)
		return t.print(a.out)
	}
	return nil
}

func median(r *v1.GetHealthResponse) string {
	if r.TimeToFailure == nil {
		return ""
	}
	return "median " + span(r.TimeToFailure)
}

// trend draws the last points of the larger risk, relative to its threshold of
// draining, as a row of blocks.
func trend(points []*v1.HealthPoint) string {
	const width = 60
	marks := []rune("▁▂▃▄▅▆▇█")
	var b strings.Builder
	for _, p := range points[max(0, len(points)-width):] {
		v := max(p.Risk_30D/.06, p.Risk_1H/.05)
		b.WriteRune(marks[min(len(marks)-1, int(v*float64(len(marks)-1)))])
	}
	return b.String()
}
