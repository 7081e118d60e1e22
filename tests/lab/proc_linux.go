package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/tests/uml"
)

// starter starts processes inside namespaces from one thread that lives as long as
// the lab: children are to die with it (Pdeathsig follows the thread).
type starter struct {
	work chan startReq
	done chan struct{}
}

type startReq struct {
	ns   *Netns
	cmd  *exec.Cmd
	errc chan error
}

func newStarter() *starter {
	s := &starter{work: make(chan startReq), done: make(chan struct{})}
	go s.run()
	return s
}

// run ends when close is called; the thread dies with it.
func (s *starter) run() {
	runtime.LockOSThread()
	defer close(s.done)
	if uml.InGuest() {
		// What is started inherits it. Without it the tests go on, more slowly.
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(guestSlack), 0, 0, 0)
		slackThreads()
	}
	for r := range s.work {
		err := netns.Set(r.ns.h)
		if err == nil {
			err = r.cmd.Start()
		}
		r.errc <- err
	}
}

// guestSlack is how late the kernel may wake a thread whose timer has run out (prctl(2),
// PR_SET_TIMERSLACK). Go's runtime keeps a thread that sleeps for 20 us while anything
// runs: in user-mode Linux, where a wake-up costs a fraction of a millisecond, those of
// three daemons took more than half of the guest's processor (a fleet at rest with
// the timers of detecting kept it 91 % busy, 53 % with this). Every time that is measured in a guest is longer by up to as much.
const guestSlack = 4 * time.Millisecond

// slackThreads gives the threads of this process that slack, too.
func slackThreads() {
	threads, _ := filepath.Glob("/proc/self/task/*")
	for _, t := range threads {
		// One may end meanwhile.
		_ = os.WriteFile(filepath.Join("/proc", filepath.Base(t), "timerslack_ns"), []byte(strconv.Itoa(int(guestSlack))), 0)
	}
}

func (s *starter) close() {
	close(s.work)
	<-s.done
}

// Proc is a process that the lab started.
type Proc struct {
	Name string
	ns   *Netns
	cmd  *exec.Cmd
	done chan struct{} // closed when it ended
	err  error         // of Wait; read after done
}

// start runs argv inside ns with its output in logFile. Nothing but env and PATH
// is in its environment.
func (l *Lab) start(ns *Netns, name, logFile string, env []string, argv ...string) (*Proc, error) {
	f, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", name, err)
	}
	defer f.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir(), "HOME=" + l.dir}, env...)
	if uml.InGuest() {
		cmd.Env = append(cmd.Env, "GODEBUG=asyncpreemptoff=1") // a signal costs the guest as much as ten system calls
	}
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	r := startReq{ns, cmd, make(chan error)}
	l.starter.work <- r
	if err := <-r.errc; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Proc{Name: name, ns: ns, cmd: cmd, done: make(chan struct{})}
	l.wg.Go(func() {
		p.err = cmd.Wait()
		close(p.done)
	})
	l.mu.Lock()
	l.procs = append(l.procs, p)
	l.mu.Unlock()
	return p, nil
}

// PID is the process's number on this machine.
func (p *Proc) PID() int { return p.cmd.Process.Pid }

// Alive reports whether the process has not ended.
func (p *Proc) Alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Signal sends s; a process that ended is an error.
func (p *Proc) Signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("send %s to %s: %w", s, p.Name, err)
	}
	return nil
}

// Kill ends the process at once and waits until it is gone.
func (p *Proc) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.done
	return nil
}

// Freeze and Thaw stop and continue the process.
func (p *Proc) Freeze() error { return p.Signal(syscall.SIGSTOP) }

// Thaw continues a frozen process.
func (p *Proc) Thaw() error { return p.Signal(syscall.SIGCONT) }

// Terminate asks the process to end and waits; past ctx it kills.
func (p *Proc) Terminate(ctx context.Context) error {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("wait for %s to end: %w", p.Name, context.Cause(ctx)), p.Kill())
	}
}

