package peer

import (
	"context"
	"crypto/cipher"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sort"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/sa"
)

// socketBuffer is asked for in each direction: a burst of claims must not be
// dropped while the handler runs.
const socketBuffer = 1 << 20

// Config is what Open needs.
type Config struct {
	Self string // this appliance's name
	// Incarnation must be higher at every start: nanoseconds since 1970, or one
	// more than the last one where the clock went back.
	Incarnation uint64
	Listen      netip.AddrPort // port 0 chooses one
	FleetKey    sa.Key         // shared by the fleet, at least MinKey octets
	Peers       map[string]netip.AddrPort
	Logger      *slog.Logger // nil: slog.Default
	// Refused is called for each datagram that was refused, from Run; nil: nobody
	// is told. claimed is the name that the sender gave itself, any octets.
	Refused func(claimed string, source netip.AddrPort, r Reason)
}

// Inbound is a datagram that passed every check.
type Inbound struct {
	From        string
	Kind        Kind
	Payload     []byte // valid until the handler returns
	Incarnation uint64 // of the sender
	Restarted   bool   // first payload of this incarnation
	Source      netip.AddrPort
	At          time.Time
}

// Transport is an open socket and the links over it.
type Transport struct {
	cfg     Config
	log     *slog.Logger
	aead    cipher.AEAD
	conn    *net.UDPConn
	raw     syscall.RawConn
	v4      bool // the socket is IPv4 only
	started time.Time

	mu      sync.RWMutex // guards links
	links   map[string]*link
	strayMu sync.Mutex
	stray   Refused // without a configured peer to count them at
}

// destination is a peer's address in the shape sendto wants, so that sending
// allocates nothing.
type destination struct {
	addr  netip.AddrPort
	to    unix.Sockaddr
	write func(fd uintptr) bool // sends b, sets err
	b     []byte
	err   error
}

// Open binds the socket. Run or Close must follow.
func Open(cfg Config) (*Transport, error) {
	if err := checkName(cfg.Self); err != nil {
		return nil, fmt.Errorf("open peer transport: own name: %w", err)
	}
	if cfg.Incarnation == 0 {
		return nil, errors.New("open peer transport: incarnation is 0")
	}
	aead, err := newAEAD(cfg.FleetKey)
	if err != nil {
		return nil, fmt.Errorf("open peer transport: %w", err)
	}
	t := &Transport{cfg: cfg, log: cfg.Logger, aead: aead, started: time.Now(), links: map[string]*link{}}
	if t.log == nil {
		t.log = slog.Default()
	}
	network := "udp"
	if t.v4 = cfg.Listen.Addr().Unmap().Is4(); t.v4 {
		network = "udp4"
	}
	if err := t.SetPeers(cfg.Peers); err != nil {
		return nil, fmt.Errorf("open peer transport: %w", err)
	}
	if t.conn, err = net.ListenUDP(network, net.UDPAddrFromAddrPort(cfg.Listen)); err != nil {
		return nil, fmt.Errorf("open peer transport: %w", err)
	}
	// Best effort: the kernel caps them at net.core.{r,w}mem_max.
	_ = t.conn.SetReadBuffer(socketBuffer)
	_ = t.conn.SetWriteBuffer(socketBuffer)
	if t.raw, err = t.conn.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("open peer transport: %w", err), t.conn.Close())
	}
	return t, nil
}

// checkName reports why s cannot be an appliance's name.
func checkName(s string) error {
	if len(s) == 0 || len(s) > MaxName {
		return fmt.Errorf("name has %d octets, want 1 to %d", len(s), MaxName)
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return fmt.Errorf("name %q has a character that is not printable ASCII", s)
		}
	}
	return nil
}

