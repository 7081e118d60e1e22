package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/tests/lab"
	"github.com/shadowcast/shadowcast/tests/uml"
)

// What the demo in a guest must know of the host.
const (
	envLive  = "SHADOWLAB_LIVE"  // the output ends on a terminal
	envBegan = "SHADOWLAB_BEGAN" // nanoseconds since 1970
)

func demoCommand() *cobra.Command {
	d := lab.Demo{Command: strings.Join(append([]string{filepath.Base(os.Args[0])}, os.Args[1:]...), " ")}
	var memory string
	cmd := &cobra.Command{
		Use: "demo", Args: cobra.NoArgs,
		Short: "A fleet in a box: planned handovers and a power cut under traffic, with a report",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			if missing := uml.Missing(lab.DemoNeed); missing != 0 && !uml.InGuest() {
				return demoInGuest(ctx, missing, memory)
			}
			d.Console = cmd.OutOrStdout()
			d.Began, d.Live = began(), live()
			report, err := d.Run(ctx)
			if err == nil && !report.Met {
				err = errFailed
			}
			return err
		},
	}
	cmd.Flags().StringVar(&d.Out, "out", "out/demo", "directory for the report and artefacts")
	cmd.Flags().StringVar(&d.BinDir, "bin", "", "directory of shadowcastd (default: $SHADOWCAST_BIN, then beside shadowlab)")
	cmd.Flags().StringVar(&memory, "memory", uml.DefaultMemory, "memory of the user-mode Linux guest")
	return cmd
}

// demoInGuest runs this very command inside user-mode Linux.
func demoInGuest(ctx context.Context, missing uml.Need, memory string) error {
	env, err := guestStory(missing)
	if err != nil {
		return err
	}
	return exitOf(uml.Run(ctx, uml.Options{Memory: memory, Timeout: lab.DemoTimeout, Env: env}))
}

// terminal reports whether f is one.
func terminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
