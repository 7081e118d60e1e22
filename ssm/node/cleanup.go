package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/sa/fabric"
	"github.com/shadowcast/shadowcast/sa/slot"
	"github.com/shadowcast/shadowcast/sa/steer"
)

// CleanUp ends all service of an appliance whose daemon has ended, and removes what that
// left behind, as a reboot would: charons, namespaces with their SAs, fences, steering,
// tunnels and their protection, routes of pools, and what run_dir remembers. Sysctls,
// state_dir and configuration stay. Where a fence stays open, because its sessions are
// nowhere else, nothing is removed unless all is set.
func CleanUp(ctx context.Context, at config.Places, all bool, log *slog.Logger) error {
	socket := config.SocketIn(at.RunDir)
	if c, err := net.Dial("unix", socket); err == nil {
		c.Close()
		return fmt.Errorf("clean up: a daemon answers at %s; stop it first", socket)
	}
	_, open, err := slot.ShutFences(ctx, filepath.Join(at.BPFDir, "slot"), all)
	if len(open) > 0 {
		return errors.Join(err, fmt.Errorf("clean up: slots %v serve here, and no shadow has their sessions: hand them over, or say --all to end these", open))
	}
	if err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	if err := endCharons(ctx, at.RunDir); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	// From here on no slot can go on: a daemon that starts must not believe that one could.
	errs := []error{forgetRoles(at.RunDir)}
	h, err := slot.New(slot.Config{NetnsPrefix: at.NetnsPrefix, PinDir: filepath.Join(at.BPFDir, "slot"), Tunnel: TunnelName, Log: log})
	if err == nil {
		err = errors.Join(h.CleanUp(), h.Close())
	}
	errs = append(errs, err, steer.CleanUp(steer.Config{PinDir: filepath.Join(at.BPFDir, "steer")}))
	// The tunnels' protection goes when they are gone.
	if err = errors.Join(errs...); err == nil {
		err = errors.Join(fabric.CleanUp(ctx, at.RunDir, ""), removeAll(at.RunDir, "slot-*", "fabric", "kmsg.seq", "shadowcast.sock*"))
	}
	for _, d := range []string{"slot", "steer", ""} {
		err = errors.Join(err, removeEmpty(filepath.Join(at.BPFDir, d)))
	}
	if err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	return nil
}

// endCharons ends the charons of all slots, also of those that the configuration does not
// have any more.
func endCharons(ctx context.Context, runDir string) error {
	dirs, err := filepath.Glob(filepath.Join(runDir, "slot-*", "charon.json"))
	if err != nil {
		return fmt.Errorf("look for charons: %w", err)
	}
	var g errgroup.Group
	errs := make([]error, len(dirs))
	for i, d := range dirs {
		g.Go(func() error {
			errs[i] = charon.End(ctx, filepath.Dir(d))
			return nil
		})
	}
	g.Wait()
	return errors.Join(errs...)
}

// forgetRoles removes what a daemon remembers of its slots, its standing and its life.
func forgetRoles(runDir string) error {
	return removeAll(runDir, "slot-*.json", "standing.json", "incarnation")
}

// removeAll removes what in dir has one of the forms.
func removeAll(dir string, forms ...string) error {
	for _, form := range forms {
		found, err := filepath.Glob(filepath.Join(dir, form))
		if err != nil {
			return fmt.Errorf("empty %s: %w", dir, err)
		}
		for _, f := range found {
			if err := os.RemoveAll(f); err != nil {
				return fmt.Errorf("empty %s: %w", dir, err)
			}
		}
	}
	return nil
}

// removeEmpty removes a directory in which nothing is left.
func removeEmpty(dir string) error {
	left, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || len(left) > 0 {
		return nil
	}
	if err == nil {
		err = os.Remove(dir)
	}
	if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) { // a mount point stays
		return fmt.Errorf("remove pin directory: %w", err)
	}
	return nil
}
