package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// event is one line of `go test -json` (cmd/test2json) or of the build before it.
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Output     string
	Elapsed    float64 // seconds
}

// goTest reads one run of `go test -json`.
type goTest struct {
	t      *tally
	w      io.Writer
	module string // prefix cut off package names

	output map[string][]string // by test, until it ends
	counts map[string]map[verdict]int
}

func newGoTest(t *tally, w io.Writer, module string) *goTest {
	return &goTest{t: t, w: w, module: module, output: map[string][]string{}, counts: map[string]map[verdict]int{}}
}

// read consumes r to its end. What is no event is passed on: it comes from go itself.
func (g *goTest) read(r io.Reader) error {
	br := bufio.NewReaderSize(r, 1<<16)
	for {
		line, err := br.ReadString('\n')
		if line != "" {
			var e event
			if strings.HasPrefix(line, "{") && json.Unmarshal([]byte(line), &e) == nil && e.Action != "" {
				g.event(e)
			} else {
				fmt.Fprint(g.w, line)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read test events: %w", err)
		}
	}
}

func (g *goTest) short(pkg string) string {
	return strings.TrimPrefix(strings.TrimPrefix(pkg, g.module), "/")
}

func (g *goTest) event(e event) {
	pkg := g.short(e.Package)
	key := pkg
	if e.Test != "" {
		key += " " + e.Test
	}
	switch e.Action {
	case "build-output":
		fmt.Fprint(g.w, e.Output)
	case "output":
		if keep(e.Output) {
			g.output[key] = append(g.output[key], e.Output)
		}
	case "pass", "fail", "skip":
		if e.Test == "" {
			g.packageEnds(pkg, e)
		} else {
			g.testEnds(pkg, key, e)
		}
		delete(g.output, key)
	}
}

// keep leaves out the frames around tests.
func keep(s string) bool {
	for _, frame := range []string{"=== ", "--- ", "PASS", "FAIL"} {
		if strings.HasPrefix(strings.TrimLeft(s, " "), frame) {
			return false
		}
	}
	return true
}

func (g *goTest) testEnds(pkg, key string, e event) {
	r := result{verdict: passed}
	switch e.Action {
	case "fail":
		r.verdict = failed
		fmt.Fprintf(g.w, "FAIL %s\n%s", key, strings.Join(g.output[key], ""))
	case "skip":
		r.verdict, r.reason = skipped, skipReason(g.output[key])
	}
	if g.counts[pkg] == nil {
		g.counts[pkg] = map[verdict]int{}
	}
	g.counts[pkg][r.verdict]++
	g.t.note(key, r)
}

// packageEnds records what no test stands for: a package that does not compile,
// panics, or runs out of time.
func (g *goTest) packageEnds(pkg string, e event) {
	c := g.counts[pkg]
	switch {
	case e.Action == "skip": // no test files
		return
	case e.Action == "fail" && c[failed] == 0:
		g.t.note(pkg, result{failed, "the package failed outside its tests (build, panic, TestMain or timeout)"})
		fmt.Fprintf(g.w, "FAIL %s\n%s", pkg, strings.Join(g.output[pkg], ""))
	}
	word := "ok  "
	if e.Action == "fail" {
		word = "FAIL"
	}
	line := fmt.Sprintf("%s %-36s %6.1f s  %d passed", word, pkg, e.Elapsed, c[passed])
	for _, x := range []struct {
		v    verdict
		text string
	}{{failed, "failed"}, {skipped, "skipped"}} {
		if n := c[x.v]; n > 0 {
			line += fmt.Sprintf(", %d %s", n, x.text)
		}
	}
	fmt.Fprintln(g.w, line)
}

// position is what testing writes before a message: file and line.
var position = regexp.MustCompile(`^\s*\S+\.go:\d+: `)

// skipReason is the last message that a skipped test logged.
func skipReason(lines []string) string {
	for i := len(lines) - 1; i >= 0; i-- {
		if at := position.FindString(lines[i]); at != "" {
			return strings.TrimSpace(lines[i][len(at):])
		}
	}
	return ""
}
