package bgp

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/shadowcast/shadowcast/bgp/bfd"
)

var cuts = flag.Int("cuts", 1, "pairs of link cuts of TestRepeatedCuts, a short and a longer one")

// TestRepeatedCuts pulls the cable of one of an appliance's two uplinks again and
// again, for longer and shorter than anything's timers, over both families at once.
// Each time the sessions and their BFD must come back, and each cut is one loss.
// While the link is down the routing table leads to the router over the other link:
// a BFD socket made then without care keeps that link's address for ever.
func TestRepeatedCuts(t *testing.T) {
	for name, frr := range map[string]bool{"BIRD": false, "FRR": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			programs := []string{"bird", "birdc", "sysctl"}
			if frr {
				programs = []string{"/usr/lib/frr/bgpd", "vtysh", "sysctl"}
			}
			l := newLab(t, programs...)
			l.netns("r", "x", "a1")
			l.link("r", "a1", 1)
			l.link("x", "a1", 2)
			l.sysctl("a1", "net.ipv4.conf.all.ignore_routes_with_linkdown=1", "net.ipv6.conf.all.ignore_routes_with_linkdown=1",
				"net.ipv4.conf.r.ignore_routes_with_linkdown=1", "net.ipv6.conf.r.ignore_routes_with_linkdown=1")
			l.sysctl("r", "net.ipv6.conf.a1.keep_addr_on_down=1")
			l.ip("-n", l.tag+"a1", "route", "add", "default", "via", ip4(2, 1).String())
			l.ip("-n", l.tag+"a1", "route", "add", "default", "via", ip6(2, 1).String())
			s6 := sessionTo(1, 1)
			s6.Address, s6.LocalAddress = ip6(1, 2), ip6(1, 1)
			conf := outsideRouter(50*time.Millisecond, sessionTo(1, 1), s6)
			if frr {
				l.frr("r", conf)
			} else {
				l.bird("r", conf)
			}
			r4, r6 := outsidePeer(1, 50*time.Millisecond), outsidePeer(1, 50*time.Millisecond)
			r6.Name, r6.Address, r6.LocalAddress = "r6", ip6(1, 1), ip6(1, 2)
			a := l.speaker("a1", appliance(1, r4, r6))
			a.set(Desired{Liveness: []netip.Prefix{liveOf(1)}})
			a.waitUp()
			// FRR's first session comes up twice: bgpd learns the interface.
			time.Sleep(2 * time.Second)
			a.waitUp()
			first := map[string]uint64{"r": a.peer("r").Flaps, "r6": a.peer("r6").Flaps}
			var slowest time.Duration
			for i := range *cuts {
				for _, d := range []time.Duration{20 * time.Millisecond, time.Duration(rand.IntN(3000)) * time.Millisecond} {
					l.linkState("r", "a1", "down")
					time.Sleep(d) // the length of the fault
					t0 := l.linkState("r", "a1", "up")
					a.waitUp()
					if took := time.Since(t0); took > slowest {
						slowest = took
					}
					t.Logf("cut %d, %v long: up again after %v", i+1, d.Round(time.Millisecond), time.Since(t0).Round(time.Millisecond))
				}
			}
			for name, was := range first {
				if n := a.peer(name).Flaps - was; n > uint64(2**cuts) {
					t.Errorf("%s lost its session %d times in %d cuts", name, n, 2**cuts)
				}
			}
			t.Logf("slowest return %v", slowest.Round(time.Millisecond))
			if last := a.stop(); last.Err != "" || last.Leak != "" {
				t.Errorf("stop: %s\n%s", last.Err, last.Leak)
			}
		})
	}
}

// sysctl sets kernel parameters in a namespace.
func (l *lab) sysctl(ns string, kv ...string) {
	l.t.Helper()
	for _, s := range kv {
		if out, err := exec.Command("ip", "netns", "exec", l.tag+ns, "sysctl", "-q", "-w", s).CombinedOutput(); err != nil {
			l.t.Fatalf("set %s: %v\n%s", s, err, fmt.Sprint(string(out)))
		}
	}
}

// TestBFDTTL: packets with the router's address that crossed another router are told
// and change nothing, not even those that say that the session is down.
func TestBFDTTL(t *testing.T) {
	t.Parallel()
	l := newLab(t, "bird", "birdc")
	l.netns("r", "a1")
	l.link("r", "a1", 1)
	l.bird("r", outsideRouter(100*time.Millisecond, sessionTo(1, 1)))
	a := l.speaker("a1", appliance(1, outsidePeer(1, 100*time.Millisecond)))
	a.set(Desired{Liveness: []netip.Prefix{liveOf(1)}})
	a.waitUp()
	before := a.peer("r")
	h, err := netns.GetFromName(l.tag + "r")
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	// RFC 5880 section 4.1: version 1, state down, detect mult 3, a discriminator.
	forged := []byte{0x20, 0x40, 3, 24, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0x0f, 0x42, 0x40, 0, 1, 0x86, 0xa0, 0, 0, 0, 0}
	sent := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with its namespace
		sent <- func() error {
			if err := netns.Set(h); err != nil {
				return err
			}
			c, err := net.DialUDP("udp4", &net.UDPAddr{IP: ip4(1, 1).AsSlice()}, &net.UDPAddr{IP: ip4(1, 2).AsSlice(), Port: bfd.Port})
			if err != nil {
				return err
			}
			defer c.Close()
			for range 20 {
				if _, err := c.Write(forged); err != nil { // with the default TTL, 64
					return err
				}
				time.Sleep(20 * time.Millisecond)
			}
			return nil
		}()
	}()
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	e := a.event(5*time.Second, "refused packet", time.Time{}, func(e Event) bool { return e.Kind == BFDRefused })
	if e.Peer != "r" || !strings.Contains(e.Reason, "ttl 64, want 255") {
		t.Errorf("event %+v", e)
	}
	if n := a.count(time.Time{}, BFDRefused); n != 1 {
		t.Errorf("told %d times, want once a minute", n)
	}
	if st := a.peer("r"); !st.Up || st.BFD != "up" || st.Flaps != before.Flaps {
		t.Errorf("state %+v", st)
	}
}
