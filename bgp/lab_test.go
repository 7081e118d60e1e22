package bgp

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/configs/routers"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// lab is a set of network namespaces with processes in them.
type lab struct {
	t   *testing.T
	tag string
	dir string
}

var labSeq atomic.Int32

// newLab skips where the machine lacks what the tests need.
func newLab(t *testing.T, programs ...string) *lab {
	t.Helper()
	if testing.Short() {
		t.Skip("runs routers in network namespaces: left out by -short")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs CAP_NET_ADMIN and CAP_SYS_ADMIN (root) for network namespaces")
	}
	for _, p := range append(programs, "ip", "chrt") {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs %s: %v", p, err)
		}
	}
	l := &lab{t: t, tag: fmt.Sprintf("scb%d-%d-", os.Getpid(), labSeq.Add(1))}
	// Not t.TempDir: its parent is closed to the frr user.
	dir, err := os.MkdirTemp("", l.tag)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l.dir = dir
	return l
}

func (l *lab) ip(args ...string) {
	l.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		l.t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (l *lab) netns(names ...string) {
	l.t.Helper()
	for _, n := range names {
		ns := l.tag + n
		l.ip("netns", "add", ns)
		l.t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", ns).Run() })
		l.ip("-n", ns, "link", "set", "lo", "up")
	}
}

// link connects namespace a to b as subnet n: a has .1 (and ::1), b .2 (::2).
// The interface in each is named after the other.
func (l *lab) link(a, b string, n int) {
	l.t.Helper()
	l.ip("link", "add", b, "netns", l.tag+a, "type", "veth", "peer", "name", a, "netns", l.tag+b)
	for i, e := range [][2]string{{a, b}, {b, a}} {
		l.ip("-n", l.tag+e[0], "addr", "add", fmt.Sprintf("10.77.%d.%d/24", n, i+1), "dev", e[1])
		l.ip("-n", l.tag+e[0], "addr", "add", fmt.Sprintf("fd77:%d::%d/64", n, i+1), "dev", e[1], "nodad")
		l.ip("-n", l.tag+e[0], "link", "set", e[1], "up")
	}
}

// linkState sets an end of a link up or down and returns when.
func (l *lab) linkState(ns, dev, state string) time.Time {
	t0 := time.Now()
	l.ip("-n", l.tag+ns, "link", "set", dev, state)
	return t0
}

// start runs a program in a namespace, with real-time priority: these tests share
// their cores, and BFD at 50 ms must not fail for want of a processor.
func (l *lab) start(ns string, env []string, stdin io.Reader, argv ...string) (*exec.Cmd, io.ReadCloser, *logFile) {
	l.t.Helper()
	cmd := exec.Command("chrt", append([]string{"-r", "10", "ip", "netns", "exec", l.tag + ns}, argv...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = stdin
	log := &logFile{}
	cmd.Stderr = log
	var out io.ReadCloser
	var err error
	if stdin != nil {
		if out, err = cmd.StdoutPipe(); err != nil {
			l.t.Fatal(err)
		}
	} else {
		cmd.Stdout = log
	}
	if err := cmd.Start(); err != nil {
		l.t.Fatalf("start %v: %v", argv, err)
	}
	l.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if l.t.Failed() {
			l.t.Logf("%s: %s:\n%s", ns, filepath.Base(argv[0]), log.tail())
		}
	})
	return cmd, out, log
}

// logFile keeps what a process wrote.
type logFile struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (f *logFile) Write(p []byte) (int, error) { f.mu.Lock(); defer f.mu.Unlock(); return f.b.Write(p) }

func (f *logFile) String() string { f.mu.Lock(); defer f.mu.Unlock(); return f.b.String() }

func (f *logFile) tail() string {
	lines := strings.Split(strings.TrimSpace(f.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-60):], "\n")
}

// bird runs BIRD 2 in ns and returns its control socket.
func (l *lab) bird(ns string, c routers.RouterConfig) string {
	l.t.Helper()
	text, err := routers.RenderBIRD(c)
	if err != nil {
		l.t.Fatal(err)
	}
	conf, sock := filepath.Join(l.dir, ns+".conf"), filepath.Join(l.dir, ns+".ctl")
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.start(ns, nil, nil, "bird", "-f", "-c", conf, "-s", sock)
	l.wait(5*time.Second, "bird's control socket", func() bool { _, err := os.Stat(sock); return err == nil })
	return sock
}

