package lab

import (
	"context"
	"errors"
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

// installation is a run of the document.
type installation struct {
	t      *T
	l      *Lab
	blocks []docBlock
	names  []string // of the appliances
	at     map[string]*machine
	swaps  []swap
	own    map[string][]swap
	done   map[int][]string // machines by line of the block
	said   map[string]string
}

// safe is where the fleet's CA is.
const safe = "safe"

func install(t *T, l *Lab) {
	blocks, err := docBlocks(docs.Install)
	t.Check(err)
	deb, err := l.debianPackage()
	t.Check(err)
	_, version, _ := strings.Cut(strings.TrimSuffix(filepath.Base(deb), ".deb"), "_")
	version = version[:strings.LastIndex(version, "_")]
	x := &installation{t: t, l: l, blocks: blocks, at: map[string]*machine{}, swaps: installSwaps(version), own: map[string][]swap{}, done: map[int][]string{}, said: map[string]string{}}
	x.machines(deb)
	var s *attached
	when := map[string]func(play func()){
		"": func(play func()) { play() },
		"looked at": func(play func()) {
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
			x.shadowed(s)
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
	}
	for _, b := range blocks {
		if len(b.On) == 0 || b.File != "" {
			continue
		}
		play, ok := when[b.When]
		if !ok {
			t.Fatalf("install.md, line %d: the lab does not know when %q is", b.Line, b.When)
		}
		play(func() { x.play(b) })
	}
	x.account()
}

// debianPackage finds what make deb has built: below the directory of the checkout, in
// which the programs are in bin/.
func (l *Lab) debianPackage() (string, error) {
	ctl, err := l.binary("shadowctl")
	if err != nil {
		return "", err
	}
	dir := filepath.Join(filepath.Dir(ctl), "../out/deb")
	found, err := filepath.Glob(filepath.Join(dir, "shadowcast_*_*.deb"))
	if err != nil {
		return "", fmt.Errorf("find the Debian package: %w", err)
	}
	if len(found) != 1 {
		return "", fmt.Errorf("find the Debian package in %s: %d files, want 1; make deb builds it", dir, len(found))
	}
	return found[0], nil
}

// packageDatabase makes the packages that are installed the machine's own: what is
// installed below it meanwhile would change them. The index of manual pages, which takes
// longer than all else, is not kept.
const packageDatabase = `set -e
i=0
until [ -z "$(ls -A /var/lib/dpkg/updates)" ] && [ -z "$(dpkg --audit)" ]; do
	i=$((i+1)); [ $i -lt 60 ]; sleep 1
done
cp /var/lib/dpkg/status /tmp/status
rm -r /var/lib/dpkg/updates
mkdir /var/lib/dpkg/updates
cp /tmp/status /var/lib/dpkg/status
rm -f /tmp/status /var/lib/man-db/auto-update
`

// machines sets up what is there before an operator begins: machines with Debian, on
// which strongSwan runs as its packages leave it, and the package copied to each.
func (x *installation) machines(deb string) {
	t, ctx := x.t, x.t.Context()
	file, err := os.ReadFile(deb)
	t.Check(err)
	var all []*machine
	add := func(name string, ns *Netns, hosts ...*machine) *machine {
		m, err := x.l.newMachine(ctx, name, ns, hosts...)
		if errors.Is(err, errNoOverlay) {
			t.Skipf("%v", err)
		}
		t.Check(err)
		x.at[name] = m
		// An editor leaves what the document shows.
		t.Check(m.write("/usr/local/bin/editor", "#!/bin/sh\ncp \"/run/lab/edit$1\" \"$1\"\n", 0o755))
		return m
	}
	for _, a := range x.l.Appliances() {
		t.Check(a.Prepare())
		m := add(a.Name, a.ns)
		a.Config.RunDir = m.path("/run/shadowcast")
		all, x.names = append(all, m), append(x.names, a.Name)
		x.own[a.Name] = machineSwaps(a.Name, a.N)
		// The lab is not on the Internet: there is what is installed, and the package.
		t.Check(m.write("/etc/apt/apt.conf.d/99lab", "APT::Install-Recommends \"false\";\nDir::Etc::sourcelist \"/dev/null\";\nDir::Etc::sourceparts \"/dev/null\";\nDir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\n", 0o644))
		_, err := m.run(ctx, nil, "/bin/sh", "-c", packageDatabase)
		t.Check(err)
		t.Check(m.write("/root/"+filepath.Base(deb), string(file), 0o644))
		t.Check(os.MkdirAll(m.path("/run/systemd/system"), 0o755))
		t.Check(m.startService(ctx, "strongswan"))
	}
	m := add(safe, x.l.Node("srv"), all...)
	t.Check(m.write("/usr/local/bin/scp", "#!/bin/sh\nfor to; do :; done\nwhile [ $# -gt 1 ]; do cp \"$1\" \"/run/hosts/${to%%:*}${to#*:}\"; shift; done\n", 0o755))
	_, err = m.run(ctx, nil, "/bin/sh", "-c", "dpkg-deb --fsys-tarfile /run/hosts/ams/root/*.deb | tar -xO ./usr/bin/shadowctl > /usr/local/bin/shadowctl && chmod 755 /usr/local/bin/shadowctl")
	t.Check(err)
	x.differences()
	for _, b := range x.blocks {
		for _, n := range x.names {
			if b.File != "" && b.on(n, x.names) {
				t.Check(x.at[n].write("/run/lab/edit"+b.File, swapped(b.Text, x.swaps, x.own[n]), 0o644))
			}
		}
	}
}

// differences shows what the lab does otherwise than the document says.
func (x *installation) differences() {
	var table strings.Builder
	table.WriteString("instead of what the document says:\n")
	for _, s := range x.swaps {
		fmt.Fprintf(&table, "  %q -> %q  %s\n", s.old, s.new, s.why)
	}
	for _, n := range x.names[1:] {
		for _, s := range x.own[n] {
			fmt.Fprintf(&table, "  %q -> %q  %s\n", s.old, s.new, s.why)
		}
	}
	table.WriteString("  systemctl start, stop, reload  what the unit says, without its sandbox\n  editor  leaves the text of the document\n  scp  copies between the roots of the machines\n")
	x.t.Logf("%s", table.String())
}

// play carries a block out, on one machine after another.
func (x *installation) play(b docBlock) {
	commands, err := splitCommands(b.Text)
	if err != nil {
		x.t.Fatalf("install.md, line %d: %v", b.Line, err)
	}
	for _, n := range append(slices.Clone(x.names), safe) {
		if !b.on(n, x.names) {
			continue
		}
		for _, c := range commands {
			c = swapped(c, x.swaps, x.own[n])
			out, err := x.command(n, c)
			x.t.Check(err)
			x.said[n+"# "+c] = out
		}
		x.done[b.Line] = append(x.done[b.Line], n)
	}
}

// command carries out a command as root of the machine types it.
func (x *installation) command(name, command string) (out string, err error) {
	m := x.at[name]
	if words := strings.Fields(command); words[0] == "systemctl" {
		if out, err = m.systemctl(x.t.Context(), words[1:]); err == nil {
			x.adopt(name)
		}
	} else {
		out, err = m.run(x.t.Context(), nil, "/bin/sh", "-c", "set -eu; cd; "+command)
	}
	x.t.Logf("%s# %s\n%s", name, command, out)
	return out, err
}

// adopt shows the lab the daemon of a machine.
func (x *installation) adopt(name string) {
	if s := x.at[name].running("shadowcastd"); s != nil {
		x.l.Appliance(name).daemon = s.proc
	}
}

// serving waits until the fleet is complete.
func (x *installation) serving() {
	for _, a := range x.l.Appliances() {
		if a.daemon == nil {
			x.t.Fatalf("install.md has not started %s", a.Name)
		}
		x.t.Check(a.WaitReady(x.t.Context()))
	}
	allReady(x.t, x.l)
	// Sessions of routers whose names are not the lab's are not waited for elsewhere.
	for _, a := range x.l.Appliances() {
		api, err := a.API()
		x.t.Check(err)
		x.t.Check(poll(x.t.Context(), 200*time.Millisecond, a.Name+": every BGP session up", func() (bool, error) {
			r, err := api.GetBGP(x.t.Context(), &v1.GetBGPRequest{})
			return err == nil && !slices.ContainsFunc(r.Peers, func(p *v1.BGPPeer) bool { return p.State != "established" }), err
		}))
	}
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

// shadowed checks what the document's list of sessions says.
func (x *installation) shadowed(s *attached) {
	out := x.said["ams# shadowctl session list"]
	line := ""
	for l := range strings.Lines(out) {
		if strings.Contains(l, s.ID()) {
			line = l
		}
	}
	inner, err := s.Inner()
	x.t.Check(err)
	for _, want := range []string{inner.String(), "clients", "fra", "lhr"} {
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

// account tells what became of every block; one that was not carried out where it
// should have been is an error.
func (x *installation) account() {
	ran, files, shown, not := 0, 0, 0, 0
	var text strings.Builder
	for _, b := range x.blocks {
		switch {
		case b.NotRun != "":
			not++
			fmt.Fprintf(&text, "  line %d: not carried out: %s\n", b.Line, b.NotRun)
		case b.Shown:
			shown++
			if !strings.Contains(x.said["findings"], strings.TrimSpace(b.Text)) {
				x.t.Errorf("install.md, line %d: nothing said what the document shows:\n%s\nbut:\n%s", b.Line, b.Text, x.said["findings"])
			}
		case b.File != "":
			files++
			fmt.Fprintf(&text, "  line %d: content of %s\n", b.Line, b.File)
		default:
			ran++
			for _, n := range append(slices.Clone(x.names), safe) {
				if b.on(n, x.names) && !slices.Contains(x.done[b.Line], n) {
					x.t.Errorf("install.md, line %d: not carried out on %s", b.Line, n)
				}
			}
			fmt.Fprintf(&text, "  line %d: carried out on %s\n", b.Line, strings.Join(x.done[b.Line], ", "))
		}
	}
	for _, n := range x.names {
		if _, err := os.Stat(x.at[n].path("/etc/shadowcast/pki/ca.key")); err == nil {
			x.t.Errorf("%s has the key of the CA", n)
		}
		if out := x.said[n+"# shadowctl events --since 1m"]; !strings.Contains(out, "reload") {
			x.t.Errorf("the events of %s do not tell of the reload:\n%s", n, out)
		}
		if s := x.at[n].running("shadowcastd"); s == nil || s.pulses.Load() == 0 {
			x.t.Errorf("shadowcastd of %s does not run, or has never answered its watchdog", n)
		}
		if _, err := os.Lstat(x.at[n].path("/etc/systemd/system/multi-user.target.wants/shadowcastd.service")); err != nil {
			x.t.Errorf("shadowcastd of %s is not enabled: %v", n, err)
		}
	}
	x.t.Table(fmt.Sprintf("docs/install.md: %d blocks: %d carried out, %d files, %d shown, %d not carried out\n%s", len(x.blocks), ran, files, shown, not, text.String()))
	x.t.Metric("blocks", map[string]int{"carried out": ran, "files": files, "shown": shown, "not carried out": not})
}
