package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// Payload of a packet: magic, flow, then the sequence number and the time of
// sending in nanoseconds since the stream began; filled up with zeroes.
//
//	0 magic u32   4 flow u32   8 seq u64   16 sent u64
const (
	streamMagic   = 0x73686361
	streamHeader  = 24
	streamMaxSize = 8900
)

// Stream is UDP traffic both ways between a client's inner address and the server,
// each direction with packets of its own.
type Stream struct {
	epoch    time.Time
	rate     Rate
	cancel   context.CancelFunc
	sender   sync.WaitGroup
	client   *net.UDPConn
	server   *net.UDPConn
	up, down half

	mu    sync.Mutex
	lates []lateness // moments when the sender fell behind
}

// half is one direction.
type half struct {
	conn *ipv4.PacketConn // of the sender
	to   *net.UDPAddr
	rx   *receiver
	msgs []ipv4.Message

	mu     sync.Mutex
	sent   []int64
	failed int   // sends that the sender's own kernel refused
	err    error // last of these
}

// lateness is a sender that woke up late: the machine's own hiccup.
type lateness struct{ at, by time.Duration }

// Rate is how a stream sends.
type Rate struct {
	PPS  int // packets per second each way; 500 if 0
	Size int // UDP payload in bytes; 200 if 0
	// Max ends the stream by itself; 10 minutes if 0. It bounds the memory.
	Max time.Duration
}

// Pace of the sender. It wakes no more often than minTick and sends what is due in
// one system call each way; past maxBurst the rest is skipped, not sent: a flood
// would overflow queues that real traffic would not.
const (
	minTick  = 4 * time.Millisecond
	maxBurst = 20 * time.Millisecond
)

// flows numbers streams, so that packets of an earlier one are not counted.
var flows atomic.Uint32

// StartStream sends between client c's inner address and the server until Stop.
func (l *Lab) StartStream(c *Client, r Rate) (*Stream, error) {
	inner, err := c.Inner()
	if err != nil {
		return nil, err
	}
	return l.startStream(c.ns, inner, l.nodes["srv"], ServerAddr, r)
}

func (l *Lab) startStream(cns *Netns, caddr netip.Addr, sns *Netns, saddr netip.Addr, r Rate) (s *Stream, err error) {
	if r.PPS == 0 {
		r.PPS = 500
	}
	if r.Size == 0 {
		r.Size = 200
	}
	if r.Max == 0 {
		r.Max = 10 * time.Minute
	}
	if r.Size < streamHeader || r.Size > streamMaxSize {
		return nil, fmt.Errorf("start stream: packet size %d is not within %d..%d", r.Size, streamHeader, streamMaxSize)
	}
	s = &Stream{epoch: time.Now(), rate: r, cancel: func() {}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(), s.free())
		}
	}()
	if s.client, err = listenUDP(cns, caddr); err != nil {
		return s, err
	}
	if s.server, err = listenUDP(sns, saddr); err != nil {
		return s, err
	}
	flow, capacity := flows.Add(1), int(float64(r.PPS)*r.Max.Seconds())
	for _, x := range []struct {
		h        *half
		from, to *net.UDPConn
	}{{&s.up, s.client, s.server}, {&s.down, s.server, s.client}} {
		if x.h.rx, err = newReceiver(x.to, flow, capacity, s.epoch); err != nil {
			return s, err
		}
		x.h.conn, x.h.to = ipv4.NewPacketConn(x.from), net.UDPAddrFromAddrPort(addrPort(x.to))
		n := int(maxBurst.Seconds()*float64(r.PPS)) + 2
		for range n {
			b := make([]byte, r.Size)
			binary.BigEndian.PutUint32(b, streamMagic)
			binary.BigEndian.PutUint32(b[4:], flow)
			x.h.msgs = append(x.h.msgs, ipv4.Message{Buffers: [][]byte{b}, Addr: x.h.to})
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.Max)
	s.cancel = cancel
	s.sender.Go(func() { s.send(ctx) })
	l.onClose(func() error { return errors.Join(s.close(), s.free()) })
	return s, nil
}

