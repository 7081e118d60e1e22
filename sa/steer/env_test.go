package steer

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/sa"
)

// inNetns puts the test into a fresh namespace, on a thread that dies with it.
func inNetns(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("missing capability CAP_SYS_ADMIN (network namespaces, eBPF)")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("missing capability network namespaces: %v", err)
	}
	if err := netlink.LinkSetUp(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: 1}}); err != nil {
		t.Fatal(err)
	}
}

// pinDir mounts a bpf file system of the test's own. Only a descriptor holds it,
// so that a killed test leaves no mount behind.
func pinDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "steerpin")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(dir)
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Skipf("missing capability bpf file system: %v", err)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fmt.Sprintf("/proc/self/fd/%d", fd)
}

func newSteer(t testing.TB, cfg Config) *Steer {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

var (
	slotMAC = [6]byte{2, 0, 0, 0, 0, 1}
	hostMAC = [6]byte{2, 0, 0, 0, 0, 2}
	peerA   = netip.MustParseAddr("10.1.0.2")
)

// Slots of the bench: 1 and 2 local, 3 remote, 4 leaving (uplink remote, peer
// local), 5 forwarded on (peer remote), 6 known and dropped, others unknown.
func benchDesired(dev int) Desired {
	local := Action{Kind: Local, Ifindex: dev, SlotMAC: slotMAC, HostMAC: hostMAC,
		NextHop4: netip.MustParseAddr("10.9.0.2"), NextHop6: netip.MustParseAddr("fe80::2")}
	remote := Action{Kind: Remote, Peer: peerA}
	return Desired{
		VIPs: []netip.Addr{vip4, vip6},
		Slots: map[sa.Slot]SlotSteer{1: {local, local}, 2: {local, local}, 3: {remote, Action{}},
			4: {remote, local}, 5: {remote, remote}, 6: {}},
		Default:     1,
		NewClients:  []sa.Slot{1, 2, 3},
		LocalActive: []sa.Slot{1, 2, 3},
		Peers:       []netip.Addr{peerA},
		Inner:       []netip.Prefix{netip.MustParsePrefix("10.64.0.0/16"), netip.MustParsePrefix("2001:db8:64::/48")},
		RemotePPS:   1e9,
	}
}

// bench runs programs under BPF_PROG_TEST_RUN beside the model.
type bench struct {
	*Steer
	t     testing.TB
	model *model
	ring  *ringbuf.Reader
	jobs  chan func()
}

// in runs fn on a thread in the test's namespace: subtests and fuzz inputs come
// on goroutines of their own.
func (b *bench) in(fn func()) {
	done := make(chan struct{})
	b.jobs <- func() { defer close(done); fn() }
	<-done
}

// inhabit starts the thread behind in.
func (b *bench) inhabit() {
	ns, err := netns.Get()
	if err != nil {
		b.t.Fatal(err)
	}
	b.jobs = make(chan func())
	ready, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		ready <- netns.Set(ns)
		for fn := range b.jobs {
			fn()
		}
	}()
	if err := <-ready; err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		close(b.jobs)
		<-ended
		ns.Close()
	})
}

// newBench fills the maps without devices: test runs redirect nothing.
func newBench(t testing.TB) *bench {
	inNetns(t)
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "scbench"}, PeerName: "scbenchp"}); err != nil {
		t.Fatal(err)
	}
	dev, err := netlink.LinkByName("scbench")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(dev); err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, Steer: newSteer(t, Config{PinDir: pinDir(t), testPeer: number(peerA)})}
	b.inhabit()
	b.set(benchDesired(dev.Attrs().Index))
	if b.ring, err = ringbuf.NewReader(b.objs.Events); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.ring.Close() })
	return b
}

// set bypasses the check for a tunnel device.
func (b *bench) set(d Desired) {
	b.t.Helper()
	if err := b.fill(&d, 1, 1); err != nil {
		b.t.Fatal(err)
	}
	s := d.settings(1, 1)
	s.IcmpCostNs = 1
	if err := b.objs.Config.Put(uint32(0), s); err != nil {
		b.t.Fatal(err)
	}
	b.desired = d
	b.model = &model{d: d, table: newClientTable(d.NewClients), frags: map[fragKey]sa.Slot{}, watch: map[sa.SPI]bool{}}
}

