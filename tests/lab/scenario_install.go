package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/docs"
)

func init() {
	o := fleetOptions(ConnSpec{})
	o.BFD, o.PPS = BFD{Interval: 300 * time.Millisecond, Multiplier: 10}, 125 // nothing fails: detection is not measured
	Register(Scenario{
		Name: "install", Doc: "docs/install.md, block by block, with the Debian package on three machines: findings of preflight and their fixes, a client, a move",
		Need: fleetNeed, Options: o, Timeout: 12 * time.Minute, Memory: "1G", Bench: true, Run: install,
	})
}

// swap is a difference between the document's example and the lab.
type swap struct{ old, new, why string }

// installSwaps are the differences for every machine.
func installSwaps(version string) []swap {
	return []swap{
		{"VERSION", version, "the package that make deb has built"},
		{"enp1s0", devUplink1, "names of the lab's interfaces"},
		{"enp2s0", devUplink2, ""},
		{"enp3s0", devInside, ""},
		{"a long secret of your own", psk, "the key of the lab's clients"},
		{"side}", "side, bfd: {interval: 300ms, multiplier: 10}}", "a guest has one processor: heartbeats take their time, and load is no reason to shed any"},
		{"fleet:\n", "fleet:\n  dead_man: 4s\n  probe: {interval: 200ms, lost: 5}\n  handover: {shed_load: 0}\n", ""},
	}
}

// machineSwaps are those of the n-th appliance, whose name and addresses differ from
// the first one's.
func machineSwaps(name string, n int) []swap {
	own := ApplianceLoopback(n).String()
	out := []swap{{"node: ams", "node: " + name, "of " + name}, {ApplianceLoopback(1).String(), own, ""}}
	for _, net := range []int{1, 2, insideLink} {
		out = append(out, swap{fmt.Sprintf("10.%d.1.", net), fmt.Sprintf("10.%d.%d.", net, n), ""})
	}
	return out
}

// swapped puts the lab's values into a text of the document. own are a machine's: in a
// configuration they count above the fleet's section only.
func swapped(text string, all, own []swap) string {
	head, fleet, cut := strings.Cut(text, "\nfleet:\n")
	for _, s := range own {
		head = strings.ReplaceAll(head, s.old, s.new)
	}
	if text = head; cut {
		text += "\nfleet:\n" + fleet
	}
	for _, s := range all {
		text = strings.ReplaceAll(text, s.old, s.new)
	}
	return text
}

func install(t *T, l *Lab) {
	x := newInstallation(t, l, "install.md", docs.Install)
	var before string // the daemon ran on lhr
	var s *attached
	when := map[string]func(play func()){
		"": func(play func()) { play() },
		"looked at": func(play func()) {
			before = x.kernel("lhr")
			x.mistake()
			x.findings()
			play()
			x.nothingFatal()
		},
		"all serve": func(play func()) {
			x.serving()
			play()
			x.shown()
		},
		"a client is connected": func(play func()) {
			s = x.connect()
			play()
			x.shadowed(s, "clients")
		},
		"while traffic flows": func(play func()) {
			allReady(t, l)
			sc := scene(t, l, s, "handover", func(*Observation) {
				pause(t, 300*time.Millisecond)
				play()
				pause(t, 700*time.Millisecond)
			})
			kept(t, sc)
			lossless(t, sc)
			x.moved(s)
		},
		"it shall leave": func(play func()) {
			x.installed()
			play()
			x.left("lhr", before)
		},
	}
	x.playAll(when)
	x.account()
	for _, n := range x.names {
		if out := x.said[n+"# shadowctl events --since 1m"]; !strings.Contains(out, "reload") {
			t.Errorf("the events of %s do not tell of the reload:\n%s", n, out)
		}
	}
}

