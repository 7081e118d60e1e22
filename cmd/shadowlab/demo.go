package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

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
			d.Began = time.Now()
			d.Live = terminal(os.Stdout)
			if uml.InGuest() {
				// The guest's console is always a terminal; what counts is the host's.
				d.Live = os.Getenv(envLive) == "1"
				if ns, err := strconv.ParseInt(os.Getenv(envBegan), 10, 64); err == nil {
					d.Began = time.Unix(0, ns)
				}
			}
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
	if !uml.Available() {
		return fmt.Errorf("play demo: this kernel (or this user) lacks %s, and user-mode Linux is not installed: run `make deps`", missing)
	}
	fmt.Printf("this kernel (or this user) lacks %s: booting user-mode Linux\n", missing)
	env := append(slowEnv(), envBegan+"="+strconv.FormatInt(time.Now().UnixNano(), 10))
	if terminal(os.Stdout) {
		env = append(env, envLive+"=1")
	}
	return exitOf(uml.Run(ctx, uml.Options{Memory: memory, Timeout: lab.DemoTimeout, Env: env}))
}

// terminal reports whether f is one.
func terminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
