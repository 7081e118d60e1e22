package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// errNoOverlay says that this kernel cannot give a machine a root of its own.
var errNoOverlay = errors.New("missing capability overlayfs")

// machine is a node with a root file system of its own, on which packages can be
// installed: this machine's, and over it, in memory, what is written there. What runs on
// it has its mounts and its host name; /dev, /run, /tmp and the bpf file system are new.
type machine struct {
	name string
	lab  *Lab
	ns   *Netns
	dir  string // a tmpfs
	root string // as the lab sees it
	init *Proc  // keeps the namespaces
	mnt  uint64 // inode of the mount namespace

	services map[string]*service
}

// machineInit makes a directory the root of the mount namespace that it runs in.
const machineInit = `set -e
hostname "$2"
cd "$1"
mkdir run/old
pivot_root . run/old
cd /
umount -l /run/old
rmdir /run/old
: > /run/up
exec sleep infinity
`

// newMachine makes a machine in the network namespace ns. Each of hosts is another
// machine whose root it sees below /run/hosts.
func (l *Lab) newMachine(ctx context.Context, name string, ns *Netns, hosts ...*machine) (*machine, error) {
	m := &machine{name: name, lab: l, ns: ns, dir: filepath.Join("/run", l.id+"-"+name), services: map[string]*service{}}
	m.root = filepath.Join(m.dir, "root")
	l.onClose(m.close)
	if err := m.mounts(hosts); err != nil {
		return nil, err
	}
	var err error
	m.init, err = l.start(ns, "machine "+name, filepath.Join(l.out, name+".init.log"), []string{"PATH=" + systemPath},
		"/usr/bin/unshare", "--mount", "--uts", "--propagation", "private", "/bin/sh", "-c", machineInit, "sh", m.root, name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("not up within 10 s"))
	defer cancel()
	err = poll(ctx, 5*time.Millisecond, "machine "+name, func() (bool, error) {
		if _, err := os.Stat(m.path("/run/up")); err != nil {
			return false, nil
		}
		var st unix.Stat_t
		if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/mnt", m.init.PID()), &st); err != nil {
			return false, fmt.Errorf("find its mount namespace: %w", err)
		}
		m.mnt = st.Ino
		return true, nil
	})
	return m, err
}

// path is where the lab finds a file of the machine.
func (m *machine) path(p string) string { return filepath.Join(m.root, p) }

// mounts builds the root.
func (m *machine) mounts(hosts []*machine) error {
	type mount struct {
		what, at, fs string
		flags        uintptr
		data         string
	}
	do := func(x mount) error {
		if err := os.MkdirAll(x.at, 0o755); err != nil {
			return fmt.Errorf("make mount point of machine %s: %w", m.name, err)
		}
		if err := unix.Mount(x.what, x.at, x.fs, x.flags, x.data); err != nil {
			return fmt.Errorf("mount %s of machine %s: %w", x.at, m.name, err)
		}
		return nil
	}
	if err := do(mount{"tmpfs", m.dir, "tmpfs", 0, "mode=0755"}); err != nil {
		return err
	}
	upper, work := filepath.Join(m.dir, "upper"), filepath.Join(m.dir, "work")
	for _, d := range []string{upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return fmt.Errorf("make root of machine %s: %w", m.name, err)
		}
	}
	if err := do(mount{"overlay", m.root, "overlay", 0, "lowerdir=/,upperdir=" + upper + ",workdir=" + work}); err != nil {
		if errors.Is(err, unix.ENODEV) {
			return errNoOverlay
		}
		return err
	}
	// sysfs shows the network namespace of whoever mounts it.
	err := m.ns.Do(func() error {
		return errors.Join(
			do(mount{"proc", m.path("/proc"), "proc", 0, ""}),
			do(mount{"sysfs", m.path("/sys"), "sysfs", 0, ""}))
	})
	for _, x := range []mount{
		{"bpf", m.path("/sys/fs/bpf"), "bpf", 0, ""},
		{"tmpfs", m.path("/run"), "tmpfs", 0, "mode=0755"},
		{"tmpfs", m.path("/tmp"), "tmpfs", 0, "mode=1777"},
		{"tmpfs", m.path("/dev"), "tmpfs", 0, "mode=0755"},
		{"devpts", m.path("/dev/pts"), "devpts", 0, "newinstance,ptmxmode=0666"},
		{"tmpfs", m.path("/dev/shm"), "tmpfs", 0, "mode=1777"},
	} {
		if err == nil {
			err = do(x)
		}
	}
	if err != nil {
		return err
	}
	for _, n := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"kmsg", 1, 11}, {"tty", 5, 0}} {
		p := m.path("/dev/" + n.name)
		if err := errors.Join(unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(n.major, n.minor))), os.Chmod(p, 0o666)); err != nil {
			return fmt.Errorf("make device %s of machine %s: %w", n.name, m.name, err)
		}
	}
	for link, to := range map[string]string{"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(to, m.path("/dev/"+link)); err != nil {
			return fmt.Errorf("make device %s of machine %s: %w", link, m.name, err)
		}
	}
	for _, h := range hosts {
		if err := do(mount{h.root, m.path("/run/hosts/" + h.name), "", unix.MS_BIND, ""}); err != nil {
			return err
		}
	}
	return nil
}

