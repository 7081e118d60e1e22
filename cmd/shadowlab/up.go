package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/shadowcast/shadowcast/tests/lab"
	"github.com/shadowcast/shadowcast/tests/uml"
)

func upCommand() *cobra.Command {
	var u lab.Up
	var memory string
	cmd := &cobra.Command{
		Use: "up", Args: cobra.NoArgs,
		Short: "A fleet to type at: shadowctl, birdc, power cuts, with a client under traffic",
		Long: `Bring up the fleet of the demo, with a client under traffic, and do what is typed at it:
shadowctl and any other command at an appliance, birdc at a router, power cuts.
Ctrl-C ends the command under way; exit, the end of the input, or Ctrl-C twice within a
second the fleet. 'help' lists the commands; they may be piped in, too.`,
		Example: "  bin/shadowlab up\n  printf 'shadowctl handover 1 --to fra --yes\\ntraffic\\n' | bin/shadowlab up",
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(context.WithoutCancel(cmd.Context()), syscall.SIGTERM)
			defer stop()
			if missing := uml.Missing(lab.DemoNeed); missing != 0 && !uml.InGuest() {
				return upInGuest(ctx, stop, missing, memory)
			}
			u.Console, u.Began, u.Live = cmd.OutOrStdout(), began(), live()
			u.In = cmd.InOrStdin()
			if !uml.InGuest() {
				in, err := typed(ctx, stop, cmd.InOrStdin())
				if err != nil {
					return err
				}
				u.In = in
			}
			return u.Run(ctx)
		},
	}
	cmd.Flags().StringVar(&u.Out, "out", "out/up", "directory for artefacts")
	cmd.Flags().StringVar(&u.BinDir, "bin", "", "directory of shadowcastd and shadowctl (default: $SHADOWCAST_BIN, then beside shadowlab)")
	cmd.Flags().StringVar(&memory, "memory", uml.DefaultMemory, "memory of the user-mode Linux guest")
	return cmd
}

// upInGuest runs this very command inside user-mode Linux.
func upInGuest(ctx context.Context, stop func(), missing uml.Need, memory string) error {
	env, err := guestStory(missing)
	if err != nil {
		return err
	}
	in, err := typed(ctx, stop, os.Stdin)
	if err != nil {
		return err
	}
	defer in.Close()
	return exitOf(uml.Run(ctx, uml.Options{Memory: memory, Timeout: lab.UpTimeout, Env: env, Stdin: in}))
}

// typed are the lines of in, a line for each interrupt, and exit at the end. Two
// interrupts within a second stop everything. What it starts ends with ctx, but for a
// read of a terminal, which ends with the process.
func typed(ctx context.Context, stop func(), in io.Reader) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		sc := bufio.NewScanner(in)
		for sc.Scan() {
			select {
			case lines <- sc.Text():
			case <-ctx.Done():
				return
			}
		}
		if err := sc.Err(); err != nil {
			fmt.Fprintln(os.Stderr, "shadowlab: read commands:", err)
		}
	}()
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, syscall.SIGINT)
	go func() {
		defer w.Close()
		defer signal.Stop(interrupts)
		for last := (time.Time{}); ; {
			line, more := lab.Interrupt, true
			select {
			case <-ctx.Done():
				return
			case <-interrupts:
				if time.Since(last) < time.Second {
					stop()
					return
				}
				last = time.Now()
			case line, more = <-lines:
			}
			if !more {
				line = "exit"
			}
			if _, err := fmt.Fprintln(w, line); err != nil || !more {
				return
			}
		}
	}()
	return r, nil
}

// live reports whether the output ends on a terminal.
func live() bool {
	if uml.InGuest() {
		// The guest's console is always a terminal; what counts is the host's.
		return os.Getenv(envLive) == "1"
	}
	return terminal(os.Stdout)
}

// began is when the host's command began.
func began() time.Time {
	if ns, err := strconv.ParseInt(os.Getenv(envBegan), 10, 64); err == nil && uml.InGuest() {
		return time.Unix(0, ns)
	}
	return time.Now()
}

// guestStory is the environment of a guest that somebody watches.
func guestStory(missing uml.Need) ([]string, error) {
	if !uml.Available() {
		return nil, fmt.Errorf("this kernel (or this user) lacks %s, and user-mode Linux is not installed: run `make deps`", missing)
	}
	fmt.Printf("this kernel (or this user) lacks %s: booting user-mode Linux\n", missing)
	env := append(slowEnv(), envBegan+"="+strconv.FormatInt(time.Now().UnixNano(), 10))
	if terminal(os.Stdout) {
		env = append(env, envLive+"=1")
	}
	return env, nil
}
