package slot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/tests/uml"
)

// TestMain runs the tests on this kernel and then, where this kernel lacks
// what some of them need, once more in user-mode Linux.
func TestMain(m *testing.M) {
	uml.Init()
	code := m.Run()
	if !uml.InGuest() && uml.Missing(uml.IPIP|uml.Plug) != 0 && uml.Available() && !raceEnabled() {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		guest, err := uml.Run(ctx, uml.Options{Modules: []string{"gre", "ip_gre"}, Timeout: 5 * time.Minute})
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, "run tests in user-mode linux:", err)
		}
		if err != nil || guest != 0 {
			code = 1
		}
	}
	os.Exit(code)
}

// raceEnabled: the race detector cannot run in user-mode Linux.
func raceEnabled() bool {
	bi, ok := debug.ReadBuildInfo()
	return ok && slices.ContainsFunc(bi.Settings, func(s debug.BuildSetting) bool { return s.Key == "-race" && s.Value == "true" })
}

// netnsFile is a new network namespace, which lives as long as the test.
func netnsFile(t testing.TB) *os.File {
	t.Helper()
	var f *os.File
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			return err
		}
		f, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// in runs f inside ns.
func in(t testing.TB, ns *os.File, f func() error) {
	t.Helper()
	if err := inNetns(ns, f); err != nil {
		t.Fatal(err)
	}
}

func hostConfig(t testing.TB) Config {
	t.Helper()
	uml.Require(t, uml.BPF)
	bpffs := filepath.Join(t.TempDir(), "bpf")
	if err := os.Mkdir(bpffs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("bpf", bpffs, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(bpffs, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return Config{NetnsPrefix: unique(), PinDir: filepath.Join(bpffs, "shadowcast"), Tunnel: "sctun", Log: slog.New(slog.DiscardHandler)}
}

var serial atomic.Int32

// unique is a namespace prefix that no other test uses. The trailing letter
// keeps it apart from the slot number.
func unique() string { return fmt.Sprintf("sct%dn%ds", os.Getpid(), serial.Add(1)) }

// newHost returns an appliance in a namespace of its own.
func newHost(t testing.TB) (*Host, *os.File, Config) {
	t.Helper()
	cfg := hostConfig(t)
	ns := netnsFile(t)
	return openHost(t, ns, cfg), ns, cfg
}

func openHost(t testing.TB, ns *os.File, cfg Config) *Host {
	t.Helper()
	var h *Host
	in(t, ns, func() (err error) { h, err = New(cfg); return err })
	t.Cleanup(func() {
		var again *Host
		in(t, ns, func() (err error) { again, err = New(cfg); return err })
		if err := errors.Join(again.CleanUp(), again.Close()); err != nil {
			t.Error(err)
		}
	})
	return h
}

var (
	vip4, vip6   = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:0:2::1")
	pool4, pool6 = netip.MustParsePrefix("10.77.1.0/24"), netip.MustParsePrefix("2001:db8:77:1::/64")
	out4, out6   = netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:0:51::1")
)

func slotOf(n sa.Slot) Slot {
	return Slot{Number: n, VIPs: []netip.Addr{vip4, vip6}, Pools: []netip.Prefix{pool4, pool6}}
}

func set(t testing.TB, h *Host, slots ...Slot) {
	t.Helper()
	if err := h.Set(t.Context(), Desired{slots}); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// addAddr gives lo of ns addresses.
func addAddr(t testing.TB, ns *os.File, addrs ...netip.Addr) {
	t.Helper()
	in(t, ns, func() error {
		nlh, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer nlh.Close()
		lo, err := nlh.LinkByName("lo")
		for _, a := range addrs {
			if err == nil {
				err = nlh.AddrAdd(lo, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen())), Flags: unix.IFA_F_NODAD})
			}
			if err == nil {
				err = awaitLocal(t.Context(), nlh, a)
			}
		}
		return err
	})
}

// routeVIP leads the VIPs from the host namespace to the slot, which steering
// does on an appliance.
func routeVIP(t testing.TB, ns *os.File, h *Host, n sa.Slot) {
	t.Helper()
	l, err := h.Links(n)
	must(t, err)
	in(t, ns, func() error {
		for _, v := range []netip.Addr{vip4, vip6} {
			r := &netlink.Route{Dst: ipNet(netip.PrefixFrom(v, v.BitLen())), LinkIndex: l.HostIndex}
			setNextHop(r, v, l.Next4, l.Next6)
			if err := netlink.RouteReplace(r); err != nil {
				return err
			}
		}
		return nil
	})
}

// openPath opens the namespace of a slot.
func openPath(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// sock is a UDP socket in a namespace.
func sock(t testing.TB, ns *os.File, addr netip.Addr, port uint16) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	in(t, ns, func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, port)))
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

