package charon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// instance wraps a process held by pidfd, which it takes over, and starts its
// watcher; Close waits for it.
func (s Spec) instance(pid, pidfd int) (*Instance, error) {
	// Non-blocking, so that the runtime's poller watches it without a thread.
	if err := unix.SetNonblock(pidfd, true); err != nil {
		unix.Close(pidfd)
		return nil, fmt.Errorf("watch pid %d: %w", pid, err)
	}
	i := &Instance{
		spec: s, pid: pid, pidfd: os.NewFile(uintptr(pidfd), "pidfd"),
		done: make(chan struct{}), closed: make(chan struct{}),
	}
	if err := i.pidfd.SetReadDeadline(time.Time{}); err != nil {
		i.pidfd.Close()
		return nil, fmt.Errorf("watch pid %d: pidfd cannot be polled: %w", pid, err)
	}
	go i.watch()
	return i, nil
}

// watch closes done when the process ends, and reaps it where it is our child.
func (i *Instance) watch() {
	defer close(i.closed)
	c, err := i.pidfd.SyscallConn()
	if err != nil {
		return
	}
	var gone bool
	err = c.Read(func(fd uintptr) bool {
		gone = exited(int(fd))
		return gone
	})
	if err != nil || !gone {
		return // Close came first
	}
	_ = c.Control(func(fd uintptr) { reap(int(fd)) })
	close(i.done)
}

// exited reports whether the process of a pidfd has ended.
func exited(fd int) bool {
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err == nil && n > 0 && p[0].Revents&unix.POLLIN != 0
	}
}

// reap collects a child's exit status; ECHILD of an adopted process is expected.
func reap(fd int) {
	for {
		if err := unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED|unix.WNOHANG, nil); !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// PID returns the process id, for Link.SetPeer and logs.
func (i *Instance) PID() int { return i.pid }

// Started returns when the process began; now, where it has ended.
func (i *Instance) Started() time.Time {
	p, err := procfs.NewProc(i.pid)
	if err != nil {
		return time.Now()
	}
	st, err := p.Stat()
	if err != nil {
		return time.Now()
	}
	at, err := st.StartTime()
	if err != nil {
		return time.Now()
	}
	return time.Unix(0, int64(at*float64(time.Second)))
}

// Vici returns the path of the instance's vici socket.
func (i *Instance) Vici() string { return ViciSocket(i.spec.Dir) }

// Done is closed when the process has ended, however it ended.
func (i *Instance) Done() <-chan struct{} { return i.done }

// Alive reports whether the process still runs.
func (i *Instance) Alive() bool {
	select {
	case <-i.done:
		return false
	default:
		return true
	}
}

// Close forgets the process without touching it. Done is closed only if it had
// ended before.
func (i *Instance) Close() error {
	err := i.pidfd.Close()
	<-i.closed
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// signal sends a signal through the pidfd, so never to a stranger.
func (i *Instance) signal(sig unix.Signal) error {
	c, err := i.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := c.Control(func(fd uintptr) { serr = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return err
	}
	if errors.Is(serr, unix.ESRCH) {
		return nil // it ended already
	}
	return serr
}

// Stop ends the process: SIGTERM, and SIGKILL after StopTimeout or when ctx
// ends. An active charon answers SIGTERM by sending DELETE to all clients:
// callers fence and passivate first (rule 5). It waits for the end and removes
// record and socket.
func (i *Instance) Stop(ctx context.Context) error {
	if err := i.signal(unix.SIGTERM); err != nil {
		return fmt.Errorf("stop charon %s: %w", i.spec.Name, err)
	}
	t := time.NewTimer(i.spec.StopTimeout)
	defer t.Stop()
	select {
	case <-i.done:
		return i.cleanup()
	case <-t.C:
	case <-ctx.Done():
	}
	return i.kill()
}

// Kill ends the process with SIGKILL, waits for it and removes record and socket.
// Kernel SAs and policies stay.
func (i *Instance) Kill() error { return i.kill() }

func (i *Instance) kill() error {
	if err := i.signal(unix.SIGKILL); err != nil {
		return fmt.Errorf("kill charon %s: %w", i.spec.Name, err)
	}
	select {
	case <-i.done:
	case <-i.closed: // the watcher ends after done, or because of Close
		if i.Alive() {
			return fmt.Errorf("kill charon %s: instance is closed", i.spec.Name)
		}
	}
	return i.cleanup()
}

// cleanup removes what a killed charon leaves behind.
func (i *Instance) cleanup() error { return i.spec.forget() }
