package fabric

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/tests/uml"
)

// world is two appliances behind a router, each with the tunnel devices that
// package steer makes and an inner address behind them.
//
//	ams 10.1.1.2, lo 192.0.2.11 ---- router ---- 10.1.2.2, lo 192.0.2.12 fra
//	    lo 10.50.0.1, fd50::1                    lo 10.50.0.2, fd50::2
type world struct {
	t      *testing.T
	router *space
	apps   []*app
	wire   *wire
}

// space is a named-by-path network namespace.
type space struct {
	t    *testing.T
	path string
}

type app struct {
	*space
	cfg     Config
	n       int
	fabric  *Fabric
	cancel  context.CancelFunc
	done    chan struct{}
	mu      sync.Mutex
	notices []string
}

func newSpace(t *testing.T) *space {
	t.Helper()
	s := &space{t, filepath.Join(t.TempDir(), "ns")}
	if err := os.WriteFile(s.path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), s.path, "", unix.MS_BIND, "")
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(s.path, unix.MNT_DETACH) })
	return s
}

// do runs f on a thread in the namespace.
func (s *space) do(f func() error) {
	s.t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		ns, err := netns.GetFromPath(s.path)
		if err == nil {
			err = netns.Set(ns)
			ns.Close()
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		s.t.Fatal(err)
	}
}

// ip runs a batch of ip commands.
func (s *space) ip(batch string) {
	s.t.Helper()
	s.do(func() error {
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(batch)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("ip: %w: %s", err, out)
		}
		return nil
	})
}

func (s *space) sysctl(name, value string) {
	s.t.Helper()
	s.do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644) })
}

func newWorld(t *testing.T) *world {
	t.Helper()
	uml.Require(t, uml.ESP|uml.IPIP)
	if _, err := os.Stat(charon.Binary); err != nil {
		t.Skip("missing capability strongSwan's charon-systemd")
	}
	w := &world{t: t, router: newSpace(t)}
	w.router.ip("link set lo up")
	w.router.sysctl("ipv4/ip_forward", "1")
	for i, c := range testFleet(t, "ams", "fra") {
		a := &app{space: newSpace(t), n: i + 1}
		c.Netns, c.Notify = a.path, a.note
		a.cfg = c
		w.apps = append(w.apps, a)
		var err error
		if a.fabric, err = New(c); err != nil {
			t.Fatal(err)
		}
		dev := fmt.Sprintf("r%d", a.n)
		w.cable(dev, a)
		peer := 3 - a.n
		a.sysctl("ipv4/ip_forward", "1")
		a.ip(fmt.Sprintf(`link set lo up
addr add 192.0.2.1%[1]d/32 dev lo
addr add 10.1.%[1]d.2/24 dev eth0
link set eth0 up
route add default via 10.1.%[1]d.1 src 192.0.2.1%[1]d
addr add 10.50.0.%[1]d/32 dev lo
addr add fd50::%[1]d/128 dev lo nodad
link add sctun mtu 1500 type ipip external
link add sctun6 mtu 1500 type gre external
link set sctun up
link set sctun6 up
route add 10.50.0.%[2]d/32 src 10.50.0.%[1]d encap ip dst 192.0.2.1%[2]d src 192.0.2.1%[1]d ttl 64 dev sctun
route add fd50::%[2]d/128 encap ip dst 192.0.2.1%[2]d src 192.0.2.1%[1]d ttl 64 dev sctun6
`, a.n, peer))
		for _, d := range []string{"all", "sctun"} {
			a.sysctl("ipv4/conf/"+d+"/rp_filter", "0")
		}
		w.router.ip(fmt.Sprintf("addr add 10.1.%[1]d.1/24 dev r%[1]d\nlink set r%[1]d up\nroute add 192.0.2.1%[1]d/32 via 10.1.%[1]d.2\n", a.n))
		t.Cleanup(func() {
			a.stop()
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			if err := CleanUp(ctx, a.fabric.cfg.RunDir, a.fabric.cfg.Netns); err != nil {
				t.Error(err)
			}
			if l := a.policies(); len(l) != 0 {
				t.Errorf("%s: policies after clean-up: %v", a.cfg.Self, l)
			}
			if t.Failed() {
				b, _ := os.ReadFile(filepath.Join(a.cfg.RunDir, "fabric", "charon.log"))
				t.Logf("%s: %v\n%s", a.cfg.Self, a.notices, b)
			}
		})
	}
	w.wire = w.watch("r1")
	return w
}

// cable makes a veth pair from the router to eth0 of a.
func (w *world) cable(dev string, a *app) {
	w.router.do(func() error {
		ns, err := netns.GetFromPath(a.path)
		if err != nil {
			return err
		}
		defer ns.Close()
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: dev, TxQLen: 1000}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)})
	})
}

func (a *app) note(n Notice) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.notices = append(a.notices, n.Text+" "+n.Reason)
}

func (a *app) policies() (out []netlink.XfrmPolicy) {
	a.do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_XFRM)
		if err == nil {
			defer h.Close()
			out, err = listPolicies(h)
		}
		return err
	})
	return out
}

func (a *app) run() {
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel, a.done = cancel, make(chan struct{})
	go func() {
		defer close(a.done)
		if err := a.fabric.Run(ctx); err != nil {
			a.t.Error(err)
		}
	}()
}

// again runs with another configuration, as a restarted daemon does.
func (a *app) again(c Config) {
	a.t.Helper()
	var err error
	if a.fabric, err = New(c); err != nil {
		a.t.Fatal(err)
	}
	a.run()
}