// left checks that nothing of the service is left on a machine but what the document says.
func (x *installation) left(name, before string) {
	m := x.at[name]
	pids, err := pidsWith("mnt", map[uint64]bool{m.mnt: true})
	x.t.Check(err)
	for _, p := range pids {
		if p != m.init.PID() {
			exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", p))
			x.t.Errorf("%s: process %d (%s) lives on", name, p, exe)
		}
	}
	for _, f := range []string{"/usr/sbin/shadowcastd", "/sys/fs/bpf/shadowcast", "/run/netns/*", "/run/shadowcast/*"} {
		if found, _ := filepath.Glob(m.path(f)); len(found) > 0 {
			x.t.Errorf("%s: still there: %q", name, found)
		}
	}
	for _, f := range []string{"/etc/shadowcast/shadowcast.yaml", "/var/lib/shadowcast"} {
		if _, err := os.Stat(m.path(f)); err != nil {
			x.t.Errorf("%s: what the package's removal must not take is gone: %v", name, err)
		}
	}
	if now := x.kernel(name); now != before {
		x.t.Errorf("%s: the kernel has\n%s\nbut before there was\n%s", name, now, before)
	}
}

// kernel is what the kernel of a machine has in its own namespace.
func (x *installation) kernel(name string) string {
	var all strings.Builder
	for _, command := range []string{
		"ls /sys/class/net", "ip xfrm state count", "ip xfrm policy", "ip rule", "ip -6 rule", "ip route show table all type unicast",
		"for d in /sys/class/net/*; do for at in ingress egress; do tc filter show dev ${d##*/} $at; done; done",
	} {
		out, err := x.at[name].run(x.t.Context(), nil, "/bin/sh", "-c", command)
		x.t.Check(err)
		fmt.Fprintf(&all, "# %s\n%s", command, out)
	}
	return all.String()
}

// shown checks that status and bgp say what the document tells a reader to look for.
func (x *installation) shown() {
	circle := slices.Concat(x.names, x.names)
	for i, n := range x.names {
		status, bgp := x.said[n+"# shadowctl status"], x.said[n+"# shadowctl bgp"]
		want := fmt.Sprintf("%d %s %s owner active", i+1, n, n)
		if !slices.ContainsFunc(strings.Split(status, "\n"), func(line string) bool {
			line = strings.Join(strings.Fields(line), " ")
			return strings.HasPrefix(line, want) && strings.HasSuffix(line, " "+circle[i+1]+" "+circle[i+2])
		}) {
			x.t.Errorf("status on %s has no line %q with both shadows ready:\n%s", n, want, status)
		}
		if strings.Count(bgp, "established") != 3 {
			x.t.Errorf("bgp on %s does not show 3 sessions established:\n%s", n, bgp)
		}
	}
}

// connect connects the client.
func (x *installation) connect() *attached {
	// The document's client enters at the first one: the routers have no reason to
	// prefer another.
	ctx, cancel := context.WithTimeout(x.t.Context(), 20*time.Second)
	defer cancel()
	x.t.Check(x.l.enters(ctx, x.l.Appliances()[0]))
	s := join(x.t, x.l, 0)
	control(x.t, x.l, s)
	return s
}

// shadowed checks what the document's list of sessions says of one of a connection.
func (x *installation) shadowed(s *attached, connection string) {
	out := x.said["ams# shadowctl session list"]
	line := ""
	for l := range strings.Lines(out) {
		if strings.Contains(l, s.ID()) {
			line = l
		}
	}
	inner, err := s.Inner()
	x.t.Check(err)
	for _, want := range []string{inner.String(), connection, "fra", "lhr"} {
		if !strings.Contains(line, want) {
			x.t.Errorf("session list on ams does not say %s of %s:\n%s", want, s.ID(), out)
		}
	}
}

// moved checks who owns the slot, and that the events say why.
func (x *installation) moved(s *attached) {
	if o := owned(x.t, x.l, s.slot, x.l.Appliance("ams")); o.Name != "fra" {
		x.t.Errorf("slot %d is owned by %s, want fra", s.slot, o.Name)
	}
	if st := slotAt(x.t.Context(), x.l.Appliance("fra"), s.slot); st == nil || st.Role != v1.Role_ROLE_OWNER {
		x.t.Errorf("fra does not say that it owns slot %d: %v", s.slot, st)
	}
	out := x.said["ams# shadowctl events --slot 1"]
	for _, want := range []string{"slot.handover", "move to fra: operator with uid 0 asked for it", "move to fra is complete"} {
		if !strings.Contains(out, want) {
			x.t.Errorf("the events of slot 1 on ams do not tell %q:\n%s", want, out)
		}
	}
}
