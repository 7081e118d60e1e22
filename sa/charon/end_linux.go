package charon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// End ends the charon that dir, a Spec's, has a record of, whatever configuration it runs
// with: it is asked to delete its SAs and policies, and killed where it does not end within
// StopTimeout's default or ctx. Nothing is done where none runs.
func End(ctx context.Context, dir string) error {
	return end(ctx, dir, unix.SIGTERM, unix.SIGKILL)
}

// Kill ends the charon that dir has a record of at once, whatever configuration it runs with
// and whether or not it answers. Its SAs and policies stay in the kernel. Nothing is done
// where none runs.
func Kill(dir string) error { return end(context.Background(), dir, unix.SIGKILL) }

func end(ctx context.Context, dir string, signals ...unix.Signal) error {
	s := Spec{Dir: dir}.withDefaults()
	f, err := s.find()
	if errors.Is(err, ErrNotRunning) {
		return s.forget()
	}
	if err != nil {
		return fmt.Errorf("end charon in %s: %w", dir, err)
	}
	defer f.pidfd.Close()
	fd := int(f.pidfd.Fd())
	for _, sig := range signals {
		if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end charon in %s, pid %d: %w", dir, f.rec.PID, err)
		}
		for end := time.Now().Add(s.StopTimeout); !exited(fd) && time.Now().Before(end) && (sig == unix.SIGKILL || ctx.Err() == nil); {
			time.Sleep(endPoll)
		}
		if exited(fd) {
			return s.forget()
		}
	}
	return fmt.Errorf("end charon in %s: pid %d lives on after SIGKILL", dir, f.rec.PID)
}

// endPoll is between two looks whether a charon that was told to end is gone.
const endPoll = 10 * time.Millisecond

// forget removes what a charon that is gone leaves in its directory.
func (s Spec) forget() error {
	for _, f := range []string{s.file("charon.json"), ViciSocket(s.Dir)} {
		if err := os.Remove(f); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("clean up after charon %s: %w", s.Name, err)
		}
	}
	return nil
}
