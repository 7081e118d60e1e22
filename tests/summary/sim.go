package main

import (
	"bufio"
	"fmt"
	"io"
	"strings"
)

// sim plays seeded runs of the decision core in virtual time. They count as one.
func (r *runner) sim(runs string) error {
	r.say("simulator: %s runs", runs)
	last := ""
	exit, err := r.stream(r.command(r.goCmd, "run", "./tests/sim", "-runs", runs), func(in io.Reader) error {
		s := bufio.NewScanner(in)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			last = s.Text()
			fmt.Fprintln(r.out, last)
		}
		return s.Err()
	})
	if err != nil {
		return err
	}
	if exit != 0 || !strings.HasPrefix(last, "sim: ") {
		r.t.note("simulator", result{failed, fmt.Sprintf("exit status %d: %s", exit, last)})
		return nil
	}
	r.t.note("simulator", result{passed, ""})
	return nil
}
