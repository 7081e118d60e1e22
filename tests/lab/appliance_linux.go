package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/config"
)

// Appliance is one machine of the fleet: a namespace in which shadowcastd runs, and
// the slot namespaces that shadowcastd makes beside it.
type Appliance struct {
	Name string
	N    int // from 1
	Addr netip.Addr
	// Config is what Start writes; set by Prepare, to be changed before Start.
	Config *config.Config
	// Wrap is put before the daemon's command line; to be set before Start.
	Wrap []string
	// Binary is the daemon, shadowcastd of BinDir if empty; to be set before Start.
	Binary string

	lab    *Lab
	ns     *Netns
	daemon *Proc
	// machine is its own root, nil where it shares this machine's.
	machine *machine
	conn    *grpc.ClientConn
	starts  int
}

// short paths: a slot's vici socket lies below.
func (a *Appliance) dir() string    { return filepath.Join(a.lab.dir, a.Name) }
func (a *Appliance) runDir() string { return filepath.Join(a.dir(), "run") }
func (a *Appliance) bpfDir() string { return filepath.Join("/sys/fs/bpf", a.lab.nodeName(a.Name)) }

// slotPrefix follows the lab's id in the names of the appliance's slot namespaces:
// no more than 10 characters are allowed in all.
func (a *Appliance) slotPrefix() string { return fmt.Sprintf("a%ds", a.N) }

// Netns is the appliance's host namespace.
func (a *Appliance) Netns() *Netns { return a.ns }

// Daemon is the running shadowcastd, nil before the first Start.
func (a *Appliance) Daemon() *Proc { return a.daemon }

// LogFile holds what the daemon of this appliance said in all its lives.
func (a *Appliance) LogFile() string { return filepath.Join(a.lab.out, a.Name+".log") }

// Prepare makes the fleet's files, once per lab, and the appliance's Config.
func (a *Appliance) Prepare() error {
	if a.lab.fleet == nil {
		f, err := a.lab.newFleet()
		if err != nil {
			return err
		}
		a.lab.fleet = f
	}
	if a.Config == nil {
		a.Config = a.newConfig()
	}
	return nil
}

// binary finds a program of the project: in Options.BinDir, $SHADOWCAST_BIN, or
// beside the running binary.
func (l *Lab) binary(name string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find own binary: %w", err)
	}
	for _, d := range []string{l.opt.BinDir, os.Getenv("SHADOWCAST_BIN"), filepath.Dir(self)} {
		p := filepath.Join(d, name)
		if st, err := os.Stat(p); d != "" && err == nil && st.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", fmt.Errorf("find %s: neither in BinDir, $SHADOWCAST_BIN nor beside %s", name, self)
}

// Start starts shadowcastd; WaitReady tells when it serves.
func (a *Appliance) Start() error {
	if err := a.Prepare(); err != nil {
		return err
	}
	bin := a.Binary
	if bin == "" {
		var err error
		if bin, err = a.lab.binary("shadowcastd"); err != nil {
			return err
		}
	}
	for _, d := range []string{a.runDir(), a.Config.StateDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("make directory of %s: %w", a.Name, err)
		}
	}
	file, err := a.writeConfig()
	if err != nil {
		return err
	}
	a.starts++
	argv := append(slices.Clone(a.Wrap), bin, "--config", file)
	a.daemon, err = a.lab.start(a.ns, fmt.Sprintf("shadowcastd of %s, life %d", a.Name, a.starts), a.LogFile(), nil, argv...)
	return err
}

// writeConfig writes the configuration as it is now.
func (a *Appliance) writeConfig() (file string, err error) {
	text, err := a.Config.Marshal()
	if err != nil {
		return "", fmt.Errorf("write configuration of %s: %w", a.Name, err)
	}
	file = filepath.Join(a.dir(), "shadowcast.yaml")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return "", fmt.Errorf("write configuration of %s: %w", a.Name, err)
	}
	return file, nil
}

// Reload has the running daemon read the configuration as it is now.
func (a *Appliance) Reload() error {
	if _, err := a.writeConfig(); err != nil {
		return err
	}
	return a.daemon.Signal(syscall.SIGHUP)
}

// API is the operator service on the appliance's socket. The connection is made
// when it is first used, and again after a restart of the daemon.
func (a *Appliance) API() (v1.OperatorServiceClient, error) {
	if a.conn == nil {
		c, err := grpc.NewClient("unix://"+a.Config.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, fmt.Errorf("connect to %s: %w", a.Name, err)
		}
		a.conn = c
		a.lab.onClose(func() error { return c.Close() })
	}
	return v1.NewOperatorServiceClient(a.conn), nil
}

// Status asks the daemon.
func (a *Appliance) Status(ctx context.Context) (*v1.GetStatusResponse, error) {
	api, err := a.API()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	s, err := api.GetStatus(ctx, &v1.GetStatusRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask %s for its status: %w", a.Name, err)
	}
	return s, nil
}

