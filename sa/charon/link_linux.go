package charon

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// haPort is the port of the `ha` plugin; it cannot be configured.
const haPort = 4510

var (
	daemonAddr = netip.MustParseAddr("127.0.0.2") // `remote` of the ha block
	charonAddr = netip.MustParseAddr("127.0.0.1") // `local` of the ha block
)

// LinkOptions tune a Link. The zero value is what a daemon wants.
type LinkOptions struct {
	Version    Version // protocol version of the charon; default 3
	RecvBuffer int     // bytes of kernel receive buffer; default 16 MiB
	// QueueLimit bounds charon's receive queue in bytes of kernel memory while
	// Send runs; default 64 KiB, a third of Linux's default buffer.
	QueueLimit int
	Log        *slog.Logger
}

// Link is the daemon as HA peer of one charon, on the loopback of its slot.
// Methods may be called from any goroutine.
type Link struct {
	conn  *net.UDPConn
	log   *slog.Logger
	limit uint64

	version atomic.Uint32
	pid     atomic.Int64

	rx *rxQueueReader

	send  sync.Mutex // keeps the order of datagrams
	stats linkCounters
}

type linkCounters struct {
	received, undecodable, kernelDrops, sent, peerDrops, refused, waits atomic.Uint64
}

// LinkStats are counters since the Link was opened.
type LinkStats struct {
	Received    uint64 // datagrams decoded
	Undecodable uint64 // datagrams refused by Decode
	KernelDrops uint64 // datagrams lost because our receive buffer was full
	Sent        uint64 // datagrams sent
	PeerDrops   uint64 // datagrams lost because charon's receive buffer was full, as seen by Send
	Refused     uint64 // "connection refused" answers: charon was not listening
	Waits       uint64 // times Send waited for charon's queue
}

// ErrDropped is returned by Send where charon's kernel buffer overflowed while
// it ran: some of the messages, or of other senders', did not arrive.
var ErrDropped = errors.New("charon's receive buffer overflowed")

// OpenLink opens the daemon's end of the HA link in the network namespace at
// netnsPath ("" is the caller's). Opening works before charon runs.
func OpenLink(netnsPath string, o LinkOptions) (*Link, error) {
	var f *os.File
	err := inNetns(netnsPath, func() (err error) {
		f, err = haSocket(o.recvBuffer())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open HA link: %w", err)
	}
	defer f.Close()
	return newLink(f, o)
}

// AdoptLink takes over the socket of an earlier Link (see FD), so that no
// datagram is lost while a daemon restarts. It does not close f.
func AdoptLink(f *os.File, o LinkOptions) (*Link, error) {
	l, err := newLink(f, o)
	if err != nil {
		return nil, err
	}
	local, remote := l.conn.LocalAddr().(*net.UDPAddr), l.conn.RemoteAddr().(*net.UDPAddr)
	want := [2]netip.AddrPort{netip.AddrPortFrom(daemonAddr, haPort), netip.AddrPortFrom(charonAddr, haPort)}
	if got := [2]netip.AddrPort{local.AddrPort(), remote.AddrPort()}; got != want {
		l.Close()
		return nil, fmt.Errorf("adopt HA link: socket is %s -> %s, want %s -> %s", got[0], got[1], want[0], want[1])
	}
	return l, nil
}

func newLink(f *os.File, o LinkOptions) (*Link, error) {
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("open HA link: %w", err)
	}
	conn, ok := c.(*net.UDPConn)
	if !ok || conn.RemoteAddr() == nil {
		c.Close()
		return nil, errors.New("open HA link: descriptor is no connected UDP socket")
	}
	l := &Link{conn: conn, log: o.Log, limit: uint64(o.QueueLimit), rx: newRxQueueReader()}
	if l.log == nil {
		l.log = slog.Default()
	}
	if l.limit == 0 {
		l.limit = 64 << 10
	}
	l.SetVersion(o.Version)
	return l, nil
}

func (o LinkOptions) recvBuffer() int {
	if o.RecvBuffer > 0 {
		return o.RecvBuffer
	}
	return 16 << 20
}

