package bfd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sync/errgroup"
)

const (
	// Port is the destination of single-hop BFD (RFC 5881 section 4).
	Port = 3784
	// ttl is what a packet that crossed no router has (RFC 5881 section 5).
	ttl = 255
	// refusedEvery bounds the events about packets that crossed a router.
	refusedEvery = time.Minute
)

// Peer is one session.
type Peer struct {
	Remote     netip.Addr
	Local      netip.Addr    // ours on the link; packets leave from it, and on its link
	Interval   time.Duration // desired min TX while up, required min RX
	Multiplier uint8
}

// Kind says what an Event is about.
type Kind int

// Kinds of events.
const (
	WentUp Kind = iota + 1
	WentDown
	// Refused: a packet from the peer's address had crossed a router.
	Refused
)

// Event is a change that somebody should know of.
type Event struct {
	Kind   Kind
	Peer   netip.Addr
	At     time.Time
	Reason string // WentDown, Refused
}

// Status is a snapshot of one session.
type Status struct {
	State      State
	Since      time.Time // of State; zero: from the start
	Diagnostic Diagnostic
	Downs      uint64 // times it went down
	Sent       uint64
	Received   uint64
	Refused    uint64 // packets that had crossed a router
	SendErrors uint64
}

// Server runs the sessions of all peers.
type Server struct {
	log     *slog.Logger
	onEvent func(Event)
	peers   map[netip.Addr]*peer
	rx      chan received

	mu     sync.Mutex
	status map[netip.Addr]Status
}

// peer belongs to the goroutine of Run.
type peer struct {
	Peer
	s       *session
	conn    *net.UDPConn // nil until its address can be bound
	refused time.Time    // last told
}

// received is a packet, or that one was refused.
type received struct {
	from netip.Addr
	p    packet
	ttl  int
}

// New returns a server for peers, which must have different Remote addresses.
// onEvent is called from Run's goroutine and must not block; it may be nil.
func New(peers []Peer, log *slog.Logger, onEvent func(Event)) *Server {
	if onEvent == nil {
		onEvent = func(Event) {}
	}
	s := &Server{log: log, onEvent: onEvent, peers: map[netip.Addr]*peer{}, status: map[netip.Addr]Status{}, rx: make(chan received, 256)}
	now := time.Now()
	for _, p := range peers {
		s.peers[p.Remote] = &peer{Peer: p, s: newSession(discriminator(), p.Interval, p.Multiplier, now)}
		s.status[p.Remote] = Status{State: Down}
	}
	return s
}

// discriminator draws one that is not 0. 32 random bits make a session hard to
// take down for who does not see its packets.
func discriminator() uint32 { return 1 + rand.Uint32N(1<<32-1) }

// String names the task.
func (s *Server) String() string { return "bfd" }

// Status returns the state of the session with a; ok is false where there is none.
func (s *Server) Status(a netip.Addr) (st Status, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok = s.status[a]
	return st, ok
}

// Run speaks BFD until ctx ends, then tells the neighbours that it leaves
// (AdminDown). Without peers it only waits.
func (s *Server) Run(ctx context.Context) error {
	if len(s.peers) == 0 {
		<-ctx.Done()
		return nil
	}
	socks, err := s.listen()
	defer func() {
		for _, c := range socks {
			c.Close()
		}
	}()
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, c := range socks {
		g.Go(func() error { return s.read(gctx, c) })
	}
	g.Go(func() error {
		defer func() {
			for _, c := range socks {
				c.Close() // ends the readers
			}
		}()
		return s.loop(gctx)
	})
	return g.Wait()
}

// listen opens a socket for each family in use. That the port is taken means that
// another BFD daemon runs here, and is an error.
func (s *Server) listen() (socks []*socket, err error) {
	for _, network := range []string{"udp4", "udp6"} {
		used := false
		for _, p := range s.peers {
			used = used || p.Remote.Is4() == (network == "udp4")
		}
		if !used {
			continue
		}
		c, err := net.ListenUDP(network, &net.UDPAddr{Port: Port})
		if err != nil {
			return socks, fmt.Errorf("listen for bfd on udp port %d (does another bfd daemon run in this namespace?): %w", Port, err)
		}
		k := &socket{UDPConn: c}
		socks = append(socks, k)
		if network == "udp4" {
			k.p4 = ipv4.NewPacketConn(c)
			err = k.p4.SetControlMessage(ipv4.FlagTTL, true)
		} else {
			k.p6 = ipv6.NewPacketConn(c)
			err = k.p6.SetControlMessage(ipv6.FlagHopLimit, true)
		}
		if err != nil {
			return socks, fmt.Errorf("ask for the ttl of bfd packets: %w", err)
		}
	}
	return socks, nil
}