func send(t testing.TB, from, to *net.UDPConn, text string) {
	t.Helper()
	dst := to.LocalAddr().(*net.UDPAddr)
	if _, err := from.WriteTo([]byte(text), dst); err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOBUFS) {
		t.Fatalf("send to %s: %v", dst, err)
	}
}

// expect reads datagrams and compares them, the first being the oldest that
// got through.
func expect(t testing.TB, at *net.UDPConn, want ...string) {
	t.Helper()
	b := make([]byte, 100)
	for _, w := range want {
		must(t, at.SetReadDeadline(time.Now().Add(20*time.Second)))
		n, _, err := at.ReadFrom(b)
		if err != nil {
			t.Fatalf("waiting for %q: %v", w, err)
		}
		if string(b[:n]) != w {
			t.Fatalf("at %s: got %q, want %q", at.LocalAddr(), b[:n], w)
		}
	}
}

// nothing checks that no datagram is waiting.
func nothing(t testing.TB, at *net.UDPConn) {
	t.Helper()
	must(t, at.SetReadDeadline(time.Now().Add(30*time.Millisecond)))
	b := make([]byte, 100)
	if n, _, err := at.ReadFrom(b); err == nil {
		t.Fatalf("%q got through", b[:n])
	}
}

// rig is one slot with sockets on both sides of its fence, IPv4 and IPv6.
type rig struct {
	h             *Host
	cfg           Config
	ns, slot      *os.File
	inside, outer [2]*net.UDPConn
}

func newRig(t testing.TB, n sa.Slot) *rig {
	t.Helper()
	r := &rig{}
	r.h, r.ns, r.cfg = newHost(t)
	addAddr(t, r.ns, out4, out6)
	set(t, r.h, slotOf(n))
	routeVIP(t, r.ns, r.h, n)
	r.slot = openPath(t, r.h.NetnsPath(n))
	r.inside = [2]*net.UDPConn{sock(t, r.slot, vip4, 7001), sock(t, r.slot, vip6, 7001)}
	r.outer = [2]*net.UDPConn{sock(t, r.ns, out4, 7002), sock(t, r.ns, out6, 7002)}
	return r
}

// both sends text in both directions, IPv4 and IPv6.
func (r *rig) both(t testing.TB, text string) {
	t.Helper()
	for i := range r.inside {
		send(t, r.inside[i], r.outer[i], text)
		send(t, r.outer[i], r.inside[i], text)
	}
}

func (r *rig) expect(t testing.TB, want ...string) {
	t.Helper()
	for i := range r.inside {
		expect(t, r.outer[i], want...)
		expect(t, r.inside[i], want...)
	}
}

// refused sends text in both directions and waits until the fence has counted
// it: the kernel may deliver after the send returns, and what is under way when
// the fence opens passes. Others' packets (multicast reports) may be counted
// too.
func (r *rig) refused(t testing.TB, text string) {
	t.Helper()
	before, err := r.h.Drops(7)
	must(t, err)
	r.both(t, text)
	for give := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		d, err := r.h.Drops(7)
		must(t, err)
		if d.Ingress >= before.Ingress+2 && d.Egress >= before.Egress+2 {
			break
		}
		if time.Now().After(give) {
			t.Fatalf("drops went from %+v to %+v, want 2 more each way", before, d)
		}
	}
	r.nothing(t)
}

func (r *rig) nothing(t testing.TB) {
	t.Helper()
	for i := range r.inside {
		nothing(t, r.outer[i])
		nothing(t, r.inside[i])
	}
}
