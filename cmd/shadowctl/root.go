package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shadowcast/shadowcast/config"
)

const (
	defaultSocket = "/run/shadowcast/shadowcast.sock"
	socketEnv     = "SHADOWCTL_SOCKET"
)

// app is what every command needs.
type app struct {
	stdin  *os.File
	out    io.Writer // data
	talk   io.Writer // everything else
	socket string
	format string
	remote remote
}

func (a *app) json() bool { return a.format == "json" }

// usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// toldError is a failure that the command has explained already.
type toldError struct{}

func (toldError) Error() string { return "failed" }

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "shadowctl",
		Short: "Look at and steer a shadowcast appliance",
		Long: `shadowctl looks at and steers a shadowcast appliance.

It asks the daemon (shadowcastd) of this machine through its local socket, that of
another machine with --server and a certificate, or checks and makes the files that
the daemon needs (config, pki).

Data goes to stdout, everything else to stderr. -o json works everywhere.
Exit code: 0 done, 1 failed, 2 the command line makes no sense.`,
		Example: `  shadowctl status
  shadowctl handover 1 --to fra
  shadowctl session list -o json | jq '.sessions[].identity'
  shadowctl events --follow
  shadowctl --server fra:4505 --cert ann.crt status`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.format != "table" && a.format != "json" {
				return usagef("--output %q: want table or json", a.format)
			}
			return a.remote.check()
		},
	}
	root.PersistentFlags().StringVarP(&a.format, "output", "o", "table", "output `format`: table or json")
	socket := cmp.Or(os.Getenv(socketEnv), defaultSocket)
	root.PersistentFlags().StringVar(&a.socket, "socket", socket, "`path` of the daemon's socket (run_dir/shadowcast.sock); $"+socketEnv+" changes the default")
	a.remote.flags(root)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(
		statusCommand(a), slotCommand(a), shadowsCommand(a), sessionCommand(a), handoverCommand(a), drainCommand(a), undrainCommand(a), redirectCommand(a), upgradeLockCommand(a), registrarCommand(a),
		eventsCommand(a), peersCommand(a), bgpCommand(a), configCommand(a), pkiCommand(a), preflightCommand(a), topCommand(a), bundleCommand(a),
		healthCommand(a), hwhealthCommand(a), manCommand(root),
	)
	for _, group := range root.Commands() {
		strictArgs(group)
	}
	root.Args, root.RunE = group(root)
	return root
}

// strictArgs makes wrong arguments usage errors, and a bare noun one too.
func strictArgs(cmd *cobra.Command) {
	if cmd.HasSubCommands() && cmd.RunE == nil {
		cmd.Args, cmd.RunE = group(cmd)
	} else if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if check(cmd, args) != nil {
				return usagef("%s given, want: %s", plural(len(args), "argument"), cmd.UseLine())
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		strictArgs(sub)
	}
}

// group is the behaviour of a command that only holds others.
func group(cmd *cobra.Command) (cobra.PositionalArgs, func(*cobra.Command, []string) error) {
	return cobra.ArbitraryArgs, func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			var names []string
			for _, sub := range cmd.Commands() {
				if sub.IsAvailableCommand() {
					names = append(names, sub.Name())
				}
			}
			return usagef("which command? want one of %s", strings.Join(names, ", "))
		}
		// Two slips in a short word make another word.
		cmd.SuggestionsMinimumDistance = min(2, len(args[0])/3)
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			return usagef("no command %q; did you mean %s?", args[0], near[0])
		}
		return usagef("no command %q", args[0])
	}
}

// release is set at build time with -ldflags "-X main.release=...".
var release string

// version is that of the package, else what the Go toolchain recorded.
func version() string {
	if release != "" {
		return release
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}

// problemsOf returns the configuration mistakes in err.
func problemsOf(err error) (config.Problems, bool) {
	var ps config.Problems
	ok := errors.As(err, &ps)
	return ps, ok
}
