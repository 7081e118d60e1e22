package lab

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/pki"
	"github.com/shadowcast/shadowcast/sa"
)

// sites are where the well-known appliances stand; others are in the ocean.
var sites = map[string]config.Location{
	"ams": {Lat: 52.37, Lon: 4.90},
	"fra": {Lat: 50.11, Lon: 8.68},
	"lhr": {Lat: 51.47, Lon: -0.45},
}

// fleet is the configuration that the appliances share, and its files.
type fleet struct {
	dir    string
	shared config.Fleet
}

// swanctlDir holds the connections and credentials of the gateways.
func (f *fleet) swanctlDir() string { return filepath.Join(f.dir, "swanctl") }

// HomeSlots are the numbers of the home slots of the n-th appliance.
func (l *Lab) HomeSlots(a *Appliance) []sa.Slot {
	var out []sa.Slot
	if len(l.opt.Homes) > 0 && !slices.Contains(l.opt.Homes, a.Name) {
		return nil
	}
	for i := range l.opt.SlotsPerAppliance {
		out = append(out, sa.Slot((a.N-1)*l.opt.SlotsPerAppliance+i+1))
	}
	return out
}

// newFleet writes the fleet's certificates and the gateways' swanctl directory.
func (l *Lab) newFleet() (*fleet, error) {
	f := &fleet{dir: filepath.Join(l.dir, "fleet")}
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make fleet directory: %w", err)
	}
	if _, err := pki.Init(f.dir, pki.Options{}); err != nil {
		return nil, err
	}
	names := l.opt.Appliances
	f.shared = config.Fleet{
		VIPs: l.vips(), DeadMan: time.Second,
		Probe:      l.opt.Probe,
		ShadowSets: l.opt.Shadows,
		Handover:   config.Handover{HoldCap: 100 * time.Millisecond, DrainTime: time.Second, DrainRate: 600, HoldDown: time.Hour},
		Registrars: registrars(names),
		Networks:   l.opt.Networks,
	}
	for _, a := range l.appliances {
		if _, err := pki.Issue(f.dir, a.Name, []netip.Addr{a.Addr}, pki.Options{}); err != nil {
			return nil, err
		}
		site := cmp.Or(l.opt.Sites[a.Name], a.Name)
		loc, ok := sites[site]
		if !ok {
			loc = config.Location{Lat: 0, Lon: -float64(a.N)}
		}
		f.shared.Appliances = append(f.shared.Appliances, config.Appliance{
			Name: a.Name, Site: site, Location: loc, Labels: config.Labels{Rack: a.Name, Power: a.Name},
			Address: a.Addr, ReplicationPort: 4501, ProbePort: 4502, RegistrarPort: 4503, GossipPort: 4504,
		})
		// The next appliances in the circle are the shadows.
		i := slices.Index(names, a.Name)
		circle := append(slices.Clone(names[i+1:]), names[:i]...)
		for _, s := range l.HomeSlots(a) {
			f.shared.Slots = append(f.shared.Slots, config.Slot{
				Number: s, Home: a.Name, Shadows: circle[:min(len(circle), 3)], Selected: l.opt.Chosen, Pools: []netip.Prefix{SlotPool(s)},
			})
		}
	}
	return f, l.writeSwanctl(f.swanctlDir())
}

// registrars are an odd number of the appliances, the last one first: the one that
// scenarios cut off first should not be the one that issues tickets.
func registrars(names []string) []string {
	out := slices.Clone(names)
	slices.Reverse(out)
	return out[:min(len(out)-1+len(out)%2, 5)]
}

// offered are the ways to connect that the gateways know: their own and those of
// the clients, one for each way to authenticate.
func (l *Lab) offered() (conns []ConnSpec, esp []string) {
	all := []ConnSpec{l.opt.Conn}
	for _, c := range l.opt.Clients {
		all = append(all, c.Conn)
	}
	for _, c := range all {
		if !slices.ContainsFunc(conns, func(x ConnSpec) bool { return x.offer() == c.offer() }) {
			conns = append(conns, c)
		}
		if !slices.Contains(esp, c.esp()) {
			esp = append(esp, c.esp())
		}
	}
	return conns, esp
}

