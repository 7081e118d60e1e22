package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"syscall"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/operator"
)

// askTime bounds a question; streams have no bound.
const askTime = 15 * time.Second

// dial connects to the daemon. It tries the socket first, because the kernel's
// reason says more than gRPC's.
func (a *app) dial() (v1.OperatorServiceClient, io.Closer, error) {
	conn, err := a.dialConn()
	if err != nil {
		return nil, nil, err
	}
	return v1.NewOperatorServiceClient(conn), conn, nil
}

func (a *app) dialConn() (*grpc.ClientConn, error) {
	if a.remote.server != "" {
		return a.remote.dial()
	}
	probe, err := net.DialTimeout("unix", a.socket, 2*time.Second)
	if err != nil {
		return nil, a.unreachable(err)
	}
	probe.Close()
	return operator.Dial(a.socket)
}

func (a *app) unreachable(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no daemon at %s: the socket does not exist\n"+
			"  Is it running?   systemctl status shadowcastd\n"+
			"  Another run_dir? shadowctl --socket RUN_DIR/shadowcast.sock status", a.socket)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no daemon at %s: the socket is there, but nobody listens (it died without cleaning up)\n"+
			"  See why:  journalctl -u shadowcastd -e\n"+
			"  Start it: systemctl start shadowcastd", a.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("no access to %s: permission denied\n"+
			"  Run as root; people without root ask through operator.listen:\n"+
			"  shadowctl --server HOST:4505 --cert NAME.crt status", a.socket)
	default:
		return fmt.Errorf("connect to %s: %w", a.socket, err)
	}
}

// ask connects, runs one bounded question, and explains its error.
func ask[T any](ctx context.Context, a *app, question func(context.Context, v1.OperatorServiceClient) (T, error)) (T, error) {
	return askConn(ctx, a, v1.NewOperatorServiceClient, question)
}

// askConn is ask for any service of the daemon.
func askConn[C, T any](ctx context.Context, a *app, client func(grpc.ClientConnInterface) C, question func(context.Context, C) (T, error)) (T, error) {
	var none T
	conn, err := a.dialConn()
	if err != nil {
		return none, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	answer, err := question(ctx, client(conn))
	if err != nil {
		return none, a.explain(err)
	}
	return answer, nil
}

// where is the daemon that is asked.
func (a *app) where() string {
	if a.remote.server != "" {
		return a.remote.server
	}
	return a.socket
}

// explain turns a status into a line for people.
func (a *app) explain(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.Reason != "" {
			return fmt.Errorf("%s (%s)", s.Message(), info.Reason)
		}
	}
	switch s.Code() {
	case codes.Canceled:
		return errors.New("interrupted")
	case codes.DeadlineExceeded:
		return fmt.Errorf("the daemon at %s did not answer within %v", a.where(), askTime)
	case codes.Unimplemented:
		return fmt.Errorf("the daemon at %s is older than this shadowctl: %s", a.where(), s.Message())
	default:
		return errors.New(s.Message())
	}
}
