package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/configs/routers"
)

// bird is BIRD 2 as a router.
type bird struct {
	name           string
	conf, ctl, pid string // configuration, control socket, process number
	log            string
}

func newBIRD(l *Lab, name string) *bird {
	in := func(ext string) string { return filepath.Join(l.dir, name+ext) }
	return &bird{name: name, conf: in(".conf"), ctl: in(".ctl"), pid: in(".pid"), log: filepath.Join(l.out, name+".log")}
}

func (*bird) String() string { return "BIRD" }

func (*bird) dump() []string {
	return []string{"show protocols all", "show bfd sessions", "show route all"}
}

func (b *bird) configure(c routers.RouterConfig, back *backbone) error {
	text, err := routers.RenderBIRD(c)
	if err != nil {
		return err
	}
	if back != nil {
		for _, k := range back.links {
			name, channel := "backbone", "ipv4"
			if k.local.Is6() {
				name, channel = "backbone_6", "ipv6"
			}
			// Between the outside routers: what one hears, the other knows.
			text += fmt.Sprintf(`
protocol bgp %s {
	local %s as %d;
	neighbor %s as %[3]d;
	direct;
	hold time 9;
	connect delay time 1;
	connect retry time 1;
	error wait time 1, 5;
	# A way of one's own is better than the neighbour's: otherwise a raised MED, which
	# reaches the two routers one after the other, makes them point at each other.
	%[5]s { import filter { bgp_local_pref = 50; accept; }; export where source = RTS_BGP; next hop self; };
}
`, name, k.local, back.asn, k.remote, channel)
		}
	}
	if err := os.WriteFile(b.conf, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write BIRD configuration: %w", err)
	}
	return nil
}

func (b *bird) start(ctx context.Context, l *Lab) ([]*Proc, error) {
	// -f: the foreground, so that the lab is its parent.
	p, err := l.start(l.nodes[b.name], "BIRD of "+b.name, b.log, nil, "/usr/sbin/bird", "-f", "-c", b.conf, "-s", b.ctl, "-P", b.pid)
	if err != nil {
		return nil, err
	}
	return []*Proc{p}, answering(ctx, p, b.log, func() error {
		_, err := b.command("show status")
		return err
	})
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
