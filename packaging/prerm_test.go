package packaging

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// removal plays prerm where it sees a control group, systemctl and a daemon of its own.
const removal = `set -e
mount -t tmpfs none /run
mkdir -p /run/systemd/system
mount -t tmpfs none /sys/fs/cgroup
mkdir -p /sys/fs/cgroup/system.slice/shadowcastd.service
touch /sys/fs/cgroup/system.slice/shadowcastd.service/cgroup.procs
mount --bind "$DIR/procs" /sys/fs/cgroup/system.slice/shadowcastd.service/cgroup.procs
mount --bind "$DIR/sbin" /usr/sbin
PATH="$DIR/sbin:$PATH" sh prerm "$@"
`

// TestRemovalEndsCharons has two charons that the daemon has left running, one of which
// does not heed SIGTERM.
func TestRemovalEndsCharons(t *testing.T) {
	if out, err := exec.Command("unshare", "--mount", "sh", "-c", "mount -t tmpfs none /run").CombinedOutput(); err != nil {
		t.Skipf("missing capability mount namespaces: %v: %s", err, out)
	}
	for _, tc := range []struct {
		args []string
		gone bool
		said string
	}{
		{[]string{"upgrade", "9.8.8"}, false, ""},
		{[]string{"remove"}, true, "systemctl show --property ControlGroup --value shadowcastd.service\nsystemctl disable --now shadowcastd.service\nshadowcastd clean-up --all\n"},
	} {
		t.Run(tc.args[0], func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "sbin"), 0o755); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"systemctl", "shadowcastd"} {
				script := "#!/bin/sh\necho " + name + ` "$@" >> ` + dir + "/said\n[ \"$1\" = show ] && echo /system.slice/shadowcastd.service\nexit 0\n"
				if err := os.WriteFile(filepath.Join(dir, "sbin", name), []byte(script), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			group := startGroup(t, filepath.Join(dir, "procs"), "exec sleep 300", "trap '' TERM; exec sleep 300")
			cmd := exec.Command("unshare", append([]string{"--mount", "--propagation", "private", "sh", "-c", removal, "sh"}, tc.args...)...)
			cmd.Env = append(os.Environ(), "DIR="+dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("prerm %s: %v\n%s", tc.args, err, out)
			}
			if got := group.living() == 0; got != tc.gone {
				t.Errorf("%d charons live on", group.living())
			}
			said, _ := os.ReadFile(filepath.Join(dir, "said")) // none: nothing was said
			if string(said) != tc.said {
				t.Errorf("said %q, want %q", said, tc.said)
			}
		})
	}
}

// group is some processes and the file that lists those which live.
type group struct {
	t    *testing.T
	file string
	mu   sync.Mutex
	pids map[int]bool
}

func startGroup(t *testing.T, file string, scripts ...string) *group {
	g := &group{t: t, file: file, pids: map[int]bool{}}
	var wait sync.WaitGroup
	t.Cleanup(wait.Wait) // when all cleanups below have ended them
	for _, s := range scripts {
		c := exec.Command("sh", "-c", s)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Process.Signal(syscall.SIGKILL) })
		g.set(c.Process.Pid, true)
		wait.Go(func() {
			c.Wait()
			g.set(c.Process.Pid, false)
		})
	}
	return g
}

func (g *group) set(pid int, lives bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.pids, pid)
	if lives {
		g.pids[pid] = true
	}
	var b strings.Builder
	for p := range g.pids {
		fmt.Fprintln(&b, p)
	}
	if err := os.WriteFile(g.file, []byte(b.String()), 0o644); err != nil {
		g.t.Error(err)
	}
}

func (g *group) living() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.pids)
}