// WaitStatus polls the daemon until ok is content; what says what is waited for. It
// gives up when the daemon has ended.
func (a *Appliance) WaitStatus(ctx context.Context, what string, ok func(*v1.GetStatusResponse) bool) error {
	var last *v1.GetStatusResponse
	err := poll(ctx, 100*time.Millisecond, a.Name+": "+what, func() (bool, error) {
		if !a.daemon.Alive() {
			return true, nil
		}
		s, err := a.Status(ctx)
		if err == nil {
			last = s
		}
		return err == nil && ok(s), err
	})
	if err == nil && !a.daemon.Alive() {
		return fmt.Errorf("wait for %s: %s: shadowcastd ended (%v), see %s", a.Name, what, a.daemon.err, a.LogFile())
	}
	if err != nil && last != nil {
		err = fmt.Errorf("%w; last status: %v", err, last)
	}
	return err
}

// WaitReady waits until the daemon answers and every home slot is active on it.
func (a *Appliance) WaitReady(ctx context.Context) error {
	home := len(a.lab.HomeSlots(a))
	return a.WaitStatus(ctx, "home slots active", func(s *v1.GetStatusResponse) bool {
		n := 0
		for _, x := range s.Slots {
			if x.Home == a.Name && x.State == v1.SlotState_SLOT_STATE_ACTIVE {
				n++
			}
		}
		return n == home
	})
}

// SlotNamespaces are the names of the slot namespaces on the machine.
func (a *Appliance) SlotNamespaces() ([]string, error) {
	return a.lab.namespaces(a.slotPrefix())
}

// kill ends every process of the appliance.
func (a *Appliance) killAll() error {
	slots, err := a.SlotNamespaces()
	if err != nil {
		return err
	}
	return killIn(append(slots, a.ns.Name))
}

// PowerCut is the loss of the machine: all cables lose their carrier, then every
// process is gone, and with them what lives in memory: slot namespaces, pinned eBPF
// objects, the run directory. The returned time is that of the first cable.
func (a *Appliance) PowerCut() (time.Time, error) {
	t := time.Now()
	if err := a.Unplug(); err != nil {
		return t, err
	}
	if a.machine != nil {
		return t, killWith("mnt", map[uint64]bool{a.machine.mnt: true})
	}
	if err := a.killAll(); err != nil {
		return t, err
	}
	return t, a.wipe()
}

// wipe removes what a reboot would.
func (a *Appliance) wipe() error {
	slots, err := a.SlotNamespaces()
	errs := []error{err}
	for _, s := range slots {
		errs = append(errs, netns.DeleteNamed(s))
	}
	for _, dev := range []string{devUplink1, devUplink2, devInside} {
		errs = append(errs, a.ns.clearFilters(dev))
	}
	errs = append(errs, a.ns.flushXFRM(), os.RemoveAll(a.bpfDir()), os.RemoveAll(a.runDir()), a.ns.reset([]string{"lo", devUplink1, devUplink2, devInside}), a.routes())
	return errors.Join(errs...)
}

// PowerOn plugs the cables in and starts the daemon, as a machine that boots.
func (a *Appliance) PowerOn() error {
	if err := a.Plug(); err != nil {
		return err
	}
	if err := a.routes(); err != nil {
		return err
	}
	return a.Start()
}

// KillDaemon kills shadowcastd alone; charons and kernel state live on.
func (a *Appliance) KillDaemon() error { return a.daemon.Kill() }

// StopDaemon asks shadowcastd to end.
func (a *Appliance) StopDaemon(ctx context.Context) error { return a.daemon.Terminate(ctx) }

// Usage sums up the daemon and every process in the appliance's namespaces.
func (a *Appliance) Usage() (Usage, error) {
	slots, err := a.SlotNamespaces()
	if err != nil {
		return Usage{}, err
	}
	inodes, err := inodesOf(append(slots, a.ns.Name))
	if err != nil {
		return Usage{}, err
	}
	pids, err := pidsIn(inodes)
	var sum Usage
	for _, p := range pids {
		// A process may end meanwhile.
		if u, err := usage(p); err == nil {
			sum.CPU += u.CPU
			sum.PSS += u.PSS
			sum.Wakeups += u.Wakeups
		}
	}
	return sum, err
}

// Handover asks the appliance to move a slot and returns its account. Progress goes
// to step, which may be nil.
func (a *Appliance) Handover(ctx context.Context, slot uint32, to string, step func(*v1.HandoverProgress)) (*v1.HandoverAccount, error) {
	api, err := a.API()
	if err != nil {
		return nil, err
	}
	st, err := api.Handover(ctx, &v1.HandoverRequest{Slot: slot, To: to, Reason: "a scene of the lab"})
	for err == nil {
		var r *v1.HandoverResponse
		if r, err = st.Recv(); err != nil {
			break
		}
		if acc := r.GetAccount(); acc != nil {
			return acc, nil
		}
		if p := r.GetProgress(); p != nil && step != nil {
			step(p)
		}
	}
	return nil, fmt.Errorf("hand slot %d over from %s to %s: %w", slot, a.Name, to, err)
}

// ViciSockets finds the vici sockets of the appliance's slots below its run
// directory.
func (a *Appliance) ViciSockets() []string {
	var out []string
	for _, depth := range []string{"*", "*/*", "*/*/*"} {
		m, err := filepath.Glob(filepath.Join(a.runDir(), depth, "vici"))
		if err == nil {
			out = append(out, m...)
		}
	}
	return out
}

// slotOf names the slot of a vici socket, for artefacts.
func slotOf(sock string) string {
	return strings.ReplaceAll(filepath.Base(filepath.Dir(sock)), "/", "-")
}
