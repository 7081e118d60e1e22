package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
)

// Bounds of what a visitor may take. The endpoint is read-only and meant for a
// management network, but nobody authenticates.
const (
	headerTime  = 5 * time.Second
	idleTime    = 2 * time.Minute
	writeTime   = 30 * time.Second
	maxHeader   = 16 << 10
	maxInFlight = 4  // scrapes at once; each takes a snapshot
	maxVisitors = 64 // connections at a time: the daemon needs its file descriptors
	stopTime    = 2 * time.Second
)

// Server answers scrapes.
type Server struct {
	listen   netip.AddrPort
	registry *prometheus.Registry
	recorder *Recorder
	mux      *http.ServeMux
	ready    chan struct{}
	addr     netip.AddrPort
}

// NewServer makes a server that will listen at listen, show what src tells, and
// count the events of log.
func NewServer(listen netip.AddrPort, src Source, events EventLog, log *slog.Logger) *Server {
	reg := prometheus.NewRegistry()
	reg.MustRegister(NewCollector(src, log), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s := &Server{listen: listen, registry: reg, recorder: NewRecorder(events, reg), mux: http.NewServeMux(), ready: make(chan struct{})}
	s.mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{
		MaxRequestsInFlight: maxInFlight, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError}))
	return s
}

// Handle serves pattern beside /metrics. Call it before Run.
func (s *Server) Handle(pattern string, h http.Handler) { s.mux.Handle(pattern, h) }

// String names the task.
func (s *Server) String() string { return "metrics endpoint" }

// Ready is closed when scrapes are answered; Addr tells where from then on.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Addr is the address that is listened at.
func (s *Server) Addr() netip.AddrPort { return s.addr }

// Run serves and counts until ctx ends. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	l, err := net.Listen("tcp", s.listen.String())
	if err != nil {
		return fmt.Errorf("listen for metrics (metrics.listen): %w", err)
	}
	if a, ok := l.Addr().(*net.TCPAddr); ok {
		s.addr = a.AddrPort()
	}
	l = netutil.LimitListener(l, maxVisitors)
	h := &http.Server{Handler: s.mux, ReadHeaderTimeout: headerTime, ReadTimeout: headerTime, WriteTimeout: writeTime, IdleTimeout: idleTime, MaxHeaderBytes: maxHeader}
	g, gctx := errgroup.WithContext(ctx)
	h.BaseContext = func(net.Listener) context.Context { return gctx }
	g.Go(func() error { return s.recorder.Run(gctx) })
	g.Go(func() error {
		if err := h.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve metrics: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-gctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
		if err := h.Shutdown(end); err != nil {
			h.Close()
		}
		return nil
	})
	close(s.ready)
	return g.Wait()
}
