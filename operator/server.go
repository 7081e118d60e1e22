package operator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

// stopTime bounds how long calls may finish when the daemon stops.
const stopTime = 3 * time.Second

// maxMessage bounds a request: none holds more than names and numbers.
const maxMessage = 64 << 10

// What bounds callers over TCP, who are strangers until their certificate is checked.
const (
	maxRemote     = 64 // connections at a time
	handshakeTime = 5 * time.Second
	idleTime      = 5 * time.Minute
	// maxAge ends connections, streams included, so that a certificate that expired
	// or a CA that was taken away does not stay.
	maxAge = 12 * time.Hour
	// listenAgain is between two tries to listen where that failed.
	listenAgain = 5 * time.Second
)

// Server is the operator API of one appliance.
type Server struct {
	socket string
	grpc   *grpc.Server // at the local socket
	remote *grpc.Server // over TCP; nil without
	addr   netip.AddrPort
	far    atomic.Pointer[net.Addr] // where remote listens
	failed string                   // why listening over TCP failed last; of Run
	again  time.Duration
	health *health.Server
	svc    *service
	ready  chan struct{}
}

// NewServer makes a server that will listen at socket and ask b.
func NewServer(socket string, b Backend, events *Events) *Server {
	s := &Server{
		socket: socket,
		health: health.NewServer(),
		svc:    &service{backend: b, events: events, stopping: make(chan struct{})},
		ready:  make(chan struct{}),
		again:  listenAgain,
	}
	s.grpc = s.serve(peerCredentials{})
	s.SetServing(false)
	return s
}

// ListenTLS makes Run answer people at addr too, each within the role that the
// certificate gives. It must be called before Run; t is pki.Identity.PeopleTLS.
func (s *Server) ListenTLS(addr netip.AddrPort, t *tls.Config) {
	s.addr = addr
	s.remote = s.serve(credentials.NewTLS(t), grpc.ConnectionTimeout(handshakeTime),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTime, MaxConnectionAge: maxAge, MaxConnectionAgeGrace: time.Minute}))
}

// serve makes a server of all services.
func (s *Server) serve(creds credentials.TransportCredentials, more ...grpc.ServerOption) *grpc.Server {
	g := grpc.NewServer(append(more,
		grpc.Creds(creds),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(256),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			if err := s.svc.permit(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			resp, err := h(ctx, req)
			return resp, asStatus(err)
		}),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			if err := s.svc.permit(ss.Context(), info.FullMethod); err != nil {
				return err
			}
			return asStatus(h(srv, ss))
		}),
	)...)
	v1.RegisterOperatorServiceServer(g, s.svc)
	v1.RegisterDrainServiceServer(g, drains{service: s.svc})
	v1.RegisterUpgradeLockServiceServer(g, upgradeLocks{service: s.svc})
	v1.RegisterShadowSetServiceServer(g, shadowSets{service: s.svc})
	v1.RegisterRegistrarServiceServer(g, registrars{service: s.svc})
	v1.RegisterHealthServiceServer(g, healths{service: s.svc})
	healthv1.RegisterHealthServer(g, s.health)
	reflection.Register(g)
	return g
}

// String names the task.
func (s *Server) String() string { return "operator API" }

// Ready is closed when the socket takes calls.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Remote is where people are answered over TCP, nil where they are not; known once
// the server is ready, unless nothing could listen there yet.
func (s *Server) Remote() net.Addr {
	if a := s.far.Load(); a != nil {
		return *a
	}
	return nil
}

// SetServing tells the health service whether the appliance does its work. It
// does not until this is called.
func (s *Server) SetServing(ok bool) {
	st := healthv1.HealthCheckResponse_NOT_SERVING
	if ok {
		st = healthv1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", st)
	s.health.SetServingStatus(v1.OperatorService_ServiceDesc.ServiceName, st)
}

// Run serves until ctx ends. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	l, err := listen(s.socket)
	if err != nil {
		return err
	}
	var far net.Listener
	if s.remote != nil {
		far = s.listenTLS(ctx)
	}
	// Handovers outlive their callers, not the daemon.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	s.svc.life = life
	own, _ := os.Lstat(s.socket)

	g, gctx := errgroup.WithContext(ctx)
	stopped := make(chan struct{})
	serve := func(srv *grpc.Server, l net.Listener) {
		g.Go(func() error {
			if err := srv.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				return fmt.Errorf("serve operator API: %w", err)
			}
			return nil
		})
		g.Go(func() error {
			<-stopped
			force := time.AfterFunc(stopTime, srv.Stop)
			defer force.Stop()
			srv.GracefulStop()
			return nil
		})
	}
	serve(s.grpc, l)
	switch {
	case far != nil:
		serve(s.remote, far)
	case s.remote != nil:
		g.Go(func() error {
			for far == nil {
				select {
				case <-gctx.Done():
					return nil
				case <-time.After(s.again):
				}
				far = s.listenTLS(gctx)
			}
			serve(s.remote, far)
			return nil
		})
	}
	g.Go(func() error {
		<-gctx.Done()
		s.health.Shutdown()
		close(s.svc.stopping)
		end()
		close(stopped)
		return nil
	})
	close(s.ready)
	err = g.Wait()
	if now, serr := os.Lstat(s.socket); serr == nil && os.SameFile(own, now) { // not a successor's
		os.Remove(s.socket)
	}
	return err
}

// listenTLS listens for people. Where that cannot be, nil, the local socket answers and
// the event log says why, once per reason: an appliance does not end its sessions because
// an address of its management network is missing.
func (s *Server) listenTLS(ctx context.Context) net.Listener {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.addr.String())
	if err != nil {
		if ctx.Err() == nil && err.Error() != s.failed {
			s.svc.events.Add(Event{Kind: "error", Level: slog.LevelWarn, Message: "listen for operators over TCP failed", Reason: "operator.listen: " + err.Error()})
			s.failed = err.Error()
		}
		return nil
	}
	addr := l.Addr()
	s.far.Store(&addr)
	// Before a certificate is checked anybody may take a connection.
	return netutil.LimitListener(l, maxRemote)
}

// asStatus gives every error a code.
func asStatus(err error) error {
	switch _, ok := status.FromError(err); {
	case ok:
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	default:
		return status.Error(codes.Internal, err.Error())
	}
}

// DialTLS connects over TCP to the daemon at address, a host and a port; t is
// pki.PersonTLS. The connection is made by the first call.
func DialTLS(address string, t *tls.Config) (*grpc.ClientConn, error) {
	return dial("dns:///"+address, credentials.NewTLS(t))
}

// Dial connects to the daemon that listens at socket. The connection is made by
// the first call.
func Dial(socket string) (*grpc.ClientConn, error) {
	return dial("unix:"+socket, insecure.NewCredentials())
}

func dial(target string, creds credentials.TransportCredentials) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", target, err)
	}
	return conn, nil
}
