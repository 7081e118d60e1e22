package registrar

import (
	"context"
	"net"
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
}

func newStreams(self Member, p Peers) *streams {
	return &streams{self: self, peers: p, incoming: make(chan net.Conn), closed: make(chan struct{})}
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
	select {
	case s.incoming <- c:
		return nil
	case <-s.closed:
		return net.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
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
	return nil
}

func (s *streams) Addr() net.Addr { return memberAddr(s.self) }

// memberAddr is a Member as net.Addr.
type memberAddr Member

func (memberAddr) Network() string  { return "shadowcast-registrar" }
func (m memberAddr) String() string { return Member(m).String() }