// Usage is what a process has used since its start.
type Usage struct {
	CPU time.Duration `json:"cpu_ns"`
	PSS uint64        `json:"pss_bytes"`
	// Wakeups is how often its threads went to sleep: in user-mode Linux the
	// number, not the work, is what costs.
	Wakeups uint64 `json:"wakeups"`
}

// Usage reads the CPU time (user and system) and the proportional memory.
func (p *Proc) Usage() (Usage, error) { return usage(p.PID()) }

func usage(pid int) (Usage, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	b, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return Usage{}, fmt.Errorf("read usage: %w", err)
	}
	// The name may hold spaces; fields 14 and 15 (utime, stime) are 11 and 12
	// after the closing parenthesis, in ticks of 1/100 s on every architecture.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	var u Usage
	for _, s := range f[11:13] {
		n, err := strconv.ParseUint(s, 10, 63)
		if err != nil {
			return Usage{}, fmt.Errorf("read usage of %d: %w", pid, err)
		}
		u.CPU += time.Duration(n) * 10 * time.Millisecond
	}
	tasks, err := filepath.Glob(filepath.Join(dir, "task/*/status"))
	if err != nil {
		return Usage{}, fmt.Errorf("read usage of %d: %w", pid, err)
	}
	for _, t := range tasks {
		// A thread may end meanwhile.
		b, _ := os.ReadFile(t)
		if _, v, ok := strings.Cut(string(b), "\nvoluntary_ctxt_switches:"); ok {
			var n uint64
			if _, err := fmt.Sscan(v, &n); err != nil {
				return Usage{}, fmt.Errorf("read usage of %d: %w", pid, err)
			}
			u.Wakeups += n
		}
	}
	m, err := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
	if err != nil {
		return Usage{}, fmt.Errorf("read usage: %w", err)
	}
	for l := range strings.Lines(string(m)) {
		if v, ok := strings.CutPrefix(l, "Pss:"); ok {
			_, err = fmt.Sscan(v, &u.PSS)
			u.PSS <<= 10
		}
	}
	return u, err
}

// pidsIn returns the processes, this one excepted, whose network namespace has
// one of the inodes.
func pidsIn(inodes map[uint64]bool) ([]int, error) { return pidsWith("net", inodes) }

// pidsWith is pidsIn for any kind of namespace, as /proc/PID/ns names it.
func pidsWith(kind string, inodes map[uint64]bool) ([]int, error) {
	d, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range d {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		var st unix.Stat_t
		if unix.Stat(filepath.Join("/proc", e.Name(), "ns", kind), &st) == nil && inodes[st.Ino] {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// inodesOf returns the inodes of named namespaces; one that is gone is left out.
func inodesOf(names []string) (map[uint64]bool, error) {
	inodes := map[uint64]bool{}
	for _, n := range names {
		var st unix.Stat_t
		switch err := unix.Stat(filepath.Join(netnsDir, n), &st); {
		case err == nil:
			inodes[st.Ino] = true
		case !errors.Is(err, unix.ENOENT):
			return nil, fmt.Errorf("stat namespace %s: %w", n, err)
		}
	}
	return inodes, nil
}

// killIn ends every process in the namespaces called names.
func killIn(names []string) error {
	inodes, err := inodesOf(names)
	if err == nil {
		err = killWith("net", inodes)
	}
	if err != nil {
		return fmt.Errorf("kill processes in %v: %w", names, err)
	}
	return nil
}

// killWith ends every process in namespaces of a kind, in rounds until none is left:
// daemons that start others lose the race.
func killWith(kind string, inodes map[uint64]bool) error {
	for range 500 {
		pids, err := pidsWith(kind, inodes)
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		for _, p := range pids {
			_ = unix.Kill(p, unix.SIGKILL)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return errors.New("some do not end")
}

// poll calls f every interval until it reports true or ctx ends.
func poll(ctx context.Context, interval time.Duration, what string, f func() (bool, error)) error {
	var last error
	for {
		ok, err := f()
		if ok {
			return nil
		}
		last = err
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("wait for %s: %w", what, context.Cause(ctx)), last)
		case <-time.After(interval):
		}
	}
}
