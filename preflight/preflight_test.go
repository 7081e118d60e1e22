package preflight

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/sa"
)

var now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// fine are the facts of a machine without a fault.
func fine(t *testing.T) *Facts {
	t.Helper()
	c, err := config.Parse([]byte(config.Example()))
	if err != nil {
		t.Fatal(err)
	}
	for i := range c.BGP.Peers {
		c.BGP.Peers[i].BFD.Enabled = true
	}
	f := &Facts{Config: c, Now: now, Root: true, Release: "6.1.0-28-amd64", Features: map[Feature]error{}, MemoryLock: true, RunTmpfs: true, BPFMounted: true,
		Charon: "/usr/sbin/charon-systemd", Plugins: map[string]string{"ha": "/x", "vici": "/x", "kernel-netlink": "/x"}, Strongswan: "5.9.8-5+deb12u1", DPD: time.Minute, Names: 1,
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0), CANotAfter: now.AddDate(9, 0, 0), ClockKnown: true, ClockSynced: true,
		Interfaces: map[string]Interface{"eth0": {Exists: true, Up: true, MTU: 1500}, "eth1": {Exists: true, Up: true, MTU: 1500}},
		Sysctls:    map[string]string{"fs.suid_dumpable": "0", "net.core.bpf_jit_enable": "1"},
		Routers:    []Router{{Name: "edge1"}, {Name: "core1"}},
		Paths:      []Path{{Peer: "fra", Answers: true, MTU: 1520}, {Peer: "lhr", Answers: true, MTU: 1520}},
		Sessions:   map[sa.Slot]uint64{1: 1000}}
	f.LocalAddresses = append(f.LocalAddresses, c.Self().Address)
	for _, p := range c.BGP.Peers {
		f.LocalAddresses = append(f.LocalAddresses, p.LocalAddress)
	}
	for _, x := range []Feature{XFRM, ESN, Netns, Veth, ClsBPF, RingBuf, RedirectBPF, IPIP, GRE6, Plug} {
		f.Features[x] = nil
	}
	f.Ports = []Port{{"udp", netip.MustParseAddrPort("0.0.0.0:500"), "charon-systemd", true}, {"tcp", netip.MustParseAddrPort("192.0.2.11:4501"), "shadowcastd", false}, {"tcp", netip.MustParseAddrPort("0.0.0.0:22"), "sshd", false}}
	return f
}

func TestNothingToFind(t *testing.T) {
	for _, f := range Check(fine(t)) {
		t.Errorf("%s %s: %s", f.Severity, f.Check, f.What)
	}
}

// What was not looked at is not complained about.
func TestUnknownIsNoFault(t *testing.T) {
	c := fine(t).Config
	for _, f := range Check(&Facts{Config: c, Root: true, MemoryLock: true}) {
		t.Errorf("%s %s: %s", f.Severity, f.Check, f.What)
	}
}

