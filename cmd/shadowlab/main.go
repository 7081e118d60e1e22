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
	run := &cobra.Command{Use: "run [PATTERN...]", Short: "Play the scenarios whose names match, all by default", RunE: func(cmd *cobra.Command, patterns []string) error {
		ss, err := lab.Select(patterns)
		if err != nil {
			return err
		}
		if uml.Missing(need) != 0 && !uml.InGuest() && uml.Available() {
			return inGuests(cmd, &r, memory, guests, ss)
		}
		r.Log = cmd.OutOrStdout()
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
	run.Flags().StringVar(&memory, "memory", uml.DefaultMemory, "memory of the user-mode Linux guest")
	root.AddCommand(list, run, demoCommand(), benchCommand())
	return root
}

// exitOf turns a guest's exit status into an error; it has said why itself.
func exitOf(code int, err error) error {
	if err == nil && code != 0 {
		err = errFailed
	}
	return err
}
