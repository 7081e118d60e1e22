package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

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
// each direction with packets of its own at its own pace.
type Stream struct {
	epoch    time.Time
	cancel   context.CancelFunc
	senders  sync.WaitGroup
	readers  sync.WaitGroup
	client   *net.UDPConn
	server   *net.UDPConn
	up, down half
}

// half is one direction.
type half struct {
	mu     sync.Mutex
	acc    *account
	lates  []lateness // moments when the sender fell behind
	failed int        // sends that the sender's own kernel refused
	err    error      // last of these
}

// lateness is a sender that woke up late: the machine's own hiccup.
type lateness struct{ at, by time.Duration }

// maxBurst bounds what a sender that fell behind sends at once. The rest is skipped,
// not sent: a flood would overflow queues that real traffic would not.
const maxBurst = 20 * time.Millisecond

// Rate is how a stream sends.
type Rate struct {
	PPS  int // packets per second each way; 500 if 0
	Size int // UDP payload in bytes; 200 if 0
}

// flow numbers streams, so that packets of an earlier one are not counted.
var flow struct {
	sync.Mutex
	n uint32
}

// StartStream sends between client c's inner address and the server until Stop.
func (l *Lab) StartStream(c *Client, r Rate) (*Stream, error) {
	inner, err := c.Inner()
	if err != nil {
		return nil, err
	}
	return l.startStream(c.ns, inner, l.nodes["srv"], ServerAddr, r)
}

func (l *Lab) startStream(cns *Netns, caddr netip.Addr, sns *Netns, saddr netip.Addr, r Rate) (*Stream, error) {
	if r.PPS == 0 {
		r.PPS = 500
	}
	if r.Size == 0 {
		r.Size = 200
	}
	if r.Size < streamHeader || r.Size > streamMaxSize {
		return nil, fmt.Errorf("start stream: packet size %d is not within %d..%d", r.Size, streamHeader, streamMaxSize)
	}
	client, err := listenUDP(cns, caddr)
	if err != nil {
		return nil, err
	}
	server, err := listenUDP(sns, saddr)
	if err != nil {
		client.Close()
		return nil, err
	}
	flow.Lock()
	flow.n++
	id := flow.n
	flow.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	s := &Stream{epoch: time.Now(), cancel: cancel, client: client, server: server}
	n := r.PPS * 60
	s.up.acc, s.down.acc = newAccount(n), newAccount(n)
	cAddr, sAddr := addrPort(client), addrPort(server)
	s.readers.Go(func() { s.receive(server, &s.up, id) })
	s.readers.Go(func() { s.receive(client, &s.down, id) })
	s.senders.Go(func() { s.send(ctx, client, sAddr, &s.up, id, r) })
	s.senders.Go(func() { s.send(ctx, server, cAddr, &s.down, id, r) })
	l.onClose(s.close)
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
		p, err := lc.ListenPacket(context.Background(), "udp", netip.AddrPortFrom(a, 0).String())
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

// send paces packets by the clock.
func (s *Stream) send(ctx context.Context, c *net.UDPConn, to netip.AddrPort, h *half, id uint32, r Rate) {
	b := make([]byte, r.Size)
	binary.BigEndian.PutUint32(b, streamMagic)
	binary.BigEndian.PutUint32(b[4:], id)
	step := time.Second / time.Duration(r.PPS)
	next := time.Since(s.epoch)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		now := time.Since(s.epoch)
		if by := now - next; by > maxBurst/4 {
			h.mu.Lock()
			h.lates = append(h.lates, lateness{now, by})
			h.mu.Unlock()
			next = max(next, now-maxBurst)
		}
		for ; next <= now; next += step {
			h.mu.Lock()
			t := int64(time.Since(s.epoch))
			binary.BigEndian.PutUint64(b[8:], uint64(h.acc.send(t)))
			binary.BigEndian.PutUint64(b[16:], uint64(t))
			h.mu.Unlock()
			if _, err := c.WriteToUDPAddrPort(b, to); err != nil {
				h.mu.Lock()
				h.failed++
				h.err = err
				h.mu.Unlock()
			}
		}
		timer.Reset(next - time.Since(s.epoch))
	}
}

