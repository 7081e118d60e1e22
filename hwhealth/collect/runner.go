package collect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// Silent is the signal under which a source that does not answer at all is
// missing; its device is the machine and its name follows.
const silentPrefix = "source."

const (
	// parallel bounds how many sources are read at the same time.
	parallel = 4
	// streamRetry is how long a stream that ended is left alone.
	streamRetry = 30 * time.Second
)

// Runner reads all sources on their schedules. It is a Task: Run returns when
// ctx ends and everything it started has come back or is past its deadline.
type Runner struct {
	Sources []Source
	Streams []Stream
	// Observe takes what was read; it is called by one goroutine at a time.
	Observe func([]hwhealth.Sample)
	Log     *slog.Logger // nil: slog.Default

	observe sync.Mutex
	broken  map[string]string // source: what was said last, guarded by observe
}

// String names the Task.
func (r *Runner) String() string { return "health collectors" }

// Run reads until ctx ends.
func (r *Runner) Run(ctx context.Context) error {
	if r.Log == nil {
		r.Log = slog.Default()
	}
	r.broken = map[string]string{}
	places := make(chan struct{}, parallel)
	g, ctx := errgroup.WithContext(ctx)
	for i, s := range r.Sources {
		if s.Every <= 0 || s.Timeout <= 0 {
			return fmt.Errorf("source %s: interval %s and timeout %s must be above 0", s.Name, s.Every, s.Timeout)
		}
		// Spread over a second, so that they do not all wake up together.
		offset := time.Duration(i) * min(s.Every, time.Second) / time.Duration(len(r.Sources))
		g.Go(func() error { return r.schedule(ctx, s, offset, places) })
	}
	for _, s := range r.Streams {
		g.Go(func() error { return r.follow(ctx, s) })
	}
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("health collectors: %w", err)
	}
	return nil
}

// schedule reads one source. A read that does not come back is left behind,
// told, and not started again until it has.
func (r *Runner) schedule(ctx context.Context, s Source, offset time.Duration, places chan struct{}) error {
	timer := time.NewTimer(offset)
	defer timer.Stop()
	back := make(chan struct{}, 1)
	back <- struct{}{} // nothing is out
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		timer.Reset(s.Every)
		select {
		case <-back:
		default:
			r.silent(s.Name, fmt.Sprintf("still reading after %s", s.Timeout))
			continue
		}
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		r.readOnce(ctx, s, back)
		<-places
	}
}

// readOnce waits for one reading, at most until the deadline. back receives
// when the reading has ended, whenever that is.
func (r *Runner) readOnce(ctx context.Context, s Source, back chan<- struct{}) {
	rctx, cancel := context.WithTimeout(ctx, s.Timeout)
	type result struct {
		samples []hwhealth.Sample
		err     error
	}
	done := make(chan result, 1)
	// Its owner is back: the next reading waits for it. One that hangs in the
	// kernel cannot be ended by anybody.
	go func() {
		defer cancel()
		var res result
		defer func() {
			if p := recover(); p != nil { // a reader must not take the gateway down
				res = result{err: fmt.Errorf("panic: %v\n%s", p, debug.Stack())}
			}
			done <- res
			back <- struct{}{}
		}()
		res.samples = s.Read(rctx, time.Now())
	}()
	late := time.NewTimer(s.Timeout + s.Timeout/4) // those that watch ctx get to say what they have
	defer late.Stop()
	select {
	case res := <-done:
		if res.err != nil {
			r.silent(s.Name, res.err.Error())
			return
		}
		r.deliver(s.Name, res.samples)
	case <-late.C:
		r.silent(s.Name, fmt.Sprintf("no answer within %s", s.Timeout))
	case <-ctx.Done():
	}
}

// deliver hands samples on; a source that was silent speaks again.
func (r *Runner) deliver(name string, samples []hwhealth.Sample) {
	r.observe.Lock()
	defer r.observe.Unlock()
	if r.broken[name] != "" {
		delete(r.broken, name)
		r.Log.Info("health source answers again", "source", name)
		samples = append(samples, sourceSample(name, "", false))
	}
	if len(samples) > 0 {
		r.Observe(samples)
	}
}

// silent reports a source that does not answer: one line in the log for each
// new reason, one missing sample each time.
func (r *Runner) silent(name, why string) {
	r.observe.Lock()
	defer r.observe.Unlock()
	if r.broken[name] != why {
		r.broken[name] = why
		r.Log.Warn("health source does not answer", "source", name, "reason", why)
	}
	r.Observe([]hwhealth.Sample{sourceSample(name, why, true)})
}

func sourceSample(name, why string, missing bool) hwhealth.Sample {
	return hwhealth.Sample{Source: name, Device: Host(), Signal: hwhealth.Signal(silentPrefix + name), Kind: hwhealth.Level,
		Unit: hwhealth.Flag, Value: 1, Limits: hwhealth.NoLimits(), Missing: missing, Why: why, At: time.Now()}
}

// follow keeps one stream going.
func (r *Runner) follow(ctx context.Context, s Stream) error {
	for {
		err := r.followOnce(ctx, s)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			err = errors.New("ended")
		}
		r.silent(s.Name, err.Error())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(streamRetry):
		}
	}
}

func (r *Runner) followOnce(ctx context.Context, s Stream) (err error) {
	defer func() {
		if p := recover(); p != nil { // as in readOnce
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return s.Follow(ctx, func(x hwhealth.Sample) { r.deliver(s.Name, []hwhealth.Sample{x}) })
}