// stop ends Run, as SIGTERM to the daemon does.
func (a *app) stop() {
	if a.cancel != nil {
		a.cancel()
		<-a.done
		a.cancel = nil
	}
}

// eventually polls ok; what names it.
func (w *world) eventually(what string, ok func() bool) time.Duration {
	w.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > time.Minute {
			w.t.Fatalf("wait for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}

func (w *world) up() bool {
	for _, a := range w.apps {
		if !a.fabric.Status()[0].Up {
			return false
		}
	}
	return true
}

// wire counts the IPv4 packets on one cable by protocol. A packet is in the
// socket's queue before it arrives anywhere.
type wire struct {
	t  *testing.T
	fd int
}

func (w *world) watch(dev string) *wire {
	x := &wire{w.t, -1}
	w.router.do(func() error {
		l, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		x.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { unix.Close(x.fd) })
		return errors.Join(unix.SetsockoptInt(x.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20),
			unix.Bind(x.fd, &unix.SockaddrLinklayer{Protocol: 0x0300 /* ETH_P_ALL, network order */, Ifindex: l.Attrs().Index}))
	})
	return x
}

// take returns the counts since the last call.
func (x *wire) take() map[uint8]int {
	c := map[uint8]int{}
	b := make([]byte, 64)
	for {
		n, err := unix.Read(x.fd, b)
		if errors.Is(err, unix.EAGAIN) {
			return c
		}
		if err != nil {
			x.t.Fatal("read packet socket:", err)
		}
		if n >= 20 && b[0]>>4 == 4 {
			c[b[9]]++
		}
	}
}

func (w *world) clean(what string, c map[uint8]int) {
	w.t.Helper()
	if c[4]+c[47] != 0 {
		w.t.Errorf("%s: %v packets on the wire by protocol, want none of 4 and 47", what, c)
	}
}

// listen opens a UDP socket on the inner address of a.
func (a *app) listen(v6 bool) *net.UDPConn {
	ip := net.ParseIP(fmt.Sprintf("10.50.0.%d", a.n))
	if v6 {
		ip = net.ParseIP(fmt.Sprintf("fd50::%d", a.n))
	}
	var c *net.UDPConn
	a.do(func() (err error) {
		c, err = net.ListenUDP("udp", &net.UDPAddr{IP: ip, Port: 7000})
		return err
	})
	a.t.Cleanup(func() { c.Close() })
	return c
}

// path is one way through the tunnels.
type path struct{ from, to *net.UDPConn }

// send sends numbered packets of a size and returns which arrived.
func (p path) send(t *testing.T, first, n, size int, pace time.Duration) map[uint64]bool {
	t.Helper()
	got := map[uint64]bool{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 65536)
		for {
			k, err := p.to.Read(b)
			if err != nil {
				return
			}
			if k == size {
				got[binary.BigEndian.Uint64(b)] = true
			}
			if len(got) == n {
				return
			}
		}
	}()
	b := make([]byte, size)
	for i := range n {
		binary.BigEndian.PutUint64(b, uint64(first+i))
		// Where a policy blocks, the socket says so.
		_, _ = p.from.WriteTo(b, p.to.LocalAddr())
		time.Sleep(pace)
	}
	_ = p.to.SetReadDeadline(time.Now().Add(2 * time.Second))
	<-done
	_ = p.to.SetReadDeadline(time.Time{})
	return got
}

func (a *app) pid() int {
	b, _ := os.ReadFile(filepath.Join(a.cfg.RunDir, "fabric", "charon.json"))
	var pid int
	if _, err := fmt.Sscanf(string(b), `{"pid":%d`, &pid); err != nil {
		a.t.Fatalf("read %q: %v", b, err)
	}
	return pid
}

// gone reports whether charon is a zombie: it was our child, and nobody reaps it.
func (a *app) gone() bool {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", a.pid()))
	return strings.Contains(string(b), ") Z ")
}

// counters reads what is not zero in /proc/net/xfrm_stat.
func (a *app) counters() map[string]uint64 {
	out := map[string]uint64{}
	a.do(func() error {
		b, err := os.ReadFile("/proc/thread-self/net/xfrm_stat")
		for l := range strings.Lines(string(b)) {
			var k string
			var n uint64
			if _, err := fmt.Sscan(l, &k, &n); err == nil && n != 0 {
				out[k] = n
			}
		}
		return err
	})
	return out
}

// forge sends an ipip packet with any source address from the router.
func (w *world) forge(src, dst netip.Addr) {
	w.router.do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		ip := func(proto byte, src, dst netip.Addr, length int) []byte {
			s, d := src.As4(), dst.As4()
			h := []byte{0x45, 0, byte(length >> 8), byte(length), 0, 1, 0, 0, 64, proto, 0, 0}
			return append(append(h, s[:]...), d[:]...)
		}
		inner := append(ip(17, netip.MustParseAddr("10.50.0.2"), netip.MustParseAddr("10.50.0.1"), 28), 0, 1, 0, 1, 0, 8, 0, 0)
		var sum uint32
		for i := 0; i < 20; i += 2 {
			sum += uint32(binary.BigEndian.Uint16(inner[i:]))
		}
		binary.BigEndian.PutUint16(inner[10:], ^uint16(sum+sum>>16))
		return unix.Sendto(fd, append(ip(4, src, dst, 48), inner...), 0, &unix.SockaddrInet4{Addr: dst.As4()})
	})
}