// socket receives the packets of one family.
type socket struct {
	*net.UDPConn
	p4 *ipv4.PacketConn // one of the two
	p6 *ipv6.PacketConn
}

// readFrom also returns the time to live, or hop limit, of the packet.
func (c *socket) readFrom(b []byte) (n, hops int, from net.Addr, err error) {
	if c.p4 != nil {
		var cm *ipv4.ControlMessage
		if n, cm, from, err = c.p4.ReadFrom(b); cm != nil {
			hops = cm.TTL
		}
		return n, hops, from, err
	}
	var cm *ipv6.ControlMessage
	if n, cm, from, err = c.p6.ReadFrom(b); cm != nil {
		hops = cm.HopLimit
	}
	return n, hops, from, err
}

// read hands packets of known peers to the loop.
func (s *Server) read(ctx context.Context, c *socket) error {
	b := make([]byte, 128)
	for {
		n, hops, from, err := c.readFrom(b)
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read bfd packets: %w", err)
		}
		a := from.(*net.UDPAddr).AddrPort().Addr().Unmap().WithZone("")
		p, err := parse(b[:n])
		if err != nil || s.peers[a] == nil {
			continue
		}
		select {
		case s.rx <- received{a, p, hops}:
		case <-ctx.Done():
			return nil
		}
	}
}

// loop owns the sessions.
func (s *Server) loop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			s.leave()
			return nil
		case r := <-s.rx:
			s.receive(r)
		case <-timer.C:
		}
		// What has arrived counts before time that has passed.
		for more := true; more; {
			select {
			case r := <-s.rx:
				s.receive(r)
			default:
				more = false
			}
		}
		now := time.Now()
		next := now.Add(time.Hour)
		for _, p := range s.peers {
			before := p.s.state
			s.send(p, p.s.tick(now, rand.Float64()))
			s.changed(p, before, now)
			if w := p.s.wake(); w.Before(next) {
				next = w
			}
		}
		timer.Reset(time.Until(next))
	}
}

func (s *Server) receive(r received) {
	p, now := s.peers[r.from], time.Now()
	if r.ttl != ttl {
		s.note(p, func(st *Status) { st.Refused++ })
		if now.Sub(p.refused) >= refusedEvery {
			p.refused = now
			s.onEvent(Event{Kind: Refused, Peer: r.from, At: now,
				Reason: fmt.Sprintf("a bfd packet with ttl %d, want 255 (RFC 5881 section 5): it crossed a router or is forged", r.ttl)})
		}
		return
	}
	s.note(p, func(st *Status) { st.Received++ })
	before := p.s.state
	s.send(p, p.s.receive(r.p, now))
	s.changed(p, before, now)
}

// changed tells of a change of state.
func (s *Server) changed(p *peer, before State, now time.Time) {
	if p.s.state == before {
		return
	}
	s.note(p, func(st *Status) {
		st.State, st.Since, st.Diagnostic = p.s.state, now, p.s.diag
		if before == Up {
			st.Downs++
		}
	})
	s.log.Debug("bfd state", "peer", p.Remote, "state", p.s.state, "reason", p.s.diag)
	switch {
	case p.s.state == Up:
		s.onEvent(Event{Kind: WentUp, Peer: p.Remote, At: now})
	case before == Up:
		s.onEvent(Event{Kind: WentDown, Peer: p.Remote, At: now, Reason: p.s.diag.String()})
	}
}

func (s *Server) note(p *peer, f func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status[p.Remote]
	f(&st)
	s.status[p.Remote] = st
}

// send sends what it can; what does not go out is what the neighbour detects.
func (s *Server) send(p *peer, out []packet) {
	for _, x := range out {
		err := s.open(p)
		if err == nil {
			_, err = p.conn.WriteToUDPAddrPort(x.marshal(), netip.AddrPortFrom(p.Remote, Port))
		}
		s.note(p, func(st *Status) {
			if err != nil {
				st.SendErrors++
				return
			}
			st.Sent++
		})
	}
}

// leave tells every neighbour that its session ends on purpose.
func (s *Server) leave() {
	for _, p := range s.peers {
		p.s.set(AdminDown, AdministrativeDown)
		s.send(p, []packet{p.s.packet(false)})
		s.note(p, func(st *Status) { st.State, st.Since, st.Diagnostic = AdminDown, time.Now(), AdministrativeDown })
		if p.conn != nil {
			p.conn.Close()
		}
	}
}