// writeSwanctl writes the connections that every gateway offers. The pool's name is
// the one that shadowcastd gives to a slot's IPv4 pool.
func (l *Lab) writeSwanctl(dir string) error {
	conns, esp := l.offered()
	files, body := map[string]string{}, ""
	for _, c := range conns {
		if c.auth() != "psk" {
			files["x509ca/ca.pem"] = certPEM(l.pki.cert.Raw)
			files["x509/gateway.pem"] = certPEM(l.pki.gateway.cert)
			files["pkcs8/gateway.pem"] = keyPEM(l.pki.gateway.key)
		}
		body += fmt.Sprintf(`  %s {
    version = 2
    local_addrs = %s
    remote_addrs = %%any
%s%s    mobike = %s
    proposals = %s
    rekey_time = %s
    rand_time = 0s
    dpd_delay = %s
%s    children {
      net {
        local_ts = %s
%s        esp_proposals = %s
        mode = tunnel
        replay_window = 1024
        rekey_time = %s
        rand_time = 0s
        rekey_packets = %d
        life_packets = %d
      }
    }
  }
`, connectionOf(l, c), joined(l.vips()), c.innerAddress(), c.unique(), yesNo(c.Mobike), ikeProposal, orZero(c.GatewayIKERekey), orZero(c.DPD), c.gatewayAuth(), InsideNet, l.remoteTS(c),
			strings.Join(esp, ", "), orZero(c.GatewayChildRekey), sa.BlockSize/2, sa.BlockSize)
	}
	files["swanctl.conf"] = "connections {\n" + body + "}\n" + l.secrets()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("make swanctl directory: %w", err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return fmt.Errorf("write swanctl file: %w", err)
		}
	}
	return nil
}

// peer6 ends the name of a router's IPv6 session.
const peer6 = "-6"

// vips are the fleet's.
func (l *Lab) vips() []netip.Addr {
	out := append([]netip.Addr{VIP}, l.opt.VIPs...)
	if l.opt.ipv6() {
		out = append(out, VIP6)
	}
	return out
}

// innerAddress has a gateway assign clients one; gateways of sites ask for none.
func (c ConnSpec) innerAddress() string {
	if c.Site.IsValid() {
		return ""
	}
	return "    pools = shadowcast4\n"
}

// unique is what gateways do about a client's second session.
func (c ConnSpec) unique() string {
	if c.Unique == "" {
		return ""
	}
	return "    unique = " + c.Unique + "\n"
}

// remoteTS is what may lie behind a client: its inner address alone, or the networks of
// sites, of which each asks for its own.
func (l *Lab) remoteTS(c ConnSpec) string {
	if !c.Site.IsValid() {
		return ""
	}
	return "        remote_ts = " + joined(l.opt.Networks) + "\n"
}

// joined lists addresses or prefixes as swanctl.conf does.
func joined[T fmt.Stringer](as []T) string {
	var s []string
	for _, a := range as {
		s = append(s, a.String())
	}
	return strings.Join(s, ", ")
}

// Config is the configuration of appliance a as its daemon gets it; a scenario may
// change it before Start.
func (a *Appliance) newConfig() *config.Config {
	l, f := a.lab, a.lab.fleet
	c := &config.Config{
		Node: a.Name, RunDir: a.runDir(), StateDir: filepath.Join(a.dir(), "state"), BPFDir: a.bpfDir(),
		NetnsPrefix: l.id + a.slotPrefix(), SwanctlDir: f.swanctlDir(),
		Log: config.Log{Format: "text"}, Shadowing: !l.opt.NoShadowing,
		PKI:          config.PKI{CA: filepath.Join(f.dir, pki.CACertFile), Cert: filepath.Join(f.dir, a.Name+".crt"), Key: filepath.Join(f.dir, a.Name+".key")},
		FleetKeyFile: filepath.Join(f.dir, pki.FleetKeyFile),
		Metrics:      metricsAddr,
		Uplinks:      []string{devUplink1, devUplink2}, Inside: []string{devInside},
		Fleet: f.shared,
		// The guest has no hardware worth watching; scenarios that want some
		// point the readers at a tree of their own.
		Health: config.DefaultHealth(),
	}
	c.Health.Enabled = false
	if !l.opt.Routers {
		return c
	}
	c.BGP = config.BGP{ASN: ApplianceASN, RouterID: a.Addr, ListenPort: 179, MEDBase: 100, ChangeWindow: 15 * time.Minute, MaxChanges: 2, Dwell: time.Minute}
	type peer struct {
		name string
		net  netip.Prefix
		asn  uint32
		role config.Role
	}
	peers := []peer{{"r1", linkNet(1, a.N), OutsideASN, config.Outside}, {"r2", linkNet(2, a.N), OutsideASN, config.Outside}, {"in", linkNet(insideLink, a.N), InsideASN, config.Inside}}
	if l.opt.ipv6() {
		peers = append(peers, peer{"r1" + peer6, linkNet6(1, a.N), OutsideASN, config.Outside}, peer{"r2" + peer6, linkNet6(2, a.N), OutsideASN, config.Outside})
	}
	for _, p := range peers {
		n := p.net
		c.BGP.Peers = append(c.BGP.Peers, config.BGPPeer{
			Name: p.name, Address: host(n, 1), LocalAddress: host(n, 2), ASN: p.asn, Role: p.role, HoldTime: 9 * time.Second, MaxPrefixes: 1000,
			BFD: config.BFD{Enabled: true, Interval: l.opt.BFD.Interval, Multiplier: l.opt.BFD.Multiplier},
		})
	}
	return c
}
