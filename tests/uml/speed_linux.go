package uml

import (
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Roomy is the Round up to which two guests and a compiler are let run side by side.
// Measured: where it is 8 us a fleet alone is up and through its scenario in 24 s. On a
// virtual machine inside another, where a page fault alone takes more than 10 us, the
// same took 64 s, and each of two beside the fuzz targets needed 230 s only to come up.
// Where between the two the limit lies has not been measured.
const Roomy = 15 * time.Microsecond

// side is how many guests Round has in mind: as many as run side by side where there is
// room. Processors that share a lock for page faults show it only when both fault.
const side = 2

// Round is what user-mode Linux pays for each system call of a guest on this machine:
// one stop of a traced process at a system call, from letting it go to having it
// stopped again, and one page fault, while another processor does the same. It says how
// fast guests are. Of several samples the lower quartile counts: what else runs here
// only adds to it. Single steps say nothing: a machine was found where one takes ten
// times as long as the stops that user-mode Linux uses.
func Round() (time.Duration, error) {
	var took [side]time.Duration
	var errs [side]error
	var g sync.WaitGroup
	for i := range side {
		g.Go(func() { took[i], errs[i] = round() })
	}
	g.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, fmt.Errorf("time a traced process: %w", err)
		}
	}
	return slices.Max(took[:]), nil
}

func round() (time.Duration, error) {
	const samples, steps = 24, 100
	page := syscall.Getpagesize()
	// Only the thread that began to trace may go on (ptrace(2)).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	path, err := exec.LookPath("dd")
	if err != nil {
		return 0, err
	}
	// Two system calls for each byte, each of which stops it twice: more than are waited for.
	argv := []string{path, "if=/dev/zero", "of=/dev/null", "bs=1", "count=" + strconv.Itoa(samples*steps), "status=none"}
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Ptrace: true}})
	if err != nil {
		return 0, err
	}
	var st syscall.WaitStatus
	defer func() {
		if !st.Exited() && !st.Signaled() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			_, _ = syscall.Wait4(pid, &st, 0, nil)
		}
	}()
	var took []time.Duration
	for range samples {
		start := time.Now()
		for range steps {
			if _, err := syscall.Wait4(pid, &st, 0, nil); err != nil {
				return 0, fmt.Errorf("wait: %w", err)
			}
			if !st.Stopped() {
				return 0, fmt.Errorf("%s ended early", path)
			}
			if err := syscall.PtraceSyscall(pid, 0); err != nil {
				return 0, fmt.Errorf("let it go: %w", err)
			}
		}
		stops := time.Since(start)
		fresh, err := syscall.Mmap(-1, 0, steps*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
		if err != nil {
			return 0, fmt.Errorf("map pages: %w", err)
		}
		start = time.Now()
		for i := range steps {
			fresh[i*page] = 1
		}
		took = append(took, (stops+time.Since(start))/steps)
		if err := syscall.Munmap(fresh); err != nil {
			return 0, fmt.Errorf("unmap pages: %w", err)
		}
	}
	slices.Sort(took)
	return took[samples/4], nil
}
