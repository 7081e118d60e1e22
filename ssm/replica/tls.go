package replica

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
)

// Timeouts. A dead peer with data under way is noticed after silence (gRPC sets
// TCP_USER_TIMEOUT to it), an idle one after pingEvery more; 10 s is the least
// that gRPC allows a client.
const (
	silence     = 3 * time.Second
	pingEvery   = 10 * time.Second
	helloWithin = 5 * time.Second
	drainWithin = 4 * time.Second // below helloWithin: the new stream still gets a reason

	streamWindow = 1 << 20 // octets under way per stream
	connWindow   = 4 << 20
)

// PeerNameFunc returns the appliance's name from the verified certificate.
type PeerNameFunc func(tls.ConnectionState) (string, error)

// dnsName is the usual PeerNameFunc: a certificate with exactly one DNS name.
func dnsName(cs tls.ConnectionState) (string, error) {
	if len(cs.PeerCertificates) == 0 {
		return "", errors.New("peer sent no certificate")
	}
	names := cs.PeerCertificates[0].DNSNames
	if len(names) != 1 {
		return "", fmt.Errorf("certificate has %d DNS names, want the appliance's name alone", len(names))
	}
	return names[0], nil
}

// NewServer makes the gRPC server for appliances. cfg must verify client
// certificates. The caller registers a Receiver, serves and stops it. failed is
// called for each TLS handshake that fails, from any goroutine; nil: nobody is
// told.
func NewServer(cfg *tls.Config, failed func(source netip.Addr, err error)) (*grpc.Server, error) {
	verified := cfg != nil && (cfg.ClientAuth == tls.RequireAndVerifyClientCert ||
		cfg.ClientAuth == tls.RequireAnyClientCert && (cfg.VerifyConnection != nil || cfg.VerifyPeerCertificate != nil))
	if !verified {
		return nil, errors.New("make replication server: TLS configuration does not verify client certificates")
	}
	cfg = cfg.Clone()
	cfg.MinVersion = tls.VersionTLS13
	return grpc.NewServer(
		grpc.Creds(watch(cfg, failed)),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(1024),
		grpc.ConnectionTimeout(helloWithin),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingEvery / 2, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingEvery, Timeout: silence}),
	), nil
}

// watch makes transport credentials that tell of handshakes that fail.
func watch(cfg *tls.Config, failed func(netip.Addr, error)) credentials.TransportCredentials {
	c := credentials.NewTLS(cfg)
	if failed == nil {
		return c
	}
	return watched{c, failed}
}

// reconnect is how often an appliance that does not answer is tried again, however long it
// was away: gRPC's own two minutes would be added to the time it was down.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 250 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
	MinConnectTimeout: 5 * time.Second,
}

// Dial prepares a connection to the appliance called name; the first call makes it.
func Dial(name string, addr netip.AddrPort, cfg *tls.Config) (*grpc.ClientConn, error) {
	return DialWatched(name, addr, cfg, nil)
}

// DialWatched is Dial with failed being called for each TLS handshake that fails.
func DialWatched(name string, addr netip.AddrPort, cfg *tls.Config, failed func(netip.Addr, error)) (*grpc.ClientConn, error) {
	if cfg == nil {
		return nil, fmt.Errorf("dial %s: no TLS configuration", name)
	}
	cfg = cfg.Clone()
	cfg.MinVersion = tls.VersionTLS13
	cfg.ServerName = name
	conn, err := grpc.NewClient("passthrough:///"+addr.String(),
		grpc.WithTransportCredentials(watch(cfg, failed)),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithConnectParams(reconnect),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: silence}),
	)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", name, err)
	}
	return conn, nil
}

// NameOf returns the certificate's name of the other end of a stream.
func NameOf(ctx context.Context, name PeerNameFunc) (string, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", errors.New("stream has no peer")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return "", errors.New("stream is not protected by TLS")
	}
	return name(info.State)
}
