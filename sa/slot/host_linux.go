package slot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/sa"
)

// ErrNoSlot: Set did not set up such a slot.
var ErrNoSlot = errors.New("no such slot here")

// Host owns the slots of one appliance. Its methods may be called from any
// goroutine and in any namespace.
type Host struct {
	cfg Config
	ns  *os.File // the host namespace
	nl  *netlink.Handle
	tc  *nl.SocketHandle

	setMu  sync.Mutex // one Set or CleanUp at a time
	warned bool       // about socket buffers

	mu    sync.RWMutex // held for reading while a state is used
	slots map[sa.Slot]*state

	innerMu sync.Mutex
	inner   map[sa.Slot]*inner
}

// state is what is open for a slot with a namespace.
type state struct {
	n                    sa.Slot
	ns                   *os.File
	nl                   *netlink.Handle
	fence                *fence
	hostIndex, slotIndex int
	plug                 bool
}

func (s *state) close() error {
	s.nl.Close()
	return errors.Join(s.fence.close(), s.ns.Close())
}

// New opens the host namespace, which is the calling thread's, and changes
// nothing.
func New(cfg Config) (*Host, error) {
	cfg.defaults()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("configure slots: %w", err)
	}
	h := &Host{cfg: cfg, slots: map[sa.Slot]*state{}, inner: map[sa.Slot]*inner{}}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var err error
	if h.ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return nil, fmt.Errorf("open host namespace: %w", err)
	}
	if h.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		h.ns.Close()
		return nil, fmt.Errorf("open route socket: %w", err)
	}
	sock, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		h.nl.Close()
		h.ns.Close()
		return nil, fmt.Errorf("open traffic control socket: %w", err)
	}
	h.tc = &nl.SocketHandle{Socket: sock}
	return h, nil
}

// Close lets go of all handles and leaves the kernel as it is: open fences
// stay open until their deadlines.
func (h *Host) Close() error {
	h.setMu.Lock()
	defer h.setMu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for n, s := range h.slots {
		errs = append(errs, s.close())
		delete(h.slots, n)
	}
	h.nl.Close()
	h.tc.Close()
	return errors.Join(append(errs, h.ns.Close())...)
}

// with calls f with the state of a slot, which lives until f returns.
func (h *Host) with(n sa.Slot, op string, f func(*state) error) error {
	h.mu.RLock()
	defer h.mu.RUnlock()
	s, ok := h.slots[n]
	err := ErrNoSlot
	if ok {
		err = f(s)
	}
	if err != nil {
		return fmt.Errorf("%s of slot %d: %w", op, n, err)
	}
	return nil
}

// Links is what steering and the charon of a slot need to know about it.
type Links struct {
	Netns                string // path of the namespace
	HostName, SlotName   string // device names
	HostIndex, SlotIndex int    // each in its own namespace
	HostMAC, SlotMAC     net.HardwareAddr
	Next4, Next6         netip.Addr // next hops towards the slot on HostName
	Hold                 bool       // the kernel can hold
}

// Links describes the veth of a slot.
func (h *Host) Links(n sa.Slot) (l Links, err error) {
	err = h.with(n, "describe veth", func(s *state) error {
		l = Links{
			Netns: h.cfg.netnsPath(n), HostName: vethName(n), SlotName: uplinkName,
			HostIndex: s.hostIndex, SlotIndex: s.slotIndex, HostMAC: mac(n, 0), SlotMAC: mac(n, 1),
			Next4: slotNext4, Next6: slotNext6, Hold: s.plug,
		}
		return nil
	})
	return l, err
}

// NetnsPath returns where the namespace of a slot is or will be.
func (h *Host) NetnsPath(n sa.Slot) string { return h.cfg.netnsPath(n) }

