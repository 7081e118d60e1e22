package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
)

// installation is a run of a document, or of a section of one, on machines with roots of
// their own.
type installation struct {
	t      *T
	l      *Lab
	doc    string // name of the document
	blocks []docBlock
	names  []string // of the appliances
	at     map[string]*machine
	swaps  []swap
	own    map[string][]swap
	done   map[int][]string // machines by line of the block
	said   map[string]string
	// uneasy has `shadowctl preflight` find what is fatal without ending the run.
	uneasy bool
}

// safe is where the fleet's CA is.
const safe = "safe"

// newInstallation sets the machines up on which a document is carried out.
func newInstallation(t *T, l *Lab, doc, text string) *installation {
	blocks, err := docBlocks(text)
	t.Check(err)
	deb, err := l.debianPackage()
	t.Check(err)
	_, version, _ := strings.Cut(strings.TrimSuffix(filepath.Base(deb), ".deb"), "_")
	version = version[:strings.LastIndex(version, "_")]
	x := &installation{t: t, l: l, doc: doc, blocks: blocks, at: map[string]*machine{}, swaps: installSwaps(version), own: map[string][]swap{}, done: map[int][]string{}, said: map[string]string{}}
	x.machines(deb)
	return x
}

// playAll carries the document out. when tells what happens around a block: before, to
// bring about what it is for, and after, to look at what it did.
func (x *installation) playAll(when map[string]func(play func())) {
	for _, b := range x.blocks {
		if len(b.On) == 0 || b.File != "" {
			continue
		}
		play, ok := when[b.When]
		if !ok {
			x.t.Fatalf("%s, line %d: the lab does not know when %q is", x.doc, b.Line, b.When)
		}
		play(func() { x.play(b) })
	}
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
		a.machine = m
	}
	m := add(safe, x.l.Node("srv"), all...)
	t.Check(m.write("/usr/local/bin/scp", scp, 0o755))
	_, err = m.run(ctx, nil, "/bin/sh", "-c", "dpkg-deb --fsys-tarfile /run/hosts/ams/root/*.deb | tar -xO ./usr/bin/shadowctl > /usr/local/bin/shadowctl && chmod 755 /usr/local/bin/shadowctl")
	t.Check(err)
	x.differences()
	x.editorKnows(x.blocks)
}

// scp copies between the roots of the machines.
const scp = `#!/bin/sh
set -e
how=
while [ "${1#-}" != "$1" ]; do how="$how $1"; shift; done
for to; do :; done
at() { case $1 in *:*) echo "/run/hosts/${1%%:*}${1#*:}" ;; *) echo "$1" ;; esac; }
while [ $# -gt 1 ]; do cp $how "$(at "$1")" "$(at "$to")"; shift; done
`

// editorKnows has the machines' editor leave the files that blocks show.
func (x *installation) editorKnows(blocks []docBlock) {
	for _, b := range blocks {
		for _, n := range x.names {
			if b.File != "" && b.on(n, x.names) {
				x.t.Check(x.at[n].write("/run/lab/edit"+b.File, swapped(b.Text, x.swaps, x.own[n]), 0o644))
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
		x.t.Fatalf("%s, line %d: %v", x.doc, b.Line, err)
	}
	for _, n := range append(slices.Clone(x.names), safe) {
		if !b.on(n, x.names) {
			continue
		}
		for _, c := range commands {
			c = swapped(c, x.swaps, x.own[n])
			out, err := "", error(nil)
			if x.uneasy && c == preflightCommand {
				out, _ = x.preflight(n)
			} else {
				out, err = x.command(n, c)
			}
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
			x.t.Fatalf("%s has not started %s", x.doc, a.Name)
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
				x.t.Errorf("%s, line %d: nothing said what the document shows:\n%s\nbut:\n%s", x.doc, b.Line, b.Text, x.said["findings"])
			}
		case b.File != "":
			files++
			fmt.Fprintf(&text, "  line %d: content of %s\n", b.Line, b.File)
		default:
			ran++
			for _, n := range append(slices.Clone(x.names), safe) {
				if b.on(n, x.names) && !slices.Contains(x.done[b.Line], n) {
					x.t.Errorf("%s, line %d: not carried out on %s", x.doc, b.Line, n)
				}
			}
			fmt.Fprintf(&text, "  line %d: carried out on %s\n", b.Line, strings.Join(x.done[b.Line], ", "))
		}
	}
	x.t.Table(fmt.Sprintf("docs/%s: %d blocks: %d carried out, %d files, %d shown, %d not carried out\n%s", x.doc, len(x.blocks), ran, files, shown, not, text.String()))
	x.t.Metric("blocks", map[string]int{"carried out": ran, "files": files, "shown": shown, "not carried out": not})
}

// installed checks that on every appliance the daemon runs, will run after a reboot, and
// that the CA's key is not there.
func (x *installation) installed() {
	for _, n := range x.names {
		if _, err := os.Stat(x.at[n].path("/etc/shadowcast/pki/ca.key")); err == nil {
			x.t.Errorf("%s has the key of the CA", n)
		}
		if s := x.at[n].running("shadowcastd"); s == nil || s.pulses.Load() == 0 {
			x.t.Errorf("shadowcastd of %s does not run, or has never answered its watchdog", n)
		}
		if _, err := os.Lstat(x.at[n].path("/etc/systemd/system/multi-user.target.wants/shadowcastd.service")); err != nil {
			x.t.Errorf("shadowcastd of %s is not enabled: %v", n, err)
		}
	}
}
