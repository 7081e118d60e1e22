package operator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

// stopTime bounds how long calls may finish when the daemon stops.
const stopTime = 3 * time.Second

// maxMessage bounds a request: none holds more than names and numbers.
const maxMessage = 64 << 10

// Server is the operator API of one appliance.
type Server struct {
	socket string
	grpc   *grpc.Server
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
	}
	s.grpc = grpc.NewServer(
		grpc.Creds(peerCredentials{}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(256),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			resp, err := h(ctx, req)
			return resp, asStatus(err)
		}),
		grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			return asStatus(h(srv, ss))
		}),
	)
	v1.RegisterOperatorServiceServer(s.grpc, s.svc)
	v1.RegisterDrainServiceServer(s.grpc, drains{service: s.svc})
	v1.RegisterUpgradeLockServiceServer(s.grpc, upgradeLocks{service: s.svc})
	v1.RegisterShadowSetServiceServer(s.grpc, shadowSets{service: s.svc})
	v1.RegisterRegistrarServiceServer(s.grpc, registrars{service: s.svc})
	v1.RegisterHealthServiceServer(s.grpc, healths{service: s.svc})
	healthv1.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	s.SetServing(false)
	return s
}

// String names the task.
func (s *Server) String() string { return "operator API" }

// Ready is closed when the socket takes calls.
func (s *Server) Ready() <-chan struct{} { return s.ready }

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
	// Handovers outlive their callers, not the daemon.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	s.svc.life = life
	own, _ := os.Lstat(s.socket)

	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := s.grpc.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return fmt.Errorf("serve operator API: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-gctx.Done()
		s.health.Shutdown()
		close(s.svc.stopping)
		end()
		force := time.AfterFunc(stopTime, s.grpc.Stop)
		defer force.Stop()
		s.grpc.GracefulStop()
		return nil
	})
	close(s.ready)
	err = g.Wait()
	if now, serr := os.Lstat(s.socket); serr == nil && os.SameFile(own, now) { // not a successor's
		os.Remove(s.socket)
	}
	return err
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

// Dial connects to the daemon that listens at socket. The connection is made by
// the first call.
func Dial(socket string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix:"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", socket, err)
	}
	return conn, nil
}
