package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// notifySocket is where systemd would hear the daemon.
func notifySocket(t *testing.T) *net.UnixConn {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return conn
}

// While the core answers, systemd hears of it; while it does not, it hears nothing.
func TestWatchdog(t *testing.T) {
	conn := notifySocket(t)
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))

	var frozen atomic.Bool
	asked := make(chan struct{}, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- watchdog(ctx, slog.New(slog.DiscardHandler), func(ctx context.Context) error {
			asked <- struct{}{}
			if frozen.Load() {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
	}()
	heard := func(patience time.Duration) bool {
		b := make([]byte, 64)
		conn.SetReadDeadline(time.Now().Add(patience))
		n, err := conn.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		if err != nil || string(b[:n]) != "WATCHDOG=1" {
			t.Fatalf("systemd heard %q, %v", b[:n], err)
		}
		return true
	}
	for range 3 {
		if !heard(10 * time.Second) {
			t.Fatal("nothing was heard of a core that answers")
		}
	}
	frozen.Store(true)
	for range cap(asked) { // pulses of before may be under way
		select {
		case <-asked:
			continue
		default:
		}
		break
	}
	<-asked
	<-asked
	for heard(time.Millisecond) {
	}
	for range 3 {
		<-asked
	}
	if heard(time.Millisecond) {
		t.Error("systemd was told that a frozen core works")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Without systemd it waits for the end and asks nothing.
func TestNoWatchdog(t *testing.T) {
	t.Setenv("WATCHDOG_USEC", "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := watchdog(ctx, slog.New(slog.DiscardHandler), func(context.Context) error { t.Error("the core was asked"); return nil })
	if err != nil {
		t.Error(err)
	}
}

// A stop that drains may take longer than the unit allows.
func TestStoppingExtendsTheTimeout(t *testing.T) {
	conn := notifySocket(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := stopping(ctx, t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 200)
	n, err := conn.Read(b)
	if want := "STOPPING=1\nEXTEND_TIMEOUT_USEC=3720000000"; err != nil || string(b[:n]) != want {
		t.Errorf("%q, %v, want %q", b[:n], err, want)
	}
}
