package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const module = "example.org/m"

// play reads lines as the output of one `go test -json`.
func play(t *tally, lines ...string) string {
	var out bytes.Buffer
	g := newGoTest(t, &out, module)
	if err := g.read(strings.NewReader(strings.Join(lines, "\n"))); err != nil {
		panic(err)
	}
	return out.String()
}

func TestPassesMerge(t *testing.T) {
	tl := newTally()
	out := play(tl,
		`{"Action":"start","Package":"example.org/m/a"}`,
		`{"Action":"output","Package":"example.org/m/a","Test":"TestKernel","Output":"=== RUN   TestKernel\n"}`,
		`{"Action":"output","Package":"example.org/m/a","Test":"TestKernel","Output":"    k_test.go:12: missing capability ESP\n"}`,
		`{"Action":"output","Package":"example.org/m/a","Test":"TestKernel","Output":"--- SKIP: TestKernel (0.00s)\n"}`,
		`{"Action":"skip","Package":"example.org/m/a","Test":"TestKernel"}`,
		`{"Action":"skip","Package":"example.org/m/a","Test":"TestNever"}`,
		`{"Action":"pass","Package":"example.org/m/a","Test":"TestPure"}`,
		`{"Action":"pass","Package":"example.org/m/a","Elapsed":1.5}`,
		`{"Action":"skip","Package":"example.org/m/none"}`,
		`go: warning`)
	for _, want := range []string{"ok   a ", "1 passed, 2 skipped", "go: warning"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	play(tl, `{"Action":"pass","Package":"example.org/m/a","Test":"TestKernel"}`, `{"Action":"pass","Package":"example.org/m/a"}`)
	var rep bytes.Buffer
	if !tl.report(&rep) {
		t.Error("reported as failed")
	}
	want := "\nskipped:\n  no reason given\n    a TestNever\n\n2 passed, 0 failed, 1 skipped\n"
	if rep.String() != want {
		t.Errorf("got %q, want %q", rep.String(), want)
	}
}

func TestFailures(t *testing.T) {
	tl := newTally()
	out := play(tl,
		`{"Action":"output","Package":"example.org/m/a","Test":"TestX","Output":"    x_test.go:3: boom\n"}`,
		`{"Action":"fail","Package":"example.org/m/a","Test":"TestX"}`,
		`{"Action":"fail","Package":"example.org/m/a"}`,
		`{"ImportPath":"example.org/m/b","Action":"build-output","Output":"b.go:1: syntax error\n"}`,
		`{"ImportPath":"example.org/m/b","Action":"build-fail"}`,
		`{"Action":"fail","Package":"example.org/m/b","FailedBuild":"example.org/m/b"}`)
	for _, want := range []string{"FAIL a TestX", "boom", "syntax error"} {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
	tl.note("a TestX", result{verdict: passed}) // another pass does not heal it
	var rep bytes.Buffer
	if tl.report(&rep) {
		t.Error("reported as passed")
	}
	if !strings.HasSuffix(rep.String(), "\n0 passed, 2 failed, 0 skipped\n") || !strings.Contains(rep.String(), "b: the package failed") {
		t.Errorf("report:\n%s", rep.String())
	}
}

func TestNothingRunIsNoSuccess(t *testing.T) {
	var rep bytes.Buffer
	if newTally().report(&rep) {
		t.Error("reported as passed")
	}
}

func TestSkipReason(t *testing.T) {
	for _, tc := range []struct {
		lines []string
		want  string
	}{
		{nil, ""},
		{[]string{"    a_test.go:1: first\n", "    need.go:56: missing capability ESP+plug\n"}, "missing capability ESP+plug"},
		{[]string{"noise without a position\n"}, ""},
	} {
		if got := skipReason(tc.lines); got != tc.want {
			t.Errorf("%q: %q, want %q", tc.lines, got, tc.want)
		}
	}
}

func TestParseVerdict(t *testing.T) {
	for _, tc := range []struct {
		line, name, reason string
		v                  verdict
	}{
		{"PASS baseline                            9.2 s  [control: lost 0/5000]", "baseline", "", passed},
		{"FAIL fleet                              66.2 s  [control: lost 1/500]  control: 1 of 500 packets lost", "fleet", "control: 1 of 500 packets lost", failed},
		{"FAIL fleet                              66.2 s  build lab: no", "fleet", "build lab: no", failed},
		{"SKIP baseline-nat                        0.0 s  missing capability ESP", "baseline-nat", "missing capability ESP", skipped},
		{"3 scenarios: 1 passed, 1 failed, 1 skipped", "", "", 0},
		{"PASS", "", "", 0},
	} {
		name, r, ok := parseVerdict(tc.line)
		if ok != (tc.v != 0) || name != tc.name || r.verdict != tc.v || r.reason != tc.reason {
			t.Errorf("%q: %q %+v %t", tc.line, name, r, ok)
		}
	}
}

func TestCoordinatorRace(t *testing.T) {
	const progress = "fuzz: elapsed: 3s, execs: 27799 (9265/sec), new interesting: 2 (total: 24)\n"
	for name, tc := range map[string]struct {
		out  string
		want bool
	}{
		"the race":                       {progress + "--- FAIL: FuzzOpen (4.02s)\n    context deadline exceeded\nFAIL\nexit status 1\nFAIL\texample.org/m/peer\t4.031s\n", true},
		"an input failed":                {progress + "--- FAIL: FuzzOpen (0.02s)\n    --- FAIL: FuzzOpen (0.00s)\n        open_test.go:9: boom\n    \n    Failing input written to testdata/fuzz/FuzzOpen/1\nFAIL\n", false},
		"an input failed, then the race": {progress + "    Failing input written to testdata/fuzz/FuzzOpen/1\n--- FAIL: FuzzOpen (4.02s)\n    context deadline exceeded\nFAIL\n", false},
		"the target's own deadline":      {progress + "--- FAIL: FuzzOpen (4.02s)\n    open_test.go:9: context deadline exceeded\nFAIL\n", false},
		"a seed failed":                  {"--- FAIL: FuzzOpen (0.02s)\n    --- FAIL: FuzzOpen/seed#0 (0.00s)\n        open_test.go:9: context deadline exceeded\nFAIL\n", false},
		"no tests":                       {"FAIL\texample.org/m/peer [build failed]\n", false},
	} {
		if got := coordinatorRace(tc.out); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestFuzzPlays has a go command whose fuzzer meets the race for some plays.
func TestFuzzPlays(t *testing.T) {
	for races, want := range []verdict{passed, passed, passed, failed} {
		dir := t.TempDir()
		script := fmt.Sprintf(`#!/bin/sh
echo play >> %[1]s/plays
[ $(wc -l < %[1]s/plays) -gt %[2]d ] && exit 0
printf -- '--- FAIL: FuzzX (4.02s)\n    context deadline exceeded\nFAIL\n'
exit 1
`, dir, races)
		if err := os.WriteFile(filepath.Join(dir, "go"), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		r := &runner{ctx: t.Context(), out: &out, t: newTally(), goCmd: filepath.Join(dir, "go"), module: module}
		if err := r.fuzzTarget(target{pkg: module + "/a", name: "FuzzX"}, "1s"); err != nil {
			t.Fatal(err)
		}
		if got := r.t.results["a FuzzX (fuzz)"].verdict; got != want {
			t.Errorf("%d races: verdict %d, want %d:\n%s", races, got, want, out.String())
		}
		if n := strings.Count(out.String(), "once more"); n != min(races, fuzzPlays-1) {
			t.Errorf("%d races: %d told:\n%s", races, n, out.String())
		}
	}
}

func TestRatios(t *testing.T) {
	const in = `goos: linux
BenchmarkAdopt/10-2         	     100	     2000 ns/op	     12 B/op	       3 allocs/op
BenchmarkAdopt/1000-2       	     100	     2500.0 ns/op
BenchmarkSend-2             	     100	     10.5 ns/op	  99 MB/s
PASS
`
	var out bytes.Buffer
	n, err := readBench(strings.NewReader(in), &out)
	if err != nil || n != 3 {
		t.Fatal(n, err)
	}
	for _, want := range []string{"1.00 x  12 B/op", "  1.25 x", "Send ", "99 MB/s"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output lacks %q:\n%s", want, out.String())
		}
	}
	if strings.Count(out.String(), " x") != 2 {
		t.Errorf("a benchmark without variants has no ratio:\n%s", out.String())
	}
}

func TestFigures(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	const report = `{"command":"shadowlab demo","began":"2026-01-02T03:04:05Z","mode":"native","cpus":2,"bfd":"200 ms x 3","versions":{"kernel":"Linux 6.1","strongswan":"5.9.8"},
"scenes":[{"name":"power-cut","title":"power cut of ams","sent":100,"lost":7,"outage_ms":312.4,"detection_ms":250,"outage_up_ms":401,"up":{"max_gap_ms":402.4},"down":{"max_gap_ms":313},"session_kept":true,"inner_address_kept":true},
{"name":"power-cut-unshadowed","title":"without shadowing","sent":100,"lost":93,"outage_ms":-1,"client_ike_sa_inits":1}]}`
	if err := os.WriteFile(path, []byte(report), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := figures(path, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"`shadowlab demo` on 2026-01-02: native, 2 CPU, Linux 6.1, strongSwan 5.9.8, BFD 200 ms x 3.",
		"| power cut of ams | 100 | 7 | 312 ms | 250 ms | 401 ms | 402 ms | 0 | yes | yes |",
		"| without shadowing | 100 | 93 | did not end |  |  |  | 1 | no | no |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("output lacks %q:\n%s", want, out.String())
		}
	}
	if err := figures(path+".none", &out); err == nil {
		t.Error("a report that is not there was read")
	}
}
