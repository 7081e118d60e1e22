package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/shadowcast/shadowcast/hwhealth/bench"
	"github.com/shadowcast/shadowcast/hwhealth/drive"
	"github.com/shadowcast/shadowcast/hwhealth/fit"
)

// hwhealthCommand works on recorded drives; it asks no daemon.
func hwhealthCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hwhealth",
		Short: "Measure and refit the failure predictor on recorded drives",
		Long: `Measure and refit the failure predictor on recorded drives.

DIR holds drives.csv.gz (or drives_blind.csv.gz, without labels) and
changes.csv.gz: serial,vendor,model,first_hour and, per change of a drive's
SMART values, i,hour,smart_5,... Docs: docs/health.md.`,
	}
	cmd.AddCommand(hwhealthBench(a), hwhealthFit(a))
	return cmd
}

func hwhealthBench(a *app) *cobra.Command {
	var out, table string
	cmd := &cobra.Command{
		Use:   "bench DIR",
		Short: "Replay recorded drives, write the alarms, score them",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			t := drive.Default()
			if table != "" {
				b, err := os.ReadFile(table)
				if err != nil {
					return err
				}
				if t, err = drive.ParseTable(b); err != nil {
					return fmt.Errorf("%s: %w", table, err)
				}
			}
			r, err := bench.Run(args[0], out, t)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%w\nthe benchmark is not part of this repository: name a directory that has it (make bench-hwhealth DATA=DIR)", err)
			}
			if err != nil {
				return err
			}
			if a.json() {
				return a.printValue(r)
			}
			r.Report(a.out)
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "out/hwhealth", "write alarms-<point>.csv to this `directory`")
	cmd.Flags().StringVar(&table, "table", "", "use this hazard table `file` instead of the built-in one")
	return cmd
}

func hwhealthFit(a *app) *cobra.Command {
	o := fit.DefaultOptions()
	var path string
	cmd := &cobra.Command{
		Use:   "fit DIR",
		Short: "Fit the hazard table of rotating drives to folds 5-9 of a benchmark",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			o.Say = func(format string, args ...any) { fmt.Fprintf(a.talk, format+"\n", args...) }
			t, err := fit.Fit(args[0], fmt.Sprintf("shadowctl hwhealth fit DIR --iterations %d --sparsity %g --min-failures %d", o.Iterations, o.Sparsity, o.MinFailures), o)
			if err != nil {
				return err
			}
			b, err := json.MarshalIndent(t, "", " ")
			if err != nil {
				return err
			}
			b = append(b, '\n')
			if path == "" {
				_, err = a.out.Write(b)
				return err
			}
			return os.WriteFile(path, b, 0o644)
		},
	}
	cmd.Flags().StringVar(&path, "table", "", "write the table to this `file` instead of stdout")
	cmd.Flags().IntVar(&o.Iterations, "iterations", o.Iterations, "rounds of expectation maximisation")
	cmd.Flags().Float64Var(&o.Sparsity, "sparsity", o.Sparsity, "strength of the prior, in drives")
	cmd.Flags().IntVar(&o.MinFailures, "min-failures", o.MinFailures, "failures that a model needs for terms of its own")
	return cmd
}
