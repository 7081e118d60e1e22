// Command summary runs the project's tests and counts them.
//
// It owns the order of the passes (unit tests with the race detector, those of
// them that need a user-mode Linux guest once more without it, lab scenarios,
// short fuzz runs), the merging of their results, and the last line of the
// output. It decides nothing about a test: what fails, fails there. scripts/test.sh,
// scripts/fuzz.sh and scripts/bench.sh call it. Besides, it turns the demo's report
// into the table of the README.
//
// Data flow: child process -> stdout, line by line (`go test -json`, the verdicts
// of shadowlab, benchmark lines) -> tally -> report on stdout.
//
// A test that a pass had to skip and another one ran has run: the race detector
// does not fit a user-mode Linux guest, so what needs the guest runs without it.
// What is still skipped at the end is listed with the reason that the test gave.
package main
