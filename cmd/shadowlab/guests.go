package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/shadowcast/shadowcast/tests/lab"
	"github.com/shadowcast/shadowcast/tests/uml"
)

// inGuests plays the scenarios inside user-mode Linux. Each of several guests takes the
// next scenario that none has begun, the longest first.
func inGuests(cmd *cobra.Command, r *lab.Runner, memory string, n int, ss []lab.Scenario) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own binary: %w", err)
	}
	share, err := os.MkdirTemp("", "shadowlab-")
	if err != nil {
		return fmt.Errorf("make a directory for the guests to share scenarios in: %w", err)
	}
	defer os.RemoveAll(share)
	if n > 1 {
		ss = slices.SortedStableFunc(slices.Values(ss), func(a, b lab.Scenario) int { return cmp.Compare(b.Timeout, a.Timeout) })
	}
	out := &lineWriter{w: cmd.OutOrStdout()}
	errs := make([]error, min(max(n, 1), len(ss)))
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = inGuest(cmd.Context(), self, r, share, memory, ss, out.stream()) })
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

func inGuest(ctx context.Context, self string, r *lab.Runner, share, memory string, ss []lab.Scenario, out io.Writer) error {
	argv := []string{self, "run", "--out", r.Out, "--share", share, "--retries", strconv.Itoa(r.Retries)}
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
	if !r.Until.IsZero() {
		argv = append(argv, "--within", max(time.Until(r.Until), time.Nanosecond).String())
	}
	limit := time.Minute
	for _, s := range ss {
		limit += time.Duration(1+r.Retries) * (s.Timeout + 10*time.Second)
		argv = append(argv, s.Name)
	}
	return exitOf(uml.Run(ctx, uml.Options{Memory: memory, Timeout: limit, Argv: argv, Env: slowEnv(), Stdout: out}))
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
