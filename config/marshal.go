package config

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Marshal writes c as text that Parse reads back to an equal Config. It checks
// c by reading its own output, so a Config built in Go obeys the same rules;
// the error is Problems then.
func (c *Config) Marshal() ([]byte, error) {
	r := c.raw()
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(r); err != nil {
		return nil, fmt.Errorf("encode config: %w", err)
	}
	if _, err := Parse(b.Bytes()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (c *Config) raw() *rawConfig {
	r := &rawConfig{
		Node: c.Node, RunDir: c.RunDir, StateDir: c.StateDir, BPFDir: c.BPFDir, NetnsPrefix: c.NetnsPrefix,
		SwanctlDir: c.SwanctlDir, FleetKeyFile: c.FleetKeyFile, GeoIPFile: c.GeoIPFile, Shadowing: c.Shadowing,
		Log:     rawLog{Level: levelText(c.Log.Level), Format: c.Log.Format},
		PKI:     rawPKI(c.PKI),
		Uplinks: c.Uplinks, Inside: c.Inside,
		Health: c.Health.raw(), DNS: c.DNS.raw(), Redirect: c.Redirect.raw(),
		BGP: rawBGP{ASN: int(c.BGP.ASN), RouterID: addrText(c.BGP.RouterID), ListenPort: int(c.BGP.ListenPort), MEDBase: int(c.BGP.MEDBase),
			Window: duration(short(c.BGP.ChangeWindow)), MaxChanges: c.BGP.MaxChanges, Dwell: duration(short(c.BGP.Dwell))},
		Fleet: rawFleet{
			Registrars: c.Fleet.Registrars,
			Probe:      rawProbe{Interval: duration(short(c.Fleet.Probe.Interval)), Lost: c.Fleet.Probe.Lost},
			Handover: rawHandover{
				HoldCap:       duration(short(c.Fleet.Handover.HoldCap)),
				DrainTime:     duration(short(c.Fleet.Handover.DrainTime)),
				DrainRate:     c.Fleet.Handover.DrainRate,
				StopDrain:     duration(short(c.Fleet.Handover.StopDrain)),
				RekeySpread:   duration(short(c.Fleet.Handover.RekeySpread)),
				AuditInterval: duration(short(c.Fleet.Handover.AuditInterval)),
				HoldDown:      duration(short(c.Fleet.Handover.HoldDown)),
				ShedLoad:      c.Fleet.Handover.ShedLoad,
				ReturnDamping: duration(short(c.Fleet.Handover.ReturnDamping)),
			},
			ShadowSets: c.Fleet.ShadowSets.raw(),
			Tiers:      c.Fleet.Tiers.raw(),
			DeadMan:    duration(short(c.Fleet.DeadMan)),
		},
	}
	if c.Metrics.IsValid() {
		r.Metrics.Listen = c.Metrics.String()
	}
	if c.Operator.IsValid() {
		r.Operator.Listen = c.Operator.String()
	}
	for _, p := range c.BGP.Peers {
		r.BGP.Peers = append(r.BGP.Peers, rawPeer{
			Name: p.Name, Address: addrText(p.Address), LocalAddress: addrText(p.LocalAddress), ASN: int(p.ASN), Role: string(p.Role),
			BFD:          rawBFD{Enabled: p.BFD.Enabled, Interval: duration(short(p.BFD.Interval)), Multiplier: p.BFD.Multiplier},
			PasswordFile: p.PasswordFile, TTLSecurity: p.TTLSecurity, HoldTime: duration(short(p.HoldTime)), MaxPrefixes: int(p.MaxPrefixes),
			MEDAdd: int(p.MEDAdd), Prepend: int(p.Prepend), DrainPrepend: int(p.DrainPrepend),
			Communities: texts(p.Communities), DrainCommunities: texts(p.DrainCommunities),
		})
	}
	for _, a := range slices.SortedFunc(maps.Keys(c.BGP.VIPMED), netip.Addr.Compare) {
		r.BGP.VIPs = append(r.BGP.VIPs, rawVIP{Address: a.String(), MEDBase: int(c.BGP.VIPMED[a])})
	}
	for _, a := range c.Fleet.Appliances {
		r.Fleet.Appliances = append(r.Fleet.Appliances, rawAppliance{
			Name: a.Name, Site: a.Site, Location: rawLocation{Lat: &a.Location.Lat, Lon: &a.Location.Lon}, Labels: rawLabels(a.Labels),
			Address: addrText(a.Address), ReplicationPort: int(a.ReplicationPort), ProbePort: int(a.ProbePort), RegistrarPort: int(a.RegistrarPort), GossipPort: int(a.GossipPort),
		})
	}
	for _, v := range c.Fleet.VIPs {
		r.Fleet.VIPs = append(r.Fleet.VIPs, v.String())
	}
	for _, s := range c.Fleet.Slots {
		rs := rawSlot{Number: int(s.Number), Home: s.Home}
		if !s.Selected {
			rs.Shadows = append(pinned{}, s.Shadows...)
		}
		for _, p := range s.Pools {
			rs.Pools = append(rs.Pools, p.String())
		}
		r.Fleet.Slots = append(r.Fleet.Slots, rs)
	}
	for _, p := range c.Fleet.Networks {
		r.Fleet.Networks = append(r.Fleet.Networks, p.String())
	}
	for _, a := range c.Fleet.ClientDNS {
		r.Fleet.ClientDNS = append(r.Fleet.ClientDNS, a.String())
	}
	return r
}

func texts(cs []Community) (out []string) {
	for _, c := range cs {
		out = append(out, c.String())
	}
	return out
}

// addrText is a.String, "" for the zero Addr.
func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