// Each fault alone yields exactly its finding, with what, why and a fix.
func TestFindings(t *testing.T) {
	lacks := func(x Feature) func(*Facts) {
		return func(f *Facts) { f.Features[x] = errors.New("operation not supported") }
	}
	link := func(change func(*Interface)) func(*Facts) {
		return func(f *Facts) { i := f.Interfaces["eth0"]; change(&i); f.Interfaces["eth0"] = i }
	}
	for _, c := range []struct {
		name     string
		fault    func(*Facts)
		check    string
		severity Severity
		what     string // in What
		fix      string // in Fix
	}{
		{"no root", func(f *Facts) { f.Root = false }, "root", Fatal, "not running as root", "sudo"},
		{"no ESP", lacks(XFRM), "kernel", Fatal, "lacks XFRM (ESP): operation not supported", "modprobe -a esp4"},
		{"no ipip", lacks(IPIP), "kernel", Fatal, "lacks ipip", "modprobe -a ipip"},
		{"no plug", lacks(Plug), "kernel", Warning, "lacks sch_plug", "modprobe -a sch_plug"},
		{"no gre, IPv6 pools", lacks(GRE6), "kernel", Fatal, "lacks gre", "modprobe -a ip_gre"},
		{"no ring buffer", lacks(RingBuf), "kernel", Fatal, "lacks BPF ring buffer", "boot a kernel 6.1"},
		{"old kernel", func(f *Facts) { f.Release = "5.10.0-30-amd64" }, "kernel-version", Info, "kernel 5.10.0", "newer kernel"},
		{"memory with swap", func(f *Facts) { f.MemoryLock, f.Swap = false, true }, "memory-lock", Fatal, "swap space", "LimitMEMLOCK=infinity"},
		{"memory without swap", func(f *Facts) { f.MemoryLock = false }, "memory-lock", Warning, "cannot be locked", "LimitMEMLOCK=infinity"},
		{"run_dir on disk", func(f *Facts) { f.RunTmpfs = false }, "run-dir", Warning, "/run/shadowcast is on no tmpfs", "findmnt -T /run/shadowcast"},
		{"no bpf file system", func(f *Facts) { f.BPFMounted = false }, "bpf-fs", Fatal, "no bpf file system", "mount -t bpf bpf /sys/fs/bpf"},
		{"read-only state", func(f *Facts) { f.StateWritable = errors.New("read-only file system") }, "state-dir", Fatal, "read-only file system", "mkdir -p /var/lib/shadowcast"},
		{"no strongSwan", func(f *Facts) { f.Charon = "" }, "strongswan", Fatal, "charon-systemd is not installed", "apt-get install charon-systemd"},
		{"no plugin of an EAP method", func(f *Facts) { f.EAP = []string{"eap-mschapv2"} }, "eap-plugin", Warning, "ask for eap-mschapv2", "libcharon-extauth-plugins"},
		{"no ha plugin", func(f *Facts) { f.Plugins["ha"] = "" }, "strongswan-plugin", Fatal, "plugin ha", "libcharon-extra-plugins"},
		{"strongSwan 7", func(f *Facts) { f.Strongswan = "7.0.0-1" }, "strongswan-version", Fatal, "strongSwan 7.0.0-1", "5.9 or 6.0"},
		{"wrong connection", func(f *Facts) {
			f.Connections = []error{errors.New("rw.conf:12: connections.rw.children.net.life_packets: 1, want 67108864")}
		}, "connection", Fatal, "life_packets", "/etc/swanctl"},
		{"no connection", func(f *Facts) { f.Names = 0 }, "no-connections", Warning, "no connection", "conf.d"},
		{"no DPD", func(f *Facts) { f.DPD = 0 }, "dpd", Info, "dpd_delay", "dpd_delay = 60s"},
		{"IKE taken", func(f *Facts) {
			f.Ports = append(f.Ports, Port{"udp", netip.MustParseAddrPort("0.0.0.0:500"), "pluto", false})
		}, "port", Fatal, "pluto has bound udp 0.0.0.0:500", "other IKE daemon"},
		{"the packaged strongSwan", func(f *Facts) {
			f.Ports = append(f.Ports, Port{"udp", netip.MustParseAddrPort("0.0.0.0:4500"), "charon-systemd", false})
		}, "port", Fatal, "charon-systemd has bound udp 0.0.0.0:4500", "systemctl disable --now strongswan"},
		{"BGP taken", func(f *Facts) {
			f.Ports = append(f.Ports, Port{"tcp", netip.MustParseAddrPort("[::]:179"), "bird", false})
		}, "port", Fatal, "bird has bound tcp [::]:179", "bgp.listen_port"},
		{"BFD taken by somebody", func(f *Facts) {
			f.Ports = append(f.Ports, Port{"udp", netip.MustParseAddrPort("0.0.0.0:3784"), "", false})
		}, "port", Fatal, "another process has bound udp", "other BFD daemon"},
		{"certificate broken", func(f *Facts) { f.Identity = errors.New("read ams.crt: no such file") }, "certificate", Fatal, "no such file", "shadowctl pki issue ams --address 192.0.2.11"},
		{"certificate over", func(f *Facts) { f.NotAfter = now.Add(-time.Hour) }, "certificate-expired", Fatal, "ended on 2026-11-01", "shadowctl pki issue ams"},
		{"certificate ends", func(f *Facts) { f.NotAfter = now.AddDate(0, 0, 10) }, "certificate-ends", Warning, "ends on 2026-11-11", "shadowctl pki issue ams --address 192.0.2.11 --dir pki --force, where"},
		{"CA ends", func(f *Facts) { f.CANotAfter = now.AddDate(0, 0, 10) }, "certificate-ends", Warning, "the CA /etc/shadowcast/pki/ca.crt", "shadowctl pki rotate --dir pki, where"},
		{"CA over", func(f *Facts) { f.CANotAfter = now.Add(-time.Hour) }, "certificate-expired", Fatal, "the CA /etc/shadowcast/pki/ca.crt ended", "Replace the fleet's CA"},
		{"clock behind", func(f *Facts) { f.NotBefore = now.Add(time.Hour) }, "certificate-future", Fatal, "valid from 2026-11-01 13:00:00", "timedatectl"},
		{"no fleet key", func(f *Facts) { f.FleetKey = errors.New("open fleet.key: no such file") }, "fleet-key", Fatal, "fleet.key", "/etc/shadowcast/pki/fleet.key"},
		{"clock alone", func(f *Facts) { f.ClockSynced = false }, "clock", Warning, "not synchronised", "chrony"},
		{"no interface", link(func(i *Interface) { *i = Interface{} }), "interface", Fatal, "uplinks: there is no interface eth0", "ip link"},
		{"interface down", link(func(i *Interface) { i.Up = false }), "interface", Warning, "eth0 is down", "ip link set eth0 up"},
		{"small MTU", link(func(i *Interface) { i.MTU = 1400 }), "mtu", Warning, "MTU of 1400", "mtu 1500"},
		{"ESP offload", link(func(i *Interface) { i.Features = map[string]bool{"esp-hw-offload": true} }), "offload", Warning, "eth0 has esp-hw-offload", "ethtool -K eth0 esp-hw-offload off"},
		{"LRO", link(func(i *Interface) { i.Features = map[string]bool{"rx-lro": true} }), "offload", Warning, "eth0 has rx-lro", "ethtool -K eth0 lro off"},
		{"own address missing", func(f *Facts) { f.LocalAddresses = f.LocalAddresses[1:] }, "address", Fatal, "192.0.2.11", "ip addr add 192.0.2.11/32 dev lo"},
		{"BGP address outside missing", func(f *Facts) { f.LocalAddresses = slices.Delete(f.LocalAddresses, 1, 2) }, "bgp-address", Fatal, "203.0.113.2", "ip addr add 203.0.113.2/LENGTH dev DEVICE, with the uplink that leads to edge1: eth0"},
		{"BGP address inside missing", func(f *Facts) { f.LocalAddresses = f.LocalAddresses[:2] }, "bgp-address", Fatal, "10.0.0.2", "ip addr add 10.0.0.2/LENGTH dev DEVICE, with the inside interface that leads to core1: eth1"},
		{"BGP address inside missing, interface unknown", func(f *Facts) { f.LocalAddresses, f.Config.Inside = f.LocalAddresses[:2], nil }, "bgp-address", Fatal, "10.0.0.2", "with the inside interface that leads to core1"},
		{"VIP here", func(f *Facts) { f.LocalAddresses = append(f.LocalAddresses, f.Config.Fleet.VIPs[0]) }, "vip-address", Fatal, "VIP 198.51.100.1", "ip addr del 198.51.100.1/32 dev lo"},
		{"dumpable", func(f *Facts) { f.Sysctls["fs.suid_dumpable"] = "1" }, "sysctl", Warning, "fs.suid_dumpable is 1", "sysctl -w fs.suid_dumpable=0"},
		{"no JIT", func(f *Facts) { f.Sysctls["net.core.bpf_jit_enable"] = "0" }, "sysctl", Warning, "bpf_jit_enable is 0", "bpf_jit_enable=1"},
		{"router silent", func(f *Facts) { f.Routers[0].Err = errors.New("i/o timeout") }, "bgp-unreachable", Warning, "edge1", "bgp.peers"},
		{"router refuses", func(f *Facts) { f.Routers[0].Err, f.Routers[0].Refused = errors.New("refused"), true }, "bgp-refused", Warning, "edge1 refuses", "configs/routers"},
		{"no BGP", func(f *Facts) { f.Config.BGP = config.BGP{} }, "bgp-off", Warning, "switched off", "bgp"},
		{"no BFD", func(f *Facts) { f.Config.BGP.Peers[0].BFD.Enabled = false }, "bfd-off", Info, "edge1", "bgp.peers[0].bfd.enabled"},
		{"peer silent", func(f *Facts) { f.Paths[0] = Path{Peer: "fra", Address: netip.MustParseAddr("192.0.2.12")} }, "peer-unreachable", Warning, "fra", "ping 192.0.2.12"},
		{"narrow path", func(f *Facts) { f.Paths[0].MTU = 1400 }, "path-mtu", Warning, "1400 bytes", "1520"},
		{"plain path", func(f *Facts) { f.Paths[0].MTU = 1500 }, "path-mtu", Info, "no packets of 1520 bytes", "1520"},
		{"pool full", func(f *Facts) { f.Sessions[1] = 60000 }, "pool-space", Warning, "pool 10.1.0.0/16 of slot 1", "fleet.slots[].pools"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := fine(t)
			c.fault(f)
			got := Check(f)
			if len(got) != 1 {
				t.Fatalf("%d findings, want one: %+v", len(got), got)
			}
			g := got[0]
			if g.Check != c.check || g.Severity != c.severity || !strings.Contains(g.What, c.what) || !strings.Contains(g.Fix, c.fix) || g.Why == "" {
				t.Errorf("found %+v; want %s %s with %q, mended by %q", g, c.severity, c.check, c.what, c.fix)
			}
		})
	}
}

