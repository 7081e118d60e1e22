package main

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/slot"
	"github.com/shadowcast/shadowcast/ssm/node"
)

// group is a command that does nothing without one of its own.
func group(name, short string) *cobra.Command {
	g := &cobra.Command{Use: name, Short: short, Args: cobra.ArbitraryArgs}
	g.RunE = func(cmd *cobra.Command, args []string) error {
		var names []string
		for _, sub := range cmd.Commands() {
			if sub.IsAvailableCommand() {
				names = append(names, sub.Name())
			}
		}
		want := "want one of " + strings.Join(names, ", ")
		if len(args) == 0 {
			return &usageError{fmt.Errorf("which command? %s", want)}
		}
		return &usageError{fmt.Errorf("no command %q: %s", args[0], want)}
	}
	return g
}

// places are those of a configuration that may be wrong; it says what it takes instead.
func places(cmd *cobra.Command, file string) config.Places {
	p, err := config.PlacesOf(file)
	if err != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "shadowcastd: %v; going on with run_dir %s, bpf_dir %s, netns_prefix %s\n", err, p.RunDir, p.BPFDir, p.NetnsPrefix)
	}
	return p
}

// fenceCommand works on the fences of a daemon that has ended.
func fenceCommand(file *string) *cobra.Command {
	group := group("fence", "Work on the fences of slots while no daemon runs")
	var all bool
	var dir string
	shut := &cobra.Command{
		Use:   "close",
		Short: "Close the fences of slots that a ready shadow covers",
		Long: `close closes the fences that a daemon left open when it ended.

A slot with a ready shadow serves until the deadline that its daemon set last (the
dead-man), then its fence is closed for good: the shadow has taken over. A slot
without one stays open, because its sessions are nowhere else, unless --all is given:
that ends all service of this appliance at once. The unit runs it after every stop.

Of the configuration it needs bpf_dir only, and takes that of a wrong one too.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				dir = places(cmd, *file).BPFDir
			}
			shut, open, err := slot.ShutFences(cmd.Context(), filepath.Join(dir, "slot"), all)
			fmt.Fprintf(cmd.ErrOrStderr(), "closed: %s; open: %s\n", list(shut), list(open))
			return err
		},
	}
	shut.Flags().BoolVar(&all, "all", false, "also those without a ready shadow, and at once: their sessions end")
	shut.Flags().StringVar(&dir, "bpf-dir", "", "`directory` of the pinned maps, instead of the configuration's bpf_dir")
	group.AddCommand(shut)
	return group
}

// netnsCommand prepares namespaces outside the daemon's own mount namespace.
func netnsCommand(file *string) *cobra.Command {
	group := group("netns", "Work on the network namespaces of slots while no daemon runs")
	group.AddCommand(&cobra.Command{
		Use:   "prepare",
		Short: "Make the network namespaces of all slots with a place here",
		Long: `prepare makes the network namespaces of all slots that have a place on this
appliance, each behind a closed fence, and leaves those that exist alone.

A daemon in a mount namespace of its own (ProtectSystem and the like) cannot make them
where 'ip netns' and the next daemon see them; shadowcast-netns.service does it first.
Without such a sandbox the daemon makes them by itself.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(*file)
			if err != nil {
				return err
			}
			var ns []sa.Slot
			for _, s := range cfg.Fleet.SlotsOf(cfg.Node) {
				ns = append(ns, s.Number)
			}
			return slot.Prepare(slot.Config{NetnsPrefix: cfg.NetnsPrefix, PinDir: filepath.Join(cfg.BPFDir, "slot")}, ns)
		},
	})
	return group
}

// cleanUpCommand takes the appliance off the machine.
func cleanUpCommand(file *string) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "clean-up",
		Short: "End the service of this appliance and remove what its daemon left behind",
		Long: `clean-up removes what a daemon that has ended leaves behind for the next one, as a
reboot would: charons, the slots' namespaces with their SAs, fences, steering,
tunnels, and what run_dir remembers. Configuration, state_dir and sysctls stay.

Of the configuration it needs run_dir, bpf_dir and netns_prefix only, and takes those
of a wrong one too. Drain the appliance and stop the daemon first. A slot that still
serves here, because no shadow has its sessions, is a reason to do nothing, unless
--all is given.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return node.CleanUp(cmd.Context(), places(cmd, *file), all, logger("text", new(slog.LevelVar)))
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also where slots serve whose sessions are nowhere else: these end")
	return cmd
}

// manCommand writes the manual page; the package is built with it.
func manCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use: "man DIRECTORY", Short: "Write the manual pages into a directory", Args: cobra.ExactArgs(1), Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if err := doc.GenManTree(root, &doc.GenManHeader{Section: "8", Source: "shadowcast " + version, Manual: "shadowcast"}, args[0]); err != nil {
				return fmt.Errorf("write manual pages: %w", err)
			}
			return nil
		},
	}
}

func list(ns []sa.Slot) string {
	if len(ns) == 0 {
		return "none"
	}
	words := make([]string, len(ns))
	for i, n := range ns {
		words[i] = fmt.Sprint(n)
	}
	return strings.Join(words, ", ")
}
