package node

import (
	"context"
	"sync"
)

// queue runs functions in order in one goroutine. Adding never blocks, so the
// core loop cannot wait for a slot and a slot cannot wait for the core loop.
type queue struct {
	mu   sync.Mutex
	list []func()
	wake chan struct{}
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

func (q *queue) do(f func()) {
	q.mu.Lock()
	q.list = append(q.list, f)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// work runs everything queued so far.
func (q *queue) work() {
	q.mu.Lock()
	list := q.list
	q.list = nil
	q.mu.Unlock()
	for _, f := range list {
		f()
	}
}

// run works until ctx ends; what is queued then is still done.
func (q *queue) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			q.work()
			return nil
		case <-q.wake:
			q.work()
		}
	}
}

// latest hands the newest value to one goroutine, which may be slow; values in
// between are dropped.
type latest[T any] struct {
	mu   sync.Mutex
	v    *T
	wake chan struct{}
}

func newLatest[T any]() *latest[T] { return &latest[T]{wake: make(chan struct{}, 1)} }

func (l *latest[T]) put(v T) {
	l.mu.Lock()
	l.v = &v
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *latest[T]) run(ctx context.Context, f func(T)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.wake:
			l.mu.Lock()
			v := l.v
			l.v = nil
			l.mu.Unlock()
			if v != nil {
				f(*v)
			}
		}
	}
}
