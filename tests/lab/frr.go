package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/configs/routers"
)

// frr is FRR as a router: zebra, bgpd and bfdd with sockets of their own.
type frr struct {
	name string
	dir  string // belongs to FRR's user
	log  string
}

// frrDaemons in the order in which they start: the others connect to zebra.
var frrDaemons = []string{"zebra", "bgpd", "bfdd"}

func newFRR(l *Lab, name string) (*frr, error) {
	f := &frr{name: name, dir: filepath.Join(l.dir, name+".frr"), log: filepath.Join(l.out, name+".log")}
	u, err := user.Lookup("frr")
	if err != nil {
		return nil, fmt.Errorf("find FRR's user: %w", err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, fmt.Errorf("read uid of FRR's user: %w", err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return nil, fmt.Errorf("read gid of FRR's user: %w", err)
	}
	if err := os.Mkdir(f.dir, 0o755); err != nil {
		return nil, fmt.Errorf("make directory of FRR: %w", err)
	}
	if err := os.Chown(f.dir, uid, gid); err != nil {
		return nil, fmt.Errorf("give FRR its directory: %w", err)
	}
	return f, nil
}

func (*frr) String() string { return "FRR" }

func (*frr) dump() []string {
	return []string{"show bgp summary", "show bgp neighbors", "show bfd peers", "show bfd peers counters", "show bgp ipv4 unicast", "show bgp ipv6 unicast", "show ip route", "show ipv6 route"}
}

func (f *frr) conf() string { return filepath.Join(f.dir, "frr.conf") }

func (f *frr) configure(c routers.RouterConfig, back *backbone) error {
	text, err := routers.RenderFRR(c)
	if err != nil {
		return err
	}
	if back != nil {
		text += f.backbone(back)
	}
	if err := os.WriteFile(f.conf(), []byte(text), 0o644); err != nil {
		return fmt.Errorf("write FRR configuration: %w", err)
	}
	return nil
}

// backbone is what BIRD's is: see there.
func (*frr) backbone(back *backbone) string {
	var s strings.Builder
	fmt.Fprintf(&s, "route-map BACKBONE permit 10\n set local-preference 50\nexit\nrouter bgp %d\n", back.asn)
	for _, k := range back.links {
		family := "ipv4"
		if k.local.Is6() {
			family = "ipv6"
		}
		fmt.Fprintf(&s, ` neighbor %[1]s remote-as %[2]d
 neighbor %[1]s update-source %[3]s
 neighbor %[1]s timers 3 9
 neighbor %[1]s timers connect 1
 neighbor %[1]s advertisement-interval 0
 address-family %[4]s unicast
  neighbor %[1]s activate
  neighbor %[1]s next-hop-self
  neighbor %[1]s route-map BACKBONE in
 exit-address-family
`, k.remote, back.asn, k.local, family)
	}
	return s.String() + "exit\n"
}

func (f *frr) start(ctx context.Context, l *Lab) (procs []*Proc, err error) {
	for _, d := range frrDaemons {
		argv := []string{"/usr/lib/frr/" + d, "-f", "/dev/null", "-i", filepath.Join(f.dir, d+".pid"),
			"-z", filepath.Join(f.dir, "zserv.api"), "--vty_socket", f.dir, "--log", "stdout"}
		if d == "bfdd" {
			argv = append(argv, "--bfdctl", filepath.Join(f.dir, "bfdd.sock"))
		}
		p, err := l.start(l.nodes[f.name], d+" of "+f.name, f.log, nil, argv...)
		if err != nil {
			return procs, err
		}
		procs = append(procs, p)
		if err := answering(ctx, p, f.log, func() error {
			_, err := f.ask(d, "show version")
			return err
		}); err != nil {
			return procs, err
		}
	}
	load, err := l.start(l.nodes[f.name], "vtysh of "+f.name, f.log, nil, "/usr/bin/vtysh", "--vty_socket", f.dir, "-f", f.conf())
	if err != nil {
		return procs, err
	}
	select {
	case <-load.done:
	case <-ctx.Done():
		return procs, fmt.Errorf("load the configuration: %w", context.Cause(ctx))
	}
	if load.err != nil {
		return procs, fmt.Errorf("load the configuration: %w, see %s", load.err, f.log)
	}
	return procs, nil
}

// command asks the daemon that a show command is for.
func (f *frr) command(cmd string) (string, error) {
	d := "bgpd"
	switch {
	case strings.HasPrefix(cmd, "show bfd "):
		d = "bfdd"
	case strings.HasPrefix(cmd, "show ip route"), strings.HasPrefix(cmd, "show ipv6 route"):
		d = "zebra"
	}
	return f.ask(d, cmd)
}

// ask runs one command on a daemon's vty socket: the command, ended by NUL, draws
// the text, three NULs and a status, 0 for success.
func (f *frr) ask(daemon, cmd string) (string, error) {
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("ask %s of %s %q: %w", daemon, f.name, cmd, err)
	}
	c, err := net.Dial("unix", filepath.Join(f.dir, daemon+".vty"))
	if err != nil {
		return fail(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return fail(err)
	}
	if _, err := c.Write(append([]byte(cmd), 0)); err != nil {
		return fail(err)
	}
	var text []byte
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return fail(err)
		}
		text = append(text, buf[:n]...)
		end := len(text) - 4
		if end < 0 || !bytes.Equal(text[end:end+3], []byte{0, 0, 0}) {
			continue
		}
		out := strings.TrimRight(string(text[:end]), "\r\n")
		if text[end+3] != 0 {
			return fail(errors.New(strings.TrimSpace(out)))
		}
		return out, nil
	}
}
