// Command shadowcastd runs one appliance of a shadowcast fleet.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/ssm/node"
)

// version is set at build time with -ldflags "-X main.version=...".
var version = "devel"

const usage = `shadowcastd runs one appliance of a shadowcast fleet.

usage: shadowcastd [--config FILE] [--version]

It needs root: network namespaces, eBPF, XFRM. 'shadowctl config check FILE'
checks a configuration without running it, 'shadowctl config example' prints an
annotated one. SIGTERM withdraws the VIP, waits until the routers know, and ends;
charons and kernel SAs go on until the fences' deadlines, and the next
shadowcastd adopts them.

`

func main() {
	err := run(os.Args[1:], os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "shadowcastd:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	fs := flag.NewFlagSet("shadowcastd", flag.ContinueOnError)
	file := fs.String("config", "/etc/shadowcast/shadowcast.yaml", "configuration `file`")
	show := fs.Bool("version", false, "print the version")
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), usage)
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if *show {
		_, err := fmt.Fprintln(out, "shadowcastd", version)
		return err
	}
	cfg, err := config.Load(*file)
	if err != nil {
		return err
	}
	log := logger(cfg.Log)
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
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	a.OnReady(func() { daemon.SdNotify(false, daemon.SdNotifyReady) })
	return a.Run(ctx)
}

func logger(l config.Log) *slog.Logger {
	o := &slog.HandlerOptions{Level: l.Level}
	if l.Format == "json" {
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
	unlimited := &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, unlimited)
	if err == nil {
		err = unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
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
