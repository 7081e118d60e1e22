package registrar

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	peerv1 "github.com/shadowcast/shadowcast/api/peer/v1"
	"github.com/shadowcast/shadowcast/sa"
)

// GRPC is the real Peers: gRPC over mutual TLS, one connection to each appliance.
type GRPC struct {
	addr func(node string) (netip.AddrPort, bool)
	tls  func(node string) *tls.Config
	dial func(node string, addr netip.AddrPort, cfg *tls.Config) (*grpc.ClientConn, error)

	mu     sync.Mutex
	conns  map[string]*grpc.ClientConn
	closed bool
	wg     sync.WaitGroup // pumps of open streams
}

// NewGRPC reaches the appliances at the addresses that addr knows. tls must accept
// nobody but the named appliance; dial is replica.Dial.
func NewGRPC(addr func(node string) (netip.AddrPort, bool), tls func(node string) *tls.Config,
	dial func(string, netip.AddrPort, *tls.Config) (*grpc.ClientConn, error)) *GRPC {
	return &GRPC{addr: addr, tls: tls, dial: dial, conns: map[string]*grpc.ClientConn{}}
}

// Close ends every connection and waits for what runs over them.
func (g *GRPC) Close() error {
	g.mu.Lock()
	g.closed = true
	var errs []error
	for _, c := range g.conns {
		errs = append(errs, c.Close())
	}
	clear(g.conns)
	g.mu.Unlock()
	g.wg.Wait()
	return errors.Join(errs...)
}

func (g *GRPC) client(node string) (peerv1.RegistrarClient, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, net.ErrClosed
	}
	c := g.conns[node]
	if c == nil {
		addr, ok := g.addr(node)
		if !ok {
			return nil, fmt.Errorf("%q is no appliance of this fleet", node)
		}
		var err error
		if c, err = g.dial(node, addr, g.tls(node)); err != nil {
			return nil, err
		}
		g.conns[node] = c
	}
	return peerv1.NewRegistrarClient(c), nil
}

func (g *GRPC) Raft(ctx context.Context, to, from Member) (net.Conn, error) {
	c, err := g.client(to.Node)
	if err != nil {
		return nil, err
	}
	// ctx bounds the beginning; the stream outlives it.
	life, end := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, end)
	s, err := c.Raft(life)
	if err == nil {
		err = s.Send(&peerv1.RaftOctets{To: to.String(), From: from.String()})
	}
	if err == nil || errors.Is(err, io.EOF) {
		_, err = s.Recv() // the acceptance, or the reason of a refusal
	}
	if !stop() || err != nil {
		end()
		return nil, fmt.Errorf("open a stream to %s: %w", to, cmp.Or(err, ctx.Err()))
	}
	here, there := net.Pipe()
	g.wg.Go(func() { toConn(there, s) })
	g.wg.Go(func() {
		defer end() // makes Recv return
		fromConn(there, s)
	})
	return here, nil
}

func (g *GRPC) Describe(ctx context.Context, node string) (Description, error) {
	c, err := g.client(node)
	if err != nil {
		return Description{}, err
	}
	d, err := c.Describe(ctx, &peerv1.DescribeRequest{})
	if err != nil {
		return Description{}, err
	}
	return fromDescription(d)
}

func (g *GRPC) Issue(ctx context.Context, node string, i Issue, forwarded bool) (sa.Ticket, error) {
	c, err := g.client(node)
	if err != nil {
		return 0, err
	}
	r, err := c.IssueTicket(ctx, &peerv1.IssueTicketRequest{Slot: uint32(i.Slot), Node: i.Node, Incarnation: i.Incarnation, Id: i.ID, Floor: uint64(i.Floor), Forwarded: forwarded})
	return sa.Ticket(r.GetTicket()), fromStatus(err)
}

func (g *GRPC) Change(ctx context.Context, node string, c Change, forwarded bool) error {
	x, err := g.client(node)
	if err != nil {
		return err
	}
	_, err = x.ChangeRegistrars(ctx, &peerv1.ChangeRegistrarsRequest{Add: c.Add, Remove: c.Remove, Replace: c.Replace.String(), Forwarded: forwarded})
	return fromStatus(err)
}

func (g *GRPC) Enrol(ctx context.Context, node string) (Member, error) {
	c, err := g.client(node)
	if err != nil {
		return Member{}, err
	}
	r, err := c.Enrol(ctx, &peerv1.EnrolRequest{})
	if err != nil {
		return Member{}, err
	}
	return ParseMember(r.Member)
}

// octetStream is either end of a Raft stream.
type octetStream interface {
	Send(*peerv1.RaftOctets) error
	Recv() (*peerv1.RaftOctets, error)
}

// chunk is what one message carries at most.
const chunk = 16 << 10

// toConn carries what s receives into conn until either ends, then closes conn.
func toConn(conn net.Conn, s octetStream) {
	defer conn.Close()
	for {
		m, err := s.Recv()
		if err != nil {
			return
		}
		if _, err := conn.Write(m.Octets); err != nil {
			return
		}
	}
}

// fromConn carries what is read from conn into s until either ends, then closes
// conn.
func fromConn(conn net.Conn, s octetStream) {
	defer conn.Close()
	b := make([]byte, chunk)
	for {
		n, err := conn.Read(b)
		if n > 0 && s.Send(&peerv1.RaftOctets{Octets: b[:n]}) != nil || err != nil {
			return
		}
	}
}

