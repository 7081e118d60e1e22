package uml

import (
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// Roomy is the Round up to which two guests and a compiler are let run side by side. A
// virtual machine inside another has no room for that: measured where Round is 28 to
// 37 us, one fleet alone was up in 31 s, each of two, beside the fuzz targets, in 230 s.
// Where between there and a machine of its own the limit lies has not been measured.
const Roomy = 15 * time.Microsecond

// Round is the time one stop of a traced process takes on this machine, from letting
// it go to having it stopped again: user-mode Linux pays it at least once for each
// system call, fault and interrupt inside a guest, so it says how fast a guest is.
// The smallest of several samples counts: what else runs here only adds to it.
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
