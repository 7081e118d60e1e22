package charon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Binary is where Debian's package charon-systemd puts the daemon. Despite its
// name it needs no systemd; plain charon refuses a second instance per machine.
const Binary = "/usr/sbin/charon-systemd"

// pluginDirs are where distributions put strongSwan's plugins.
var pluginDirs = []string{"/usr/lib/ipsec/plugins", "/usr/lib64/ipsec/plugins", "/usr/lib/strongswan/plugins", "/usr/libexec/ipsec/plugins"}

// Spec describes one instance: a slot's gateway (Conf.Text as Conf) or, in the
// lab, a plain client with a text of its own.
type Spec struct {
	Name  string // for logs and errors
	Dir   string // absolute; strongswan.conf, charon.json, vici and stdout.log go here
	Netns string // path of the network namespace, "" for the caller's
	Conf  string // text of strongswan.conf; its vici socket must be ViciSocket(Dir)

	Binary       string        // default Binary
	NeedHA       bool          // refuse to start where the ha plugin is not installed
	StartTimeout time.Duration // until the vici socket answers; default 15 s
	StopTimeout  time.Duration // between SIGTERM and SIGKILL; default 5 s
}

// ErrNotRunning is returned by Adopt where there is nothing to adopt: no record,
// or a record of a process that has ended. Callers then Start.
var ErrNotRunning = errors.New("no such charon is running")

// ErrConfChanged is returned by Adopt where a charon runs, but with another
// strongswan.conf: moving the slot away and restarting it is the caller's call.
var ErrConfChanged = errors.New("charon runs with another strongswan.conf")

// record is charon.json in the instance's directory. PID and StartTime (clock
// ticks since boot, /proc/<pid>/stat field 22) name a process uniquely per boot.
type record struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"`
	BootID    string `json:"boot_id"`
	Netns     string `json:"netns,omitempty"`
	Exe       string `json:"exe"`
}

// Instance is a running charon. It outlives the daemon: Close forgets it, Stop
// and Kill end it.
type Instance struct {
	spec   Spec
	pid    int
	pidfd  *os.File
	done   chan struct{} // closed when the process has ended
	closed chan struct{} // closed when the watcher has ended
}

// Start runs a charon and waits until its vici socket answers. The child has its
// own session and no parent-death signal, so that it survives the daemon.
func Start(ctx context.Context, s Spec) (*Instance, error) {
	i, err := start(ctx, s.withDefaults())
	if err != nil {
		return nil, fmt.Errorf("start charon %s: %w", s.Name, err)
	}
	return i, nil
}

func (s Spec) withDefaults() Spec {
	if s.Binary == "" {
		s.Binary = Binary
	}
	if s.StartTimeout == 0 {
		s.StartTimeout = 15 * time.Second
	}
	if s.StopTimeout == 0 {
		s.StopTimeout = 5 * time.Second
	}
	return s
}

func (s Spec) file(name string) string { return filepath.Join(s.Dir, name) }

func (s Spec) check() error {
	if !filepath.IsAbs(s.Dir) {
		return fmt.Errorf("directory %q is not absolute", s.Dir)
	}
	if p := ViciSocket(s.Dir); len(p) > maxSocketPath {
		return fmt.Errorf("vici socket path %q has %d bytes, at most %d fit", p, len(p), maxSocketPath)
	}
	if _, err := os.Stat(s.Binary); err != nil {
		return fmt.Errorf("find strongSwan's daemon: %w (Debian package charon-systemd)", err)
	}
	if !s.NeedHA {
		return nil
	}
	return checkPlugin("ha")
}

