package lab

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/tests/uml"
)

const testNeed = uml.ESP | uml.IPIP | uml.Netem | uml.Plug | uml.BPF

func TestMain(m *testing.M) {
	uml.Init()
	// The guest has no compiler's cache: what runs in it is built here.
	if !uml.InGuest() && os.Getenv("SHADOWCAST_BIN") == "" && uml.Reachable(testNeed) {
		if err := buildDaemon(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	uml.Main(m, testNeed)
}

// buildDaemon puts shadowcastd beside the test binary, where the lab looks for it.
func buildDaemon() error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own binary: %w", err)
	}
	cmd := exec.Command("go", "build", "-o", filepath.Dir(self), "github.com/shadowcast/shadowcast/cmd/shadowcastd")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // as everywhere else: it is built already
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build shadowcastd: %w\n%s", err, out)
	}
	return nil
}

// needRoot skips without the privileges that namespaces take.
func needRoot(t *testing.T) {
	t.Helper()
	uml.Require(t, uml.BPF)
}

func newLab(t *testing.T, o Options) *Lab {
	t.Helper()
	needRoot(t)
	o.OutDir = t.TempDir()
	l, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := filepath.Glob(filepath.Join(l.out, "*.log"))
			for _, f := range logs {
				b, _ := os.ReadFile(f)
				t.Logf("%s:\n%s", filepath.Base(f), b[max(0, len(b)-2000):])
			}
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		checkGone(t, l)
	})
	return l
}

// checkGone tells what a closed lab left behind.
func checkGone(t *testing.T, l *Lab) {
	t.Helper()
	for _, pattern := range []string{filepath.Join(netnsDir, l.id+"*"), l.dir, "/sys/fs/bpf/" + l.id + "*"} {
		if m, _ := filepath.Glob(pattern); len(m) > 0 {
			t.Errorf("left behind: %v", m)
		}
	}
	for _, p := range l.procs {
		if p.Alive() {
			t.Errorf("%s lives", p.Name)
		}
	}
}

// echoes sends packets both ways between two nodes' addresses and fails unless all
// arrive once the neighbours know each other.
func echoes(t *testing.T, l *Lab, from string, a netip.Addr, to string, b netip.Addr) {
	t.Helper()
	s, err := l.startStream(l.Node(from), a, l.Node(to), b, Rate{PPS: 500})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.WaitReceived(ctx, 1); err != nil {
		t.Errorf("%s -> %s: %v", from, to, err)
	}
	warm := time.Now()
	if err := s.WaitReceived(ctx, 20); err != nil {
		t.Errorf("%s -> %s: %v", from, to, err)
	}
	if err := s.Stop(2 * time.Second); err != nil {
		t.Error(err)
	}
	if r := s.Report(warm, time.Time{}); r.Lost() > 0 {
		t.Errorf("%s -> %s: %s", from, to, r)
	}
}

// silence sends packets and fails if one arrives upwards.
func silence(t *testing.T, l *Lab, from string, a netip.Addr, to string, b netip.Addr) {
	t.Helper()
	s, err := l.startStream(l.Node(from), a, l.Node(to), b, Rate{PPS: 500})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // of traffic that must not arrive
	if err := s.Stop(0); err != nil {
		t.Error(err)
	}
	if r := s.Report(time.Time{}, time.Time{}); r.Up.Sent == 0 || r.Up.Received > 0 {
		t.Errorf("%s -> %s: %s, want nothing to arrive upwards", from, to, r)
	}
}

func TestTopology(t *testing.T) {
	l := newLab(t, Options{Clients: []ClientSpec{{}, {Router: 2}}})
	c1, c2 := l.Client(0), l.Client(1)
	ams, fra := l.Appliance("ams"), l.Appliance("fra")
	// Peers reach each other's loopbacks, clients the appliances, appliances the server.
	echoes(t, l, "ams", ams.Addr, "fra", fra.Addr)
	echoes(t, l, "c1", c1.Addr, "lhr", l.Appliance("lhr").Addr)
	echoes(t, l, "c2", c2.Addr, "ams", ams.Addr)
	echoes(t, l, "ams", host(linkNet(insideLink, 1), 2), "srv", ServerAddr)
	// No machine, no peer traffic; all of it comes back.
	if err := ams.Unplug(); err != nil {
		t.Fatal(err)
	}
	silence(t, l, "fra", fra.Addr, "ams", ams.Addr)
	if err := ams.Plug(); err != nil {
		t.Fatal(err)
	}
	echoes(t, l, "fra", fra.Addr, "ams", ams.Addr)
	// One router less: the other carries what leaves the appliance.
	k, err := l.Link("r1", "ams")
	if err != nil {
		t.Fatal(err)
	}
	undo, err := k.Blackhole()
	if err != nil {
		t.Fatal(err)
	}
	silence(t, l, "c1", c1.Addr, "ams", ams.Addr)
	if err := undo(); err != nil {
		t.Fatal(err)
	}
	echoes(t, l, "c1", c1.Addr, "ams", ams.Addr)
}

