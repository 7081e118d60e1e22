package uml

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// guestTmp is TMPDIR in the guest: guest memory, where Unix sockets work.
const guestTmp = "/run/tmp"

// Init turns the process into the guest's PID 1 if it is one, runs the job and
// never returns; elsewhere it does nothing. It must be called first thing in main
// or TestMain of every binary that calls Run.
func Init() {
	if os.Getpid() != 1 || os.Getenv(jobEnv) == "" {
		return
	}
	result, code, err := runJob(os.Getenv(jobEnv))
	s := strconv.Itoa(code)
	if err != nil {
		s = err.Error()
	}
	if result != "" {
		if err := os.WriteFile(result, []byte(s), 0o600); err != nil {
			fmt.Println("write exit status:", err)
		}
	}
	fmt.Print(endMark)
	// The console is drained by a host thread; tcdrain has no meaning on it.
	time.Sleep(20 * time.Millisecond)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

func runJob(path string) (result string, code int, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", 0, fmt.Errorf("read job: %w", err)
	}
	if err := os.Remove(path); err != nil {
		return "", 0, fmt.Errorf("remove job: %w", err)
	}
	var j job
	if err := json.Unmarshal(b, &j); err != nil {
		return "", 0, fmt.Errorf("decode job: %w", err)
	}
	if err := setup(j); err != nil {
		return j.Result, 0, err
	}
	if j.Stdin {
		if err := silence(int(os.Stdin.Fd())); err != nil {
			return j.Result, 0, fmt.Errorf("set up the console for input: %w", err)
		}
	}
	fmt.Print(beginMark)
	code, err = runPayload(j)
	return j.Result, code, err
}

func setup(j job) error {
	if err := mountAll(); err != nil {
		return err
	}
	if err := addEntropy(j.Entropy); err != nil {
		return err
	}
	if err := loadModules(append(append([]string{}, defaultModules...), j.Modules...)); err != nil {
		return err
	}
	for _, l := range []struct {
		res int
		n   uint64
	}{{unix.RLIMIT_NOFILE, 1 << 20}, {unix.RLIMIT_MEMLOCK, unix.RLIM_INFINITY}} {
		if err := unix.Setrlimit(l.res, &unix.Rlimit{Cur: l.n, Max: l.n}); err != nil {
			return fmt.Errorf("set resource limit %d: %w", l.res, err)
		}
	}
	// An appliance's sysctl.d: one charon's HA datagrams overflow the default. The
	// backlog is what one starved virtual CPU needs.
	for _, s := range [][2]string{{"rmem_default", "16777216"}, {"rmem_max", "16777216"}, {"wmem_max", "16777216"}, {"netdev_max_backlog", "100000"}} {
		if err := os.WriteFile("/proc/sys/net/core/"+s[0], []byte(s[1]), 0o644); err != nil {
			return fmt.Errorf("set net.core.%s: %w", s[0], err)
		}
	}
	if err := unix.Sethostname([]byte("uml")); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

func mountAll() error {
	// Flags as a distribution mounts them; devtmpfs may be there already.
	const safe = unix.MS_NOSUID | unix.MS_NODEV
	for _, m := range []struct {
		fs, dir string
		flags   uintptr
		data    string
	}{
		{"proc", "/proc", safe, ""},
		{"sysfs", "/sys", safe, ""},
		{"devtmpfs", "/dev", unix.MS_NOSUID, ""},
		{"devpts", "/dev/pts", unix.MS_NOSUID, "ptmxmode=0666"},
		{"tmpfs", "/dev/shm", safe, ""},
		{"tmpfs", "/run", safe, "mode=0755"},
		{"bpf", "/sys/fs/bpf", safe, ""},
		{"cgroup2", "/sys/fs/cgroup", safe, ""},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return fmt.Errorf("make mount point %s: %w", m.dir, err)
		}
		if err := unix.Mount(m.fs, m.dir, m.fs, m.flags, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	// Network namespaces are bind mounts below /run: private would hide them
	// from nobody here, shared is what `ip netns` expects.
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	for _, d := range []string{guestTmp, "/run/netns", "/run/lock", "/run/strongswan"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", d, err)
		}
	}
	return nil
}

// addEntropy feeds the host's random bytes to the guest's pool and credits them
// (RNDADDENTROPY, struct rand_pool_info): without it the first reader blocks 10 s.
func addEntropy(seed []byte) error {
	f, err := os.OpenFile("/dev/random", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open /dev/random: %w", err)
	}
	defer f.Close()
	b := binary.NativeEndian.AppendUint32(nil, uint32(len(seed)*8))
	b = binary.NativeEndian.AppendUint32(b, uint32(len(seed)))
	b = append(b, seed...)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		return fmt.Errorf("add entropy: %w", e)
	}
	return nil
}

// runPayload runs the job as a child and reaps whatever else is orphaned to PID 1
// until it ends.
func runPayload(j job) (int, error) {
	if j.Argv[0] == "" {
		return 0, errors.New("start payload: empty name")
	}
	for _, kv := range j.Env {
		if p, ok := cutPath(kv); ok {
			os.Setenv("PATH", p)
		}
	}
	argv0, err := exec.LookPath(j.Argv[0])
	if err != nil {
		return 0, fmt.Errorf("find payload: %w", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	stdin := null
	if j.Stdin {
		stdin = os.Stdin
	}
	p, err := os.StartProcess(argv0, j.Argv, &os.ProcAttr{Dir: j.Dir, Env: j.Env, Files: []*os.File{stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return 0, fmt.Errorf("start payload: %w", err)
	}
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for payload: %w", err)
		case pid == p.Pid && ws.Signaled():
			return 128 + int(ws.Signal()), nil
		case pid == p.Pid && ws.Exited():
			return ws.ExitStatus(), nil
		}
	}
}

// silence has the console hand lines on as they come: whoever types has seen them, and
// no character is a signal.
func silence(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Lflag &^= unix.ECHO | unix.ISIG
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

func cutPath(kv string) (string, bool) {
	const k = "PATH="
	if len(kv) > len(k) && kv[:len(k)] == k {
		return kv[len(k):], true
	}
	return "", false
}
