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

// withdrawTime is what ending takes beside stop_drain: the routers, the last packets.
const withdrawTime = 2 * time.Minute

// stopping tells systemd, when ctx ends, how long the daemon may take now: stop_drain may
// be longer than the unit's TimeoutStopSec. It returns when work is over.
func stopping(ctx, work context.Context, stopDrain time.Duration) error {
	select {
	case <-ctx.Done():
		daemon.SdNotify(false, daemon.SdNotifyStopping+"\n"+fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", (stopDrain+withdrawTime).Microseconds()))
	case <-work.Done():
	}
	return nil
}
