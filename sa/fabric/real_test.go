package fabric

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/sa/charon"
)

// onceSize tells packets of once from others.
const onceSize = 100

// once sends a packet and reports whether it, or an earlier one, arrives soon.
func (p path) once() bool {
	_, _ = p.from.WriteTo(make([]byte, onceSize), p.to.LocalAddr())
	_ = p.to.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	defer func() { _ = p.to.SetReadDeadline(time.Time{}) }()
	b := make([]byte, 65536)
	for {
		n, err := p.to.Read(b)
		if err != nil || n == onceSize {
			return err == nil
		}
	}
}

func TestFabric(t *testing.T) {
	w := newWorld(t)
	ams, fra := w.apps[0], w.apps[1]
	c4 := [2]*net.UDPConn{ams.listen(false), fra.listen(false)}
	c6 := [2]*net.UDPConn{ams.listen(true), fra.listen(true)}
	paths := []path{{c4[0], c4[1]}, {c4[1], c4[0]}, {c6[0], c6[1]}, {c6[1], c6[0]}}

	// The devices and routes work, and are seen: without policies, in the clear.
	for i, p := range paths {
		w.eventually("plain tunnels", func() bool { return len(p.send(t, 0, 1, 200, 0)) == 1 })
		if c := w.wire.take(); c[4]+c[47] == 0 {
			t.Fatalf("path %d: tunnel packets are not seen: %v", i, c)
		}
	}

	t.Run("blocked", func(t *testing.T) {
		// One side only: what the other sends in the clear must not enter.
		for range 2 { // idempotent
			if err := ams.fabric.Protect(); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(ams.policies()); n != 8 {
			t.Errorf("%d policies, want 8", n)
		}
		for i, p := range paths {
			w.wire.take()
			got, c := p.send(t, 0, 3, 200, 0), w.wire.take()
			if len(got) != 0 {
				t.Errorf("path %d: unprotected packets arrive", i)
			}
			if out := i%2 == 0; out && c[4]+c[47] != 0 || !out && c[4]+c[47] == 0 {
				t.Errorf("path %d: on the wire %v", i, c)
			}
		}
		// A peer's name on a packet to another address of ours.
		before := ams.counters()["XfrmInPolBlock"]
		w.forge(netip.MustParseAddr("192.0.2.12"), netip.MustParseAddr("10.1.1.2"))
		w.eventually("the forged packet's end", func() bool { return ams.counters()["XfrmInPolBlock"] > before })
		if err := fra.fabric.Protect(); err != nil {
			t.Fatal(err)
		}
	})

	w.wire.take()
	for _, a := range w.apps {
		a.run()
	}
	t.Logf("tunnels are up after %s", w.eventually("tunnels", w.up))

	t.Run("sizes", func(t *testing.T) {
		for i, p := range paths {
			for _, size := range []int{64, 1372, 1400, 1472, 4000} {
				w.wire.take()
				got, c := p.send(t, 0, 20, size, time.Millisecond), w.wire.take()
				if len(got) != 20 || c[50] < 20 {
					t.Errorf("path %d: %d of 20 packets of %d bytes, on the wire %v", i, len(got), size, c)
				}
				w.clean(fmt.Sprintf("path %d, size %d", i, size), c)
			}
		}
	})

	t.Run("adopted", func(t *testing.T) {
		pid, was := ams.fabric.PID(), ams.fabric.Status()[0]
		ams.stop()
		got := paths[0].send(t, 0, 20, 200, time.Millisecond)
		if len(got) != 20 {
			t.Errorf("without the daemon %d of 20 arrive", len(got))
		}
		ams.again(ams.cfg)
		w.eventually("tunnels", w.up)
		now := ams.fabric.Status()[0]
		if ams.fabric.PID() != pid || now.In != was.In || now.Out != was.Out || now.Since.After(was.Since.Add(2*time.Second)) {
			t.Errorf("pid %d, was %d; status %+v, was %+v", ams.fabric.PID(), pid, now, was)
		}
	})

	t.Run("upgraded", func(t *testing.T) {
		pid := ams.fabric.PID()
		ams.stop()
		f, err := os.OpenFile(filepath.Join(ams.cfg.RunDir, "fabric", "strongswan.conf"), os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString("# of an earlier release\n")
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		ams.again(ams.cfg)
		w.eventually("another charon", func() bool { return ams.fabric.PID() != 0 && ams.fabric.PID() != pid && w.up() })
	})

	t.Run("peer joins and leaves", func(t *testing.T) {
		pid := ams.fabric.PID()
		v := charon.NewVici(charon.ViciSocket(filepath.Join(ams.cfg.RunDir, "fabric")))
		defer v.Close()
		more := ams.cfg
		more.Peers = append(slices.Clone(more.Peers), Peer{"lhr", addr(3)})
		for _, c := range []Config{more, ams.cfg} {
			ams.stop()
			ams.again(c)
			w.eventually("connections", func() bool {
				m, err := v.Call(t.Context(), "get-conns", nil)
				if err != nil {
					return false
				}
				have, _ := m.Get("conns").([]string)
				return len(have) == len(c.Peers) && w.up()
			})
			if n := len(ams.policies()); n < 4+4*len(c.Peers) {
				t.Errorf("%d policies with %d peers", n, len(c.Peers))
			}
		}
		if ams.fabric.PID() != pid {
			t.Error("another peer restarted charon")
		}
		for i, p := range paths {
			if got := p.send(t, 0, 20, 1400, time.Millisecond); len(got) != 20 {
				t.Errorf("path %d: %d of 20", i, len(got))
			}
		}
	})

	t.Run("killed", func(t *testing.T) {
		pid, was, early := ams.fabric.PID(), ams.fabric.Status()[0].In, ams.counters()["XfrmAcquireError"]
		w.wire.take()
		go func() {
			time.Sleep(200 * time.Millisecond)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}()
		var wg sync.WaitGroup
		var lost [2]int
		for i, p := range paths[:2] {
			wg.Go(func() { lost[i] = 1000 - len(p.send(t, 0, 1000, 200, 2*time.Millisecond)) })
		}
		wg.Wait()
		w.eventually("another charon", func() bool { return ams.fabric.PID() != 0 && ams.fabric.PID() != pid && w.up() })
		t.Logf("lost %v of 1000 packets each way while charon was killed and replaced, %d of them for an SPI without keys yet; SPI %s, was %s",
			lost, ams.counters()["XfrmAcquireError"]-early, ams.fabric.Status()[0].In, was)
		w.clean("killed", w.wire.take())
		if got := ams.fabric.Status()[0].In; got == was || got == 0 {
			t.Errorf("SPI %s, was %s", got, was)
		}
		// Lost is only what arrives while a new SA is known at one end.
		if lost[0]+lost[1] > 150 {
			t.Errorf("lost %v of 1000 packets", lost)
		}
	})

	for i, a := range w.apps {
		t.Run("reboot of "+a.cfg.Self, func(t *testing.T) {
			a.stop()
			_ = syscall.Kill(a.pid(), syscall.SIGKILL)
			w.eventually("charon's end", func() bool { return syscall.Kill(a.pid(), 0) != nil || a.gone() })
			if err := os.RemoveAll(a.cfg.RunDir); err != nil {
				t.Fatal(err)
			}
			a.ip("xfrm state flush\nxfrm policy flush\n")
			var err error
			if a.fabric, err = New(a.cfg); err != nil {
				t.Fatal(err)
			}
			w.wire.take()
			if err := a.fabric.Protect(); err != nil {
				t.Fatal(err)
			}
			a.run()
			for _, p := range []path{paths[i], paths[1-i]} {
				t.Logf("first packet %s after %s", p.from.LocalAddr(), w.eventually("traffic", p.once))
			}
			w.clean("reboot", w.wire.take())
		})
	}

	t.Run("single", func(t *testing.T) {
		// What the reboots and crossing starts left is gone in the end, and the
		// tunnel was never without an SA.
		v := charon.NewVici(charon.ViciSocket(filepath.Join(ams.cfg.RunDir, "fabric")))
		defer v.Close()
		w.eventually("a single tunnel", func() bool {
			sas, err := v.ListSAs(t.Context(), true)
			return err == nil && len(sas) == 1 && len(sas[0].Children) == 1
		})
		for i, p := range paths {
			if got := p.send(t, 0, 20, 1400, time.Millisecond); len(got) != 20 {
				t.Errorf("path %d: %d of 20", i, len(got))
			}
		}
	})

	t.Run("alone", func(t *testing.T) {
		ams.stop()
		c := ams.cfg
		c.Peers = nil
		pid := ams.pid()
		ams.again(c)
		w.eventually("the end of charon and policies", func() bool {
			return (syscall.Kill(pid, 0) != nil || ams.gone()) && len(ams.policies()) == 0
		})
	})
}
