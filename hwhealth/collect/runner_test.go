package collect

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// heard collects what a runner delivers.
type heard struct {
	mu  sync.Mutex
	all []hwhealth.Sample
}

func (h *heard) observe(s []hwhealth.Sample) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, s...)
}

func (h *heard) count(sig hwhealth.Signal, missing bool) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, s := range h.all {
		if s.Signal == sig && s.Missing == missing {
			n++
		}
	}
	return n
}

func value(name string) func(context.Context, time.Time) []hwhealth.Sample {
	return func(_ context.Context, now time.Time) []hwhealth.Sample {
		return []hwhealth.Sample{hwhealth.Of(name, Host(), hwhealth.DiskSpaceFree, .5, now)}
	}
}

// A source that hangs, and one that panics, are told and hold up nobody; one
// that comes back speaks again.
func TestRunnerSurvivesItsSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h heard
		release := make(chan struct{})
		var calls atomic.Int32
		r := &Runner{Observe: h.observe, Sources: []Source{
			{"good", 10 * time.Second, time.Second, value("good")},
			{"hangs", 10 * time.Second, time.Second, func(context.Context, time.Time) []hwhealth.Sample {
				if calls.Add(1) == 1 {
					<-release // deaf to its deadline, as a read from a dead disk is
				}
				return nil
			}},
			{"panics", 10 * time.Second, time.Second, func(context.Context, time.Time) []hwhealth.Sample { panic("out of range") }},
			{"slow", 10 * time.Second, time.Second, func(ctx context.Context, now time.Time) []hwhealth.Sample {
				<-ctx.Done() // tells what it has
				return value("slow")(ctx, now)
			}},
		}}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(95 * time.Second)
		if n := h.count(hwhealth.DiskSpaceFree, false); n != 20 {
			t.Errorf("good and slow were heard %d times in 95 s, want 10 each", n)
		}
		if n := h.count("source.hangs", true); n != 10 {
			t.Errorf("the source that hangs was reported %d times, want 10", n)
		}
		if n := h.count("source.panics", true); n != 10 {
			t.Errorf("the source that panics was reported %d times, want 10", n)
		}
		if calls.Load() != 1 {
			t.Errorf("a source that hangs was started %d times", calls.Load())
		}
		close(release)
		time.Sleep(10 * time.Second)
		if n := h.count("source.hangs", false); n != 1 || calls.Load() != 2 {
			t.Errorf("the source came back: told %d times, read %d times, want 1 and 2", n, calls.Load())
		}
		for _, s := range h.all {
			if err := s.Check(); err != nil {
				t.Error(err)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestRunnerBoundsConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int32
		var sources []Source
		for i := range 20 {
			sources = append(sources, Source{"s" + itoa(i), time.Second, 10 * time.Second, func(context.Context, time.Time) []hwhealth.Sample {
				n := now.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				time.Sleep(700 * time.Millisecond)
				now.Add(-1)
				return nil
			}})
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- (&Runner{Sources: sources, Observe: func([]hwhealth.Sample) {}}).Run(ctx) }()
		time.Sleep(30 * time.Second)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second) // those that were out come back
		if most.Load() != parallel {
			t.Errorf("%d sources were read at the same time, want at most and at some time %d", most.Load(), parallel)
		}
	})
}

func TestRunnerKeepsStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h heard
		starts := 0
		r := &Runner{Observe: h.observe, Streams: []Stream{{"kmsg", func(ctx context.Context, emit func(hwhealth.Sample)) error {
			switch starts++; starts {
			case 1:
				return errors.New("overrun")
			case 2:
				panic("bad record")
			}
			emit(hwhealth.Of("kmsg", kernel(), hwhealth.KernelHungTask, 1, time.Now()))
			<-ctx.Done()
			return ctx.Err()
		}}}}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(3 * streamRetry)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if starts != 3 || h.count("source.kmsg", true) != 2 || h.count("source.kmsg", false) != 1 || h.count(hwhealth.KernelHungTask, false) != 1 {
			t.Errorf("%d starts, heard %+v", starts, h.all)
		}
	})
}

func TestRunnerRefusesNonsense(t *testing.T) {
	err := (&Runner{Sources: []Source{{"x", 0, time.Second, nil}}}).Run(context.Background())
	if err == nil {
		t.Error("an interval of 0 was accepted")
	}
}
