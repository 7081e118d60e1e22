package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Download is an HTTP download of unlimited length from the server through the
// tunnel, paced by the server.
type Download struct {
	got    atomic.Int64
	stall  atomic.Int64 // the longest time without an octet, nanoseconds
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	err    error
}

// downloadTick is the pace of the server.
const downloadTick = 20 * time.Millisecond

// StartDownload lets client c fetch at rate octets a second until Stop.
func (l *Lab) StartDownload(c *Client, rate int) (*Download, error) {
	inner, err := c.Inner()
	if err != nil {
		return nil, err
	}
	ln, err := listenTCP(l.nodes["srv"], ServerAddr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &Download{cancel: cancel}
	chunk := make([]byte, max(1, rate*int(downloadTick)/int(time.Second)))
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t := time.NewTicker(downloadTick)
		defer t.Stop()
		for {
			select {
			case <-r.Context().Done():
				return
			case <-t.C:
			}
			if _, err := w.Write(chunk); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	})}
	d.wg.Go(func() { srv.Serve(ln) })
	tr := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		return dialTCP(ctx, c.ns, inner, addr)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ln.Addr().String()+"/", nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start download: %w", err), srv.Close())
	}
	l.onClose(func() error { d.Stop(); tr.CloseIdleConnections(); return srv.Close() })
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return nil, fmt.Errorf("start download: %w", err)
	}
	d.wg.Go(func() {
		<-ctx.Done()
		srv.Close()
	})
	d.wg.Go(func() {
		defer resp.Body.Close()
		buf := make([]byte, 64<<10)
		last := time.Now()
		for {
			n, err := resp.Body.Read(buf)
			now := time.Now()
			d.got.Add(int64(n))
			d.stall.Store(max(d.stall.Load(), int64(now.Sub(last))))
			last = now
			if err != nil {
				if ctx.Err() == nil {
					d.mu.Lock()
					d.err = fmt.Errorf("download ended after %d octets: %w", d.got.Load(), err)
					d.mu.Unlock()
				}
				return
			}
		}
	})
	return d, nil
}

// Stop ends the download and returns what broke it, if anything did.
func (d *Download) Stop() error {
	d.cancel()
	d.wg.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// Octets received so far, and the longest stall since the last call.
func (d *Download) Take() (octets int64, stall time.Duration) {
	return d.got.Load(), time.Duration(d.stall.Swap(0))
}

// Echo is an interactive connection: a few octets there and back, again and again.
type Echo struct {
	rounds  atomic.Int64
	longest atomic.Int64 // round, nanoseconds
	conn    net.Conn
	ln      net.Listener
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	mu      sync.Mutex
	err     error
}

// StartEcho types every interval until Stop.
func (l *Lab) StartEcho(c *Client, interval time.Duration) (*Echo, error) {
	inner, err := c.Inner()
	if err != nil {
		return nil, err
	}
	e := &Echo{}
	if e.ln, err = listenTCP(l.nodes["srv"], ServerAddr); err != nil {
		return nil, err
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.wg.Go(func() {
		s, err := e.ln.Accept()
		if err != nil {
			return
		}
		defer s.Close()
		io.Copy(s, s)
	})
	if e.conn, err = dialTCP(e.ctx, c.ns, inner, e.ln.Addr().String()); err != nil {
		return nil, errors.Join(err, e.ln.Close())
	}
	l.onClose(func() error { e.Stop(); return nil })
	e.wg.Go(func() { e.run(interval) })
	return e, nil
}

func (e *Echo) run(interval time.Duration) {
	t := time.NewTicker(interval)
	defer t.Stop()
	key := make([]byte, 48)
	for {
		select {
		case <-e.ctx.Done():
			return
		case <-t.C:
		}
		at := time.Now()
		_, err := e.conn.Write(key)
		if err == nil {
			_, err = io.ReadFull(e.conn, key)
		}
		if err != nil {
			if e.ctx.Err() == nil {
				e.mu.Lock()
				e.err = fmt.Errorf("echo ended after %d rounds: %w", e.rounds.Load(), err)
				e.mu.Unlock()
			}
			return
		}
		e.rounds.Add(1)
		e.longest.Store(max(e.longest.Load(), int64(time.Since(at))))
	}
}

// Take returns the rounds so far, and the longest since the last call.
func (e *Echo) Take() (rounds int64, longest time.Duration) {
	return e.rounds.Load(), time.Duration(e.longest.Swap(0))
}

// Stop ends the connection and returns what broke it, if anything did.
func (e *Echo) Stop() error {
	e.cancel()
	e.conn.Close()
	e.ln.Close()
	e.wg.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

func listenTCP(ns *Netns, a netip.Addr) (ln net.Listener, err error) {
	err = ns.Do(func() (err error) {
		ln, err = net.Listen("tcp4", netip.AddrPortFrom(a, 0).String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s in %s: %w", a, ns.Name, err)
	}
	return ln, nil
}

func dialTCP(ctx context.Context, ns *Netns, from netip.Addr, to string) (c net.Conn, err error) {
	err = ns.Do(func() (err error) {
		d := net.Dialer{Timeout: 10 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
		c, err = d.DialContext(ctx, "tcp4", to)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect from %s in %s to %s: %w", from, ns.Name, to, err)
	}
	return c, nil
}

// rtoCounters are the counters of TcpExt of which the kernel raises exactly one at
// each retransmission timeout, by the state of congestion control.
var rtoCounters = []string{"TCPTimeouts", "TCPRenoFailures", "TCPSackFailures", "TCPLossFailures", "TCPRenoRecoveryFail", "TCPSackRecoveryFail"}

// RTOs counts the TCP retransmission timeouts in the namespace so far.
func (n *Netns) RTOs() (sum int, err error) {
	var b []byte
	err = n.Do(func() (err error) {
		b, err = os.ReadFile("/proc/thread-self/net/netstat")
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read the TCP counters of %s: %w", n.Name, err)
	}
	c, err := tcpExt(string(b))
	for _, k := range rtoCounters {
		sum += c[k]
	}
	return sum, err
}

// tcpExt reads the TcpExt lines of /proc/net/netstat: one of names, one of values.
func tcpExt(text string) (map[string]int, error) {
	var names []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] != "TcpExt:" {
			continue
		}
		if names == nil {
			names = f
			continue
		}
		if len(f) != len(names) {
			return nil, fmt.Errorf("read netstat: %d names, %d values", len(names), len(f))
		}
		out := map[string]int{}
		for i := 1; i < len(f); i++ {
			v, err := strconv.Atoi(f[i])
			if err != nil {
				return nil, fmt.Errorf("read netstat: %s is %q", names[i], f[i])
			}
			out[names[i]] = v
		}
		return out, nil
	}
	return nil, errors.New("read netstat: no TcpExt")
}