func TestRouters(t *testing.T) {
	l := newLab(t, Options{Routers: true})
	for _, r := range []string{"r1", "r2", "in"} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := poll(ctx, 20*time.Millisecond, "protocols of "+r, func() (bool, error) {
			out, err := l.Router(r, "show protocols")
			for _, a := range l.Appliances() {
				if !strings.Contains(out, a.Name+"_4") {
					return false, fmt.Errorf("no session for %s: %s", a.Name, out)
				}
			}
			return err == nil && strings.Contains(out, "kernel4"), err
		}); err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := poll(ctx, 50*time.Millisecond, "iBGP between r1 and r2", func() (bool, error) {
		out, err := l.Router("r1", "show protocols backbone")
		return strings.Contains(out, "Established"), err
	}); err != nil {
		t.Error(err)
	}
	if _, err := l.Router("r1", "no such command"); err == nil {
		t.Error("BIRD understood nonsense")
	}
	// Without appliances in BGP the bootstrap routes carry peer traffic.
	echoes(t, l, "ams", l.Appliance("ams").Addr, "lhr", l.Appliance("lhr").Addr)
}

func TestNATAndFilters(t *testing.T) {
	l := newLab(t, Options{Appliances: []string{"ams"}, Clients: []ClientSpec{{NAT: true}, {}}})
	c, plain := l.Client(0), l.Client(1)
	// Through the NAT the server's side sees the public address: a stream with
	// fixed addresses cannot tell, so one packet does.
	srv, err := listenUDP(l.Node("ams"), l.Appliance("ams").Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	cli, err := listenUDP(c.ns, c.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { cli.Close() }()
	for addrPort(cli).Port() > 44000 { // with the offset past the last port
		cli.Close()
		if cli, err = listenUDP(c.ns, c.Addr); err != nil {
			t.Fatal(err)
		}
	}
	for _, offset := range []uint16{20000, 21000} {
		if err := c.NAT().Rebind(offset); err != nil {
			t.Fatal(err)
		}
		if _, err := cli.WriteToUDPAddrPort([]byte("hello"), addrPort(srv)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 16)
		srv.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, from, err := srv.ReadFromUDPAddrPort(b)
		if err != nil {
			t.Fatal(err)
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if want := netip.AddrPortFrom(c.Public, addrPort(cli).Port()+offset); from != want || string(b[:n]) != "hello" {
			t.Errorf("the other side sees %s, want %s", from, want)
		}
		if _, err := srv.WriteToUDPAddrPort([]byte("there"), from); err != nil {
			t.Fatal(err)
		}
		cli.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, back, err := cli.ReadFromUDPAddrPort(b)
		if err != nil || string(b[:n]) != "there" || netip.AddrPortFrom(back.Addr().Unmap(), back.Port()) != addrPort(srv) {
			t.Errorf("answer %q from %s, %v", b[:n], back, err)
		}
	}
	ikeFilterDrops(t, l, plain)
}

// ikeFilterDrops sends forged headers past a filter and a capture.
func ikeFilterDrops(t *testing.T, l *Lab, c *Client) {
	f, err := c.ns.DropIKE(devClient, Ingress, IKEMatch{Exchange: CreateChildSA, Responses: true, Count: 2})
	if err != nil {
		t.Fatal(err)
	}
	// At the client, where captures sit: it sees what the filter drops.
	capt, err := startCapture(c.ns, devClient, c.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer capt.close()
	var got []uint32
	cli, err := listenUDP500(c.ns, c.Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	srv, err := listenUDP(l.Node("ams"), l.Appliance("ams").Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	send := func(ex ExchangeType, response bool, id uint32) {
		if _, err := srv.WriteToUDPAddrPort(ikeHeader(ex, response, id), addrPort(cli)); err != nil {
			t.Fatal(err)
		}
	}
	send(CreateChildSA, false, 1) // a request passes
	send(CreateChildSA, true, 2)  // dropped
	send(Informational, true, 3)  // another exchange passes
	send(CreateChildSA, true, 4)  // dropped
	send(CreateChildSA, true, 5)  // beyond the count
	b := make([]byte, 64)
	for len(got) < 3 {
		cli.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, _, err := cli.ReadFromUDPAddrPort(b)
		if err != nil {
			t.Fatal(err)
		}
		ip := append(ipv4Header(17), append([]byte{1, 244, 1, 244, 0, 0, 0, 0}, b[:n]...)...)
		m, _, _, ok := parseIKE(ip)
		if !ok {
			t.Fatalf("received %x", b[:n])
		}
		got = append(got, m.ID)
	}
	if fmt.Sprint(got) != "[1 3 5]" {
		t.Errorf("passed %v, want [1 3 5]", got)
	}
	if n, err := f.Dropped(); err != nil || n != 2 {
		t.Errorf("dropped %d, %v, want 2", n, err)
	}
	if err := f.Remove(); err != nil {
		t.Error(err)
	}
	// The capture reads on its own goroutine.
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := poll(ctx, 5*time.Millisecond, "5 captured messages", func() (bool, error) {
		acc, err := capt.account()
		return len(acc.Messages) == 5 && !acc.Messages[0].FromClient, err
	}); err != nil {
		acc, _ := capt.account()
		t.Errorf("%v: %v", err, acc.Messages)
	}
}

// The filter in the kernel against the model.
func TestReceiver(t *testing.T) {
	l := newLab(t, Options{Appliances: []string{"ams"}})
	ns := l.Node("srv")
	rx, err := listenUDP(ns, ServerAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer rx.Close()
	tx, err := listenUDP(ns, ServerAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	const flow, capacity = 77, 10
	epoch := time.Now()
	r, err := newReceiver(rx, flow, capacity, epoch)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	m := &model{}
	for range capacity {
		m.send(1)
	}
	packet := func(magic, flow uint32, seq uint64) []byte {
		b := binary.BigEndian.AppendUint32(nil, magic)
		b = binary.BigEndian.AppendUint32(b, flow)
		return append(binary.BigEndian.AppendUint64(b, seq), make([]byte, 8)...)
	}
	for _, p := range [][]byte{packet(streamMagic, flow+1, 1), packet(1, flow, 2), []byte("short")} {
		if _, err := tx.WriteToUDPAddrPort(p, addrPort(rx)); err != nil {
			t.Fatal(err)
		}
	}
	// Loopback keeps the order; a busy kernel delivers after the sender has returned.
	for _, seq := range []uint64{0, 3, 1, 3, 3, 2, 9, 4, 10, 1 << 40} {
		if _, err := tx.WriteToUDPAddrPort(packet(streamMagic, flow, seq), addrPort(rx)); err != nil {
			t.Fatal(err)
		}
		m.receive(seq, 1)
	}
	wait, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	unknown := func() (bool, error) { // the last one sent is the last to be counted
		var b [8]byte
		_, err := r.sum.ReadAt(b[:], 16)
		return binary.NativeEndian.Uint64(b[:]) == 2, err
	}
	if err := poll(wait, time.Millisecond, "the packets beyond the capacity to be counted", unknown); err != nil {
		t.Fatal(err)
	}
	got, err := r.read(capacity)
	if err != nil {
		t.Fatal(err)
	}
	end := int64(time.Since(epoch))
	for i, g := range got {
		if g.At < 0 || g.At > end || (g.At == 0) != (m.got[i].At == 0) || g.Dups != m.got[i].Dups || g.Reordered != m.got[i].Reordered {
			t.Errorf("packet %d: %+v, want %+v", i, g, m.got[i])
		}
	}
	if n, err := r.received(); err != nil || n != 6 {
		t.Errorf("received %d, %v, want 6", n, err)
	}
	if m.unknown != 2 {
		t.Errorf("model saw %d unknown, want 2", m.unknown)
	}
}

func TestPowerCutLeavesNothing(t *testing.T) {
	l := newLab(t, Options{Appliances: []string{"ams", "fra"}})
	a := l.Appliance("ams")
	p, err := l.start(a.ns, "sleep", filepath.Join(l.out, "sleep.log"), nil, "sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	slot, err := newNetns(l.id + a.slotPrefix() + "1")
	if err != nil {
		t.Fatal(err)
	}
	slot.nl.Close()
	slot.h.Close()
	if _, err := a.PowerCut(); err != nil {
		t.Fatal(err)
	}
	<-p.done
	if n, err := a.SlotNamespaces(); err != nil || len(n) != 0 {
		t.Errorf("slot namespaces %v, %v", n, err)
	}
	if err := a.Plug(); err != nil {
		t.Fatal(err)
	}
	if err := a.routes(); err != nil {
		t.Fatal(err)
	}
	echoes(t, l, "ams", a.Addr, "fra", l.Appliance("fra").Addr)
}

func TestNetem(t *testing.T) {
	uml.Require(t, uml.Netem)
	l := newLab(t, Options{Appliances: []string{"ams"}})
	k, err := l.Link("r1", "c1")
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Impair(Impairment{Delay: 40 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	s, err := l.startStream(l.Client(0).ns, l.Client(0).Addr, l.Node("ams"), l.Appliance("ams").Addr, Rate{PPS: 200})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.WaitReceived(t.Context(), 20); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(5 * time.Second); err != nil {
		t.Error(err)
	}
	// Only the lower bound: the machine may add to it.
	if r := s.Report(time.Time{}, time.Time{}); r.Up.DelayAvgMS < 40 || r.Down.DelayAvgMS < 40 || r.Lost() > 0 {
		t.Errorf("%s, delay %.1f/%.1f ms, want at least 40", r, r.Up.DelayAvgMS, r.Down.DelayAvgMS)
	}
	if err := k.Impair(Impairment{}); err != nil {
		t.Error(err)
	}
}

func TestScenarios(t *testing.T) {
	r := Runner{Out: os.Getenv("SHADOWCAST_LAB_OUT"), Log: os.Stdout}
	if r.Out == "" {
		r.Out = t.TempDir()
	}
	for _, s := range Scenarios() {
		t.Run(s.Name, func(t *testing.T) {
			res, err := r.Run(t.Context(), s)
			if err != nil {
				t.Error(err)
			}
			for _, f := range res.Failures {
				t.Error(f)
			}
			if res.Skipped != "" {
				t.Skip(res.Skipped)
			}
		})
	}
}