// forget empties the fragment maps.
func (b *bench) forget() {
	clear(b.model.frags)
	var keys []steerFragment
	var k steerFragment
	var v uint16
	for it := b.objs.Fragments.Iterate(); it.Next(&k, &v); {
		keys = append(keys, k)
	}
	for _, k := range keys {
		if err := b.objs.Fragments.Delete(k); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bench) watch(spi sa.SPI) {
	b.model.watch[spi] = true
	if err := b.Watch(spi); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) counters() Counters {
	b.t.Helper()
	c, err := b.Counters()
	if err != nil {
		b.t.Fatal(err)
	}
	return c
}

func (b *bench) hits(slot sa.Slot) (h Hits) {
	b.t.Helper()
	if !slot.Valid() {
		return h
	}
	h, err := b.SlotHits(slot)
	if err != nil {
		b.t.Fatal(err)
	}
	return h
}

func (b *bench) events() (evs []Event) {
	b.t.Helper()
	for b.ring.AvailableBytes() > 0 {
		b.ring.SetDeadline(time.Now().Add(time.Second))
		rec, err := b.ring.Read()
		if err != nil {
			b.t.Fatal(err)
		}
		e, err := decodeEvent(rec.RawSample)
		if err != nil {
			b.t.Fatal(err)
		}
		if e.At == 0 {
			b.t.Error("event without time")
		}
		e.At = 0
		evs = append(evs, e)
	}
	return evs
}

func (b *bench) program(l2 bool) *ebpf.Program {
	if l2 {
		return b.objs.ScSteerUplink
	}
	return b.objs.ScSteerPeer
}

// run gives raw to a program and returns what it did, all of it compared with
// the model.
func (b *bench) run(raw []byte, l2 bool) verdict {
	b.t.Helper()
	want := b.model.run(raw, l2)
	before, beforeHits := b.counters(), b.hits(want.slot)
	var ret uint32
	var out []byte
	var err error
	b.in(func() { ret, out, err = b.program(l2).Test(slices.Clone(raw)) })
	if errors.Is(err, unix.EINVAL) && refused(raw) {
		b.t.Skip("this kernel makes no such test packet")
	}
	if err != nil {
		b.t.Fatalf("test run of %d octets: %v", len(raw), err)
	}
	after, afterHits := b.counters(), b.hits(want.slot)
	if ret != want.ret {
		b.t.Errorf("returned %d, model says %d (%s, slot %d)\n%x", ret, want.ret, want.reason, want.slot, raw)
	}
	for r := range after {
		n := uint64(0)
		if want.reason != ReasonNone && Reason(r) == want.reason {
			n = 1
		}
		if after[r]-before[r] != n {
			b.t.Errorf("counter %s rose by %d, model says %d\n%x", Reason(r), after[r]-before[r], n, raw)
		}
	}
	wantHits := beforeHits
	switch want.hit {
	case hitUplink:
		wantHits.LocalUplink++
	case hitPeer:
		wantHits.LocalPeer++
	case hitRemote:
		wantHits.Remote++
	}
	if afterHits != wantHits {
		b.t.Errorf("hits of slot %d %+v, model says %+v\n%x", want.slot, afterHits, wantHits, raw)
	}
	if want.out != nil && string(out) != string(want.out) {
		b.t.Errorf("packet became\n%x, model says\n%x", out, want.out)
	}
	evs := b.events()
	switch {
	case want.event == nil && len(evs) != 0:
		b.t.Errorf("event %+v, model has none\n%x", evs, raw)
	case want.event != nil && (len(evs) != 1 || evs[0] != normalise(*want.event)):
		b.t.Errorf("events %+v, model says %+v\n%x", evs, *want.event, raw)
	}
	return want
}

func normalise(e Event) Event { e.At = 0; return e }

// refused: recent kernels run no program on what looks like Ethernet and holds
// less than an IP header.
func refused(raw []byte) bool {
	switch be.Uint16(raw[12:]) {
	case 0x0800:
		return len(raw) < 34
	case 0x86dd:
		return len(raw) < 54
	}
	return len(raw) == 14
}
