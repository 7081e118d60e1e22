package charon

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// rxQueue is the state of charon's receiving HA socket, from /proc/<pid>/net/udp.
type rxQueue struct {
	Bytes uint64 // receive queue, in bytes of kernel memory (sk_rmem_alloc)
	Drops uint64 // datagrams dropped since the socket was opened
}

// errNotListening means that no socket is bound to charon's HA address.
var errNotListening = errors.New("charon does not listen on 127.0.0.1:4510 (ha plugin not loaded?)")

// haListener is 127.0.0.1:4510 as /proc/net/udp prints it on this machine: the
// address as a native-endian word.
var haListener = func() []byte {
	if littleEndian {
		return []byte("0100007F:119E")
	}
	return []byte("7F000001:119E")
}()

// rxQueueReader reads the queue of the HA socket in the network namespace of one
// charon. It keeps the file open: Send asks before and after each document.
type rxQueueReader struct {
	mu  sync.Mutex
	pid int
	fd  int // -1: not open
	buf []byte
}

func newRxQueueReader() *rxQueueReader { return &rxQueueReader{fd: -1} }

func (r *rxQueueReader) read(pid int) (rxQueue, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if pid != r.pid {
		r.drop()
	}
	if r.fd < 0 {
		fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/net/udp", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return rxQueue{}, fmt.Errorf("read receive queue of charon (pid %d): %w", pid, err)
		}
		r.fd, r.pid = fd, pid
	}
	q, err := r.scan()
	if err != nil {
		r.drop()
		return rxQueue{}, fmt.Errorf("read receive queue of charon (pid %d): %w", pid, err)
	}
	return q, nil
}

// scan reads the file from its beginning, which makes the kernel list the
// sockets anew.
func (r *rxQueueReader) scan() (rxQueue, error) {
	if r.buf == nil {
		r.buf = make([]byte, 8<<10)
	}
	n := 0
	for {
		if n == len(r.buf) {
			r.buf = append(r.buf, make([]byte, len(r.buf))...)
		}
		k, err := unix.Pread(r.fd, r.buf[n:], int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return rxQueue{}, err
		}
		if n += k; k == 0 {
			return parseRxQueue(r.buf[:n])
		}
		// Most namespaces of a slot list a handful of sockets: stop when ours is complete.
		if q, err := parseRxQueue(r.buf[:n]); err == nil && bytes.HasSuffix(r.buf[:n], []byte("\n")) {
			return q, nil
		}
	}
}

func (r *rxQueueReader) drop() {
	if r.fd >= 0 {
		unix.Close(r.fd)
	}
	r.fd, r.pid = -1, 0
}

func (r *rxQueueReader) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop()
}

// parseRxQueue reads /proc/net/udp: columns 1 local address, 4 tx:rx queue in
// hexadecimal, last drops.
func parseRxQueue(b []byte) (rxQueue, error) {
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) < 13 || !bytes.Equal(f[1], haListener) {
			continue
		}
		_, rx, ok := bytes.Cut(f[4], []byte(":"))
		if !ok {
			return rxQueue{}, fmt.Errorf("parse queue column %q", f[4])
		}
		n, err := strconv.ParseUint(string(rx), 16, 64)
		if err != nil {
			return rxQueue{}, fmt.Errorf("parse queue column: %w", err)
		}
		d, err := strconv.ParseUint(string(f[len(f)-1]), 10, 64)
		if err != nil {
			return rxQueue{}, fmt.Errorf("parse drops column: %w", err)
		}
		return rxQueue{Bytes: n, Drops: d}, nil
	}
	return rxQueue{}, errNotListening
}
