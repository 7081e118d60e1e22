package steer

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/sa"
)

// Config is what New needs.
type Config struct {
	// PinDir is a directory on a bpf file system, one per appliance.
	PinDir string
	Log    *slog.Logger // nil = slog.Default()

	testPeer uint32 // stands for the tunnel source in tests
}

// layout numbers the meaning of the pinned maps. Raise it when a struct in
// bpf/types.h changes its meaning but not its size; New then starts afresh, and
// the old maps serve the old programs until Set replaces them.
const layout = 1

func pinName(n int) string { return fmt.Sprintf("steer-%d", n) }

// FeatureError says which kernel feature steering lacks here.
type FeatureError struct {
	Feature string
	Err     error
}

func (e *FeatureError) Error() string { return fmt.Sprintf("kernel lacks %s: %v", e.Feature, e.Err) }
func (e *FeatureError) Unwrap() error { return e.Err }

// Steer is the writer of steering state in the network namespace in which New
// was called. Its methods may be called from several goroutines, from threads in
// that namespace.
type Steer struct {
	log    *slog.Logger
	pinDir string
	nl     *netlink.Handle
	objs   steerObjects

	mu      sync.Mutex
	desired Desired
	uplink  []steerAction // what the maps hold, by slot
	peer    []steerAction
	marked  map[sa.Slot]steerAction // slots whose mark routing is in place
}

// New loads the programs and creates the pinned maps, or adopts those that a
// former daemon left. Steering itself does not change until Set.
func New(cfg Config) (*Steer, error) {
	log := cfg.Log
	if log == nil {
		log = slog.Default()
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(cfg.PinDir, &fs); err != nil {
		return nil, fmt.Errorf("find pin directory %s: %w", cfg.PinDir, err)
	}
	if fs.Type != unix.BPF_FS_MAGIC {
		return nil, &FeatureError{"a bpf file system at " + cfg.PinDir, errors.New("another file system is mounted there")}
	}
	s := &Steer{log: log, pinDir: cfg.PinDir, marked: map[sa.Slot]steerAction{}}
	if err := s.load(cfg.testPeer); err != nil {
		return nil, err
	}
	var err error
	if s.uplink, err = readActions(s.objs.UplinkActions); err == nil {
		s.peer, err = readActions(s.objs.PeerActions)
	}
	if err != nil {
		s.objs.Close()
		return nil, err
	}
	if s.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		s.objs.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return s, nil
}

func (s *Steer) load(testPeer uint32) error {
	spec, err := loadSteer()
	if err != nil {
		return fmt.Errorf("read steering programs: %w", err)
	}
	if err := spec.Variables[steerVarTestPeer].Set(testPeer); err != nil {
		return fmt.Errorf("set tunnel source: %w", err)
	}
	dir := filepath.Join(s.pinDir, pinName(layout))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create pin directory: %w", err)
	}
	opts := &ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: dir}}
	err = spec.LoadAndAssign(&s.objs, opts)
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		s.log.Warn("steering maps of another build replaced", "reason", err)
		if err := removePins(dir); err != nil {
			return err
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("create pin directory: %w", err)
		}
		err = spec.LoadAndAssign(&s.objs, opts)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSYS), errors.Is(err, ebpf.ErrNotSupported):
		return &FeatureError{"eBPF for tc", err}
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("load steering programs (CAP_BPF and CAP_NET_ADMIN are needed): %w", err)
	}
	return fmt.Errorf("load steering programs: %w", err)
}

// Close leaves steering as it is and frees what this process holds of it.
func (s *Steer) Close() error {
	s.nl.Close()
	return s.objs.Close()
}