// Set makes the appliance have exactly the slots of d: creates what is
// missing, repairs what drifted, adopts what an earlier daemon left and removes
// the rest. Fences of slots that exist stay as they are; new ones are closed.
// A slot that fails does not keep the others from being set up.
func (h *Host) Set(ctx context.Context, d Desired) error {
	if err := d.check(); err != nil {
		return fmt.Errorf("set slots: %w", err)
	}
	h.setMu.Lock()
	defer h.setMu.Unlock()
	if err := inNetns(h.ns, prepareHost); err != nil {
		return fmt.Errorf("prepare host namespace: %w", err)
	}
	if err := raiseSocketBuffers(h.ns); err != nil && !h.warned {
		// The operator's sysctl.d has to do it then.
		h.warned = true
		h.cfg.Log.Warn("cannot raise net.core.rmem_default: charon may lose HA datagrams", "reason", err)
	}

	local := map[sa.Slot]Slot{}
	for _, s := range d.Slots {
		if !s.Foreign {
			local[s.Number] = s
		}
	}
	errs := []error{h.removeOthers(local)}
	for _, s := range d.Slots {
		if s.Foreign {
			continue
		}
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, fmt.Errorf("set slots: %w", err))...)
		}
		if err := h.ensure(s); err != nil {
			errs = append(errs, fmt.Errorf("set up slot %d: %w", s.Number, err))
		}
	}
	errs = append(errs, h.syncInner(d))
	for _, s := range local {
		if err := h.awaitSlot(ctx, s); err != nil && !errors.Is(err, ErrNoSlot) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// awaitSlot waits until a slot carries packets.
func (h *Host) awaitSlot(ctx context.Context, d Slot) error {
	h.mu.RLock()
	s, ok := h.slots[d.Number]
	h.mu.RUnlock()
	if !ok {
		return ErrNoSlot
	}
	err := awaitRunning(ctx, s.nl, s.slotIndex)
	if err == nil {
		err = awaitRunning(ctx, h.nl, s.hostIndex)
	}
	for _, v := range d.VIPs {
		if err == nil {
			err = awaitLocal(ctx, s.nl, v)
		}
	}
	if err != nil {
		return fmt.Errorf("set up slot %d: %w", d.Number, err)
	}
	return nil
}

// ensure sets up one slot. The fence is in place before a link is up.
func (h *Host) ensure(d Slot) error {
	h.mu.RLock()
	s := h.slots[d.Number]
	h.mu.RUnlock()
	fresh := s == nil
	if s != nil && !isNetns(h.cfg.netnsPath(d.Number)) {
		// Somebody removed the namespace: start over.
		if err := h.remove(d.Number); err != nil {
			return err
		}
		s, fresh = nil, true
	}
	if s == nil {
		var err error
		if s, err = h.open(d.Number); err != nil {
			return err
		}
	}
	// A copy is built and then published, so that fences can be refreshed
	// meanwhile.
	next := *s
	err := h.build(&next, d, fresh)
	if err != nil && fresh {
		return errors.Join(err, s.close())
	}
	h.mu.Lock()
	h.slots[d.Number] = &next
	h.mu.Unlock()
	return err
}

// open opens or creates namespace and fence.
func (h *Host) open(n sa.Slot) (*state, error) {
	ns, created, err := openNetns(h.cfg.netnsPath(n))
	if err != nil {
		return nil, err
	}
	s := &state{n: n, ns: ns}
	if s.fence, err = loadPinned(h.cfg.pinPath(n)); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	if created {
		// The pins may be those of an earlier life.
		err = s.fence.set(0)
	}
	if err == nil {
		err = inNetns(ns, func() (err error) {
			s.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
			return err
		})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open namespace of slot %d: %w", n, err), s.fence.close(), ns.Close())
	}
	return s, nil
}

// build makes a slot's kernel state what d says.
func (h *Host) build(s *state, d Slot, fresh bool) error {
	if err := inNetns(s.ns, func() error { return setSysctls(slotSysctls) }); err != nil {
		return err
	}
	link, err := h.ensureVeth(s)
	if err != nil {
		return err
	}
	if err := inNetns(s.ns, func() error { return setSysctls(deviceSysctls(uplinkName)) }); err != nil {
		return err
	}
	if err := inNetns(h.ns, func() error { return setSysctls(deviceSysctls(vethName(s.n))) }); err != nil {
		return err
	}
	if err := s.fence.attach(s.nl, link); err != nil {
		return err
	}
	if err := s.fence.prune(); err != nil {
		return err
	}
	if err := h.ensurePlug(s, fresh); err != nil {
		return err
	}
	if err := ensureVIPs(s, d.VIPs); err != nil {
		return err
	}
	if err := h.ensureUp(s.nl, s.slotIndex, mac(s.n, 0), hostNext4, hostNext6); err != nil {
		return err
	}
	if err := h.ensureUp(h.nl, s.hostIndex, mac(s.n, 1), slotNext4, slotNext6); err != nil {
		return err
	}
	return ensureDefaults(s, d.VIPs)
}

// removeOthers removes what is neither desired nor known, by name.
func (h *Host) removeOthers(keep map[sa.Slot]Slot) error {
	names, err := h.cfg.listNetns()
	if err != nil {
		return err
	}
	links, err := whole(h.nl.LinkList)
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	for _, l := range links {
		if n, ok := numbered(l.Attrs().Name, vethPrefix); ok && l.Type() == "veth" {
			names = append(names, n)
		}
	}
	es, err := os.ReadDir(h.cfg.PinDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("list pins: %w", err)
	}
	for _, e := range es {
		if n, ok := numbered(e.Name(), "slot"); ok {
			names = append(names, n)
		}
	}
	h.mu.RLock()
	for n := range h.slots {
		names = append(names, n)
	}
	h.mu.RUnlock()
	slices.Sort(names)
	var errs []error
	for _, n := range slices.Compact(names) {
		if _, ok := keep[n]; !ok {
			errs = append(errs, h.remove(n))
		}
	}
	return errors.Join(errs...)
}

// remove removes everything of a slot but its routes: first the veth, so that
// a namespace which processes keep alive is cut off at once.
func (h *Host) remove(n sa.Slot) error {
	var errs []error
	h.mu.Lock()
	if s, ok := h.slots[n]; ok {
		errs = append(errs, s.fence.set(0), s.close())
		delete(h.slots, n)
	}
	h.mu.Unlock()
	link, err := findLink(h.nl, vethName(n))
	if err == nil && link != nil {
		err = h.nl.LinkDel(link)
	}
	errs = append(errs, err, removeNetns(h.cfg.netnsPath(n)))
	if err := os.RemoveAll(h.cfg.pinPath(n)); err != nil {
		errs = append(errs, fmt.Errorf("remove pins: %w", err))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove slot %d: %w", n, err)
	}
	return nil
}

// CleanUp removes all slots of this configuration, their routes and pins, by
// name: it needs no Set before and works after a crash. The sysctls of the host
// namespace stay.
func (h *Host) CleanUp() error {
	h.setMu.Lock()
	defer h.setMu.Unlock()
	errs := []error{h.removeOthers(nil), h.syncInner(Desired{})}
	// What else the daemon pinned there stays, and so does a mount point.
	if err := os.Remove(h.cfg.PinDir); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EBUSY) {
		errs = append(errs, fmt.Errorf("remove pin directory: %w", err))
	}
	return errors.Join(errs...)
}