func addrPort(c *net.UDPConn) netip.AddrPort {
	a := c.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

func listenUDP(ns *Netns, a netip.Addr) (c *net.UDPConn, err error) {
	err = ns.Do(func() error {
		lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
			var serr error
			err := rc.Control(func(fd uintptr) {
				serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
			})
			return errors.Join(err, serr)
		}}
		p, err := lc.ListenPacket(context.Background(), "udp4", netip.AddrPortFrom(a, 0).String())
		if err == nil {
			c = p.(*net.UDPConn)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open socket on %s in %s: %w", a, ns.Name, err)
	}
	return c, nil
}

// send paces both directions by the clock until ctx ends.
func (s *Stream) send(ctx context.Context) {
	step := time.Second / time.Duration(s.rate.PPS)
	tick := max(step, minTick)
	next := time.Since(s.epoch) // when the next packet is due
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		now := time.Since(s.epoch)
		// A tick late is rounding.
		if by := now - next; by > tick+minTick {
			s.mu.Lock()
			s.lates = append(s.lates, lateness{now, by})
			s.mu.Unlock()
			next = max(next, now-maxBurst)
		}
		n := int((now-next)/step) + 1
		if now < next {
			n = 0
		}
		s.up.send(s.epoch, n)
		s.down.send(s.epoch, n)
		next += time.Duration(n) * step
		// A late packet does not delay the next one: slow streams would lose their pace.
		timer.Reset(max(next, now+minTick) - time.Since(s.epoch))
	}
}

// send sends n packets.
func (h *half) send(epoch time.Time, n int) {
	n = min(n, len(h.msgs))
	if n == 0 {
		return
	}
	h.mu.Lock()
	t := int64(time.Since(epoch))
	for _, m := range h.msgs[:n] {
		binary.BigEndian.PutUint64(m.Buffers[0][8:], uint64(len(h.sent)))
		binary.BigEndian.PutUint64(m.Buffers[0][16:], uint64(t))
		h.sent = append(h.sent, t)
	}
	h.mu.Unlock()
	for msgs := h.msgs[:n]; len(msgs) > 0; {
		k, err := h.conn.WriteBatch(msgs, 0)
		if err != nil {
			// The kernel refused the first of them: it is lost, the others may go.
			h.mu.Lock()
			h.failed, h.err = h.failed+1, err
			h.mu.Unlock()
			k = 1
		}
		msgs = msgs[max(k, 1):]
	}
}

// StopSending ends sending; what is under way still counts.
func (s *Stream) StopSending() {
	s.cancel()
	s.sender.Wait()
}

