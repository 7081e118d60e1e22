package xfrm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// eventBuffer holds some ten thousand notifications: a takeover installs and
// a reboot deletes thousands of SAs at once.
const eventBuffer = 32 << 20

// Subscription receives the notifications of one network namespace. One
// goroutine calls Next.
type Subscription struct {
	ctx  context.Context
	s    *sock
	rest []byte
	stop func() bool
}

// Subscribe joins groups in the network namespace at netnsPath (the caller's
// own if empty). Next returns ctx's error once ctx ends. The caller closes the
// Subscription.
func Subscribe(ctx context.Context, netnsPath string, groups ...Group) (*Subscription, error) {
	var s *sock
	err := openIn(netnsPath, func() (err error) {
		s, err = newSock(eventBuffer, groups...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to XFRM notifications: %w", err)
	}
	sub := &Subscription{ctx: ctx, s: s}
	sub.stop = context.AfterFunc(ctx, func() { s.f.SetReadDeadline(time.Unix(1, 0)) })
	return sub, nil
}

// Close leaves the groups.
func (s *Subscription) Close() error {
	s.stop()
	return s.s.close()
}

// Next waits for the next notification. After an error that is not the
// context's it may be called again: a malformed message is skipped.
func (s *Subscription) Next() (Event, error) {
	for {
		for len(s.rest) > 0 {
			m, rest, err := nextMessage(s.rest)
			s.rest = rest
			if err != nil {
				s.rest = nil
				return Event{}, fmt.Errorf("read XFRM notification: %w", err)
			}
			e, ok, err := parseEvent(m)
			clear(m.body) // keys
			if err != nil {
				return Event{}, fmt.Errorf("read XFRM notification: %w", err)
			}
			if ok {
				return e, nil
			}
		}
		b, err := s.s.receive()
		switch {
		case err == nil:
			s.rest = b
		case errors.Is(err, unix.ENOBUFS):
			return Event{Kind: Overrun}, nil
		case s.ctx.Err() != nil:
			return Event{}, s.ctx.Err()
		default:
			return Event{}, fmt.Errorf("read XFRM notification: %w", err)
		}
	}
}
