package xfrm

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// replyTimeout bounds the wait for one answer of the kernel, which answers
// from within the request.
const replyTimeout = 10 * time.Second

// sock is an XFRM netlink socket that belongs to one network namespace for
// life, wherever the calling thread is.
type sock struct {
	f    *os.File
	raw  syscall.RawConn
	buf  []byte
	used int // octets of buf that may hold keys
}

// openIn runs f on a thread inside the network namespace at path and lets that
// thread die, because a thread that changed namespace must not be used again.
func openIn(path string, f func() error) error {
	if path == "" {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			ns, err := os.Open(path)
			if err != nil {
				return fmt.Errorf("open network namespace: %w", err)
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter network namespace %s: %w", path, err)
			}
			return f()
		}()
	}()
	return <-done
}

// newSock opens a socket in the calling thread's network namespace.
func newSock(rcvbuf int, groups ...Group) (*sock, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_XFRM)
	if err != nil {
		return nil, fmt.Errorf("open XFRM socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "xfrm")
	fail := func(err error) (*sock, error) {
		f.Close()
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, rcvbuf); err != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, rcvbuf); err != nil {
			return fail(fmt.Errorf("size XFRM receive buffer: %w", err))
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fail(fmt.Errorf("bind XFRM socket: %w", err))
	}
	for _, g := range groups {
		if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(g)); err != nil {
			return fail(fmt.Errorf("join XFRM group %d: %w", g, err))
		}
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return fail(fmt.Errorf("poll XFRM socket: %w", err))
	}
	return &sock{f: f, raw: raw, buf: make([]byte, 256<<10)}, nil
}

func (s *sock) close() error {
	s.wipe()
	return s.f.Close()
}

// wipe overwrites what the last receive left: SA messages contain keys.
func (s *sock) wipe() {
	clear(s.buf[:s.used])
	s.used = 0
}

func (s *sock) send(b []byte) error {
	var err error
	werr := s.raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
		return err != unix.EAGAIN
	})
	if werr != nil {
		return werr
	}
	return err
}

// receive returns the next datagram. It is valid until the next receive, which
// wipes it. Datagrams that do not come from the kernel are dropped.
func (s *sock) receive() ([]byte, error) {
	for {
		s.wipe()
		var n, rflags int
		var from unix.Sockaddr
		var err error
		rerr := s.raw.Read(func(fd uintptr) bool {
			n, _, rflags, from, err = unix.Recvmsg(int(fd), s.buf, nil, 0)
			return err != unix.EAGAIN
		})
		if rerr != nil {
			return nil, rerr
		}
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		s.used = n
		if rflags&unix.MSG_TRUNC != 0 {
			return nil, errTruncated
		}
		if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 {
			continue
		}
		return s.buf[:n], nil
	}
}

// setDeadline bounds the next receives.
func (s *sock) setDeadline(d time.Duration) error {
	if err := s.f.SetDeadline(time.Now().Add(d)); err != nil {
		return fmt.Errorf("set XFRM socket deadline: %w", err)
	}
	return nil
}
