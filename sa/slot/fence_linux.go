package slot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/sa"
)

// ErrFenceClosed: a refresh came too late, or the fence was closed before.
var ErrFenceClosed = errors.New("fence is closed")

// Deadline is the CLOCK_MONOTONIC time, in nanoseconds, until which a fence is
// open. 0 is closed.
type Deadline uint64

// NoDeadline keeps a fence open until it is closed.
const NoDeadline Deadline = math.MaxUint64

// After returns the deadline d from now. The caller takes it before it decides
// that the fence may stay open, so that a daemon frozen in between opens
// nothing when it thaws.
func After(d time.Duration) Deadline { return Deadline(monotonic() + uint64(max(d, 0))) }

// Left returns how long a fence with deadline d stays open: 0 if it is closed,
// the longest Duration if d is NoDeadline.
func (d Deadline) Left() time.Duration {
	now := monotonic()
	if uint64(d) <= now {
		return 0
	}
	return time.Duration(min(uint64(d)-now, math.MaxInt64))
}

func monotonic() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic("clock_gettime(CLOCK_MONOTONIC): " + err.Error()) // cannot fail
	}
	return uint64(ts.Nano())
}

// Drops counts packets the fence dropped.
type Drops struct {
	Ingress uint64 // closed, towards the slot
	Egress  uint64 // closed, from the slot
	Clear   uint64 // open, unencrypted to an inner prefix
	Barred  uint64 // open, ESP of a barred SA
}

// fence is the loaded fence of one slot.
type fence struct {
	dir  string
	objs fenceObjects
	mu   sync.Mutex // orders writes of the deadline
}

// objectHash is part of the program pins' names: a daemon with another object
// loads its own and swaps the filters.
var objectHash = func() string {
	h := sha256.Sum256(_FenceBytes)
	return hex.EncodeToString(h[:6])
}()

// loadPinned adopts the fence pinned in dir, or loads one that is closed and
// pins it. Maps that are already pinned are kept in either case.
func loadPinned(dir string) (*fence, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make pin directory: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, fmt.Errorf("look at pin directory %s: %w", dir, err)
	}
	if st.Type != unix.BPF_FS_MAGIC {
		return nil, fmt.Errorf("pin fence: %s is not on a BPF file system (mount -t bpf bpf /sys/fs/bpf)", dir)
	}
	f := &fence{dir: dir}
	if f.adopt() {
		return f, nil
	}
	spec, err := loadFence()
	if err != nil {
		return nil, fmt.Errorf("read fence object: %w", err)
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinByName
	}
	if err := spec.LoadAndAssign(&f.objs, &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: dir}}); err != nil {
		return nil, fmt.Errorf("load fence: %w", err)
	}
	for path, p := range f.programs() {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, errors.Join(fmt.Errorf("replace pinned fence: %w", err), f.close())
		}
		if err := p.Pin(path); err != nil {
			return nil, errors.Join(fmt.Errorf("pin fence: %w", err), f.close())
		}
	}
	return f, nil
}

func (f *fence) programs() map[string]*ebpf.Program {
	return map[string]*ebpf.Program{
		f.programPin(fenceProgFenceIngress): f.objs.FenceIngress,
		f.programPin(fenceProgFenceEgress):  f.objs.FenceEgress,
	}
}

func (f *fence) programPin(name string) string { return filepath.Join(f.dir, name+"-"+objectHash) }

