package charon

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDialBusy dials a socket whose backlog is full, as that of a charon which has
// just started: it is waited for, not an error.
func TestDialBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vici")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		var c net.Conn
		if c, err = net.Dial("unix", path); err == nil {
			defer c.Close()
		}
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Fatalf("dial with a full backlog: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := dialVici(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("busy all the time: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		c, err := dialVici(t.Context(), path)
		if err == nil {
			c.close()
		}
		done <- err
	}()
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("busy for a moment: %v", err)
			}
			return
		case <-time.After(time.Millisecond):
			if c, _, err := unix.Accept(fd); err == nil {
				unix.Close(c)
			}
		}
	}
}