// SetPeers replaces the set of peers. Those that stay keep their state.
func (t *Transport) SetPeers(peers map[string]netip.AddrPort) error {
	dests := make(map[string]destination, len(peers))
	for name, addr := range peers {
		if err := checkName(name); err != nil {
			return fmt.Errorf("set peers: %w", err)
		}
		if name == t.cfg.Self {
			return fmt.Errorf("set peers: %s is this appliance", name)
		}
		d, err := t.destination(addr)
		if err != nil {
			return fmt.Errorf("set peers: %s: %w", name, err)
		}
		dests[name] = d
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for name := range t.links {
		if _, ok := dests[name]; !ok {
			delete(t.links, name)
		}
	}
	for name, d := range dests {
		l := t.links[name]
		if l == nil {
			l = &link{self: t.cfg.Self, name: name, own: t.cfg.Incarnation, aead: t.aead}
			t.links[name] = l
		}
		l.mu.Lock()
		if l.dest.addr != d.addr {
			l.dest = d
			l.dest.write = func(fd uintptr) bool {
				l.dest.err = unix.Sendto(int(fd), l.dest.b, unix.MSG_DONTWAIT, l.dest.to)
				return true // never wait for room: a probe that waits is worthless
			}
		}
		l.mu.Unlock()
	}
	return nil
}

// destination prepares an address for the socket's family.
func (t *Transport) destination(addr netip.AddrPort) (destination, error) {
	a := addr.Addr().Unmap()
	switch {
	case !a.IsValid() || a.IsUnspecified() || addr.Port() == 0:
		return destination{}, fmt.Errorf("%s is no address to send to", addr)
	case a.Zone() != "":
		return destination{}, fmt.Errorf("%s is link-local, want a routed address", addr)
	case t.v4 && !a.Is4():
		return destination{}, fmt.Errorf("%s is IPv6, but the transport listens on %s", addr, t.cfg.Listen)
	}
	d := destination{addr: netip.AddrPortFrom(a, addr.Port())}
	if t.v4 {
		d.to = &unix.SockaddrInet4{Port: int(addr.Port()), Addr: a.As4()}
	} else {
		d.to = &unix.SockaddrInet6{Port: int(addr.Port()), Addr: a.As16()}
	}
	return d, nil
}

// LocalAddr is the address the transport listens on.
func (t *Transport) LocalAddr() netip.AddrPort {
	return t.conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Close releases the socket. Run does so when it returns.
func (t *Transport) Close() error {
	if err := t.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close peer transport: %w", err)
	}
	return nil
}

// Send seals payload for the peer and hands it to the socket without waiting.
// An error means that it did not leave; nil promises nothing.
func (t *Transport) Send(to string, kind Kind, payload []byte) error {
	if kind == kindEcho {
		return fmt.Errorf("send to %s: kind 0 is reserved", to)
	}
	if len(payload) > MaxPayload {
		return fmt.Errorf("send to %s: payload has %d octets, the limit is %d", to, len(payload), MaxPayload)
	}
	t.mu.RLock()
	l := t.links[to]
	t.mu.RUnlock()
	if l == nil {
		return fmt.Errorf("send to %s: not a configured peer", to)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := t.send(l, kind, payload); err != nil {
		return fmt.Errorf("send to %s: %w", to, err)
	}
	return nil
}

// send is Send with l.mu held.
func (t *Transport) send(l *link, kind Kind, payload []byte) error {
	l.dest.b = l.seal(kind, payload, time.Since(t.started))
	err := t.raw.Write(l.dest.write)
	if err == nil {
		err = l.dest.err
	}
	if err != nil {
		l.sendErrors++
		return err
	}
	l.sent++
	return nil
}

// Stats returns what is known about a peer, false if it is not configured.
func (t *Transport) Stats(peer string) (Stats, bool) {
	t.mu.RLock()
	l := t.links[peer]
	t.mu.RUnlock()
	if l == nil {
		return Stats{}, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats(), true
}

// All returns the stats of every peer, sorted by name.
func (t *Transport) All() []Stats {
	t.mu.RLock()
	all := make([]Stats, 0, len(t.links))
	for _, l := range t.links {
		l.mu.Lock()
		all = append(all, l.stats())
		l.mu.Unlock()
	}
	t.mu.RUnlock()
	sort.Slice(all, func(i, k int) bool { return all[i].Name < all[k].Name })
	return all
}

// Stray counts the datagrams that were refused without naming a configured peer.
func (t *Transport) Stray() Refused {
	t.strayMu.Lock()
	defer t.strayMu.Unlock()
	return t.stray
}

// Run receives until ctx ends, calling handle for every datagram that passes,
// one at a time. It closes the socket and returns nil when ctx ended.
func (t *Transport) Run(ctx context.Context, handle func(Inbound)) error {
	defer t.Close()
	stop := context.AfterFunc(ctx, func() { _ = t.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var buf [maxDatagram + 1]byte // one more, so that oversized ones show
	for failures := 0; ; {
		n, from, err := t.conn.ReadFromUDPAddrPort(buf[:])
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
				return fmt.Errorf("receive from peers: %w", err)
			}
			// The socket reports errors of the network as its own; they pass.
			if failures++; failures == 1 {
				t.log.Warn("receive from peers failed", "reason", err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(min(10*time.Millisecond<<min(failures, 7), time.Second)):
			}
			continue
		}
		failures = 0
		t.receive(buf[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), handle)
	}
}

// receive checks one datagram and hands it on.
func (t *Transport) receive(b []byte, from netip.AddrPort, handle func(Inbound)) {
	h, rest, r := parse(b)
	t.mu.RLock()
	l := t.links[string(h.sender)]
	t.mu.RUnlock()
	if l == nil {
		if r == accepted {
			r = ReasonUnknownSender
		}
		t.strayMu.Lock()
		t.stray[r]++
		t.strayMu.Unlock()
		t.refused(string(h.sender), from, r)
		return
	}
	in := Inbound{From: l.name, Kind: h.kind, Incarnation: h.incarnation, Source: from, At: time.Now()}
	l.mu.Lock()
	now := in.At.Sub(t.started)
	was, wasIncarnation := l.source, l.incarnation
	var o opened
	if r == accepted {
		o, r = l.open(h, rest, now)
	}
	if r == accepted || r == ReasonUnconfirmed {
		l.source, l.lastHeard = from, in.At
	}
	if r == accepted {
		l.received++
	} else {
		l.refused[r]++
	}
	var answerErr error
	if o.answer {
		answerErr = t.send(l, kindEcho, nil)
	}
	moved := l.source != was && was.IsValid() && (l.moved == 0 || now-l.moved >= time.Minute)
	if moved {
		l.moved = max(now, 1)
	}
	source, incarnation := l.source, l.incarnation
	l.mu.Unlock()

	if r != accepted {
		t.refused(l.name, from, r)
	}
	switch {
	case incarnation != wasIncarnation:
		t.log.Info("peer incarnation heard", "peer", l.name, "incarnation", incarnation, "source", source)
	case moved:
		t.log.Info("peer source address changed", "peer", l.name, "source", source, "was", was)
	}
	if answerErr != nil {
		t.log.Debug("answer to peer failed", "peer", l.name, "reason", answerErr)
	}
	if r == accepted && h.kind != kindEcho {
		in.Payload, in.Restarted = o.payload, o.restarted
		handle(in)
	}
}

// refused tells of a datagram that was refused.
func (t *Transport) refused(claimed string, from netip.AddrPort, r Reason) {
	if t.cfg.Refused != nil {
		t.cfg.Refused(claimed, from, r)
	}
}
