package lab

import (
	"fmt"
	"slices"
	"strings"

	"github.com/shadowcast/shadowcast/preflight"
)

// finding is one of `shadowctl preflight` as it prints it.
type finding struct{ severity, what, why, fix string }

// parseFindings reads what `shadowctl preflight` prints.
func parseFindings(text string) ([]finding, error) {
	var out []finding
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		last := len(out) - 1
		if why, ok := strings.CutPrefix(line, "    why: "); ok && last >= 0 {
			out[last].why = why
			continue
		}
		if fix, ok := strings.CutPrefix(line, "    fix: "); ok && last >= 0 {
			out[last].fix = fix
			continue
		}
		severity, what, ok := strings.Cut(line, ": ")
		if ok && slices.Contains([]string{preflight.Fatal.String(), preflight.Warning.String(), preflight.Info.String()}, severity) {
			out = append(out, finding{severity: severity, what: what})
		}
	}
	for _, f := range out {
		if f.why == "" || f.fix == "" {
			return nil, fmt.Errorf("the finding %q says not why, or not what mends it", f.what)
		}
	}
	return out, nil
}

// fault is something wrong on the first machine that preflight must find.
type fault struct {
	cause []string // commands that bring it about
	what  string   // part of the finding
	sev   preflight.Severity
	// mend is what is done where the fix is no command but a change that it asks for;
	// "" carries the printed command out.
	mend string
	// on is where it is carried out, the machine itself if "".
	on   string
	then string // on safe, afterwards
}

// copyCertificate is how a new certificate gets to the first machine.
const copyCertificate = "scp pki/ams.crt pki/ams.key ams:/etc/shadowcast/pki/"

// installFaults are brought about together. Connections are broken last: strongSwan
// itself would not start with them.
var installFaults = []fault{
	{cause: []string{"systemctl start strongswan"}, what: "charon-systemd has bound udp", sev: preflight.Fatal},
	{cause: []string{"ip addr add 198.51.100.1/32 dev lo"}, what: "this machine has the VIP 198.51.100.1", sev: preflight.Fatal},
	{cause: []string{"ip addr del 192.0.2.11/32 dev lo"}, what: "does not have its own address 192.0.2.11", sev: preflight.Fatal},
	{cause: []string{"umount /sys/fs/bpf"}, what: "is on no bpf file system", sev: preflight.Fatal},
	{cause: []string{"mv /usr/lib/ipsec/plugins/libstrongswan-ha.so /root/"}, what: "plugin ha is not installed", sev: preflight.Fatal},
	{cause: []string{"sed -i 's/shadowcast4/office/' /etc/swanctl/conf.d/clients.conf"}, what: "office", sev: preflight.Fatal, mend: "editor /etc/swanctl/conf.d/clients.conf"},
	{cause: []string{"sed -i 's/up1/up9/' /etc/shadowcast/shadowcast.yaml"}, what: "there is no interface up9", sev: preflight.Fatal, mend: "editor /etc/shadowcast/shadowcast.yaml"},
	{cause: []string{"sysctl -w fs.suid_dumpable=1"}, what: "fs.suid_dumpable is 1", sev: preflight.Warning},
	{cause: []string{"ip link set in0 down"}, what: "in0 is down", sev: preflight.Warning},
	{what: "certificate /etc/shadowcast/pki/ams.crt ends on", sev: preflight.Warning, on: safe, then: copyCertificate},
}

// mistake makes one in the configuration, has it found, and mends it.
func (x *installation) mistake() {
	const file = "/etc/shadowcast/shadowcast.yaml"
	x.must("ams", "sed -i 's/^node: ams/node: asm/' "+file)
	out, err := x.command("ams", "shadowctl config check --files")
	if want := file + ":1: node: "; err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "1 mistake") {
		x.t.Errorf("config check says %q, %v of a wrong node; want one mistake at %q", out, err, want)
	}
	x.must("ams", "editor "+file)
	x.must("ams", "shadowctl config check --files")
}

// must carries out a command that must succeed.
func (x *installation) must(name, command string) string {
	out, err := x.command(name, command)
	x.t.Check(err)
	return out
}