// PluginPath finds an installed plugin of strongSwan, "" where there is none.
func PluginPath(name string) string {
	for _, d := range pluginDirs {
		p := filepath.Join(d, pluginFile(name))
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return ""
}

func pluginFile(name string) string { return "libstrongswan-" + name + ".so" }

func checkPlugin(name string) error {
	if PluginPath(name) != "" {
		return nil
	}
	return fmt.Errorf("find strongSwan plugin %s: no %s in %s (Debian package libcharon-extra-plugins)",
		name, pluginFile(name), strings.Join(pluginDirs, ", "))
}

func start(ctx context.Context, s Spec) (*Instance, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	if old, err := s.find(); err == nil {
		old.pidfd.Close()
		return nil, fmt.Errorf("already running as pid %d", old.rec.PID)
	} else if !errors.Is(err, ErrNotRunning) {
		return nil, err
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	if err := writeFile(s.file("strongswan.conf"), []byte(s.Conf)); err != nil {
		return nil, err
	}
	if err := os.Remove(ViciSocket(s.Dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale vici socket: %w", err)
	}
	i, err := s.spawn()
	if err != nil {
		return nil, err
	}
	if err := i.ready(ctx); err != nil {
		i.Kill()
		i.Close()
		return nil, fmt.Errorf("%w%s", err, s.tail())
	}
	return i, nil
}

// spawn forks on a thread of the namespace: the child inherits it.
func (s Spec) spawn() (*Instance, error) {
	out, err := os.OpenFile(s.file("stdout.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	pidfd := -1
	var p *os.Process
	err = inNetns(s.Netns, func() (err error) {
		p, err = os.StartProcess(s.Binary, []string{filepath.Base(s.Binary)}, &os.ProcAttr{
			Dir: "/",
			// A clean environment: NOTIFY_SOCKET, WATCHDOG_* and LISTEN_* are the daemon's.
			Env:   []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "STRONGSWAN_CONF=" + s.file("strongswan.conf")},
			Files: []*os.File{null, out, out},
			Sys:   &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	pid := p.Pid
	if err := p.Release(); err != nil { // watched and reaped by pidfd
		return nil, fmt.Errorf("release process handle: %w", err)
	}
	if pidfd < 0 {
		return nil, errors.New("kernel gives no pidfd (Linux 5.4 or later needed)")
	}
	started, serr := startTime(pid) // before anyone reaps it
	i, err := s.instance(pid, pidfd)
	if err != nil {
		_ = unix.Kill(pid, unix.SIGKILL) // not reaped yet, so still ours
		return nil, err
	}
	if serr == nil {
		serr = s.record(pid, started)
	}
	if err := serr; err != nil {
		i.Kill()
		i.Close()
		return nil, err
	}
	return i, nil
}

func (s Spec) record(pid int, started uint64) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	b, err := json.Marshal(record{PID: pid, StartTime: started, BootID: boot, Netns: s.Netns, Exe: s.Binary})
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	return writeFile(s.file("charon.json"), append(b, '\n'))
}

// writeFile replaces a file as a whole.
func writeFile(path string, b []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

// ready waits until the vici socket answers.
func (i *Instance) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, i.spec.StartTimeout)
	defer cancel()
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-i.done:
			return errors.New("charon ended before its vici socket answered")
		case <-ctx.Done():
			return fmt.Errorf("wait for vici socket %s: %w", ViciSocket(i.spec.Dir), ctx.Err())
		case <-t.C:
		}
		if c, err := net.Dial("unix", ViciSocket(i.spec.Dir)); err == nil {
			return c.Close()
		}
		t.Reset(2 * time.Millisecond)
	}
}

// tail returns the end of the instance's output, to explain a failed start.
func (s Spec) tail() string {
	b, err := os.ReadFile(s.file("stdout.log"))
	if err != nil || len(b) == 0 {
		return ""
	}
	b = b[max(0, len(b)-600):]
	return "; its last words: " + strings.Join(strings.Fields(strings.ToValidUTF8(string(b), "?")), " ")
}

// found is a live process that a record names.
type found struct {
	rec   record
	pidfd *os.File
}

// find returns the live process that charon.json names, held by pidfd.
func (s Spec) find() (found, error) {
	b, err := os.ReadFile(s.file("charon.json"))
	if errors.Is(err, os.ErrNotExist) {
		return found{}, ErrNotRunning
	} else if err != nil {
		return found{}, fmt.Errorf("read record: %w", err)
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil || r.PID <= 1 {
		return found{}, fmt.Errorf("read record %s: malformed; if no charon runs in this slot, remove it", s.file("charon.json"))
	}
	boot, err := bootID()
	if err != nil {
		return found{}, err
	}
	if r.BootID != boot {
		return found{}, ErrNotRunning
	}
	fd, err := unix.PidfdOpen(r.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return found{}, ErrNotRunning
	} else if err != nil {
		return found{}, fmt.Errorf("open pid %d: %w", r.PID, err)
	}
	f := found{rec: r, pidfd: os.NewFile(uintptr(fd), "pidfd")}
	// Once the pidfd is held, the number cannot be reused unnoticed.
	st, err := startTime(r.PID)
	if err != nil || st != r.StartTime || exited(fd) {
		f.pidfd.Close()
		return found{}, ErrNotRunning
	}
	return f, nil
}

// Adopt takes over a charon that an earlier daemon started: the process of the
// record, verified by start time, executable, network namespace and
// strongswan.conf.
func Adopt(ctx context.Context, s Spec) (*Instance, error) {
	i, err := adopt(ctx, s.withDefaults())
	if err != nil {
		return nil, fmt.Errorf("adopt charon %s: %w", s.Name, err)
	}
	return i, nil
}

// AdoptAny is Adopt for a charon that may run with another strongswan.conf than s has: an
// earlier release's, or that of an earlier configuration.
func AdoptAny(ctx context.Context, s Spec) (*Instance, error) {
	text, err := os.ReadFile(s.file("strongswan.conf"))
	if err == nil {
		s.Conf = string(text)
	}
	return Adopt(ctx, s)
}

func adopt(ctx context.Context, s Spec) (*Instance, error) {
	f, err := s.find()
	if err != nil {
		return nil, err
	}
	if err := s.verify(f.rec.PID); err != nil {
		f.pidfd.Close()
		return nil, err
	}
	fd, err := unix.FcntlInt(f.pidfd.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	f.pidfd.Close()
	if err != nil {
		return nil, fmt.Errorf("duplicate pidfd: %w", err)
	}
	i, err := s.instance(f.rec.PID, fd)
	if err != nil {
		return nil, err
	}
	if err := i.ready(ctx); err != nil {
		i.Close()
		return nil, err
	}
	return i, nil
}

func (s Spec) verify(pid int) error {
	proc := "/proc/" + strconv.Itoa(pid)
	exe, err := os.Readlink(proc + "/exe")
	if err != nil {
		return fmt.Errorf("read executable of pid %d: %w", pid, err)
	}
	want, err := filepath.EvalSymlinks(s.Binary)
	if err != nil {
		want = s.Binary
	}
	if got := strings.TrimSuffix(exe, " (deleted)"); got != want { // an upgrade replaces the file
		return fmt.Errorf("pid %d is %s, want %s", pid, got, want)
	}
	ns := s.Netns
	if ns == "" {
		ns = "/proc/thread-self/ns/net"
	}
	d1, i1, err := nsIdentity(ns)
	if err != nil {
		return err
	}
	d2, i2, err := nsIdentity(proc + "/ns/net")
	if err != nil {
		return err
	}
	if d1 != d2 || i1 != i2 {
		return fmt.Errorf("pid %d runs in another network namespace than %s", pid, ns)
	}
	have, err := os.ReadFile(s.file("strongswan.conf"))
	if err != nil {
		return fmt.Errorf("read strongswan.conf: %w", err)
	}
	if !bytes.Equal(have, []byte(s.Conf)) {
		return ErrConfChanged
	}
	return nil
}

// startTime reads field 22 of /proc/<pid>/stat.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, fmt.Errorf("read start time of pid %d: %w", pid, err)
	}
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:]) // the name may contain anything
	if len(f) < 20 {
		return 0, fmt.Errorf("read start time of pid %d: malformed stat", pid)
	}
	t, err := strconv.ParseUint(string(f[19]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read start time of pid %d: %w", pid, err)
	}
	return t, nil
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
