package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/safchain/ethtool"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/pki"
	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/shadowcast/shadowcast/sa/charon/swanctl"
)

// networkTime bounds what is tried over the network.
const networkTime = 3 * time.Second

// Network says what is tried over the network, which takes up to 3 s.
type Network struct {
	// Routers are connected to. A running daemon has sessions with them, which
	// another connection from the same address would disturb.
	Routers bool
	// Paths to the other appliances are measured.
	Paths bool
}

// Gather looks at this machine. What cannot be looked at is left out.
func Gather(ctx context.Context, c *config.Config, n Network) *Facts {
	f := &Facts{Config: c, Now: time.Now(), Root: os.Geteuid() == 0}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		f.Release = unix.ByteSliceToString(uts.Release[:])
	}
	if f.Root {
		f.Features = probeKernel()
	}
	f.memory()
	f.RunTmpfs = fileSystem(c.RunDir) == unix.TMPFS_MAGIC
	f.BPFMounted = fileSystem(c.BPFDir) == unix.BPF_FS_MAGIC
	f.StateWritable = writable(c.StateDir)
	f.strongSwan(ctx)
	f.Ports = boundPorts(c.RunDir)
	f.certificates()
	var tx unix.Timex
	if state, err := unix.Adjtimex(&tx); err == nil {
		f.ClockKnown, f.ClockSynced = true, state != unix.TIME_ERROR && tx.Status&unix.STA_UNSYNC == 0
	}
	f.interfaces()
	f.Sysctls = map[string]string{}
	for _, w := range sysctlWrong {
		if b, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(w.name, ".", "/")); err == nil {
			f.Sysctls[w.name] = strings.TrimSpace(string(b))
		}
	}
	f.network(ctx, n)
	return f
}

func (f *Facts) memory() {
	if b, err := os.ReadFile("/proc/swaps"); err != nil || strings.Count(string(b), "\n") > 1 {
		f.Swap = true
	}
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &l) != nil {
		return
	}
	f.MemoryLock = l.Cur == unix.RLIM_INFINITY || f.Root && capable(unix.CAP_SYS_RESOURCE)
}

// capable reports whether this process has a capability.
func capable(c uint) bool {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	return unix.Capget(&h, &d[0]) == nil && d[c/32].Effective&(1<<(c%32)) != 0
}

// fileSystem is the type of the file system that holds path or its nearest parent
// that exists.
func fileSystem(path string) int64 {
	for {
		var st unix.Statfs_t
		if unix.Statfs(path, &st) == nil {
			return int64(st.Type)
		}
		if path == "/" || path == "." {
			return 0
		}
		path = filepath.Dir(path)
	}
}

// writable reports why nothing can be written below path, or its nearest parent that
// exists.
func writable(path string) error {
	for {
		err := unix.Access(path, unix.W_OK)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.ENOENT) || path == "/" {
			return fmt.Errorf("%s: %w", path, err)
		}
		path = filepath.Dir(path)
	}
}

func (f *Facts) strongSwan(ctx context.Context) {
	if _, err := os.Stat(charon.Binary); err == nil {
		f.Charon = charon.Binary
	}
	f.Plugins = map[string]string{}
	for _, p := range []string{"ha", "vici", "kernel-netlink"} {
		f.Plugins[p] = charon.PluginPath(p)
	}
	// The daemon has no option that only tells its version.
	if out, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f=${Version}", "charon-systemd").Output(); err == nil {
		f.Strongswan = string(out)
	}
	c, err := swanctl.Read(f.Config.SwanctlDir)
	if err != nil {
		f.Connections = flatten(err)
		return
	}
	f.Connections = flatten(c.Check(swanctl.Rules{VIPs: f.Config.Fleet.VIPs}))
	f.EAP = c.EAPMethods()
	for _, m := range f.EAP {
		f.Plugins[m] = charon.PluginPath(m)
	}
	f.DPD, f.Names = c.ShortestDPD(), len(c.Connections())
}

// flatten takes joined errors apart.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range j.Unwrap() {
			out = append(out, flatten(e)...)
		}
		return out
	}
	return []error{err}
}

func (f *Facts) certificates() {
	c := f.Config
	id, err := pki.Load(pki.Files{CA: c.PKI.CA, Cert: c.PKI.Cert, Key: c.PKI.Key}, c.Node)
	if err != nil {
		f.Identity = err
	} else {
		f.NotBefore, f.NotAfter, f.CANotAfter = id.NotBefore(), id.NotAfter(), id.CANotAfter()
	}
	_, f.FleetKey = pki.LoadFleetKey(c.FleetKeyFile)
}

func (f *Facts) interfaces() {
	f.Interfaces = map[string]Interface{}
	tool, err := ethtool.NewEthtool()
	if err == nil {
		defer tool.Close()
	}
	for _, name := range append(append([]string{}, f.Config.Uplinks...), f.Config.Inside...) {
		i := Interface{}
		if link, lerr := net.InterfaceByName(name); lerr == nil {
			i = Interface{Exists: true, Up: link.Flags&net.FlagUp != 0, MTU: link.MTU}
			if err == nil {
				i.Features, _ = tool.Features(name) // virtual links have none
			}
		}
		f.Interfaces[name] = i
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				f.LocalAddresses = append(f.LocalAddresses, ip.Unmap())
			}
		}
	}
}

func (f *Facts) network(ctx context.Context, n Network) {
	ctx, cancel := context.WithTimeout(ctx, networkTime)
	defer cancel()
	var g errgroup.Group
	if n.Routers {
		f.Routers = make([]Router, len(f.Config.BGP.Peers))
		for i, p := range f.Config.BGP.Peers {
			g.Go(func() error { f.Routers[i] = tryRouter(ctx, p); return nil })
		}
	}
	if n.Paths {
		others := f.Config.Others()
		f.Paths = make([]Path, len(others))
		for i, a := range others {
			g.Go(func() error { f.Paths[i] = tryPath(ctx, a.Name, a.Address); return nil })
		}
	}
	g.Wait()
}

// tryRouter connects and hangs up: a router takes that for a peer that changed its
// mind.
func tryRouter(ctx context.Context, p config.BGPPeer) Router {
	d := net.Dialer{}
	if p.LocalAddress.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(p.LocalAddress, 0))
	}
	conn, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(p.Address, bgpPort).String())
	if err == nil {
		conn.Close()
	}
	return Router{Name: p.Name, Err: err, Refused: errors.Is(err, unix.ECONNREFUSED)}
}

// bgpPort is that of RFC 4271.
const bgpPort = 179
