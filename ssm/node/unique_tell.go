package node

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/shadowcast/shadowcast/pki"
	"github.com/shadowcast/shadowcast/ssm/replica"
)

const (
	// tellEvery is how long new sessions are collected before an appliance is told.
	tellEvery = 100 * time.Millisecond
	// tellTime bounds one announcement.
	tellTime = 3 * time.Second
	// tellWithin is how long an appliance that does not answer is tried, and tellMost
	// how many sessions wait for it. Older ones go first.
	tellWithin = 5 * time.Minute
	tellMost   = 4096
	// Between attempts, longer and longer.
	tellAgainLeast = time.Second
	tellAgainMost  = 10 * time.Second
	// tellIdle is how long a connection is kept that nothing goes over.
	tellIdle = 30 * time.Second
)

// announcing is replica.Announcer, or the fake of a test.
type announcing interface {
	Announce(ctx context.Context, ns []replica.Newcomer) ([]replica.Incumbent, error)
	Close()
}

// announcer tells one other appliance of the new sessions here.
type announcer struct {
	u    *uniques
	to   replica.Shadow
	over announcing
	wake chan struct{}

	mu    sync.Mutex
	queue []replica.Newcomer

	untold  atomic.Uint64 // sessions that it was never told of
	trouble string        // of the last attempt; told once
}

func newAnnouncer(u *uniques, to replica.Shadow) *announcer {
	a := u.a
	return &announcer{u: u, to: to, wake: make(chan struct{}, 1), over: replica.NewAnnouncer(replica.AnnouncerConfig{
		Self: a.cfg.Node, TLS: a.identity.ClientTLS, PeerName: pki.PeerName,
		HandshakeFailed: func(to string, source netip.Addr, err error) { a.refusedHandshake(fromReplication, to, source, err) },
	}, to)}
}

// add never waits.
func (p *announcer) add(ns []replica.Newcomer) {
	p.mu.Lock()
	p.queue = append(p.queue, ns...)
	over := max(len(p.queue)-tellMost, 0)
	p.queue = p.queue[over:]
	p.mu.Unlock()
	p.untold.Add(uint64(over))
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// take returns what can be told at once and is not too old.
func (p *announcer) take(now time.Time) []replica.Newcomer {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := 0
	for old < len(p.queue) && now.Sub(p.queue[old].Established) > tellWithin {
		old++
	}
	p.untold.Add(uint64(old))
	n := min(len(p.queue)-old, replica.MaxNewcomers)
	batch := p.queue[old : old+n : old+n]
	p.queue = p.queue[old+n:]
	return batch
}

// putBack keeps a batch for the next attempt.
func (p *announcer) putBack(batch []replica.Newcomer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue = append(batch, p.queue...)
	over := max(len(p.queue)-tellMost, 0)
	p.queue = p.queue[over:]
	p.untold.Add(uint64(over))
}

// run tells until ctx ends.
func (p *announcer) run(ctx context.Context) error {
	defer p.over.Close()
	idle := time.NewTimer(tellIdle)
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-idle.C:
			p.over.Close()
			continue
		case <-p.wake:
		}
		for wait, again := tellEvery, tellAgainLeast; wait > 0; {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
			wait = 0
			for wait == 0 {
				batch := p.take(time.Now())
				if len(batch) == 0 {
					break
				}
				if p.tell(ctx, batch) {
					again = tellAgainLeast
					continue
				}
				wait, again = again, min(2*again, tellAgainMost)
			}
		}
		idle.Reset(tellIdle)
	}
}

// tell reports whether the appliance is done with the batch; otherwise it is to be told
// again later.
func (p *announcer) tell(ctx context.Context, batch []replica.Newcomer) bool {
	tctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	stay, err := p.over.Announce(tctx, batch)
	switch code := status.Code(err); {
	case err == nil:
		p.trouble = ""
		p.u.exclude(p.to.Name, batch, stay)
	case ctx.Err() != nil:
	case code == codes.Unimplemented:
		p.untold.Add(uint64(len(batch)))
		p.warn("knows nothing of unique policies", "it runs an older release; sessions there are not compared with those here")
	case code == codes.Unavailable || code == codes.DeadlineExceeded:
		p.putBack(batch)
		return false
	default:
		p.untold.Add(uint64(len(batch)))
		p.warn("was not told of new sessions", err.Error())
	}
	return true
}

// warn says what is wrong once, until it is well again.
func (p *announcer) warn(what, why string) {
	if p.trouble == what {
		return
	}
	p.trouble = what
	p.u.a.events.Add(Entry{Kind: "unique", Warn: true, Text: fmt.Sprintf("%s %s", p.to.Name, what), Reason: why})
}