// service is a Registrar for other appliances.
type service struct {
	peerv1.UnimplementedRegistrarServer
	r    *Registrar
	name func(context.Context) (string, error)
	log  *slog.Logger
}

// Register adds r to a server that verifies client certificates; name returns the
// appliance's name from the caller's.
func (r *Registrar) Register(s grpc.ServiceRegistrar, name func(context.Context) (string, error)) {
	peerv1.RegisterRegistrarServer(s, service{r: r, name: name, log: r.log})
}

func (s service) Raft(st grpc.BidiStreamingServer[peerv1.RaftOctets, peerv1.RaftOctets]) error {
	first, err := st.Recv()
	if err != nil {
		return err
	}
	caller, err := s.name(st.Context())
	if err != nil {
		return status.Errorf(codes.Unauthenticated, "read the caller's certificate: %v", err)
	}
	to, err := ParseMember(first.To)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "to: %v", err)
	}
	from, err := ParseMember(first.From)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "from: %v", err)
	}
	if from.Node != caller {
		return status.Errorf(codes.PermissionDenied, "certificate names %q, but the member calls itself %s", caller, from)
	}
	if _, err := s.r.logOf(to); err != nil {
		s.log.Debug("refuse a stream of the ticket log", "peer", caller, "reason", err)
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	if err := st.Send(&peerv1.RaftOctets{}); err != nil {
		return err
	}
	here, there := net.Pipe()
	if err := s.r.Accept(st.Context(), here, to); err != nil {
		there.Close()
		return status.Error(codes.Unavailable, err.Error())
	}
	// Returning is what ends Recv, so this side writes and Registrar.Run waits for
	// the reader.
	s.r.readers.Go(func() { toConn(there, st) })
	fromConn(there, st)
	return nil
}

func (s service) Describe(ctx context.Context, _ *peerv1.DescribeRequest) (*peerv1.RegistrarDescription, error) {
	d, err := s.r.Describe(ctx)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	out := &peerv1.RegistrarDescription{Node: d.Node, Member: d.Member.String(), Leader: d.Leader.String(), Founded: d.Founded,
		Term: d.Term, Applied: d.Applied, Problem: d.Problem, Seen: map[uint32]uint64{}}
	for _, m := range d.Members {
		out.Members = append(out.Members, m.String())
	}
	for n, t := range d.Seen {
		out.Seen[uint32(n)] = uint64(t)
	}
	return out, nil
}

func (s service) IssueTicket(ctx context.Context, q *peerv1.IssueTicketRequest) (*peerv1.IssueTicketReply, error) {
	if q.Slot > uint32(sa.MaxSlot) {
		return nil, status.Errorf(codes.InvalidArgument, "slot %d, want 1 to %d", q.Slot, sa.MaxSlot)
	}
	t, err := s.r.ServeIssue(ctx, Issue{Slot: sa.Slot(q.Slot), Node: q.Node, Incarnation: q.Incarnation, ID: q.Id, Floor: sa.Ticket(q.Floor)}, q.Forwarded)
	return &peerv1.IssueTicketReply{Ticket: uint64(t)}, toStatus(err)
}

func (s service) ChangeRegistrars(ctx context.Context, q *peerv1.ChangeRegistrarsRequest) (*peerv1.ChangeRegistrarsReply, error) {
	c := Change{Add: q.Add, Remove: q.Remove}
	if q.Replace != "" {
		m, err := ParseMember(q.Replace)
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "replace: %v", err)
		}
		c.Replace = m
	}
	return &peerv1.ChangeRegistrarsReply{}, toStatus(s.r.ServeChange(ctx, c, q.Forwarded))
}

func (s service) Enrol(context.Context, *peerv1.EnrolRequest) (*peerv1.EnrolReply, error) {
	m, err := s.r.Enrol()
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return &peerv1.EnrolReply{Member: m.String()}, nil
}

func toStatus(err error) error {
	var no *Refused
	switch {
	case err == nil:
		return nil
	case errors.As(err, &no):
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	return status.Error(codes.Unavailable, err.Error())
}

func fromStatus(err error) error {
	switch st := status.Convert(err); st.Code() {
	case codes.OK:
		return nil
	case codes.FailedPrecondition, codes.InvalidArgument:
		return refuse(errors.New(st.Message()))
	}
	return err
}

func fromDescription(d *peerv1.RegistrarDescription) (Description, error) {
	out := Description{Node: d.Node, Founded: d.Founded, Term: d.Term, Applied: d.Applied, Problem: d.Problem, Seen: map[sa.Slot]sa.Ticket{}}
	for _, x := range []struct {
		text string
		to   *Member
	}{{d.Member, &out.Member}, {d.Leader, &out.Leader}} {
		if x.text == "" {
			continue
		}
		m, err := ParseMember(x.text)
		if err != nil {
			return Description{}, fmt.Errorf("description by %.80q: %w", d.Node, err)
		}
		*x.to = m
	}
	for _, s := range d.Members {
		m, err := ParseMember(s)
		if err != nil {
			return Description{}, fmt.Errorf("description by %.80q: %w", d.Node, err)
		}
		out.Members = append(out.Members, m)
	}
	for n, t := range d.Seen {
		if n == 0 || n > uint32(sa.MaxSlot) {
			return Description{}, fmt.Errorf("description by %.80q: slot %d, want 1 to %d", d.Node, n, sa.MaxSlot)
		}
		out.Seen[sa.Slot(n)] = sa.Ticket(t)
	}
	return out, nil
}
