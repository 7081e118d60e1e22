package lab

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/sa"
)

func init() {
	Register(Scenario{
		Name: "fabric", Doc: "what appliances send each other is ESP, always: both directions through a third appliance, its fabric charon killed, forged tunnel packets",
		Need: fleetNeed, Options: fleetOptions(ConnSpec{Cert: true}), Run: fabricScenario,
	})
}

// fabricWires counts at both outside routers.
type fabricWires []*tunnelCount

func (w fabricWires) take(t *T) map[uint8]int {
	sum := map[uint8]int{}
	for _, c := range w {
		n, err := c.take()
		t.Check(err)
		for p, k := range n {
			sum[p] += k
		}
	}
	return sum
}

// protected checks that at least esp packets crossed a router, and nothing else.
func (w fabricWires) protected(t *T, what string, esp int) {
	n := w.take(t)
	t.Logf("%s: between appliances ESP %d, ipip %d, gre %d", what, n[protoESP], n[protoIPIP], n[protoGRE])
	t.Metric("wire_"+what, map[string]int{"esp": n[protoESP], "ipip": n[protoIPIP], "gre": n[protoGRE]})
	if n[protoESP] < esp || n[protoIPIP]+n[protoGRE] != 0 {
		t.Errorf("%s: between appliances ESP %d, want %d at least; ipip %d, gre %d, want none", what, n[protoESP], esp, n[protoIPIP], n[protoGRE])
	}
}

// busy waits until n ESP packets more crossed the routers.
func (w fabricWires) busy(ctx context.Context, n int) error {
	seen := 0
	return poll(ctx, 50*time.Millisecond, "ESP between appliances", func() (bool, error) {
		for _, c := range w {
			m, err := c.take()
			if err != nil {
				return false, err
			}
			seen += m[protoESP]
		}
		return seen >= n, nil
	})
}

func fabricScenario(t *T, l *Lab) {
	ctx := t.Context()
	t.Check(enterAt(l, "lhr"))
	var wires fabricWires
	for _, r := range []string{"r1", "r2"} {
		c, err := l.countTunnels(r)
		t.Check(err)
		wires = append(wires, c)
	}
	fleetUp(t, l)
	s := join(t, l, 0)
	control(t, l, s)
	entry := l.Appliance("lhr")
	if o := owner(t, l, s.slot); o != entry {
		t.Fatalf("slot %d is not at %s", s.slot, entry.Name)
	}
	handover(t, l, s, "planned", "ams")
	allReady(t, l)
	// Servers' packets take the same way round: `in` prefers the wrong appliance.
	t.Check(l.nodes["in"].routeMetric(SlotPool(sa.Slot(s.slot)), netip.Addr{}, 1, host(linkNet(insideLink, entry.N), 2)))
	handover(t, l, s, "third-entry", "fra")
	allReady(t, l)
	through := func(what string) {
		// A starved machine loses BFD sessions, and packets enter elsewhere for a
		// while.
		calm(t, l)
		t.Check(wires.busy(ctx, 100))
		wires.take(t)
		sc := scene(t, l, s, what, func(*Observation) { pause(t, time.Second) })
		if sc.Lost != 0 {
			t.Errorf("%s: %d of %d packets lost without a fault", what, sc.Lost, sc.Sent)
		}
		wires.protected(t, what, sc.Sent) // each counts twice or more
	}
	through("tunnelled")
	for _, size := range []int{1400, 4000} {
		what := fmt.Sprintf("size-%d", size)
		st, err := l.StartStream(s.Client, Rate{PPS: 50, Size: size})
		t.Check(err)
		t.Check(st.WaitReceived(ctx, 50))
		t.Check(st.Stop(2 * time.Second))
		r := st.Report(time.Time{}, time.Time{})
		t.Logf("%s: %s", what, r)
		if r.Lost() != 0 {
			t.Errorf("%s: %s", what, r)
		}
		wires.protected(t, what, r.Sent())
	}

	pid := fabricCharon(t, entry)
	sc := scene(t, l, s, "fabric-killed", func(o *Observation) {
		pause(t, 300*time.Millisecond)
		o.Mark(time.Now(), "charon between appliances killed")
		t.Check(syscall.Kill(pid, syscall.SIGKILL))
		t.Check(entry.waitEvent(ctx, "fabric", "all peer tunnels are protected", 2))
		pause(t, 500*time.Millisecond)
	})
	kept(t, sc)
	if now := fabricCharon(t, entry); now == pid {
		t.Errorf("fabric-killed: charon %d was not replaced", pid)
	}
	// The other end uses new keys as soon as it has them: what it sends before we
	// have them too is lost, a round trip's worth.
	if sc.Lost > 100 {
		t.Errorf("fabric-killed: %d of %d packets lost", sc.Lost, sc.Sent)
	}
	wires.protected(t, "fabric-killed", sc.Sent-sc.Lost)
	through("control-after")

	// Forged: at the entry's own address charon's policy wants ESP, at another one
	// the block policy drops.
	inner, err := s.Client.Inner()
	t.Check(err)
	for _, f := range []struct {
		dst     netip.Addr
		counter string
	}{{entry.Addr, "XfrmInTmplMismatch"}, {host(linkNet(1, entry.N), 2), "XfrmInPolBlock"}} {
		dropped := func() uint64 {
			n, err := entry.ns.XFRMErrors()
			t.Check(err)
			return n[f.counter]
		}
		before := dropped()
		t.Check(l.forgeTunnel("r1", l.Appliance("fra").Addr, f.dst, inner))
		t.Check(poll(ctx, 10*time.Millisecond, "the end of a tunnel packet forged for "+f.dst.String(), func() (bool, error) { return dropped() > before, nil }))
	}
	wires.take(t) // the forged ones
	through("control-forged")
}

