package bgp

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/configs/routers"
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

// TestBackupWhileTheOwnerRestarts: the daemon of an owner is killed and started at
// once. Its prefixes behind slots lead through a shadow until its session is accepted
// again, which takes as long as the router's timers say.
func TestBackupWhileTheOwnerRestarts(t *testing.T) {
	for name, frr := range map[string]bool{"BIRD": false, "FRR": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			programs := []string{"bird", "birdc"}
			if frr {
				programs = []string{"/usr/lib/frr/bgpd", "vtysh"}
			}
			l := newLab(t, programs...)
			l.netns("core", "a1", "a2")
			l.link("core", "a1", 1)
			l.link("core", "a2", 2)
			inside := routers.RouterConfig{
				Name: "core", RouterID: netip.MustParseAddr("192.0.2.202"), ASN: asCore, Role: routers.Inside, ApplianceASN: asAppliance,
				Sessions: []routers.Session{sessionTo(1, 1), sessionTo(2, 2)}, Inner: []netip.Prefix{netip.MustParsePrefix("10.64.0.0/10")},
			}
			if frr {
				l.frr("core", inside)
			} else {
				l.bird("core", inside)
			}
			peer := func(link int) Peer {
				return Peer{Name: "core", Address: ip4(link, 1), LocalAddress: ip4(link, 2), ASN: asCore, Role: Inside, BFD: BFD{Enabled: true}}
			}
			kernel := l.watch("core", inner)
			owner, shadow := l.speaker("a1", appliance(1, peer(1))), l.speaker("a2", appliance(2, peer(2)))
			t0 := time.Now()
			shadow.set(Desired{Backup: []netip.Prefix{inner}})
			shadow.waitUp()
			l.changed(kernel, ip4(2, 2).String(), t0)
			t0 = time.Now()
			owner.set(Desired{Inner: []netip.Prefix{inner}})
			owner.waitUp()
			l.changed(kernel, ip4(1, 2).String(), t0) // the owner's is preferred

			t0 = time.Now()
			owner.signal(syscall.SIGKILL)
			again := l.speaker("a1", appliance(1, peer(1)))
			again.set(Desired{Inner: []netip.Prefix{inner}})
			detour := l.changed(kernel, ip4(2, 2).String(), t0)
			again.waitUp()
			back := l.changed(kernel, ip4(1, 2).String(), t0)
			t.Logf("kill to the way through the shadow: %v; to the owner's own again: %v", detour, back)
			if detour > time.Second || detour >= back {
				t.Errorf("the way through the shadow is there after %v, the owner's own after %v", detour, back)
			}
		})
	}
}