// birdc asks BIRD.
func (l *lab) birdc(sock string, args ...string) string {
	out, _ := exec.Command("birdc", append([]string{"-s", sock}, args...)...).CombinedOutput()
	return string(out)
}

// frr runs zebra, bgpd and bfdd in ns and returns a function that asks vtysh.
func (l *lab) frr(ns string, c routers.RouterConfig) func(args ...string) string {
	l.t.Helper()
	dir := filepath.Join(l.dir, ns)
	u, err := user.Lookup("frr")
	if err != nil {
		l.t.Skipf("needs FRR's user: %v", err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	if err := os.Mkdir(dir, 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.Chown(dir, uid, gid); err != nil {
		l.t.Fatal(err)
	}
	text, err := routers.RenderFRR(c)
	if err != nil {
		l.t.Fatal(err)
	}
	conf := filepath.Join(dir, "frr.conf")
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		l.t.Fatal(err)
	}
	for _, d := range []string{"zebra", "bgpd", "bfdd"} {
		argv := []string{"/usr/lib/frr/" + d, "-f", "/dev/null", "-i", filepath.Join(dir, d+".pid"),
			"-z", filepath.Join(dir, "zserv.api"), "--vty_socket", dir, "--log", "stdout"}
		if d == "bfdd" {
			argv = append(argv, "--bfdctl", filepath.Join(dir, "bfdd.sock"))
		}
		l.start(ns, nil, nil, argv...)
		l.wait(5*time.Second, d+"'s vty", func() bool { _, err := os.Stat(filepath.Join(dir, d+".vty")); return err == nil })
	}
	vtysh := func(args ...string) string {
		out, _ := exec.Command("vtysh", append([]string{"--vty_socket", dir}, args...)...).CombinedOutput()
		return string(out)
	}
	if out := vtysh("-f", conf); strings.Contains(out, "Unknown") || strings.Contains(out, "rror") {
		l.t.Fatalf("load frr configuration:\n%s", out)
	}
	return vtysh
}

// wait polls until ok.
func (l *lab) wait(d time.Duration, what string, ok func() bool) {
	l.t.Helper()
	end := time.Now().Add(d)
	for !ok() {
		if time.Now().After(end) {
			l.t.Fatalf("no %s within %v", what, d)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// routeLog records the changes of one prefix in a namespace's main table.
type routeLog struct {
	mu   sync.Mutex
	seen []routeChange
}

// len is the number of changes so far.
func (r *routeLog) len() int { r.mu.Lock(); defer r.mu.Unlock(); return len(r.seen) }

type routeChange struct {
	at  time.Time
	via string // next hop; empty: deleted
}

// watch follows the route to p in ns.
func (l *lab) watch(ns string, p netip.Prefix) *routeLog {
	l.t.Helper()
	h, err := netns.GetFromName(l.tag + ns)
	if err != nil {
		l.t.Fatal(err)
	}
	defer h.Close()
	ch, done := make(chan netlink.RouteUpdate, 64), make(chan struct{})
	if err := netlink.RouteSubscribeWithOptions(ch, done, netlink.RouteSubscribeOptions{Namespace: &h, ErrorCallback: func(error) {}}); err != nil {
		l.t.Fatal(err)
	}
	r := &routeLog{}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		for u := range ch {
			if u.Dst == nil || u.Dst.String() != p.String() || u.Table != unix.RT_TABLE_MAIN {
				continue
			}
			c := routeChange{at: time.Now()}
			if u.Type == unix.RTM_NEWROUTE {
				c.via = u.Gw.String()
				if len(u.MultiPath) > 0 {
					c.via = u.MultiPath[0].Gw.String()
				}
			}
			r.mu.Lock()
			r.seen = append(r.seen, c)
			r.mu.Unlock()
		}
	}()
	l.t.Cleanup(func() { close(done); <-finished })
	return r
}

// changed waits for the first change to via at or after since and returns how
// long it took.
func (l *lab) changed(r *routeLog, via string, since time.Time) time.Duration {
	l.t.Helper()
	var took time.Duration
	l.wait(15*time.Second, fmt.Sprintf("kernel route via %q", via), func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, c := range r.seen {
			if c.via == via && !c.at.Before(since) {
				took = c.at.Sub(since)
				return true
			}
		}
		return false
	})
	return took
}
