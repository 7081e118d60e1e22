package charon_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/sa/charon/internal/charontest"
	"golang.org/x/sys/unix"
)

// peer opens charon's end of the link.
func peer(t *testing.T, ns *charontest.NS) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	err := ns.Do(func() (err error) {
		c, err = net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4510}, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 2), Port: 4510})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func openLink(t *testing.T, ns *charontest.NS, o charon.LinkOptions) *charon.Link {
	t.Helper()
	l, err := charon.OpenLink(ns.Path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func duplicate(t *testing.T, l *charon.Link) int {
	t.Helper()
	dup := -1
	var derr error
	if err := l.FD(func(fd uintptr) { dup, derr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); err != nil || derr != nil {
		t.Fatal(err, derr)
	}
	return dup
}

func ref(n uint32) charon.Attr {
	return charon.NewIKERef(charon.IKEID, charon.IKERef{Version: 2, ID: sa.IKEID{Initiator: sa.IKESPI(n), Responder: sa.IKESPI(slot.IKELabel())}})
}

func midMessage(v charon.Version, n uint32) charon.Message {
	return charon.Message{Version: v, Type: charon.MIDResponder, Attrs: []charon.Attr{ref(n), charon.NewU32(charon.MID, n)}}
}

func TestLinkRun(t *testing.T) {
	ctx := charontest.Context(t)
	ns := charontest.NewNS(t)
	var log bytes.Buffer
	l := openLink(t, ns, charon.LinkOptions{Log: slog.New(slog.NewTextHandler(&log, nil))})
	l.SetPeer(ns.Hold())

	// Nobody listens yet: Send says so, and Run survives the refusals.
	if err := l.Activate(ctx); err == nil || !strings.Contains(err.Error(), "does not listen") {
		t.Errorf("activate without charon: %v", err)
	}
	c := peer(t, ns)
	rctx, cancel := context.WithCancel(ctx)
	got := make(chan charon.Message, 8)
	done := make(chan error, 1)
	go func() { done <- l.Run(rctx, func(m charon.Message) { got <- m }) }()

	secret := []byte{3, 1, 0x11, 0, 99, 's', 'e', 'c', 'r', 'e', 't'} // truncated
	for _, b := range [][]byte{{3, 8, 0x22, 0, 1}, {6, 1}, secret, {}, {3, 11, 0x22, 0, 1}} {
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []charon.MsgType{charon.SegmentDrop, charon.Resync} {
		select {
		case m := <-got:
			if m.Type != want {
				t.Errorf("received %s, want %s", m, want)
			}
		case <-ctx.Done():
			t.Fatal("nothing received")
		}
	}
	if err := l.Passivate(ctx); err != nil {
		t.Error(err)
	}
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	if err != nil || !bytes.Equal(buf[:n], []byte{3, 9, 0x22, 0, 1}) {
		t.Errorf("peer received %x, %v", buf[:n], err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run ended with %v", err)
	}
	if s := l.Stats(); s.Received != 2 || s.Undecodable != 3 || s.Sent != 1 {
		t.Errorf("counted %+v", s)
	}
	if strings.Contains(log.String(), "secret") || strings.Count(log.String(), "refused") != 3 {
		t.Errorf("logged %s", log.String())
	}

	// The same socket in a second daemon.
	f := os.NewFile(uintptr(duplicate(t, l)), "kept")
	defer f.Close()
	l.Close()
	again, err := charon.AdoptLink(f, charon.LinkOptions{Version: charon.V5})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	again.SetPeer(ns.Hold())
	if err := again.Activate(ctx); err != nil {
		t.Fatal(err)
	}
	if n, err = c.Read(buf); err != nil || !bytes.Equal(buf[:n], []byte{5, 8, 0x24, 0, 1}) {
		t.Errorf("peer received %x, %v", buf[:n], err)
	}
	if _, err := charon.OpenLink(ns.Path, charon.LinkOptions{}); err == nil || !strings.Contains(err.Error(), "another daemon") {
		t.Errorf("second link: %v", err)
	}
}

func TestLinkRefusedWhileRunning(t *testing.T) {
	ctx := charontest.Context(t)
	ns := charontest.NewNS(t)
	l := openLink(t, ns, charon.LinkOptions{})
	l.SetPeer(ns.Hold())
	c := peer(t, ns)
	c.Close()
	rctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	received := make(chan charon.Message, 1)
	go func() { done <- l.Run(rctx, func(m charon.Message) { received <- m }) }()
	// Bypass Send's check with a raw write on a duplicate of the socket.
	fd := duplicate(t, l)
	defer unix.Close(fd)
	for range 3 {
		unix.Write(fd, []byte{3, 10})
	}
	c = peer(t, ns)
	for { // a refusal that is still pending on our own socket may eat one
		if _, err := c.Write([]byte{3, 10}); err != nil {
			continue
		}
		break
	}
	select {
	case <-received:
	case err := <-done:
		t.Fatal("Run ended:", err)
	case <-ctx.Done():
		t.Fatal("nothing received")
	}
	if err := l.Send(ctx, midMessage(charon.V3, 1)); err != nil {
		t.Error(err)
	}
}

// TestLinkPacing sends far more than the peer's buffer holds to a peer that is
// slower than the sender: all must arrive, in order.
func TestLinkPacing(t *testing.T) {
	ctx := charontest.Context(t)
	ns := charontest.NewNS(t)
	l := openLink(t, ns, charon.LinkOptions{})
	l.SetPeer(ns.Hold())
	c := peer(t, ns)
	const n = 3000
	done := make(chan error, 1)
	go func() {
		buf := make([]byte, 100)
		for i := range uint32(n) {
			k, err := c.Read(buf)
			if err != nil {
				done <- err
				return
			}
			m, err := charon.Decode(buf[:k])
			if err != nil {
				done <- err
				return
			}
			a, _ := m.Find(charon.MID)
			if got, _ := a.Uint(); got != i {
				done <- errors.New("out of order or lost: " + m.String())
				return
			}
			for range 200 { // be slow without a clock
				runtime.Gosched()
			}
		}
		done <- nil
	}()
	ms := make([]charon.Message, n)
	for i := range ms {
		ms[i] = midMessage(charon.V5, uint32(i)) // translated to the peer's version 3
	}
	if err := l.Send(ctx, ms...); err != nil {
		t.Fatal(err)
	}
	if err := l.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-ctx.Done():
		t.Fatal("peer did not get everything")
	}
	if s := l.Stats(); s.Sent != n || s.PeerDrops != 0 {
		t.Errorf("counted %+v", s)
	}
}

// TestLinkOverflow switches pacing off and finds the loss reported.
func TestLinkOverflow(t *testing.T) {
	ctx := charontest.Context(t)
	ns := charontest.NewNS(t)
	l := openLink(t, ns, charon.LinkOptions{QueueLimit: 1 << 30})
	l.SetPeer(ns.Hold())
	c := peer(t, ns)
	if err := c.SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	ms := make([]charon.Message, 200)
	for i := range ms {
		ms[i] = midMessage(charon.V3, uint32(i))
	}
	if err := l.Send(ctx, ms...); !errors.Is(err, charon.ErrDropped) {
		t.Errorf("send into a full buffer: %v", err)
	}
	if l.Stats().PeerDrops == 0 {
		t.Error("no drops counted")
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if err := l.Drain(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("drain of a stuck peer: %v", err)
	}
}

// TestLinkKernelDrops fills our own receive buffer and finds it counted.
func TestLinkKernelDrops(t *testing.T) {
	ctx := charontest.Context(t)
	ns := charontest.NewNS(t)
	l := openLink(t, ns, charon.LinkOptions{RecvBuffer: 8192, Log: slog.New(slog.DiscardHandler)})
	c := peer(t, ns)
	for range 500 {
		if _, err := c.Write([]byte{3, 10}); err != nil {
			t.Fatal(err)
		}
	}
	rctx, cancel := context.WithCancel(ctx)
	defer cancel()
	err := l.Run(rctx, func(charon.Message) {
		c.Write([]byte{3, 10}) // what arrives after the loss carries the count
		if l.Stats().KernelDrops > 0 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || l.Stats().KernelDrops == 0 {
		t.Errorf("%v, counted %+v", err, l.Stats())
	}
}

func TestSendErrors(t *testing.T) {
	ctx := charontest.Context(t)
	ns := charontest.NewNS(t)
	l := openLink(t, ns, charon.LinkOptions{})
	if err := l.Send(ctx, midMessage(charon.V3, 1)); err == nil || !strings.Contains(err.Error(), "SetPeer") {
		t.Errorf("send without peer: %v", err)
	}
	l.SetPeer(ns.Hold())
	peer(t, ns)
	k, _ := charon.NewChunk(charon.AddSecret, []byte("x"))
	v5 := charon.Message{Version: charon.V5, Type: charon.IKEAdd, Attrs: []charon.Attr{ref(1), k}}
	if err := l.Send(ctx, midMessage(charon.V3, 1), v5); err == nil || !strings.Contains(err.Error(), "ADD_SECRET") {
		t.Errorf("version 5 to a version 3 charon: %v", err)
	}
	if n := l.Stats().Sent; n != 0 {
		t.Errorf("%d sent although one cannot be encoded", n)
	}
	if _, err := charon.OpenLink("/nonexistent/ns", charon.LinkOptions{}); err == nil {
		t.Error("link in a missing namespace opened")
	}
}

func TestConfText(t *testing.T) {
	ok := charon.Conf{Slot: 7, RunDir: "/run/sc/7", Pool4: netip.MustParsePrefix("10.3.0.0/24"), Pool6: netip.MustParsePrefix("fd00:3::/64")}
	text, err := ok.Text()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"spi_min = 0x00700000", "spi_max = 0x007fffff", "spi_mask = 0xffff000000000000", "spi_label = 0x0007000000000000",
		"install_routes = no", "install_virtual_ip = no", "process_route = no", "interfaces_use = lo", "roam_events = no",
		`socket = "unix:///run/sc/7/vici"`, "local = 127.0.0.1", "remote = 127.0.0.2", "segment_count = 1", "monitor = no",
		"fifo_interface = no", "resync = no", "buflen = 8192", "shadowcast4 = 10.3.0.0/24", "shadowcast6 = fd00:3::/64",
		"ikesa_table_size = 4096", "ikesa_table_segments = 16",
	} {
		if !strings.Contains(text, " "+want+"\n") {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
	if again, _ := ok.Text(); again != text {
		t.Error("not deterministic")
	}
	more := ok
	more.Extra = map[string]string{"plugins.attr.dns": "10.0.0.53", "dos_protection": "yes"}
	more.LogFile, more.LogGroup = "/var/log/x y.log", map[string]int{"ike": 2}
	more.RetransmitTimeout, more.RetransmitBase, more.RetransmitTries = 1500*time.Millisecond, 1.4, 3
	if text, err = more.Text(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`dns = "10.0.0.53"`, `dos_protection = "yes"`, `path = "/var/log/x y.log"`, "ike = 2", "retransmit_timeout = 1.5", "retransmit_base = 1.4", "retransmit_tries = 3"} {
		if !strings.Contains(text, " "+want+"\n") {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
	for _, tc := range []struct {
		want string
		edit func(*charon.Conf)
	}{
		{"slot 0", func(c *charon.Conf) { c.Slot = 0 }},
		{"slot 4096", func(c *charon.Conf) { c.Slot = 4096 }},
		{"not absolute", func(c *charon.Conf) { c.RunDir = "run" }},
		{"at most 107", func(c *charon.Conf) { c.RunDir = "/" + strings.Repeat("x", 110) }},
		{"host bits", func(c *charon.Conf) { c.Pool4 = netip.MustParsePrefix("10.3.0.1/24") }},
		{"address family", func(c *charon.Conf) { c.Pool4 = netip.MustParsePrefix("fd00::/64") }},
		{"power of 2", func(c *charon.Conf) { c.TableSize = 1000 }},
		{"lacks ha", func(c *charon.Conf) { c.Plugins = []string{"vici"} }},
		{"sets it itself", func(c *charon.Conf) { c.Extra = map[string]string{"plugins.ha.monitor": "yes"} }},
		{"sets it itself", func(c *charon.Conf) { c.Extra = map[string]string{"plugins.ha": "yes"} }},
		{"dotted names", func(c *charon.Conf) { c.Extra = map[string]string{"a b": "yes"} }},
		{"line break", func(c *charon.Conf) { c.Extra = map[string]string{"a": "x\n}"} }},
	} {
		c := ok
		tc.edit(&c)
		if _, err := c.Text(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v", tc.want, err)
		}
	}
}
