// Command shadowcastd runs one appliance of a shadowcast fleet.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/ssm/node"
)

// version is set at build time with -ldflags "-X main.version=...".
var version = "devel"

func main() {
	cmd, err := newRoot().ExecuteC()
	var usage *usageError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "shadowcastd: %v\nTry '%s --help'.\n", err, cmd.CommandPath())
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "shadowcastd:", err)
		os.Exit(1)
	}
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

// noArgs refuses arguments as a mistake of the command line.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{fmt.Errorf("%q: want no argument: %s", args[0], cmd.UseLine())}
	}
	return nil
}

func newRoot() *cobra.Command {
	var file string
	root := &cobra.Command{
		Use:   "shadowcastd",
		Short: "Run one appliance of a shadowcast fleet",
		Long: `shadowcastd runs one appliance of a shadowcast fleet.

It needs root: network namespaces, eBPF, XFRM. 'shadowctl config check FILE'
checks a configuration without running it, 'shadowctl config example' prints an
annotated one. SIGHUP reads configuration and certificates again, applies what can
be applied, and says what cannot; a wrong one changes nothing. SIGTERM withdraws the VIP, waits until the routers know, and ends;
charons and kernel SAs go on until the fences' deadlines, and the next
shadowcastd adopts them. Under systemd it tells when it is ready and, with
WatchdogSec, that its core still answers.`,
		Version:       version,
		Args:          noArgs,
		SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), file) },
	}
	root.SetVersionTemplate("shadowcastd {{.Version}}\n")
	root.PersistentFlags().StringVar(&file, "config", "/etc/shadowcast/shadowcast.yaml", "configuration `file`")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(fenceCommand(&file), netnsCommand(&file), cleanUpCommand(&file), manCommand(root))
	return root
}

func run(ctx context.Context, file string) error {
	hup := hangups()
	cfg, err := config.Load(file)
	if err != nil {
		return err
	}
	level := new(slog.LevelVar)
	level.Set(cfg.Log.Level)
	log := logger(cfg.Log.Format, level)
	if err := protectMemory(log); err != nil {
		return err
	}
	// Probes are garbage by the second on a small heap: collect it less often.
	// With many sessions the limit of growth is the memory they take anyway.
	debug.SetGCPercent(300)
	a, err := node.New(cfg, version, log)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ready := make(chan struct{})
	a.OnReady(func() {
		daemon.SdNotify(false, daemon.SdNotifyReady)
		close(ready)
	})
	// The watchdog outlives ctx: the daemon works while it drains and withdraws.
	work, done := context.WithCancel(context.WithoutCancel(ctx))
	var g errgroup.Group
	g.Go(func() error { return watchdog(work, log, a.Pulse) })
	g.Go(func() error { return reloads(work, hup, ready, func() { a.Reload(file, level) }) })
	g.Go(func() error { return stopping(ctx, work, cfg.Fleet.Handover.StopDrain) })
	g.Go(func() error {
		defer done()
		return a.Run(ctx)
	})
	return g.Wait()
}

func logger(format string, level *slog.LevelVar) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o))
}

// protectMemory keeps key material out of swap and core files.
func protectMemory(log *slog.Logger) error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	// Raising the limit takes a capability that a unit with LimitMEMLOCK spares us.
	err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
	if err != nil {
		unlimited := &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
		if err = unix.Setrlimit(unix.RLIMIT_MEMLOCK, unlimited); err == nil {
			err = unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
		}
	}
	if err == nil {
		return nil
	}
	// Without swap nothing can be written out; with swap it must not be.
	swaps, rerr := os.ReadFile("/proc/swaps")
	if rerr != nil || strings.Count(string(swaps), "\n") > 1 {
		return fmt.Errorf("lock memory, which this machine could swap out (LimitMEMLOCK=infinity, CAP_SYS_RESOURCE): %w", err)
	}
	log.Warn("memory is not locked, which is safe while there is no swap", "err", err)
	return nil
}