func TestWorstFirst(t *testing.T) {
	f := fine(t)
	f.DPD, f.ClockSynced, f.Charon = 0, false, ""
	got := Check(f)
	if len(got) != 3 || got[0].Severity != Fatal || got[2].Severity != Info || Worst(got) != Fatal || Worst(nil) != Info {
		t.Errorf("%+v", got)
	}
}

// The machine of the test can be looked at, whatever it is like.
func TestGather(t *testing.T) {
	f := fine(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := Gather(t.Context(), f.Config, Network{Routers: true, Paths: true})
	if got.Release == "" || got.Interfaces == nil || len(got.Paths) != 2 || len(got.Routers) != 2 || got.Identity == nil {
		t.Errorf("%+v", got)
	}
	if got.Root && len(got.Features) == 0 {
		t.Error("root, but no feature of the kernel was tried")
	}
	here := l.Addr().(*net.TCPAddr).AddrPort()
	if !slices.ContainsFunc(got.Ports, func(p Port) bool { return p.Protocol == "tcp" && p.Addr == here && p.Process == "preflight.test" }) {
		t.Errorf("our own listener %s is not among %+v", here, got.Ports)
	}
	found := Check(got)
	for _, want := range []string{"certificate", "address"} { // the example's files are not here
		ok := false
		for _, x := range found {
			ok = ok || x.Check == want
		}
		if !ok {
			t.Errorf("no finding %s: %+v", want, found)
		}
	}
}

func TestOwnCharon(t *testing.T) {
	for name, c := range map[string]struct {
		comm, environ string
		want          bool
	}{
		"ours":     {"charon-systemd", "PATH=/bin\x00STRONGSWAN_CONF=/run/shadowcast/fabric/strongswan.conf\x00", true},
		"packaged": {"charon-systemd", "PATH=/bin\x00", false},
		"another":  {"charon-systemd", "STRONGSWAN_CONF=/run/shadowcast2/strongswan.conf\x00", false},
		"no IKE":   {"named", "STRONGSWAN_CONF=/run/shadowcast/fabric/strongswan.conf\x00", false},
	} {
		dir := t.TempDir()
		for file, text := range map[string]string{"comm": c.comm + "\n", "environ": c.environ} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := ownCharon(dir, "/run/shadowcast"); got != c.want {
			t.Errorf("%s: own %t", name, got)
		}
	}
}
