package replica

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// The kinds of refusals beside those of the TLS handshake.
const (
	KindGreeting       = "greeting"         // its first message makes no sense
	KindVersion        = "protocol version" // none in common
	KindName           = "wrong name"       // meant for another appliance, or not the one its certificate names
	KindSuperseded     = "superseded"       // a higher ticket is known
	KindTicketOfOther  = "ticket of another"
	KindAuthority      = "authority" // it does not own the slot, as far as is known here
	KindOldIncarnation = "old incarnation"
	KindBusy           = "busy"
	KindStopping       = "stopping"
	KindOversized      = "oversized" // a message above the limit
	KindUnknownSlot    = "unknown slot"
	KindClock          = "clock"     // a time in the future, or too long ago
	KindMalformed      = "malformed" // a message that is cut short or contradicts itself
)

// Refusal is a stream, fetch, announcement or message that was refused.
type Refusal struct {
	Kind   string
	Peer   string // by its certificate, "" unknown
	Source netip.Addr
	Err    error
}

// kindError is an error that knows its kind.
type kindError struct {
	kind string
	error
}

func (e kindError) Unwrap() error { return e.error }

// kindOf returns the kind of a greeting's error.
func kindOf(err error) string {
	if k, ok := errors.AsType[kindError](err); ok {
		return k.kind
	}
	return KindGreeting
}

// brokenKind returns the kind of refusal if err ends a stream because of what
// the other end sent, "" if it just ended.
func brokenKind(err error) string {
	switch status.Code(err) {
	case codes.ResourceExhausted: // gRPC's word for a message above MaxRecvMsgSize
		return KindOversized
	case codes.Internal, codes.InvalidArgument: // cut short or not protobuf; checked by handle
		return KindMalformed
	}
	return ""
}

// refuse tells of a refusal and returns err.
func (r *Receiver) refuse(ctx context.Context, kind string, err error) error {
	if r.cfg.OnRefused != nil {
		x := Refusal{Kind: kind, Err: errors.New(reasonOf(err))}
		x.Peer, _ = NameOf(ctx, r.cfg.PeerName) // unknown stays empty
		if p, ok := peer.FromContext(ctx); ok {
			x.Source = sourceOf(p.Addr)
		}
		r.cfg.OnRefused(x)
	}
	return err
}

func sourceOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{} // not an IP socket
	}
	return ap.Addr().Unmap()
}

// watched tells of TLS handshakes that fail, which gRPC keeps to itself.
type watched struct {
	credentials.TransportCredentials
	failed func(source netip.Addr, err error)
}

func (w watched) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := w.TransportCredentials.ServerHandshake(c)
	if err != nil {
		w.failed(sourceOf(c.RemoteAddr()), err)
	}
	return conn, info, err
}

func (w watched) ClientHandshake(ctx context.Context, authority string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := w.TransportCredentials.ClientHandshake(ctx, authority, c)
	if err != nil && ctx.Err() == nil {
		w.failed(sourceOf(c.RemoteAddr()), err)
	}
	return conn, info, err
}

func (w watched) Clone() credentials.TransportCredentials {
	return watched{w.TransportCredentials.Clone(), w.failed}
}
