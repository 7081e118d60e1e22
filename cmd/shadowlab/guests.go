package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/shadowcast/shadowcast/tests/lab"
	"github.com/shadowcast/shadowcast/tests/uml"
)

// inGuests plays the scenarios inside user-mode Linux, dealt out to n guests.
func inGuests(cmd *cobra.Command, r *lab.Runner, memory string, n int, ss []lab.Scenario) error {
	hands := make([][]lab.Scenario, min(max(n, 1), len(ss)))
	for i, s := range ss {
		hands[i%len(hands)] = append(hands[i%len(hands)], s)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own binary: %w", err)
	}
	out := &lineWriter{w: cmd.OutOrStdout()}
	errs := make([]error, len(hands))
	var wg sync.WaitGroup
	for i, hand := range hands {
		wg.Go(func() { errs[i] = inGuest(cmd.Context(), self, r, memory, hand, out.stream()) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, errFailed) {
			return errors.Join(errs...)
		}
	}
	for _, err := range errs {
		if err != nil {
			return errFailed
		}
	}
	return nil
}

func inGuest(ctx context.Context, self string, r *lab.Runner, memory string, ss []lab.Scenario, out io.Writer) error {
	argv := []string{self, "run", "--out", r.Out, "--retries", strconv.Itoa(r.Retries)}
	if r.BinDir != "" {
		bin, err := filepath.Abs(r.BinDir)
		if err != nil {
			return fmt.Errorf("find %s: %w", r.BinDir, err)
		}
		argv = append(argv, "--bin", bin)
	}
	if r.Verbose {
		argv = append(argv, "-v")
	}
	limit := time.Minute
	for _, s := range ss {
		limit += time.Duration(1+r.Retries) * (s.Timeout + 10*time.Second)
		argv = append(argv, s.Name)
	}
	return exitOf(uml.Run(ctx, uml.Options{Memory: memory, Timeout: limit, Argv: argv, Stdout: out}))
}

// lineWriter keeps the lines of several guests whole.
type lineWriter struct {
	mu sync.Mutex
	w  io.Writer
}

// stream returns a writer whose lines go out one at a time.
func (l *lineWriter) stream() io.Writer { return &lines{l: l} }

type lines struct {
	l    *lineWriter
	rest []byte
}

func (s *lines) Write(b []byte) (int, error) {
	s.rest = append(s.rest, b...)
	for {
		n, line, err := bufio.ScanLines(s.rest, false)
		if n == 0 || err != nil {
			return len(b), err
		}
		s.l.mu.Lock()
		_, err = fmt.Fprintf(s.l.w, "%s\n", line)
		s.l.mu.Unlock()
		s.rest = s.rest[n:]
		if err != nil {
			return len(b), err
		}
	}
}
