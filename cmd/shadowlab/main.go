// Command shadowlab plays scenarios in the lab (tests/lab): a whole internet in
// network namespaces, natively where the kernel has ESP, else inside user-mode
// Linux.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/shadowcast/shadowcast/tests/lab"
	"github.com/shadowcast/shadowcast/tests/uml"
)

// errFailed ends with status 1 without another word: the results say it.
var errFailed = errors.New("scenarios failed")

func main() {
	uml.Init()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := command().ExecuteContext(ctx)
	stop()
	switch {
	case errors.Is(err, errFailed):
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "shadowlab:", err)
		os.Exit(2)
	}
}

// lowest capabilities a run needs before it is worth a guest: every scenario that
// needs more says so itself.
const need = uml.ESP | uml.IPIP | uml.Netem | uml.Plug | uml.BPF

func command() *cobra.Command {
	root := &cobra.Command{Use: "shadowlab", Short: "Play scenarios in a lab of network namespaces", SilenceUsage: true, SilenceErrors: true}
	list := &cobra.Command{Use: "list", Short: "List the scenarios", Args: cobra.NoArgs, Run: func(cmd *cobra.Command, _ []string) {
		for _, s := range lab.Scenarios() {
			fmt.Fprintf(cmd.OutOrStdout(), "%-32s %s\n", s.Name, s.Doc)
		}
	}}
	var r lab.Runner
	var memory string
	var guests int
	var slowest, within time.Duration
	run := &cobra.Command{Use: "run [PATTERN...]", Short: "Play the scenarios whose names match, all by default", RunE: func(cmd *cobra.Command, patterns []string) error {
		ss, err := lab.Select(patterns)
		if err != nil {
			return err
		}
		r.Log = cmd.OutOrStdout()
		for _, s := range ss {
			if s.Memory != "" && !cmd.Flags().Changed("memory") {
				memory = s.Memory
			}
		}
		if within > 0 {
			r.Until, ss = time.Now().Add(within), lab.Weighty(ss)
		}
		if uml.Missing(need) != 0 && !uml.InGuest() && uml.Available() {
			if why, err := tooSlow(slowest); err != nil || why != "" {
				r.SkipAll(ss, why)
				return err
			}
			return inGuests(cmd, &r, memory, guests, ss)
		}
		_, failed, err := r.RunAll(cmd.Context(), ss)
		if err == nil && failed {
			err = errFailed
		}
		return err
	}}
	run.Flags().StringVar(&r.Out, "out", "out/lab", "directory for artefacts")
	run.Flags().StringVar(&r.BinDir, "bin", "", "directory of shadowcastd (default: $SHADOWCAST_BIN, then beside shadowlab)")
	run.Flags().BoolVarP(&r.Verbose, "verbose", "v", false, "tell progress")
	run.Flags().StringVar(&r.Share, "share", "", "`DIR`ectory in which several runs of the same scenarios agree who plays what")
	run.Flags().IntVar(&r.Retries, "retries", 0, "play a scenario that failed up to `N` times more; every attempt is told")
	run.Flags().IntVar(&guests, "guests", 1, "user-mode Linux guests side by side, one processor each")
	run.Flags().DurationVar(&slowest, "slowest", 0, "skip scenarios that need a guest where one stop of a traced process and one page fault take longer (0: never)")
	run.Flags().DurationVar(&within, "within", 0, "skip scenarios not begun when this time is over (0: never)")
	run.Flags().StringVar(&memory, "memory", uml.DefaultMemory, "memory of the user-mode Linux guest; scenarios may ask for more")
	root.AddCommand(list, run, demoCommand(), upCommand(), benchCommand())
	return root
}

// slowEnv tells a guest that this machine is slow for guests.
func slowEnv() []string {
	if round, err := uml.Round(); err == nil && round > uml.Roomy {
		return []string{lab.EnvSlow + "=1"}
	}
	return nil
}

// tooSlow says what is missing where this machine is too slow for guests: there
// every timer of routers and IKE runs out, whatever is tested.
func tooSlow(slowest time.Duration) (why string, err error) {
	if slowest == 0 {
		return "", nil
	}
	round, err := uml.Round()
	if err != nil || round <= slowest {
		return "", err
	}
	return fmt.Sprintf("missing capability speed: a stop of a traced process and a page fault take %s here, a guest may need %s at most", round, slowest), nil
}

// exitOf turns a guest's exit status into an error; it has said why itself.
func exitOf(code int, err error) error {
	if err == nil && code != 0 {
		err = errFailed
	}
	return err
}
