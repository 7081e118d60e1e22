package main

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// measure is one line of a benchmark.
type measure struct {
	name string // without "Benchmark" and the number of processors
	rest string // what go printed after the number of rounds
	ns   float64
}

var benchLine = regexp.MustCompile(`^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+([0-9.]+) ns/op(.*)$`)

func parseBench(line string) (measure, bool) {
	m := benchLine.FindStringSubmatch(strings.TrimRight(line, "\r\n"))
	if m == nil {
		return measure{}, false
	}
	ns, err := strconv.ParseFloat(m[2], 64)
	return measure{name: m[1], rest: strings.Join(strings.Fields(m[3]), " "), ns: ns}, err == nil
}

// readBench copies the figures of one run of `go test -bench` and adds, within
// each benchmark that has variants, their ratio to the first one. Absolute figures
// say something about the machine, ratios about the code.
func readBench(r io.Reader, w io.Writer) (n int, err error) {
	first := map[string]measure{}
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		m, ok := parseBench(s.Text())
		if !ok {
			if t := s.Text(); strings.HasPrefix(t, "---") || strings.HasPrefix(t, "FAIL") || strings.HasPrefix(t, "panic") {
				fmt.Fprintln(w, t)
			}
			continue
		}
		n++
		line := fmt.Sprintf("  %-48s %14.1f ns/op", m.name, m.ns)
		if group, _, variants := strings.Cut(m.name, "/"); variants {
			if f, ok := first[group]; !ok {
				first[group] = m
				line += "   1.00 x"
			} else {
				line += fmt.Sprintf(" %6.2f x", m.ns/f.ns)
			}
		}
		if m.rest != "" {
			line += "  " + m.rest
		}
		fmt.Fprintln(w, line)
	}
	if err := s.Err(); err != nil {
		return n, fmt.Errorf("read benchmark output: %w", err)
	}
	return n, nil
}
