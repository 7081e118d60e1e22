package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// watchdog tells systemd that the daemon works as long as pulse, which asks the
// core loop, is answered in time. Without WatchdogSec it waits for ctx only.
func watchdog(ctx context.Context, log *slog.Logger, pulse func(context.Context) error) error {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("read the watchdog's interval: %w", err)
	}
	if limit == 0 {
		<-ctx.Done()
		return nil
	}
	every := limit / 3
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		ask, cancel := context.WithTimeout(ctx, every)
		err := pulse(ask)
		cancel()
		if err == nil {
			_, err = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		}
		if err != nil && ctx.Err() == nil {
			log.Warn("the core did not answer the watchdog", "err", err)
		}
	}
}
