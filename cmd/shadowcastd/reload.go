package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
)

// reloads calls reload at every SIGHUP until ctx ends, and tells systemd around it.
func reloads(ctx context.Context, reload func()) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
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
