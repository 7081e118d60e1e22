package preflight

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/shadowcast/shadowcast/config"
)

func privileges(f *Facts, out *findings) {
	if !f.Root {
		out.add(Fatal, "root", "network namespaces, XFRM and eBPF belong to root", "run it as root: sudo shadowctl preflight", "not running as root")
	}
}

// oldest is the oldest kernel that the tests ran on.
const oldest = "6.1"

// modules are what `modprobe` takes for a feature, where that may help.
var modules = map[Feature]string{XFRM: "esp4 esp6 xfrm_user", ESN: "esp4", Veth: "veth", ClsBPF: "sch_ingress cls_bpf", IPIP: "ipip", GRE6: "ip_gre ip6_gre", Plug: "sch_plug"}

func kernel(f *Facts, out *findings) {
	why := map[Feature]string{
		XFRM: "sessions are kernel SAs", ESN: "the rules for connections ask for a replay window of at least 1024", Netns: "every slot is a network namespace", Veth: "slots are reached through veth",
		ClsBPF: "steering and fences are tc programs", RingBuf: "steering tells of IKE headers through it", RedirectBPF: "steering delivers packets with it",
		IPIP: "packets that enter at the wrong appliance go to the owner through ipip", GRE6: "IPv6 VIPs and pools go to their owner through gre", Plug: "without it a planned move cannot hold packets back, and they may be reordered by the path difference",
	}
	needs6 := f.Config != nil && hasV6(f.Config)
	for _, feature := range slices.Sorted(maps.Keys(f.Features)) {
		err := f.Features[feature]
		if err == nil {
			continue
		}
		severity := Fatal
		switch feature {
		case Plug:
			severity = Warning
		case GRE6:
			if !needs6 {
				severity = Info
			}
		}
		fix := "boot a kernel " + oldest + " or newer that has it"
		if m := modules[feature]; m != "" {
			fix = "modprobe -a " + m
		}
		out.add(severity, "kernel", why[feature], fix, "the kernel lacks %s: %v", feature, err)
	}
	if f.Release != "" && olderThan(f.Release, oldest) {
		out.add(Info, "kernel-version", "shadowcast is tested on "+oldest+" and later", "boot a newer kernel", "kernel %s", f.Release)
	}
}

func hasV6(c *config.Config) bool {
	for _, v := range c.Fleet.VIPs {
		if v.Is6() {
			return true
		}
	}
	return slices.ContainsFunc(c.Fleet.Slots, func(s config.Slot) bool { return s.Pool6().IsValid() })
}

// olderThan compares the first two numbers of kernel releases.
func olderThan(release, than string) bool {
	var a, b, c, d int
	if n, _ := fmt.Sscanf(release, "%d.%d", &a, &b); n != 2 {
		return false
	}
	fmt.Sscanf(than, "%d.%d", &c, &d)
	return a < c || a == c && b < d
}

func memory(f *Facts, out *findings) {
	if f.MemoryLock || !f.Root {
		return
	}
	severity, what := Warning, "memory cannot be locked"
	if f.Swap {
		severity, what = Fatal, "memory cannot be locked and the machine has swap space"
	}
	out.add(severity, "memory-lock", "session keys must not be written to disk", "set LimitMEMLOCK=infinity in the unit (the packaged one has it), or swapoff -a", "%s", what)
}

func directories(f *Facts, out *findings) {
	c := f.Config
	if c == nil || f.Release == "" {
		return
	}
	if !f.RunTmpfs {
		out.add(Warning, "run-dir", "a reboot must empty it: what a daemon remembers of its roles and tickets lives there and would be believed after a reboot", "put run_dir on a tmpfs: systemd mounts one at /run; findmnt -T "+c.RunDir+" shows what is there now", "run_dir %s is on no tmpfs", c.RunDir)
	}
	if !f.BPFMounted {
		out.add(Fatal, "bpf-fs", "maps and programs are pinned there, so that packets flow while the daemon is away", "mount -t bpf bpf /sys/fs/bpf", "bpf_dir %s is on no bpf file system", c.BPFDir)
	}
	if f.StateWritable != nil {
		out.add(Fatal, "state-dir", "the ticket log must survive a reboot", "mkdir -p "+c.StateDir, "state_dir cannot be written: %v", f.StateWritable)
	}
}

// sysctlWrong are values that the daemon does not mend by itself.
var sysctlWrong = []struct{ name, bad, good, why string }{
	{"fs.suid_dumpable", "1", "0", "a process that held keys could leave a core file"},
	{"net.core.bpf_jit_enable", "0", "1", "steering is interpreted for every packet"},
}

func sysctls(f *Facts, out *findings) {
	for _, w := range sysctlWrong {
		if f.Sysctls[w.name] == w.bad {
			out.add(Warning, "sysctl", w.why, "sysctl -w "+w.name+"="+w.good, "%s is %s", w.name, w.bad)
		}
	}
}

func clock(f *Facts, out *findings) {
	if f.ClockKnown && !f.ClockSynced {
		out.add(Warning, "clock", "certificates are checked by it, and events of several machines are compared by it", "apt-get install chrony", "the clock is not synchronised")
	}
}

func ports(f *Facts, out *findings) {
	c := f.Config
	if c == nil {
		return
	}
	self := c.Self()
	type need struct {
		proto string
		port  uint16
		what  string
		fix   string
	}
	needs := []need{
		{"udp", 500, "IKE between appliances", "end the other IKE daemon"},
		{"udp", 4500, "IKE between appliances", "end the other IKE daemon"},
		{"udp", self.ProbePort, "probes and claims", "set fleet.appliances[].probe_port, or end the process"},
		{"tcp", self.ReplicationPort, "replication", "set fleet.appliances[].replication_port, or end the process"},
	}
	if c.Operator.IsValid() {
		needs = append(needs, need{"tcp", c.Operator.Port(), "the operator API", "set operator.listen, or end the process"})
	}
	if c.BGP.Enabled() {
		needs = append(needs, need{"tcp", c.BGP.ListenPort, "BGP", "set bgp.listen_port, or end the other BGP daemon"})
		if slices.ContainsFunc(c.BGP.Peers, func(p config.BGPPeer) bool { return p.BFD.Enabled }) {
			needs = append(needs, need{"udp", 3784, "BFD", "end the other BFD daemon"})
		}
	}
	for _, p := range f.Ports {
		for _, n := range needs {
			if p.Protocol != n.proto || p.Addr.Port() != n.port || p.Own || strings.HasPrefix(p.Process, "shadowcastd") {
				continue
			}
			who := p.Process
			if who == "" {
				who = "another process"
			}
			fix := n.fix
			if unit := packaged[p.Process]; unit != "" && n.proto == "udp" {
				fix = "systemctl disable --now " + unit
			}
			out.add(Fatal, "port", n.what+" needs the port", fix, "%s has bound %s %s", who, p.Protocol, p.Addr)
		}
	}
}

// packaged are the units of Debian whose processes take ports of IKE and BFD.
var packaged = map[string]string{"charon-systemd": "strongswan", "charon": "strongswan-starter", "bird": "bird", "bfdd": "frr"}