// adopt loads everything from its pins. Programs whose maps are not the pinned
// ones are refused: closing such a fence would have no effect.
func (f *fence) adopt() bool {
	var o fenceObjects
	var err error
	load := func(name string) *ebpf.Map {
		m, e := ebpf.LoadPinnedMap(filepath.Join(f.dir, name), nil)
		err = errors.Join(err, e)
		return m
	}
	prog := func(name string) *ebpf.Program {
		p, e := ebpf.LoadPinnedProgram(f.programPin(name), nil)
		err = errors.Join(err, e)
		return p
	}
	o.FenceDeadline, o.FenceDrops, o.FenceInner = load(fenceMapFenceDeadline), load(fenceMapFenceDrops), load(fenceMapFenceInner)
	o.FenceBarred, o.FenceBarredDrops = load(fenceMapFenceBarred), load(fenceMapFenceBarredDrops)
	o.FenceIngress, o.FenceEgress = prog(fenceProgFenceIngress), prog(fenceProgFenceEgress)
	if err == nil && usesMap(o.FenceIngress, o.FenceDeadline, o.FenceDrops) && usesMap(o.FenceEgress, o.FenceDeadline, o.FenceDrops, o.FenceInner, o.FenceBarred, o.FenceBarredDrops) {
		f.objs = o
		return true
	}
	for _, m := range []*ebpf.Map{o.FenceDeadline, o.FenceDrops, o.FenceInner, o.FenceBarred, o.FenceBarredDrops} {
		if m != nil {
			m.Close()
		}
	}
	for _, p := range []*ebpf.Program{o.FenceIngress, o.FenceEgress} {
		if p != nil {
			p.Close()
		}
	}
	return false
}

func usesMap(p *ebpf.Program, maps ...*ebpf.Map) bool {
	pi, err := p.Info()
	if err != nil {
		return false
	}
	ids, ok := pi.MapIDs()
	if !ok {
		return false
	}
	for _, m := range maps {
		mi, err := m.Info()
		if err != nil {
			return false
		}
		if id, ok := mi.ID(); !ok || !slices.Contains(ids, id) {
			return false
		}
	}
	return true
}

// prune removes the program pins of other objects, once their filters are
// replaced.
func (f *fence) prune() error {
	es, err := os.ReadDir(f.dir)
	if err != nil {
		return fmt.Errorf("list pins: %w", err)
	}
	keep := []string{fenceMapFenceDeadline, fenceMapFenceDrops, fenceMapFenceInner, fenceMapFenceBarred, fenceMapFenceBarredDrops}
	for path := range f.programs() {
		keep = append(keep, filepath.Base(path))
	}
	for _, e := range es {
		if !slices.Contains(keep, e.Name()) {
			if err := os.Remove(filepath.Join(f.dir, e.Name())); err != nil {
				return fmt.Errorf("remove old pin: %w", err)
			}
		}
	}
	return nil
}

func (f *fence) close() error { return f.objs.Close() }

func (f *fence) deadline() (Deadline, error) {
	var v uint64
	if err := f.objs.FenceDeadline.Lookup(uint32(0), &v); err != nil {
		return 0, fmt.Errorf("read fence: %w", err)
	}
	return Deadline(v), nil
}

func (f *fence) set(d Deadline) error {
	if err := f.objs.FenceDeadline.Put(uint32(0), uint64(d)); err != nil {
		return fmt.Errorf("write fence: %w", err)
	}
	return nil
}

// refresh moves the deadline of an open fence. The clock is read again after
// the write: a process that was frozen between check and write finds the old
// deadline passed and undoes it.
func (f *fence) refresh(until Deadline) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	old, err := f.deadline()
	if err != nil {
		return err
	}
	if old.Left() == 0 {
		return ErrFenceClosed
	}
	if err := f.set(until); err != nil {
		return err
	}
	if old.Left() == 0 {
		return errors.Join(ErrFenceClosed, f.set(0))
	}
	return nil
}

func (f *fence) drops() (d Drops, err error) {
	for i, to := range []*uint64{&d.Ingress, &d.Egress, &d.Clear, &d.Barred} {
		m, k := f.objs.FenceDrops, uint32(i)
		if to == &d.Barred { // a map of its own: older builds have pinned the other
			m, k = f.objs.FenceBarredDrops, 0
		}
		var per []uint64
		if err := m.Lookup(k, &per); err != nil {
			return d, fmt.Errorf("read fence counters: %w", err)
		}
		for _, n := range per {
			*to += n
		}
	}
	return d, nil
}

