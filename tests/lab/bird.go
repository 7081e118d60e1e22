package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/configs/routers"
)

// bird is one running router daemon.
type bird struct {
	name string
	ctl  string // control socket
	proc *Proc
}

// bootstrapMetric makes the routes of the lab worse than BIRD's (metric 32).
const bootstrapMetric = 4096

// routerConf renders the configuration of r1, r2 or in.
func (l *Lab) routerConf(name string, n int) (string, error) {
	c := routers.RouterConfig{
		Name: name, RouterID: RouterLoopback(n), ASN: OutsideASN, Role: routers.Outside, ApplianceASN: ApplianceASN,
		VIPs: []netip.Prefix{single(VIP)}, Liveness: []netip.Prefix{livenessNet},
		BFDInterval: l.opt.BFD.Interval, BFDMultiplier: l.opt.BFD.Multiplier,
	}
	net := n
	if name == "in" {
		c.ASN, c.Role, c.VIPs, c.Liveness, c.Inner = InsideASN, routers.Inside, nil, nil, []netip.Prefix{poolNet}
		net = insideLink
	}
	for _, a := range l.appliances {
		p := linkNet(net, a.N)
		c.Sessions = append(c.Sessions, routers.Session{Name: a.Name, Address: host(p, 2), LocalAddress: host(p, 1), Interface: a.Name})
	}
	text, err := routers.RenderBIRD(c)
	if err != nil || name == "in" {
		return text, err
	}
	// Between the outside routers: what one hears, the other knows.
	return text + fmt.Sprintf(`
protocol bgp backbone {
	local %s as %d;
	neighbor %s as %[2]d;
	direct;
	hold time 9;
	connect delay time 1;
	connect retry time 1;
	error wait time 1, 5;
	# A way of one's own is better than the neighbour's: otherwise a raised MED, which
	# reaches the two routers one after the other, makes them point at each other.
	ipv4 { import filter { bgp_local_pref = 50; accept; }; export where source = RTS_BGP; next hop self; };
}
`, host(routerLink, n), OutsideASN, host(routerLink, 3-n)), nil
}

// startRouters starts BIRD in r1, r2 and in, and waits until each answers.
func (l *Lab) startRouters(ctx context.Context) error {
	for i, name := range []string{"r1", "r2", "in"} {
		text, err := l.routerConf(name, i+1)
		if err != nil {
			return err
		}
		conf := filepath.Join(l.dir, name+".conf")
		if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
			return fmt.Errorf("write BIRD configuration: %w", err)
		}
		b := &bird{name: name, ctl: filepath.Join(l.dir, name+".ctl")}
		if err := l.startBird(b); err != nil {
			return err
		}
		l.routers = append(l.routers, b)
	}
	return l.waitRouters(ctx)
}

func (l *Lab) startBird(b *bird) (err error) {
	// -f: the foreground, so that the lab is its parent.
	b.proc, err = l.start(l.nodes[b.name], "BIRD of "+b.name, filepath.Join(l.out, b.name+".log"), nil,
		"/usr/sbin/bird", "-f", "-c", filepath.Join(l.dir, b.name+".conf"), "-s", b.ctl, "-P", filepath.Join(l.dir, b.name+".pid"))
	return err
}

// restartRouter starts a router again whose process was killed.
func (l *Lab) restartRouter(ctx context.Context, name string) error {
	if err := l.startBird(l.router(name)); err != nil {
		return err
	}
	return l.waitRouters(ctx)
}

// waitRouters waits until every router answers.
func (l *Lab) waitRouters(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Second, errors.New("no answer within 10 s"))
	defer cancel()
	for _, b := range l.routers {
		if err := poll(ctx, 10*time.Millisecond, "BIRD of "+b.name, func() (bool, error) {
			if !b.proc.Alive() {
				return true, nil
			}
			_, err := b.command("show status")
			return err == nil, err
		}); err != nil {
			return err
		}
		if !b.proc.Alive() {
			return fmt.Errorf("start BIRD of %s: it ended, see %s", b.name, filepath.Join(l.out, b.name+".log"))
		}
	}
	return nil
}

// command runs one command of birdc's on the control socket and returns the text
// of the answer.
func (b *bird) command(cmd string) (string, error) {
	c, err := net.Dial("unix", b.ctl)
	if err != nil {
		return "", fmt.Errorf("ask BIRD of %s: %w", b.name, err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", fmt.Errorf("ask BIRD of %s: %w", b.name, err)
	}
	r := bufio.NewScanner(c)
	if _, err := readReply(r); err != nil { // greeting
		return "", fmt.Errorf("ask BIRD of %s: %w", b.name, err)
	}
	if _, err := fmt.Fprintf(c, "%s\n", cmd); err != nil {
		return "", fmt.Errorf("ask BIRD of %s: %w", b.name, err)
	}
	s, err := readReply(r)
	if err != nil {
		return "", fmt.Errorf("ask BIRD of %s %q: %w", b.name, cmd, err)
	}
	return s, nil
}

// readReply reads one reply: lines "NNNN-text", " text" (continued), and the last
// one "NNNN text". Codes 8000 and 9000 are errors.
func readReply(r *bufio.Scanner) (string, error) {
	var s strings.Builder
	for r.Scan() {
		l := r.Text()
		if strings.HasPrefix(l, " ") {
			s.WriteString(l[1:] + "\n")
			continue
		}
		if len(l) < 5 {
			return "", fmt.Errorf("short line %q", l)
		}
		s.WriteString(l[5:] + "\n")
		if l[4] == ' ' {
			if l[0] == '8' || l[0] == '9' {
				return "", errors.New(strings.TrimSpace(s.String()))
			}
			return strings.TrimRight(s.String(), "\n"), nil
		}
	}
	if err := r.Err(); err != nil {
		return "", err
	}
	return "", errors.New("connection closed")
}

// Router asks the BIRD of r1, r2 or in, as birdc would.
func (l *Lab) Router(name, command string) (string, error) {
	for _, b := range l.routers {
		if b.name == name {
			return b.command(command)
		}
	}
	return "", fmt.Errorf("ask BIRD of %s: no such router", name)
}