func haSocket(recvBuffer int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	f := os.NewFile(uintptr(fd), "ha-link")
	fail := func(what string, err error) (*os.File, error) {
		f.Close()
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, recvBuffer/2); err != nil { // the kernel doubles it
		return fail("set receive buffer (CAP_NET_ADMIN)", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1); err != nil {
		return fail("ask for overflow counts", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: haPort, Addr: daemonAddr.As4()}); err != nil {
		return fail("bind 127.0.0.2:4510 (is another daemon the HA peer of this slot?)", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: haPort, Addr: charonAddr.As4()}); err != nil {
		return fail("connect to 127.0.0.1:4510 (is lo up?)", err)
	}
	return f, nil
}

// SetPeer names the charon that listens at the other end. Send paces itself by
// that process's receive queue; 0 forgets it, and Send then fails.
func (l *Link) SetPeer(pid int) { l.pid.Store(int64(pid)) }

// SetVersion sets the protocol version of charon; 0 means version 3.
func (l *Link) SetVersion(v Version) {
	if v == 0 {
		v = V3
	}
	l.version.Store(uint32(v))
}

// Version returns the protocol version in which Send writes.
func (l *Link) Version() Version { return Version(l.version.Load()) }

// FD calls f with the socket's descriptor, for a service manager that keeps it
// across a restart (AdoptLink takes it back). f must neither keep nor close it,
// and must not wrap it in an os.File: Fd of one may switch the socket, which all
// duplicates share, to blocking mode.
func (l *Link) FD(f func(fd uintptr)) error {
	c, err := l.conn.SyscallConn()
	if err == nil {
		err = c.Control(f)
	}
	if err != nil {
		return fmt.Errorf("lend HA link: %w", err)
	}
	return nil
}

// Close closes the socket; Run returns.
func (l *Link) Close() error {
	l.rx.close()
	return l.conn.Close()
}

// Stats returns the counters.
func (l *Link) Stats() LinkStats {
	c := &l.stats
	return LinkStats{
		Received: c.received.Load(), Undecodable: c.undecodable.Load(), KernelDrops: c.kernelDrops.Load(),
		Sent: c.sent.Load(), PeerDrops: c.peerDrops.Load(), Refused: c.refused.Load(), Waits: c.waits.Load(),
	}
}

// Run passes every datagram from charon to handle, in order, until ctx ends or
// the Link is closed. handle runs on Run's goroutine and must not block for
// long: what does not fit into the receive buffer meanwhile is lost (and
// counted). Undecodable datagrams are counted and logged without their content.
func (l *Link) Run(ctx context.Context, handle func(Message)) error {
	if err := l.conn.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("read HA link: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = l.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	buf, oob := make([]byte, 64<<10), make([]byte, 256)
	var lastDrops uint32
	for {
		n, oobn, _, _, err := l.conn.ReadMsgUDPAddrPort(buf, oob)
		if err != nil {
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, unix.ECONNREFUSED):
				l.stats.refused.Add(1)
				continue
			}
			return fmt.Errorf("read HA link: %w", err)
		}
		if d, ok := overflowCount(oob[:oobn]); ok && d != lastDrops {
			l.stats.kernelDrops.Add(uint64(d - lastDrops))
			l.log.Error("HA datagrams lost, receive buffer full", "lost", d-lastDrops)
			lastDrops = d
		}
		m, err := Decode(buf[:n])
		if err != nil {
			l.stats.undecodable.Add(1)
			l.log.Error("HA datagram refused", "reason", err, "bytes", n)
			continue
		}
		l.stats.received.Add(1)
		if was := l.Version(); m.Version != was {
			// Its word counts, not what we know of its release.
			l.log.Warn("charon speaks another HA version than its release was known for", "version", uint8(m.Version), "known", uint8(was))
			l.SetVersion(m.Version)
		}
		handle(m)
	}
}

// overflowCount reads the SO_RXQ_OVFL control message: datagrams dropped since
// the socket was opened.
func overflowCount(oob []byte) (uint32, bool) {
	for len(oob) > 0 {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return 0, false
		}
		if h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL && len(data) >= 4 {
			return binary.NativeEndian.Uint32(data), true
		}
		oob = rest
	}
	return 0, false
}

