package uml

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// User-mode Linux is two processes that take turns at every system call of the
// guest. On one processor a turn is a context switch, on two it is a wake-up across
// processors: 17 and 80 to 160 us a system call on a virtual machine with two. So
// each guest stays on one.

// ownCPU chooses a processor that no other guest of this machine has taken, the last
// one first, and returns the processors of the calling thread too. ok is false where
// there is no choice. The claim lasts until release.
func ownCPU() (own, all unix.CPUSet, release func(), ok bool) {
	release = func() {}
	if err := unix.SchedGetaffinity(0, &all); err != nil || all.Count() < 2 {
		return own, all, release, false
	}
	last := -1
	for n := len(all)*64 - 1; n >= 0; n-- {
		if !all.IsSet(n) {
			continue
		}
		last = max(last, n)
		// An abstract socket's name is a lock that nobody can leave behind.
		l, err := net.Listen("unix", fmt.Sprintf("@shadowcast-uml-cpu-%d", n))
		if err == nil {
			own.Set(n)
			return own, all, func() { _ = l.Close() }, true
		}
	}
	own.Set(last)
	return own, all, release, true
}