// receive counts until the socket is closed.
func (s *Stream) receive(c *net.UDPConn, h *half, id uint32) {
	b := make([]byte, streamMaxSize+1)
	for {
		n, _, err := c.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		// Anything else is an ICMP error about an earlier packet.
		if err != nil || n < streamHeader || binary.BigEndian.Uint32(b) != streamMagic || binary.BigEndian.Uint32(b[4:]) != id {
			continue
		}
		t := int64(time.Since(s.epoch))
		h.mu.Lock()
		h.acc.receive(binary.BigEndian.Uint64(b[8:]), t)
		h.mu.Unlock()
	}
}

// StopSending ends sending; what is under way still counts.
func (s *Stream) StopSending() {
	s.cancel()
	s.senders.Wait()
}

// Stop ends sending, waits until everything sent arrived, at most grace, and closes
// the sockets. Reports remain available.
func (s *Stream) Stop(grace time.Duration) error {
	s.StopSending()
	for end := time.Now().Add(grace); time.Now().Before(end) && !s.complete(); {
		time.Sleep(5 * time.Millisecond)
	}
	return s.close()
}

// complete reports whether the last packet of each direction arrived.
func (s *Stream) complete() bool {
	for _, h := range []*half{&s.up, &s.down} {
		h.mu.Lock()
		n := len(h.acc.got)
		open := n > 0 && h.acc.got[n-1] == 0
		h.mu.Unlock()
		if open {
			return false
		}
	}
	return true
}

// close may be called twice.
func (s *Stream) close() error {
	s.StopSending()
	err := errors.Join(ignoreClosed(s.client.Close()), ignoreClosed(s.server.Close()))
	s.readers.Wait()
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// StreamReport is the account of a span of time, by time of sending.
type StreamReport struct {
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Up      Direction `json:"up"`   // client -> server
	Down    Direction `json:"down"` // server -> client
	Refused int       `json:"refused"`
	Error   string    `json:"error,omitempty"` // last refusal of a sender's kernel
	LateMS  float64   `json:"late_ms"`         // how far a sender fell behind at most: the machine's own hiccup
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
// it after Stop, or for a span that lies back far enough. Refused and Error cover the
// whole stream.
func (s *Stream) Report(from, to time.Time) StreamReport {
	f, t := s.span(from, to)
	r := StreamReport{From: s.epoch.Add(time.Duration(f)), To: s.epoch.Add(time.Duration(t))}
	for _, x := range []struct {
		h *half
		d *Direction
	}{{&s.up, &r.Up}, {&s.down, &r.Down}} {
		x.h.mu.Lock()
		*x.d = x.h.acc.report(s.epoch, f, t)
		r.Refused += x.h.failed
		if x.h.err != nil {
			r.Error = x.h.err.Error()
		}
		for _, e := range x.h.lates {
			if int64(e.at) >= f && int64(e.at) < t {
				r.LateMS = max(r.LateMS, ms(int64(e.by)))
			}
		}
		x.h.mu.Unlock()
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

// Outage is the time from t to the first receipt of a packet sent at or after t,
// in each direction; negative where there was none.
func (s *Stream) Outage(t time.Time) (up, down time.Duration) {
	o := func(h *half) time.Duration {
		h.mu.Lock()
		defer h.mu.Unlock()
		if d, ok := h.acc.outage(int64(t.Sub(s.epoch))); ok {
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
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.acc.timeline(f, t, width)
	}
	return l(&s.up), l(&s.down)
}

// WaitReceived waits until n packets more than now arrived in each direction.
func (s *Stream) WaitReceived(ctx context.Context, n int) error {
	count := func(h *half) int {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.acc.received
	}
	up, down := count(&s.up)+n, count(&s.down)+n
	return poll(ctx, 5*time.Millisecond, "packets", func() (bool, error) {
		return count(&s.up) >= up && count(&s.down) >= down, nil
	})
}