// Set makes the kernel steer as d says, and only so. It is idempotent, and a
// packet in flight meets the old state or the new one. On error some of d is in
// effect; Set again.
func (s *Steer) Set(d Desired) error {
	if err := d.check(); err != nil {
		return fmt.Errorf("check steering: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	links, err := s.nl.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	ups, err := uplinks(links, d.Uplinks)
	if err != nil {
		return err
	}
	t4, t6, err := s.tunnels(links, ups, &d)
	if err != nil {
		return err
	}
	slots := d.Slots
	d.Slots = map[sa.Slot]SlotSteer{}
	for n, st := range slots {
		d.Slots[n] = st
	}
	tables, err := s.addMarks(&d)
	if err != nil {
		return err
	}
	if err := s.fill(&d, t4, t6); err != nil {
		return err
	}
	if err := removeMarks(s.nl, tables, d.VIPs); err != nil {
		return err
	}
	want := map[int]*ebpf.Program{}
	for _, l := range ups {
		want[l.Attrs().Index] = s.objs.ScSteerUplink
	}
	for _, i := range []int{t4, t6} {
		if i != 0 {
			want[i] = s.objs.ScSteerPeer
		}
	}
	if err := s.attach(links, want); err != nil {
		return err
	}
	// A tunnel goes up only now, when what it lets in is checked.
	for _, i := range []int{t4, t6} {
		if i == 0 {
			continue
		}
		if err := s.nl.LinkSetUp(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: i}}); err != nil {
			return fmt.Errorf("set tunnel up: %w", err)
		}
	}
	s.desired = d
	return removeOtherPins(s.pinDir)
}

// fill writes every map. VIPs come last: without them nothing is steered.
func (s *Steer) fill(d *Desired, t4, t6 int) error {
	if err := s.objs.Config.Put(uint32(0), d.settings(t4, t6)); err != nil {
		return fmt.Errorf("write settings: %w", err)
	}
	for n := 1; n <= int(sa.MaxSlot); n++ {
		if err := s.writeSlot(sa.Slot(n), d.Slots[sa.Slot(n)]); err != nil {
			return err
		}
	}
	for b, slot := range newClientTable(d.NewClients) {
		if err := s.objs.NewClients.Put(uint32(b), slot); err != nil {
			return fmt.Errorf("write new-client bucket %d: %w", b, err)
		}
	}
	vips := map[steerAddr]bool{}
	for _, a := range d.VIPs {
		vips[steerAddr{Family: family(a), A: words(a)}] = true
	}
	peers := map[uint32]bool{}
	for _, a := range d.Peers {
		peers[number(a)] = true
	}
	in4, in6 := map[steerPrefix4]bool{}, map[steerPrefix6]bool{}
	for _, p := range d.Inner {
		if w := words(p.Addr()); p.Addr().Is4() {
			in4[steerPrefix4{Bits: uint32(p.Bits()), A: w[0]}] = true
		} else {
			in6[steerPrefix6{Bits: uint32(p.Bits()), A: w}] = true
		}
	}
	return errors.Join(
		syncSet(s.objs.Peers, peers),
		syncSet(s.objs.Inner4, in4),
		syncSet(s.objs.Inner6, in6),
		syncSet(s.objs.Vips, vips),
	)
}

// SetSlot changes the actions of one slot at once: two to four map writes. The
// rest of the state is that of the last Set, which must have been made.
func (s *Steer) SetSlot(slot sa.Slot, st SlotSteer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.desired.Slots == nil {
		return fmt.Errorf("set slot %d: no steering is set yet", slot)
	}
	if err := s.desired.checkSlot(slot, st); err != nil {
		return fmt.Errorf("check steering: %w", err)
	}
	s.desired.Slots[slot] = st
	if s.desired.Delivery == DeliverMark {
		if err := s.markSlot(s.desired.VIPs, slot, st); err != nil {
			return err
		}
	}
	return s.writeSlot(slot, st)
}

// writeSlot writes what packets from peers do first: a slot that comes here can
// then be reached by both ways before the uplink uses it.
func (s *Steer) writeSlot(slot sa.Slot, st SlotSteer) error {
	if err := writeAction(s.objs.PeerActions, s.peer, slot, st.Peer); err != nil {
		return err
	}
	return writeAction(s.objs.UplinkActions, s.uplink, slot, st.Uplink)
}

// removeOtherPins forgets the maps of other layouts: their programs are
// replaced by now.
func removeOtherPins(dir string) error {
	names, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list pin directory: %w", err)
	}
	for _, n := range names {
		if strings.HasPrefix(n.Name(), "steer-") && n.Name() != pinName(layout) {
			if err := removePins(filepath.Join(dir, n.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func removePins(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove pinned maps: %w", err)
	}
	return nil
}
