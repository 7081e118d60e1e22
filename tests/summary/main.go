package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/shadowcast/shadowcast/tests/uml"
)

const usage = `usage: summary [all]
       summary unit [PACKAGE...]           unit tests, with the race detector
       summary sim [RUNS]                  seeded runs of the simulator (default 10000)
       summary lab [SCENARIO...]           lab scenarios
       summary fuzz [TIME [PACKAGE...]]    fuzz targets, each for TIME (default 3s)
       summary bench [TIME [PACKAGE...]]   benchmarks, each for TIME (default 100ms)
       summary figures [REPORT]            the demo's report as a table in Markdown
                                           (default out/demo/report.json)
       summary cuts RESULT...              the parts of the power-cut campaign as one table

The last line on stdout is "N passed, N failed, N skipped"; the exit status is 0
when nothing failed and something passed. GO names the go command, TESTFLAGS is
added to 'go test', FUZZ is the time of each target in 'all' (0: none).
`

// simRuns is how many runs of the simulator belong to the suite. make sim plays
// any seeds; docs/simulator.md says what it found.
const simRuns = "10000"

// The suite plays the lab where it can mean something, and has an end everywhere. A
// scenario that is left out is skipped with the reason, and counted.
const (
	slowest = "60us" // of shadowlab run --slowest: beyond, not even one fleet alone is expected to come up
	// The lab begins no scenario when the suite has run for this long, but has this much
	// time whatever came before: .ci/run is to end within about 20 minutes.
	suiteTime, labTime = 18 * time.Minute, 6 * time.Minute
)

var errUsage = errors.New("command line makes no sense")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := run(ctx, os.Args[1:], os.Stdout)
	switch {
	case errors.Is(err, errUsage):
		fmt.Fprint(os.Stderr, usage)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "summary:", err)
		os.Exit(1)
	case !ok:
		os.Exit(1)
	}
}

// runner carries out the passes.
type runner struct {
	ctx    context.Context
	out    io.Writer
	t      *tally
	goCmd  string
	flags  []string // TESTFLAGS
	module string
	began  time.Time
	prefix []string // command that every command runs under
}

func run(ctx context.Context, args []string, out io.Writer) (ok bool, err error) {
	what := "all"
	if len(args) > 0 {
		what, args = args[0], args[1:]
	}
	if what == "figures" {
		if len(args) > 1 {
			return false, errUsage
		}
		return true, figures(cmp.Or(strings.Join(args, ""), "out/demo/report.json"), out)
	}
	if what == "cuts" {
		if len(args) == 0 {
			return false, errUsage
		}
		return cuts(args, out)
	}
	r := &runner{ctx: ctx, out: out, t: newTally(), goCmd: cmp.Or(os.Getenv("GO"), "go"), flags: strings.Fields(os.Getenv("TESTFLAGS")), began: time.Now()}
	if r.module, err = r.goOutput("list", "-m"); err != nil {
		return false, err
	}
	r.module = strings.TrimSpace(r.module)
	switch what {
	case "all":
		if len(args) > 0 {
			return false, errUsage
		}
		err = r.all(cmp.Or(os.Getenv("FUZZ"), "3s"))
	case "unit":
		err = r.unit(args, func() {})
	case "sim":
		if len(args) > 1 {
			return false, errUsage
		}
		err = r.sim(cmp.Or(strings.Join(args, ""), simRuns))
	case "lab":
		err = r.lab(append([]string{"--retries", "1"}, args...)...)
	case "fuzz":
		each, patterns := timed(args, "3s")
		err = r.fuzz(each, patterns)
	case "bench":
		each, patterns := timed(args, "100ms")
		return true, r.bench(each, patterns)
	default:
		return false, errUsage
	}
	if err != nil {
		return false, err
	}
	fmt.Fprintf(out, "\n%s in %s\n", what, time.Since(r.began).Round(time.Second))
	return r.t.report(out), nil
}

// all plays every pass. What runs in guests waits most of its time (for detection, for
// traffic to flow): where the machine has room, two guests run side by side, and the
// simulator and the fuzz targets, which only compute, take what they leave. Elsewhere even
// that starves a guest, and everything comes one after the other.
func (r *runner) all(fuzz string) error {
	round, err := uml.Round()
	if err != nil { // what needs guests will say so itself
		r.say("%v: everything one after the other", err)
		round = uml.Roomy + 1
	}
	var text bytes.Buffer
	computing := *r
	compute := func() error { return errors.Join(computing.sim(simRuns), computing.fuzz(fuzz, nil)) }
	lab := func(guests, retries string) error {
		within := max(labTime, suiteTime-time.Since(r.began)).Round(time.Second).String()
		return r.lab("--slowest", slowest, "--within", within, "--guests", guests, "--retries", retries)
	}
	if round > uml.Roomy {
		r.say("a stop of a traced process and a page fault take %s: everything one after the other", round)
		return errors.Join(r.unit(nil, func() {}), compute(), lab("1", "1"))
	}
	computing.out, computing.prefix = &text, leftovers()
	done := make(chan error, 1)
	err = r.unit(nil, func() { go func() { done <- compute() }() })
	err = errors.Join(err, lab("2", "2"), <-done)
	r.out.Write(text.Bytes())
	return err
}

// leftovers is the command under which another one gets only processor time that
// nobody wants (SCHED_IDLE, sched(7)).
func leftovers() []string {
	if _, err := exec.LookPath("chrt"); err != nil {
		return []string{"nice", "-n", "19"}
	}
	return []string{"chrt", "--idle", "0"}
}

// timed splits the arguments of a pass that takes a time and packages.
func timed(args []string, otherwise string) (each string, patterns []string) {
	if len(args) == 0 {
		return otherwise, nil
	}
	return args[0], args[1:]
}

func (r *runner) say(format string, args ...any) {
	fmt.Fprintf(r.out, "\n== %s\n", fmt.Sprintf(format, args...))
}

func (r *runner) command(name string, args ...string) *exec.Cmd {
	argv := append(append(slices.Clone(r.prefix), name), args...)
	cmd := exec.CommandContext(r.ctx, argv[0], argv[1:]...)
	// A terminated `go test` ends its tests; a killed one leaves them behind.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	cmd.Stderr = os.Stderr
	return cmd
}

func (r *runner) goOutput(args ...string) (string, error) {
	out, err := r.command(r.goCmd, args...).Output()
	if err != nil {
		return "", fmt.Errorf("run %s %s: %w", r.goCmd, strings.Join(args, " "), err)
	}
	return string(out), nil
}

// stream runs a command and hands its standard output to read. Its exit status is
// no error: what read learns from the output is.
func (r *runner) stream(cmd *exec.Cmd, read func(io.Reader) error) (exit int, err error) {
	pipe, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return -1, fmt.Errorf("run %s: %w", cmd.Path, err)
	}
	rerr := read(pipe)
	werr := cmd.Wait()
	var status *exec.ExitError
	switch {
	case r.ctx.Err() != nil:
		return -1, fmt.Errorf("run %s: %w", cmd.Path, context.Cause(r.ctx))
	case rerr != nil:
		return -1, rerr
	case werr != nil && !errors.As(werr, &status):
		return -1, fmt.Errorf("run %s: %w", cmd.Path, werr)
	}
	return cmd.ProcessState.ExitCode(), nil
}