// preflightCommand is what an operator types; it fails over what is fatal.
const preflightCommand = "shadowctl preflight"

// preflight returns what it says on a machine, and whether it exits with 0.
func (x *installation) preflight(name string) (string, bool) {
	out, err := x.command(name, preflightCommand)
	if err != nil {
		out = err.Error()
		_, out, _ = strings.Cut(out, "exit status 1: ")
		x.t.Logf("%s", out)
	}
	x.said["findings"] += out
	return out, err == nil
}

// look returns what preflight finds on a machine, and whether it exits with 0.
func (x *installation) look(name string) ([]finding, bool) {
	out, well := x.preflight(name)
	found, err := parseFindings(out)
	x.t.Check(err)
	return found, well
}

func find(found []finding, what string) *finding {
	if i := slices.IndexFunc(found, func(f finding) bool { return strings.Contains(f.what, what) }); i >= 0 {
		return &found[i]
	}
	return nil
}

// findings brings about what preflight looks for, sees that it finds each, does what it
// says, and sees that each is gone.
func (x *installation) findings() {
	for _, f := range installFaults {
		for _, c := range f.cause {
			x.must("ams", c)
		}
	}
	x.must(safe, "shadowctl pki issue ams --address 192.0.2.11 --dir pki --days 1 --force")
	x.must(safe, copyCertificate)
	x.roads()
	found, well := x.look("ams")
	if well {
		x.t.Errorf("preflight exits with 0 over what is fatal")
	}
	for _, f := range installFaults {
		g := find(found, f.what)
		if g == nil || g.severity != f.sev.String() {
			x.t.Errorf("preflight does not find %q, %s: %+v", f.what, f.sev, g)
			continue
		}
		x.mend(f, *g)
	}
	x.roads()
	found, _ = x.look("ams")
	for _, f := range installFaults {
		if g := find(found, f.what); g != nil {
			x.t.Errorf("%q is still there after what it said was done: %+v", f.what, *g)
		}
	}
	x.t.Metric("faults", len(installFaults))
}

// mend does what a finding says.
func (x *installation) mend(f fault, g finding) {
	if f.mend != "" {
		x.t.Logf("the finding asks for: %s", g.fix)
		x.must("ams", f.mend)
		return
	}
	command, _, _ := strings.Cut(g.fix, ", where ")
	on := f.on
	if on == "" {
		on = "ams"
	}
	if packages, ok := strings.CutPrefix(command, "apt-get install "); ok {
		x.reinstall(packages)
		return
	}
	x.must(on, command)
	if f.then != "" {
		x.must(safe, f.then)
	}
}

// reinstall puts the missing plugin back if it is in one of the packages: those of
// Debian cannot be fetched in the lab.
func (x *installation) reinstall(packages string) {
	const plugin = "/usr/lib/ipsec/plugins/libstrongswan-ha.so"
	out := x.must("ams", "dpkg -S "+plugin)
	if in, _, _ := strings.Cut(out, ":"); !slices.Contains(strings.Fields(packages), in) {
		x.t.Errorf("%s is in %s, preflight names %s", plugin, in, packages)
	}
	x.must("ams", "mv /root/libstrongswan-ha.so "+plugin)
}

// roads are the routes of the machine's network configuration, which go with its
// addresses and links.
func (x *installation) roads() {
	a := x.l.Appliance("ams")
	// Without its address, or with a link that is down, some cannot be set.
	if err := a.routes(); err != nil {
		x.t.Logf("routes of ams: %v", err)
	}
}

// nothingFatal checks what preflight has found on all machines when the document has
// been followed.
func (x *installation) nothingFatal() {
	for _, n := range x.names {
		found, err := parseFindings(x.said[n+"# shadowctl preflight"])
		x.t.Check(err)
		for _, f := range found {
			if f.severity == preflight.Fatal.String() {
				x.t.Errorf("%s: %+v", n, f)
			}
			x.t.Logf("%s is left with: %s: %s", n, f.severity, f.what)
		}
	}
}
