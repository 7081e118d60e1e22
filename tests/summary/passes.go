package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// scenarios names the Go test that plays all lab scenarios; shadowlab does that
// here, once.
const scenarios = "^TestScenarios$"

// guests is the package of user-mode Linux guests: what its users test cannot run
// under the race detector there.
const guests = "/tests/uml"

// unit runs the tests with the race detector, then those of packages that need a
// guest without it, one package at a time: two guests would fight for the cores. It
// calls computed once, when only guests are still to come.
func (r *runner) unit(patterns []string, computed func()) error {
	computed = sync.OnceFunc(computed)
	defer computed()
	patterns = orAll(patterns)
	if cc := r.compiler(); cc != "" {
		r.t.note("race detector", result{skipped, "missing capability C compiler: " + cc + " is not installed (Debian package gcc)"})
		return r.test("unit tests without the race detector", patterns, "-p=1")
	}
	if err := r.test("unit tests with the race detector", patterns, "-race"); err != nil {
		return err
	}
	computed()
	users, err := r.guestUsers(patterns)
	if err != nil || len(users) == 0 {
		return err
	}
	return r.test("tests that may need a user-mode Linux guest, without the race detector", users, "-p=1")
}

func orAll(patterns []string) []string {
	if len(patterns) == 0 {
		return []string{"./..."}
	}
	return patterns
}

// compiler names the C compiler that the race detector lacks, "" if it is there.
func (r *runner) compiler() string {
	out, err := r.goOutput("env", "CC")
	cc := strings.Fields(out)
	if err != nil || len(cc) == 0 {
		return "cc"
	}
	if _, err := exec.LookPath(cc[0]); err != nil {
		return cc[0]
	}
	return ""
}

func (r *runner) test(what string, patterns []string, flags ...string) error {
	r.say("%s", what)
	// make lint vets.
	args := append([]string{"test", "-json", "-count=1", "-vet=off", "-timeout=12m", "-skip=" + scenarios}, flags...)
	args = append(append(args, r.flags...), patterns...)
	cmd := r.command(r.goCmd, args...)
	if slices.Contains(flags, "-race") {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	}
	g, before := newGoTest(r.t, r.out, r.module), len(r.t.names(failed))
	exit, err := r.stream(cmd, g.read)
	if err == nil && exit != 0 && len(r.t.names(failed)) == before {
		r.t.note("go "+strings.Join(args, " "), result{failed, fmt.Sprintf("exit status %d", exit)})
	}
	return err
}

// pkg is what `go list -json` says of a package.
type pkg struct {
	Dir, ImportPath                                      string
	TestGoFiles, XTestGoFiles, TestImports, XTestImports []string
}

func (r *runner) list(patterns []string) ([]pkg, error) {
	out, err := r.goOutput(append([]string{"list", "-json=Dir,ImportPath,TestGoFiles,XTestGoFiles,TestImports,XTestImports"}, patterns...)...)
	if err != nil {
		return nil, err
	}
	var ps []pkg
	for d := json.NewDecoder(strings.NewReader(out)); ; {
		var p pkg
		switch err := d.Decode(&p); err {
		case nil:
			ps = append(ps, p)
		case io.EOF:
			return ps, nil
		default:
			return nil, fmt.Errorf("read the list of packages: %w", err)
		}
	}
}

// guestUsers are the packages whose tests know how to run in a guest.
func (r *runner) guestUsers(patterns []string) ([]string, error) {
	ps, err := r.list(patterns)
	var out []string
	for _, p := range ps {
		imports := append(append([]string{p.ImportPath}, p.TestImports...), p.XTestImports...)
		for _, i := range imports {
			if i == r.module+guests {
				out = append(out, p.ImportPath)
				break
			}
		}
	}
	return out, err
}

// target is a function of a test file.
type target struct{ dir, pkg, name string }

var (
	fuzzFunc  = regexp.MustCompile(`(?m)^func (Fuzz[A-Z]\w*)\(`)
	benchFunc = regexp.MustCompile(`(?m)^func (Benchmark[A-Z]\w*)\(`)
)

// targets finds functions in test files by reading them: asking the test binaries
// would boot guests.
func (r *runner) targets(form *regexp.Regexp, patterns []string) ([]target, error) {
	ps, err := r.list(orAll(patterns))
	if err != nil {
		return nil, err
	}
	var out []target
	for _, p := range ps {
		for _, f := range append(p.TestGoFiles, p.XTestGoFiles...) {
			b, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				return nil, fmt.Errorf("look for targets: %w", err)
			}
			for _, m := range form.FindAllSubmatch(b, -1) {
				out = append(out, target{p.Dir, p.ImportPath, string(m[1])})
			}
		}
	}
	return out, nil
}

// fuzz runs every fuzz target for the given time.
func (r *runner) fuzz(each string, patterns []string) error {
	if each == "0" || each == "0s" {
		return nil
	}
	ts, err := r.targets(fuzzFunc, patterns)
	if err != nil {
		return err
	}
	r.say("%d fuzz targets, %s each", len(ts), each)
	for _, t := range ts {
		if err := r.fuzzTarget(t, each); err != nil {
			return err
		}
	}
	return nil
}