// waitEvent waits until the daemon has said text n times.
func (a *Appliance) waitEvent(ctx context.Context, kind, text string, n int) error {
	return poll(ctx, 50*time.Millisecond, fmt.Sprintf("%s to say %q", a.Name, text), func() (bool, error) {
		evs, err := a.Events(ctx)
		k := 0
		for _, e := range evs {
			if e.Kind == kind && e.Message == text {
				k++
			}
		}
		return k >= n, err
	})
}

// fabricCharon is the process of the charon between appliances.
func fabricCharon(t *T, a *Appliance) int {
	b, err := os.ReadFile(filepath.Join(a.runDir(), "fabric", "charon.json"))
	t.Check(err)
	var r struct {
		PID int `json:"pid"`
	}
	t.Check(json.Unmarshal(b, &r))
	return r.PID
}

// forgeTunnel sends, from a router, an unprotected ipip packet that claims to come
// from another appliance and holds a packet for an inner address.
func (l *Lab) forgeTunnel(router string, src, dst, inner netip.Addr) error {
	header := func(proto byte, src, dst netip.Addr, length int) []byte {
		s, d := src.As4(), dst.As4()
		h := append([]byte{0x45, 0, byte(length >> 8), byte(length), 0, 1, 0, 0, 64, proto, 0, 0}, append(s[:], d[:]...)...)
		var sum uint32
		for i := 0; i < len(h); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(h[i:]))
		}
		binary.BigEndian.PutUint16(h[10:], ^uint16(sum+sum>>16))
		return h
	}
	b := append(header(protoIPIP, src, dst, 48), header(unix.IPPROTO_UDP, ServerAddr, inner, 28)...)
	b = append(b, 0, 9, 0, 9, 0, 8, 0, 0)
	err := l.nodes[router].Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, b, 0, &unix.SockaddrInet4{Addr: dst.As4()})
	})
	if err != nil {
		return fmt.Errorf("send a forged tunnel packet from %s: %w", router, err)
	}
	return nil
}
