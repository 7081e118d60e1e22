package operator

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
)

// socketMode lets root and the socket's group in, where the directory does; the packaged
// unit's (0700) lets root in alone. Whoever may open the socket may call everything, but
// key material is for root alone.
const socketMode = 0o660

// listen makes the socket at path. A socket left behind by a daemon that is gone
// is replaced; one that answers is not.
func listen(path string) (*net.UnixListener, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("listen on %s: another daemon answers there", path)
	} else if st, serr := os.Lstat(path); serr == nil && st.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("listen on %s: it is there and no socket", path)
	} else if serr == nil && !errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	// The socket takes its name only when its mode is right, so that nobody else
	// can connect in between.
	tmp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(tmp, socketMode), os.Rename(tmp, path)); err != nil {
		l.Close()
		os.Remove(tmp)
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

// Caller is the process at the other end of the socket.
type Caller struct {
	UID, GID uint32
	PID      int32
}

// AuthType makes Caller a credentials.AuthInfo.
func (Caller) AuthType() string { return "unix-peer" }

// peerCredentials asks the kernel who is at the other end of a unix socket. The
// wire is left as it is, so clients use insecure credentials.
type peerCredentials struct{}

func (peerCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	caller, err := peerOf(c)
	if err != nil {
		return nil, nil, fmt.Errorf("read peer credentials: %w", err)
	}
	return c, caller, nil
}

func peerOf(c net.Conn) (Caller, error) {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return Caller{}, fmt.Errorf("%T is no unix socket", c)
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return Caller{}, err
	}
	var cred *unix.Ucred
	var operr error
	if err := raw.Control(func(fd uintptr) {
		cred, operr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return Caller{}, err
	}
	if operr != nil {
		return Caller{}, operr
	}
	return Caller{UID: cred.Uid, GID: cred.Gid, PID: cred.Pid}, nil
}

func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("peer credentials are for servers")
}

func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix-peer"}
}

func (peerCredentials) Clone() credentials.TransportCredentials { return peerCredentials{} }

func (peerCredentials) OverrideServerName(string) error { return nil }
