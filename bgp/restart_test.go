package bgp

import (
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// TestRestart: no router keeps the VIP of a speaker that died, and one that comes back
// announces none before it is told to, however soon it comes back. A graceful restart
// (RFC 4724) would keep it.
func TestRestart(t *testing.T) {
	for name, frr := range map[string]bool{"BIRD": false, "FRR": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, frr, 100*time.Millisecond)
			kernel := p.watch("r", netip.PrefixFrom(vip4.Addr(), 32))
			via1, via2 := ip4(1, 2).String(), ip4(2, 2).String()
			t0 := time.Now()
			p.a1.set(desire(1, Normal, 100, false))
			p.changed(kernel, via1, t0)
			t0 = time.Now()
			p.a1.signal(syscall.SIGKILL)
			again := p.lab.speaker("a1", appliance(1, outsidePeer(1, 100*time.Millisecond)))
			t.Logf("kill to kernel route gone: %v", p.changed(kernel, "", t0))
			again.set(Desired{Liveness: []netip.Prefix{liveOf(1)}})
			again.waitUp()
			p.a2.event(15*time.Second, "liveness of the one that is back", t0, livenessOf(LivenessUp, 1))
			n := kernel.len()
			p.a2.set(desire(2, Normal, 200, false))
			p.changed(kernel, via2, t0)
			if got := kernel.len(); got != n+1 {
				t.Errorf("%d changes of the VIP's route by a speaker that announces none", got-n-1)
			}
			t1 := time.Now()
			again.set(desire(1, Normal, 100, false))
			p.changed(kernel, via1, t1)
		})
	}
}
