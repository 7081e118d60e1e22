package slot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cilium/ebpf"

	"github.com/shadowcast/shadowcast/sa"
)

// What is done about slots while no daemon runs: before its start and after its end.

// ShutFences closes fences by their pins in pinDir. One with a deadline, whose slot
// has a ready shadow, serves until the deadline and is then closed for good. One
// without stays open, because its sessions are nowhere else, unless all is set:
// then every fence is closed at once. It returns the slots that it closed and those
// that are still open.
func ShutFences(ctx context.Context, pinDir string, all bool) (shut, open []sa.Slot, err error) {
	es, err := os.ReadDir(pinDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("list fences: %w", err)
	}
	var errs []error
	for _, e := range es {
		n, ok := numbered(e.Name(), "slot")
		if !ok {
			continue
		}
		m, err := ebpf.LoadPinnedMap(filepath.Join(pinDir, e.Name(), fenceMapFenceDeadline), nil)
		if err != nil {
			errs = append(errs, fmt.Errorf("open the fence of slot %d: %w", n, err))
			continue
		}
		f := &fence{objs: fenceObjects{fenceMaps: fenceMaps{FenceDeadline: m}}}
		closed, err := f.shut(ctx, all)
		errs = append(errs, m.Close())
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("close the fence of slot %d: %w", n, err))
			open = append(open, n)
		case closed:
			shut = append(shut, n)
		default:
			open = append(open, n)
		}
	}
	slices.Sort(shut)
	slices.Sort(open)
	return shut, open, errors.Join(errs...)
}

// shut waits for the deadline, which nobody moves while no daemon runs.
func (f *fence) shut(ctx context.Context, now bool) (bool, error) {
	for {
		d, err := f.deadline()
		switch {
		case err != nil:
			return false, err
		case now || d.Left() == 0:
			return true, f.set(0)
		case d == NoDeadline:
			return false, nil
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-time.After(d.Left()):
		}
	}
}

// Prepare makes the namespaces of slots, each behind a closed fence, and leaves
// those that exist as they are. A daemon whose mount namespace is its own cannot
// make them where others, and the next daemon, see them.
func Prepare(cfg Config, slots []sa.Slot) error {
	cfg.defaults()
	if err := cfg.check(); err != nil {
		return fmt.Errorf("configure slots: %w", err)
	}
	h := &Host{cfg: cfg}
	for _, n := range slots {
		s, err := h.open(n)
		if err != nil {
			return fmt.Errorf("prepare slot %d: %w", n, err)
		}
		if err := s.close(); err != nil {
			return fmt.Errorf("prepare slot %d: %w", n, err)
		}
	}
	return nil
}
