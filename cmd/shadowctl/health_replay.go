package main

import (
	"bytes"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/shadowcast/shadowcast/hwhealth/trace"
)

// healthReplay asks no daemon.
func healthReplay(a *app) *cobra.Command {
	var svg string
	var every time.Duration
	cmd := &cobra.Command{
		Use:   "replay DIR",
		Short: "Play a recorded trace through the predictor: changes of state with causes, and a plot",
		Long: `Play a recorded trace through the predictor: changes of state with causes, and a
plot.

DIR is what health.trace in an appliance's configuration names: the daemon writes
there what it reads, one file YYYY-MM-DD.jsonl a day, for 14 days. It may be
copied anywhere; no daemon is asked. The thresholds are those that the appliance
had. Its fleet guard is not part of the trace: predictions may drain.

The table of the changes goes to stdout, the plot (risk of both horizons, state,
causes) to the file that --svg names. The format is in docs/health.md.`,
		Example: `  shadowctl health replay /var/lib/shadowcast/trace --svg health.svg
  shadowctl health replay trace/ -o json | jq '.changes[] | {at, to, causes}'`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if every <= 0 {
				return usagef("--every is %s; want more than 0", every)
			}
			r, err := trace.Replay(args[0], every)
			if err != nil {
				return err
			}
			if svg != "" {
				var b bytes.Buffer
				if err := r.SVG(&b); err != nil {
					return err
				}
				if err := os.WriteFile(svg, b.Bytes(), 0o644); err != nil {
					return err
				}
			}
			if a.json() {
				return a.printValue(r)
			}
			return a.printReplay(r)
		},
	}
	cmd.Flags().StringVar(&svg, "svg", "", "draw the risk, the state and the causes into this `file`")
	cmd.Flags().DurationVar(&every, "every", time.Second, "assess so often; the daemon does every second")
	return cmd
}

func (a *app) printReplay(r *trace.Result) error {
	err := fields(a.out, "appliance", r.Node, "from", r.From.UTC().Format(time.RFC3339), "to", r.To.UTC().Format(time.RFC3339),
		"samples", fmt.Sprintf("%d, %d of them refused", r.Samples, r.Refused), "starts", fmt.Sprintf("%d of the daemon, %d of the machine", r.Starts, r.Boots),
		"state at the end", r.Final)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	if len(r.Changes) == 0 {
		fmt.Fprintln(a.out, "the state never changed")
		return nil
	}
	t := newTable("TIME", "FROM", "TO", "IN 30 DAYS", "IN AN HOUR", "BECAUSE")
	for _, c := range r.Changes {
		t.add(c.At.UTC().Format(time.RFC3339), c.From, c.To, fmt.Sprintf("%.2f%%", 100*c.R30), fmt.Sprintf("%.2f%%", 100*c.R1h), c.Why)
		for _, cause := range c.Causes {
			t.add("", "", "", "", "", "  "+cause)
		}
	}
	return t.print(a.out)
}