// fuzzPlays is how often a target is played whose run ended by coordinatorRace.
const fuzzPlays = 3

// fuzzTarget runs one fuzz target and notes its verdict.
func (r *runner) fuzzTarget(t target, each string) error {
	name := strings.TrimPrefix(strings.TrimPrefix(t.pkg, r.module), "/") + " " + t.name
	for play := 1; ; play++ {
		var out bytes.Buffer
		cmd := r.command(r.goCmd, "test", "-run=^$", "-fuzz=^"+t.name+"$", "-fuzztime="+each, "-timeout=10m", t.pkg)
		exit, err := r.stream(cmd, func(p io.Reader) error {
			_, err := io.Copy(&out, p)
			return err
		})
		if err != nil {
			return err
		}
		switch {
		case exit == 0:
			fmt.Fprintf(r.out, "ok   %-44s %s\n", name, lastFuzzLine(out.String()))
			r.t.note(name+" (fuzz)", result{verdict: passed})
			return nil
		case coordinatorRace(out.String()) && play < fuzzPlays:
			fmt.Fprintf(r.out, "once more: %s: no input failed, Go's fuzzer took the end of its time for a failure (go.dev/issue/75804)\n", name)
		default:
			fmt.Fprintf(r.out, "FAIL %s\n%s", name, out.String())
			r.t.note(name+" (fuzz)", result{failed, fmt.Sprintf("exit status %d", exit)})
			return nil
		}
	}
}

// raceAlone is all that a target says of itself when Go's fuzzer, before 1.27, sees the
// deadline of -fuzztime before its workers' context does (go.dev/issue/75804).
var raceAlone = regexp.MustCompile(`(?m)^--- FAIL: Fuzz\w+ \([0-9.]+s\)\n    context deadline exceeded\nFAIL$`)

// coordinatorRace reports whether a failed run of a target says nothing of the target: a
// finding names its input, or the test that failed.
func coordinatorRace(out string) bool {
	return raceAlone.MatchString(out) && strings.Count(out, "--- FAIL") == 1 && !strings.Contains(out, "Failing input")
}

// lastFuzzLine is the last progress line: time, executions, new inputs.
func lastFuzzLine(out string) string {
	last := ""
	for l := range strings.Lines(out) {
		if s, ok := strings.CutPrefix(l, "fuzz: elapsed: "); ok {
			last = strings.TrimSpace(s)
		}
	}
	return last
}

// shadowlab is what `make build` makes; test.sh builds it.
const shadowlab = "bin/shadowlab"

var verdicts = map[string]verdict{"PASS": passed, "FAIL": failed, "SKIP": skipped}

// lab plays scenarios, with more arguments for shadowlab.
func (r *runner) lab(args ...string) error {
	r.say("lab scenarios")
	n := 0
	exit, err := r.stream(r.command(shadowlab, append([]string{"run"}, args...)...), func(p io.Reader) error {
		s := bufio.NewScanner(p)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			fmt.Fprintln(r.out, s.Text())
			if name, v, ok := parseVerdict(s.Text()); ok {
				n++
				r.t.note("lab "+name, v)
			}
		}
		return s.Err()
	})
	if err == nil && (n == 0 || exit > 1 || exit < 0) {
		r.t.note("lab", result{failed, fmt.Sprintf("shadowlab ended with status %d after %d scenarios", exit, n)})
	}
	return err
}

var seconds = regexp.MustCompile(`^\s*[0-9.]+ s\s*`)

// parseVerdict reads a result line of shadowlab (lab.Result.Line):
// "SKIP name   1.2 s  [scene ...]  reason".
func parseVerdict(line string) (name string, r result, ok bool) {
	word, rest, _ := strings.Cut(line, " ")
	v, known := verdicts[word]
	if !known {
		return "", result{}, false
	}
	name, rest, _ = strings.Cut(strings.TrimSpace(rest), " ")
	at := seconds.FindString(rest)
	if name == "" || at == "" {
		return "", result{}, false
	}
	reason := strings.TrimSpace(rest[len(at):])
	if i := strings.LastIndex(reason, "]  "); i >= 0 {
		reason = reason[i+3:]
	} else if strings.HasSuffix(reason, "]") {
		reason = ""
	}
	if v == passed {
		reason = ""
	}
	return name, result{v, strings.TrimSpace(reason)}, true
}

// bench runs every benchmark of every package that has some.
func (r *runner) bench(each string, patterns []string) error {
	ts, err := r.targets(benchFunc, patterns)
	if err != nil {
		return err
	}
	done, bad := map[string]bool{}, 0
	for _, t := range ts {
		if done[t.pkg] {
			continue
		}
		done[t.pkg] = true
		r.say("%s, %s each", strings.TrimPrefix(strings.TrimPrefix(t.pkg, r.module), "/"), each)
		exit, err := r.stream(r.command(r.goCmd, "test", "-run=^$", "-bench=.", "-benchtime="+each, "-timeout=10m", t.pkg), func(p io.Reader) error {
			_, err := readBench(p, r.out)
			return err
		})
		if err != nil {
			return err
		}
		if exit != 0 {
			bad++
		}
	}
	if bad > 0 {
		return fmt.Errorf("benchmarks of %d packages failed", bad)
	}
	return nil
}
