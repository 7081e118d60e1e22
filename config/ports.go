package config

import "net/netip"

// listener is a TCP port of the daemon. An invalid address is all of the machine's.
type listener struct {
	what string
	addr netip.Addr
	port uint16
}

func (l listener) clashes(m listener) bool {
	everywhere := func(a netip.Addr) bool { return !a.IsValid() || a.IsUnspecified() }
	return l.port == m.port && (l.addr == m.addr || everywhere(l.addr) || everywhere(m.addr))
}

// ports refuses addresses for people that the daemon needs itself: it would end at its
// start, or go on without one of the two.
func (c *collector) ports(cfg *Config) {
	own, _ := cfg.Fleet.Appliance(cfg.Node)
	taken := []listener{
		{"fleet.appliances' replication_port", own.Address, own.ReplicationPort},
		{"fleet.appliances' registrar_port", own.Address, own.RegistrarPort},
		{"fleet.appliances' gossip_port", own.Address, own.GossipPort},
	}
	if len(cfg.BGP.Peers) > 0 {
		taken = append(taken, listener{"bgp.listen_port", netip.Addr{}, cfg.BGP.ListenPort})
	}
	for _, p := range []struct {
		path string
		at   netip.AddrPort
	}{{"metrics.listen", cfg.Metrics}, {"operator.listen", cfg.Operator}} {
		if !p.at.IsValid() {
			continue
		}
		l := listener{p.path, p.at.Addr().Unmap(), p.at.Port()}
		for _, t := range taken {
			if l.clashes(t) {
				c.addf(p.path, "%s is where %s listens already; want another port", p.at, t.what)
				break
			}
		}
		taken = append(taken, l)
	}
}
