package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
)

// hangups returns the SIGHUPs from now on: none of them ends the daemon, however early.
func hangups() chan os.Signal {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	return hup
}

// reloads calls reload at every SIGHUP until ctx ends, and tells systemd around it. What
// comes before the daemon is ready waits until then.
func reloads(ctx context.Context, hup chan os.Signal, ready <-chan struct{}, reload func()) error {
	defer signal.Stop(hup)
	select {
	case <-ctx.Done():
		return nil
	case <-ready:
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hup:
		}
		daemon.SdNotify(false, daemon.SdNotifyReloading)
		reload()
		daemon.SdNotify(false, daemon.SdNotifyReady)
	}
}
