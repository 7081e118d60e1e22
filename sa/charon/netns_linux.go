package charon

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// inNetns calls f on an OS thread that lives in the network namespace at path
// ("" is the caller's own) and waits for it. The thread dies afterwards, so
// that no goroutine ever runs in the wrong namespace by accident.
func inNetns(path string, f func() error) error {
	if path == "" {
		return f()
	}
	ns, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer ns.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace %s: %w", path, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// nsIdentity tells network namespaces apart: two paths name the same one
// exactly if device and inode are equal.
func nsIdentity(path string) (dev, ino uint64, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, fmt.Errorf("identify network namespace %s: %w", path, err)
	}
	return uint64(st.Dev), st.Ino, nil
}
