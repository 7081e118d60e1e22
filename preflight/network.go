package preflight

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/shadowcast/shadowcast/config"
)

func uintText(n uint64) string { return strconv.FormatUint(n, 10) }

func interfaces(f *Facts, out *findings) {
	c := f.Config
	if c == nil || f.Interfaces == nil {
		return
	}
	for _, group := range []struct {
		key   string
		names []string
		why   string
	}{{"uplinks", c.Uplinks, "clients' packets arrive there"}, {"inside", c.Inside, "the protected network is there"}} {
		for _, name := range group.names {
			switch i := f.Interfaces[name]; {
			case !i.Exists:
				out.add(Fatal, "interface", group.why, "set "+group.key+" to a name that `ip link` shows", "%s: there is no interface %s", group.key, name)
			case !i.Up:
				out.add(Warning, "interface", group.why, "ip link set "+name+" up", "%s: %s is down", group.key, name)
			case i.MTU < 1500:
				out.add(Warning, "mtu", "ESP of full-size packets does not fit", "ip link set "+name+" mtu 1500", "%s: %s has an MTU of %d", group.key, name, i.MTU)
			}
		}
	}
	if self := c.Self().Address; self.IsValid() && !slices.Contains(f.LocalAddresses, self) {
		out.add(Fatal, "address", "peers talk to it and BGP announces it", "ip addr add "+self.String()+"/32 dev lo", "this machine does not have its own address %s (fleet.appliances)", self)
	}
	for _, v := range c.Fleet.VIPs {
		if slices.Contains(f.LocalAddresses, v) {
			out.add(Fatal, "vip-address", "the VIP lives inside the slots; here it would take their packets", "ip addr del "+netip.PrefixFrom(v, v.BitLen()).String()+" dev lo", "this machine has the VIP %s in its own namespace", v)
		}
	}
	for _, p := range c.BGP.Peers {
		kind, names := "the uplink", c.Uplinks
		if p.Role == config.Inside {
			kind, names = "the inside interface", c.Inside
		}
		device := kind + " that leads to " + p.Name
		if len(names) > 0 {
			device += ": " + strings.Join(names, " or ")
		}
		if p.LocalAddress.IsValid() && !slices.Contains(f.LocalAddresses, p.LocalAddress) {
			out.add(Fatal, "bgp-address", "the session with "+p.Name+" is made from it", "ip addr add "+p.LocalAddress.String()+"/LENGTH dev DEVICE, with "+device, "this machine does not have %s (bgp.peers, local_address of %s)", p.LocalAddress, p.Name)
		}
	}
}

// badOffloads are features of a network interface that break a promise.
var badOffloads = []struct{ feature, why string }{
	{"esp-hw-offload", "sequence numbers grow in the card, where neither the block's limit nor samples see them"},
	{"rx-lro", "it merges packets that are forwarded, and steering cannot split them"},
}

func offloads(f *Facts, out *findings) {
	for _, name := range slices.Sorted(maps.Keys(f.Interfaces)) {
		for _, b := range badOffloads {
			if f.Interfaces[name].Features[b.feature] {
				short := strings.TrimPrefix(b.feature, "rx-")
				out.add(Warning, "offload", b.why, "ethtool -K "+name+" "+short+" off", "%s has %s switched on", name, b.feature)
			}
		}
	}
}

func routers(f *Facts, out *findings) {
	c := f.Config
	if c == nil {
		return
	}
	if !c.BGP.Enabled() {
		out.add(Warning, "bgp-off", "nothing is announced: clients do not find this appliance, and its death is noticed late", "add the section bgp", "BGP is switched off")
		return
	}
	for _, r := range f.Routers {
		const why = "without BGP the VIP is not announced there"
		switch {
		case r.Refused:
			out.add(Warning, "bgp-refused", why, "configure the session at the router; see configs/routers", "router %s refuses BGP connections", r.Name)
		case r.Err != nil:
			out.add(Warning, "bgp-unreachable", why, "check addresses, the link and filters: bgp.peers of "+r.Name, "router %s does not answer on its BGP port: %v", r.Name, r.Err)
		}
	}
	for i, p := range c.BGP.Peers {
		if p.Role == config.Outside && !p.BFD.Enabled {
			out.add(Info, "bfd-off", "a dead appliance keeps its routes until the hold time of "+p.HoldTime.String()+" is over", "set bgp.peers["+strconv.Itoa(i)+"].bfd.enabled: true, and the neighbour in the router's BFD", "no BFD with router %s", p.Name)
		}
	}
}

// Packets between appliances: a client's packet of 1500 bytes and the outer header
// of the tunnel.
const (
	fullPacket   = 1500
	tunnelPacket = fullPacket + 20
)

func paths(f *Facts, out *findings) {
	for _, p := range f.Paths {
		switch {
		case !p.Answers:
			out.add(Warning, "peer-unreachable", "probes, replication and tunnels go there", "ping "+p.Address.String()+"; check the route and filters (ICMP, UDP 4502, TCP 4501, UDP 500, ESP)", "appliance %s does not answer an echo", p.Peer)
		case p.MTU < fullPacket:
			out.add(Warning, "path-mtu", "packets for other owners are fragmented more than once, and fragments are lost together", "raise the MTU of the links between the appliances to "+strconv.Itoa(tunnelPacket)+" or more", "the path to %s carries packets of %d bytes at most", p.Peer, p.MTU)
		case p.MTU < tunnelPacket:
			out.add(Info, "path-mtu", "full-size packets that enter at the wrong appliance are sent on in two fragments", "raise the MTU of the links between the appliances to "+strconv.Itoa(tunnelPacket)+" or more", "the path to %s carries no packets of %d bytes", p.Peer, tunnelPacket)
		}
	}
}
