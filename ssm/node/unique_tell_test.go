package node

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/ssm/replica"
)

// fakePeer is an appliance that is told.
type fakePeer struct {
	mu      sync.Mutex
	err     error
	batches [][]replica.Newcomer
	tries   int
	closed  int
}

func (f *fakePeer) Announce(_ context.Context, ns []replica.Newcomer) ([]replica.Incumbent, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tries++
	if f.err == nil {
		f.batches = append(f.batches, ns)
	}
	return nil, f.err
}

func (f *fakePeer) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed++
}

func (f *fakePeer) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *fakePeer) closes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

func TestAnnouncerBatchesAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newUniqueBench(t, "ams", nil, fleetPolicies, []config.Appliance{{Name: "ams"}, {Name: "fra"}})
		f := &fakePeer{}
		p := b.unique.others[0]
		p.over = f
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = p.run(ctx) }()
		sleep := func(d time.Duration) {
			time.Sleep(d)
			synctest.Wait()
		}
		add := func(n int) {
			for range n {
				p.add([]replica.Newcomer{{ID: "s", Established: time.Now()}})
			}
		}
		add(3)
		sleep(tellEvery + time.Millisecond)
		add(2)
		sleep(time.Second)
		if len(f.batches) != 2 || len(f.batches[0]) != 3 || len(f.batches[1]) != 2 {
			t.Fatalf("batches %v", f.batches)
		}
		add(replica.MaxNewcomers + 1)
		sleep(time.Second)
		if len(f.batches) != 4 || len(f.batches[2]) != replica.MaxNewcomers || len(f.batches[3]) != 1 {
			t.Fatalf("%d batches", len(f.batches))
		}

		// It does not answer for a while, and is told then.
		f.tries = 0
		f.set(status.Error(codes.Unavailable, "nobody there"))
		add(4)
		sleep(time.Minute)
		if f.tries < 5 || f.tries > 12 {
			t.Errorf("%d attempts in a minute", f.tries)
		}
		f.set(nil)
		sleep(tellAgainMost + time.Second)
		if n := len(f.batches); n != 5 || len(f.batches[4]) != 4 {
			t.Errorf("%d batches after it came back", n)
		}
		// Too long, and too many.
		f.set(status.Error(codes.Unavailable, "nobody there"))
		add(4)
		sleep(tellWithin + time.Minute)
		if n := p.untold.Load(); n != 4 {
			t.Errorf("%d untold after a long time, want 4", n)
		}
		add(tellMost + 6)
		if n := p.untold.Load(); n != 10 {
			t.Errorf("%d untold of too many, want 10", n)
		}
		f.set(nil)
		sleep(tellAgainMost + time.Second)

		// It knows nothing of it: said once, until it knows.
		for _, code := range []codes.Code{codes.Unimplemented, codes.Unimplemented, codes.OK, codes.Unimplemented} {
			f.set(status.Error(code, ""))
			add(1)
			sleep(time.Second)
		}
		f.set(status.Error(codes.InvalidArgument, "clock"))
		for range 3 {
			add(1)
			sleep(time.Second)
		}
		if got := b.told(); len(got) != 3 || !strings.HasPrefix(got[0], "fra knows nothing") || !strings.HasPrefix(got[2], "fra was not told") {
			t.Errorf("told %q", got)
		}
		closed := f.closes()
		sleep(tellIdle + time.Second)
		if n := f.closes() - closed; n != 1 {
			t.Errorf("closed %d times while idle, want once", n)
		}
		cancel()
		<-done
	})
}
