package registrar

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// streams is Raft's way to other members: raft.StreamLayer over Peers. The address
// of a member is its String.
type streams struct {
	self  Member
	peers Peers

	incoming chan net.Conn
	closed   chan struct{}
	once     sync.Once

	mu   sync.Mutex
	open map[*incoming]struct{}
}

// incoming is a stream that Raft reads from; Raft closes it when the other end
// does, Close when this one does.
type incoming struct {
	net.Conn
	s *streams
}

func (c *incoming) Close() error {
	c.s.mu.Lock()
	delete(c.s.open, c)
	c.s.mu.Unlock()
	return c.Conn.Close()
}

func newStreams(self Member, p Peers) *streams {
	return &streams{self: self, peers: p, incoming: make(chan net.Conn), closed: make(chan struct{}), open: map[*incoming]struct{}{}}
}

func (s *streams) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	m, err := ParseMember(string(to))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return s.peers.Raft(ctx, m, s.self)
}

// hand gives an incoming stream to Raft, which closes it.
func (s *streams) hand(ctx context.Context, c net.Conn) error {
	in := &incoming{c, s}
	s.mu.Lock()
	s.open[in] = struct{}{}
	s.mu.Unlock()
	var err error
	select {
	case s.incoming <- in:
		return nil
	case <-s.closed:
		err = net.ErrClosed
	case <-ctx.Done():
		err = ctx.Err()
	}
	in.Close()
	return err
}

func (s *streams) Accept() (net.Conn, error) {
	select {
	case c := <-s.incoming:
		return c, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

func (s *streams) Close() error {
	s.once.Do(func() { close(s.closed) })
	s.mu.Lock()
	open := slices.Collect(maps.Keys(s.open))
	s.mu.Unlock()
	var errs []error
	for _, c := range open {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

func (s *streams) Addr() net.Addr { return memberAddr(s.self) }

// memberAddr is a Member as net.Addr.
type memberAddr Member

func (memberAddr) Network() string  { return "shadowcast-registrar" }
func (m memberAddr) String() string { return Member(m).String() }
