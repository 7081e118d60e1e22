package uml

import (
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// Roomy is the Round beyond which a machine has room for one guest and nothing beside it:
// a virtual machine inside another pays for every fault with a lock that all its
// processors share. Measured: one fleet is up in 31 s, each of two in 230 s.
const Roomy = 15 * time.Microsecond

// Round is the time one stop of a traced process takes on this machine, from letting
// it go to having it stopped again: user-mode Linux pays it at least once for each
// system call, fault and interrupt inside a guest, so it says how fast a guest is.
// Hardware takes 3-10 µs, a nested virtual machine 25-70. The
// smallest of several samples counts: what else runs here only adds to it.
func Round() (time.Duration, error) {
	// Only the thread that began to trace may go on (ptrace(2)).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	path, err := exec.LookPath("true")
	if err != nil {
		return 0, fmt.Errorf("time a traced process: %w", err)
	}
	pid, err := syscall.ForkExec(path, []string{path}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Ptrace: true}})
	if err != nil {
		return 0, fmt.Errorf("time a traced process: %w", err)
	}
	var st syscall.WaitStatus
	defer func() {
		if !st.Exited() && !st.Signaled() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			_, _ = syscall.Wait4(pid, &st, 0, nil)
		}
	}()
	const samples, steps = 20, 100
	var took []time.Duration
	for range samples {
		start := time.Now()
		for range steps {
			if _, err := syscall.Wait4(pid, &st, 0, nil); err != nil {
				return 0, fmt.Errorf("time a traced process: wait: %w", err)
			}
			if !st.Stopped() {
				return 0, fmt.Errorf("time a traced process: %s ended early", path)
			}
			if err := syscall.PtraceSingleStep(pid); err != nil {
				return 0, fmt.Errorf("time a traced process: step: %w", err)
			}
		}
		took = append(took, time.Since(start)/steps)
	}
	return slices.Min(took), nil
}