// setInner makes ps the inner prefixes that may not leave in the clear.
func (f *fence) setInner(ps []netip.Prefix) error {
	want := make(map[fencePrefix]bool, len(ps))
	for _, p := range ps {
		k := fencePrefix{Bits: uint32(p.Bits()), Addr: p.Addr().As16()}
		if p.Addr().Is4() {
			k.Bits += 96
		}
		want[k] = true
	}
	var k fencePrefix
	var v uint8
	var surplus []fencePrefix
	it := f.objs.FenceInner.Iterate()
	for it.Next(&k, &v) {
		if !want[k] {
			surplus = append(surplus, k)
		}
		delete(want, k)
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("list inner prefixes of fence: %w", err)
	}
	for k := range want {
		if err := f.objs.FenceInner.Put(k, uint8(1)); err != nil {
			return fmt.Errorf("add inner prefix to fence: %w", err)
		}
	}
	for _, k := range surplus {
		if err := f.objs.FenceInner.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("remove inner prefix from fence: %w", err)
		}
	}
	return nil
}

// attach puts the programs onto the slot's end of the veth, leaving alone what
// is already there.
func (f *fence) attach(h *netlink.Handle, link netlink.Link) error {
	qs, err := h.QdiscList(link)
	if err != nil {
		return fmt.Errorf("list qdiscs of %s: %w", link.Attrs().Name, err)
	}
	clsact := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if !slices.ContainsFunc(qs, func(q netlink.Qdisc) bool { return q.Type() == "clsact" }) {
		if err := h.QdiscAdd(clsact); err != nil {
			return fmt.Errorf("add clsact to %s: %w", link.Attrs().Name, err)
		}
	}
	for _, a := range []struct {
		parent uint32
		name   string
		prog   *ebpf.Program
	}{{netlink.HANDLE_MIN_INGRESS, fenceProgFenceIngress, f.objs.FenceIngress}, {netlink.HANDLE_MIN_EGRESS, fenceProgFenceEgress, f.objs.FenceEgress}} {
		info, err := a.prog.Info()
		if err != nil {
			return fmt.Errorf("read fence program: %w", err)
		}
		id, _ := info.ID()
		fs, err := h.FilterList(link, a.parent)
		if err != nil {
			return fmt.Errorf("list filters of %s: %w", link.Attrs().Name, err)
		}
		if slices.ContainsFunc(fs, func(x netlink.Filter) bool {
			b, ok := x.(*netlink.BpfFilter)
			return ok && b.Id == int(id) && b.DirectAction && b.Priority == 1
		}) {
			continue
		}
		err = h.FilterReplace(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: link.Attrs().Index, Parent: a.parent, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 1},
			Fd:          a.prog.FD(), Name: a.name, DirectAction: true,
		})
		if err != nil {
			return fmt.Errorf("attach fence to %s: %w", link.Attrs().Name, err)
		}
	}
	return nil
}

// OpenFence opens the fence of a slot until the deadline.
func (h *Host) OpenFence(n sa.Slot, until Deadline) error {
	return h.with(n, "open fence", func(s *state) error {
		if until.Left() == 0 {
			return fmt.Errorf("deadline has passed: %w", ErrFenceClosed)
		}
		s.fence.mu.Lock()
		defer s.fence.mu.Unlock()
		return s.fence.set(until)
	})
}

// RefreshFence moves the deadline of an open fence, forwards or backwards. It
// never opens one: ErrFenceClosed says that the dead-man was faster, and that
// the slot has to be claimed again.
func (h *Host) RefreshFence(n sa.Slot, until Deadline) error {
	return h.with(n, "refresh fence", func(s *state) error { return s.fence.refresh(until) })
}

// CloseFence closes the fence of a slot at once, in both directions.
func (h *Host) CloseFence(n sa.Slot) error {
	return h.with(n, "close fence", func(s *state) error {
		s.fence.mu.Lock()
		defer s.fence.mu.Unlock()
		return s.fence.set(0)
	})
}

// Fence returns whether the fence of a slot is open now, and its deadline.
func (h *Host) Fence(n sa.Slot) (open bool, until Deadline, err error) {
	err = h.with(n, "look at fence", func(s *state) (err error) {
		until, err = s.fence.deadline()
		return err
	})
	return until.Left() > 0, until, err
}

// Drops returns what the fence of a slot dropped since it was loaded.
func (h *Host) Drops(n sa.Slot) (d Drops, err error) {
	err = h.with(n, "count drops", func(s *state) (err error) {
		d, err = s.fence.drops()
		return err
	})
	return d, err
}
