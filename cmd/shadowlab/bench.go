package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/shadowcast/shadowcast/tests/lab"
	"github.com/shadowcast/shadowcast/tests/uml"
)

// takeoverSizes are the numbers of sessions that the takeover benchmark compares.
var takeoverSizes = []int{10, 1000, 5000}

// maxTakeoverRatio bounds the cost of a claim with the most sessions by that with
// the fewest.
const maxTakeoverRatio = 1.5

func benchCommand() *cobra.Command {
	r := lab.Runner{Out: "out/bench"}
	var memory string
	cmd := &cobra.Command{Use: "bench", Short: "Measure that a takeover costs the same whatever the number of sessions", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var names []string
			for _, n := range takeoverSizes {
				names = append(names, fmt.Sprintf("bench-takeover-%d", n))
			}
			ss, err := lab.Select(names)
			if err != nil {
				return err
			}
			if uml.Missing(need) != 0 && uml.Available() {
				err = inGuests(cmd, &r, memory, 1, ss)
			} else {
				r.Log = cmd.OutOrStdout()
				var failed bool
				if _, failed, err = r.RunAll(cmd.Context(), ss); err == nil && failed {
					err = errFailed
				}
			}
			return errors.Join(err, compareTakeovers(cmd, r.Out))
		}}
	cmd.Flags().StringVar(&r.Out, "out", r.Out, "directory for artefacts")
	cmd.Flags().BoolVarP(&r.Verbose, "verbose", "v", false, "tell progress")
	cmd.Flags().IntVar(&r.Retries, "retries", 1, "play a run that failed up to `N` times more")
	cmd.Flags().StringVar(&memory, "memory", "1536M", "memory of the user-mode Linux guest")
	return cmd
}

// compareTakeovers prints the time from claim to first packet for each size and
// the ratio to the smallest one.
func compareTakeovers(cmd *cobra.Command, dir string) error {
	var first, last float64
	for i, n := range takeoverSizes {
		b, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("bench-takeover-%d", n), "result.json"))
		if err != nil {
			return fmt.Errorf("read the result for %d sessions: %w", n, err)
		}
		var res lab.Result
		if err := json.Unmarshal(b, &res); err != nil {
			return fmt.Errorf("read the result for %d sessions: %w", n, err)
		}
		ms, ok := res.Metrics["claim_to_packet_ms"].(float64)
		if !ok || ms <= 0 {
			return fmt.Errorf("%d sessions: no packet came after the claim", n)
		}
		if i == 0 {
			first = ms
		}
		last = ms
		fmt.Fprintf(cmd.OutOrStdout(), "takeover of %5d sessions: %6.1f ms from claim to first server->client packet, %.2f x\n", n, ms, ms/first)
	}
	if ratio := last / first; ratio > maxTakeoverRatio {
		return fmt.Errorf("the takeover of %d sessions costs %.2f x that of %d, at most %.1f x is right", takeoverSizes[len(takeoverSizes)-1], ratio, takeoverSizes[0], maxTakeoverRatio)
	}
	return nil
}
