package slot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/sa"
)

// onThread runs f on a thread of its own, which dies afterwards: a thread that
// changed namespace must not be used again.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// inNetns runs f inside the network namespace ns.
func inNetns(ns *os.File, f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return f()
	})
}

// openNetns opens the named namespace, making it where it does not exist.
func openNetns(path string) (ns *os.File, created bool, err error) {
	if isNetns(path) {
		ns, err = os.Open(path)
		if err != nil {
			return nil, false, fmt.Errorf("open network namespace: %w", err)
		}
		return ns, false, nil
	}
	// What a crash between creating the file and mounting left, or nothing.
	if err := removeNetns(path); err != nil {
		return nil, false, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, false, fmt.Errorf("create network namespace: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return nil, false, fmt.Errorf("create network namespace: %w", err)
	}
	f.Close()
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("create network namespace: %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount network namespace on %s: %w", path, err)
		}
		return nil
	})
	if err == nil {
		ns, err = os.Open(path)
	}
	if err != nil {
		return nil, false, errors.Join(err, removeNetns(path))
	}
	return ns, true, nil
}

func isNetns(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// removeNetns removes the name. The namespace itself goes with the last
// process in it.
func removeNetns(path string) error {
	if isNetns(path) {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount network namespace %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove network namespace: %w", err)
	}
	return nil
}

// listNetns returns the slots that have a name in /run/netns.
func (c *Config) listNetns() ([]sa.Slot, error) {
	es, err := os.ReadDir(netnsDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	var out []sa.Slot
	for _, e := range es {
		if n, ok := numbered(e.Name(), c.NetnsPrefix); ok {
			out = append(out, n)
		}
	}
	return out, nil
}
