package uml

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

// Need is a set of kernel capabilities.
type Need uint

// The capabilities a test can ask for.
const (
	ESP   Need = 1 << iota // XFRM states with esp4
	IPIP                   // ipip devices, tc tunnel keys
	Netem                  // qdisc netem
	Plug                   // qdisc plug
	BPF                    // bpf(2), clsact
)

var needNames = []struct {
	n    Need
	name string
}{{ESP, "ESP"}, {IPIP, "IPIP"}, {Netem, "netem"}, {Plug, "plug"}, {BPF, "BPF"}}

// String lists the capabilities, "ESP+netem".
func (n Need) String() string {
	var s []string
	for _, x := range needNames {
		if n&x.n != 0 {
			s = append(s, x.name)
		}
	}
	if len(s) == 0 {
		return "none"
	}
	return strings.Join(s, "+")
}

// guestEnv marks the environment of a payload inside the guest.
const guestEnv = "SHADOWCAST_UML"

// InGuest reports whether this process runs inside a guest that Run booted.
func InGuest() bool { return os.Getenv(guestEnv) == "1" }

// Available reports whether this machine can boot user-mode Linux.
func Available() bool {
	_, err := os.Stat(kernel)
	return err == nil
}

// Reachable reports whether Main would find need: in this kernel or in a guest.
func Reachable(need Need) bool {
	return Missing(need) == 0 || !InGuest() && !raceDetector && Available()
}

// Require skips t, naming what is missing, unless the running kernel has need.
// Every test that uses a capability calls it, also where TestMain calls Main: not
// every machine can boot a guest.
func Require(t testing.TB, need Need) {
	t.Helper()
	if m := Missing(need); m != 0 {
		t.Skipf("missing capability %s", m)
	}
}

// Main runs the tests of m inside user-mode Linux, with the same arguments,
// directory and environment, where the running kernel lacks something of need;
// otherwise, and where no guest can be booted (no linux.uml, or a binary with the
// race detector), it runs them here, and those that call Require skip. It does not
// return. It must be the first call of TestMain.
func Main(m *testing.M, need Need) {
	Init()
	missing := Missing(need)
	switch {
	case missing == 0 || InGuest():
		os.Exit(m.Run())
	case raceDetector || !Available():
		why := "no " + kernel
		if raceDetector {
			why = "the race detector cannot run in user-mode linux"
		}
		fmt.Printf("SKIP: missing capability %s, %s: tests that require it skip\n", missing, why)
		os.Exit(m.Run())
	}
	flag.Parse()
	code, err := runSelf()
	if err != nil {
		fmt.Fprintf(os.Stderr, "run tests in user-mode linux: %v\n", err)
		if code == 0 {
			code = 1
		}
	}
	os.Exit(code)
}