// Send sends messages in order, in charon's protocol version, and waits
// whenever charon's receive queue is longer than the limit. All are encoded
// before the first is sent. It returns when the last is in charon's queue, not
// when charon has processed it (see Drain). ErrDropped tells of an overflow.
func (l *Link) Send(ctx context.Context, ms ...Message) error {
	out := make([][]byte, len(ms))
	for i, m := range ms {
		m, err := m.As(l.Version())
		if err != nil {
			return fmt.Errorf("send HA message %d of %d: %w", i+1, len(ms), err)
		}
		if out[i], err = m.Encode(); err != nil {
			return fmt.Errorf("send HA message %d of %d: %w", i+1, len(ms), err)
		}
	}
	l.send.Lock()
	defer l.send.Unlock()
	first, err := l.queue()
	if err != nil {
		return fmt.Errorf("send HA messages: %w", err)
	}
	q := first.Bytes
	for i, b := range out {
		if cost := truesize(len(b)); q+cost > l.limit {
			if q, err = l.await(ctx, l.limit/2); err != nil {
				return fmt.Errorf("send HA message %d of %d: %w", i+1, len(ms), err)
			}
		}
		if err := l.write(b); err != nil {
			return fmt.Errorf("send HA message %d of %d: %w", i+1, len(ms), err)
		}
		q += truesize(len(b))
		l.stats.sent.Add(1)
	}
	last, err := l.queue()
	if err != nil {
		return fmt.Errorf("send HA messages: %w", err)
	}
	if last.Drops > first.Drops {
		l.stats.peerDrops.Add(last.Drops - first.Drops)
		return fmt.Errorf("send %d HA messages: %w (%d lost)", len(ms), ErrDropped, last.Drops-first.Drops)
	}
	return nil
}

// truesize is an upper estimate of the kernel memory that a datagram of n bytes
// occupies in a receive queue.
func truesize(n int) uint64 { return uint64(n)*2 + 1280 }

func (l *Link) queue() (rxQueue, error) {
	pid := int(l.pid.Load())
	if pid == 0 {
		return rxQueue{}, errors.New("no charon process set (SetPeer)")
	}
	return l.rx.read(pid)
}

// await waits until charon's receive queue is at most limit bytes long.
func (l *Link) await(ctx context.Context, limit uint64) (uint64, error) {
	t := time.NewTimer(0)
	defer t.Stop()
	for waited := false; ; {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-t.C:
		}
		q, err := l.queue()
		if err != nil || q.Bytes <= limit {
			return q.Bytes, err
		}
		if !waited {
			waited = true
			l.stats.waits.Add(1)
		}
		t.Reset(300 * time.Microsecond)
	}
}

// Idle reports whether charon has taken everything that was sent; false where it
// cannot be told.
func (l *Link) Idle() bool {
	q, err := l.queue()
	return err == nil && q.Bytes == 0
}

// Drain waits until charon has taken every datagram out of its queue. charon
// handles one at a time, so all but the last taken are processed.
func (l *Link) Drain(ctx context.Context) error {
	if _, err := l.await(ctx, 0); err != nil {
		return fmt.Errorf("wait for charon's HA queue: %w", err)
	}
	return nil
}

// write sends one datagram. A pending "connection refused" belongs to an
// earlier datagram and makes the kernel not send this one: try once more.
func (l *Link) write(b []byte) error {
	_, err := l.conn.Write(b)
	if errors.Is(err, unix.ECONNREFUSED) {
		l.stats.refused.Add(1)
		_, err = l.conn.Write(b)
	}
	return err
}

// Activate makes charon serve the slot's IKE_SAs: DPD, rekeys and answers start.
func (l *Link) Activate(ctx context.Context) error { return l.control(ctx, SegmentDrop) }

// Passivate makes charon stop serving them. It is not complete by itself: see
// rule 14 of the design.
func (l *Link) Passivate(ctx context.Context) error { return l.control(ctx, SegmentTake) }

// Resync makes charon send all it has again and rekey every child with its
// client. Last resort.
func (l *Link) Resync(ctx context.Context) error { return l.control(ctx, Resync) }

// control sends a message about segment 1, the only one (segment_count = 1).
func (l *Link) control(ctx context.Context, t MsgType) error {
	return l.Send(ctx, Message{Version: l.Version(), Type: t, Attrs: []Attr{NewU16(Segment, 1)}})
}