// Stop ends sending, waits until the last packet of each direction arrived, at most
// grace, and closes the sockets. Reports remain available until the lab is closed.
func (s *Stream) Stop(grace time.Duration) error {
	s.StopSending()
	for end := time.Now().Add(grace); time.Now().Before(end); {
		up, down := s.account(&s.up), s.account(&s.down)
		if up.complete() && down.complete() {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	return s.close()
}

// close may be called twice.
func (s *Stream) close() error {
	s.StopSending()
	var errs []error
	for _, c := range []*net.UDPConn{s.client, s.server} {
		if c != nil {
			if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// free lets go of the receipts.
func (s *Stream) free() error {
	var errs []error
	for _, h := range []*half{&s.up, &s.down} {
		if h.rx != nil {
			errs = append(errs, h.rx.close())
		}
	}
	return errors.Join(errs...)
}

// account takes a snapshot of one direction. What cannot be read counts as lost, and
// as a failed send says so.
func (s *Stream) account(h *half) account {
	h.mu.Lock()
	sent := h.sent[:len(h.sent):len(h.sent)]
	h.mu.Unlock()
	got, err := h.rx.read(len(sent))
	if err != nil {
		h.mu.Lock()
		h.failed, h.err = h.failed+1, err
		h.mu.Unlock()
		got = make([]receipt, len(sent))
	}
	return account{sent, got}
}

// StreamReport is the account of a span of time, by time of sending.
type StreamReport struct {
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Up      Direction `json:"up"`   // client -> server
	Down    Direction `json:"down"` // server -> client
	Refused int       `json:"refused"`
	Error   string    `json:"error,omitempty"` // last refusal of a sender's kernel
	LateMS  float64   `json:"late_ms"`         // how far the sender fell behind at most: the machine's own hiccup
}

func (r StreamReport) String() string {
	return fmt.Sprintf("up: %s; down: %s; late %.1f ms", r.Up, r.Down, r.LateMS)
}

// Lost is the sum of both directions.
func (r StreamReport) Lost() int { return r.Up.Lost + r.Down.Lost }

// Sent is the sum of both directions.
func (r StreamReport) Sent() int { return r.Up.Sent + r.Down.Sent }

// Report accounts for the packets sent in [from, to); the zero Time means the
// beginning, or the end, of the stream. Packets still under way count as lost: call
// it after Stop, or for a span that lies back far enough. Refused and Error cover
// the whole stream.
func (s *Stream) Report(from, to time.Time) StreamReport {
	f, t := s.span(from, to)
	r := StreamReport{From: s.epoch.Add(time.Duration(f)), To: s.epoch.Add(time.Duration(t))}
	for _, x := range []struct {
		h *half
		d *Direction
	}{{&s.up, &r.Up}, {&s.down, &r.Down}} {
		a := s.account(x.h)
		*x.d = a.report(s.epoch, f, t)
		x.h.mu.Lock()
		r.Refused += x.h.failed
		if x.h.err != nil {
			r.Error = x.h.err.Error()
		}
		x.h.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.lates {
		if int64(e.at) >= f && int64(e.at) < t {
			r.LateMS = max(r.LateMS, ms(int64(e.by)))
		}
	}
	return r
}

func (s *Stream) span(from, to time.Time) (f, t int64) {
	if !from.IsZero() {
		f = int64(from.Sub(s.epoch))
	}
	t = int64(time.Since(s.epoch))
	if !to.IsZero() {
		t = int64(to.Sub(s.epoch))
	}
	return f, t
}

// Outage is the time from t to the end of the longest silence after it, counting
// packets sent at or after t, in each direction; negative where it did not end.
func (s *Stream) Outage(t time.Time) (up, down time.Duration) {
	return s.since(t, (*account).outage)
}

// First is the time from t to the first receipt of a packet sent at or after t, in
// each direction; negative where there was none.
func (s *Stream) First(t time.Time) (up, down time.Duration) { return s.since(t, (*account).first) }

func (s *Stream) since(t time.Time, f func(*account, int64) (time.Duration, bool)) (up, down time.Duration) {
	o := func(h *half) time.Duration {
		a := s.account(h)
		if d, ok := f(&a, int64(t.Sub(s.epoch))); ok {
			return d
		}
		return -1
	}
	return o(&s.up), o(&s.down)
}

// Timeline sums up both directions in steps of width, for plots.
func (s *Stream) Timeline(from, to time.Time, width time.Duration) (up, down []Bucket) {
	f, t := s.span(from, to)
	l := func(h *half) []Bucket {
		a := s.account(h)
		return a.timeline(f, t, width)
	}
	return l(&s.up), l(&s.down)
}

// WaitReceived waits until n packets more than now arrived in each direction.
func (s *Stream) WaitReceived(ctx context.Context, n int) error {
	count := func() (up, down int, err error) {
		up, err = s.up.rx.received()
		if err == nil {
			down, err = s.down.rx.received()
		}
		return up, down, err
	}
	up, down, err := count()
	if err != nil {
		return err
	}
	return poll(ctx, 10*time.Millisecond, fmt.Sprintf("%d packets each way", n), func() (bool, error) {
		u, d, err := count()
		return u >= up+n && d >= down+n, err
	})
}