const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// enter is argv, carried out on the machine by whoever is in its network namespace.
func (m *machine) enter(argv ...string) []string {
	ns := fmt.Sprintf("/proc/%d/ns/", m.init.PID())
	return append([]string{"/usr/bin/nsenter", "--mount=" + ns + "mnt", "--uts=" + ns + "uts", "--"}, argv...)
}

// run carries out argv on the machine and returns what it says; the error of one that
// failed quotes it.
func (m *machine) run(ctx context.Context, env []string, argv ...string) (string, error) {
	full := m.enter(argv...)
	c := exec.CommandContext(ctx, full[0], full[1:]...)
	c.Env = append([]string{"PATH=" + systemPath, "HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}, env...)
	// What a command leaves running may hold its output open.
	c.WaitDelay = time.Second
	var out []byte
	err := m.ns.Do(func() (err error) {
		out, err = c.CombinedOutput()
		return err
	})
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("%s: %s: %w: %s", m.name, strings.Join(argv, " "), err, out)
	}
	return string(out), err
}

// write makes a file of the machine.
func (m *machine) write(path, text string, mode os.FileMode) error {
	at := m.path(path)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return fmt.Errorf("make directory on %s: %w", m.name, err)
	}
	if err := os.WriteFile(at, []byte(text), mode); err != nil {
		return fmt.Errorf("write on %s: %w", m.name, err)
	}
	return nil
}

// keepLogs copies the logs of the machine's charons to the artefacts.
func (m *machine) keepLogs() error {
	logs, err := filepath.Glob(m.path("/run/shadowcast/*/charon.log"))
	for _, f := range logs {
		b, rerr := os.ReadFile(f)
		if errors.Is(rerr, fs.ErrNotExist) {
			continue
		}
		err = errors.Join(err, rerr, os.WriteFile(filepath.Join(m.lab.out, m.name+"."+slotOf(f)+".charon.log"), b, 0o644))
	}
	if err != nil {
		return fmt.Errorf("keep logs of machine %s: %w", m.name, err)
	}
	return nil
}

// close ends what runs on the machine and removes its root. Nothing is removed through a
// mount that stays.
func (m *machine) close() error {
	errs := []error{m.keepLogs()}
	for _, s := range m.services {
		s.close()
	}
	if m.mnt != 0 {
		errs = append(errs, killWith("mnt", map[uint64]bool{m.mnt: true}))
	}
	for _, at := range []string{m.root, m.dir} {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return errors.Join(append(errs, fmt.Errorf("unmount %s: %w", at, err))...)
		}
	}
	if err := os.Remove(m.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, fmt.Errorf("remove machine %s: %w", m.name, err))
	}
	return errors.Join(errs...)
}
