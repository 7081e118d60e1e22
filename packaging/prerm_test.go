package packaging

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// group is some processes and the file that lists those which live. The file is changed in
// place, since somebody reads it meanwhile: who has ended leaves blanks.
type group struct {
	t    *testing.T
	file *os.File
	mu   sync.Mutex
	left int
}

// row is the length of a line of the list.
const row = 12

func startGroup(t *testing.T, file string, scripts ...string) *group {
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	g := &group{t: t, file: f, left: len(scripts)}
	var wait sync.WaitGroup
	t.Cleanup(wait.Wait) // when all cleanups below have ended them
	for i, s := range scripts {
		c := exec.Command("sh", "-c", s)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Process.Signal(syscall.SIGKILL) })
		g.write(i, fmt.Sprint(c.Process.Pid))
		wait.Go(func() {
			c.Wait()
			g.ended(i)
		})
	}
	return g
}

func (g *group) write(i int, text string) {
	if _, err := g.file.WriteAt(fmt.Appendf(nil, "%-*s\n", row-1, text), int64(i*row)); err != nil {
		g.t.Error(err)
	}
}

func (g *group) ended(i int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.write(i, "")
	if g.left--; g.left == 0 {
		if err := g.file.Truncate(0); err != nil {
			g.t.Error(err)
		}
	}
}

func (g *group) living() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.left
}
