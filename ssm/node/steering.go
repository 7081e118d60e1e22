package node

import (
	"net/netip"
	"slices"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/sa/slot"
	"github.com/shadowcast/shadowcast/sa/steer"
	"github.com/shadowcast/shadowcast/ssm"
)

// TunnelName is the ipip device towards the other appliances.
const TunnelName = "sctun"

// steering keeps what the steering programs and the inner routes should do. It
// belongs to the core loop.
type steering struct {
	a       *Appliance
	address map[ssm.Node]netip.Addr
	uplink  map[sa.Slot]bool // local for packets from the uplink
	share   []sa.Slot
}

func newSteering(a *Appliance) *steering {
	s := &steering{a: a, address: map[ssm.Node]netip.Addr{}, uplink: map[sa.Slot]bool{}}
	for _, p := range a.cfg.Fleet.Appliances {
		s.address[ssm.Node(p.Name)] = p.Address
	}
	return s
}

// initial is the state before the core has said anything. Slots that an earlier
// daemon owned go on; if somebody claimed them meanwhile, their fence has closed.
func (s *steering) initial() steer.Desired {
	cfg := s.a.cfg
	d := steer.Desired{VIPs: cfg.Fleet.VIPs, Uplinks: cfg.Uplinks, Slots: map[sa.Slot]steer.SlotSteer{}}
	for _, p := range cfg.Fleet.Appliances {
		if p.Name == cfg.Node {
			d.Local = p.Address
		} else {
			d.Peers = append(d.Peers, p.Address)
		}
	}
	if len(d.Peers) > 0 {
		d.Tunnel = TunnelName
	}
	d.Inner = append(d.Inner, cfg.Fleet.Networks...)
	for _, sl := range cfg.Fleet.Slots {
		d.Inner = append(d.Inner, sl.Pools...)
		if was, err := s.a.memory.load(sl.Number); err == nil && was.Role == ssm.RoleOwner && s.a.places.at(sl.Number) != nil {
			local := s.action(sl.Number, ssm.Target{Local: true})
			d.Slots[sl.Number] = steer.SlotSteer{Uplink: local, Peer: local}
		}
	}
	return d
}

// slot carries out one ActSteer: inner routes and both actions.
func (s *steering) slot(x ssm.ActSteer) {
	st := steer.SlotSteer{Uplink: s.action(x.Slot, x.Uplink), Peer: s.action(x.Slot, x.Peer)}
	s.a.problem(x.Slot, "steer", s.a.steer.SetSlot(x.Slot, st))
	s.a.problem(x.Slot, "set the inner routes", s.a.host.SetInner(x.Slot, s.inner(x.Inner)))
	if was := s.uplink[x.Slot]; was != x.Uplink.Local {
		s.uplink[x.Slot] = x.Uplink.Local
		s.push()
	}
}

func (s *steering) action(n sa.Slot, t ssm.Target) steer.Action {
	switch {
	case t.Local:
		l, err := s.a.host.Links(n)
		if err != nil {
			s.a.problem(n, "find the slot's link", err)
			return steer.Action{}
		}
		return steer.Action{Kind: steer.Local, Ifindex: l.HostIndex, SlotMAC: [6]byte(l.SlotMAC), HostMAC: [6]byte(l.HostMAC), NextHop4: l.Next4, NextHop6: l.Next6}
	case t.Remote != "" && t.Remote != ssm.Node(s.a.cfg.Node):
		return steer.Action{Kind: steer.Remote, Peer: s.address[t.Remote]}
	}
	return steer.Action{}
}

func (s *steering) inner(t ssm.Target) slot.Inner {
	switch {
	case t.Local:
		return slot.InnerLocal
	case t.Remote != "" && t.Remote != ssm.Node(s.a.cfg.Node):
		return slot.InnerVia(s.address[t.Remote])
	}
	return slot.InnerNone
}

func (s *steering) newClients(slots []sa.Slot) {
	s.share = slots
	s.push()
}

// push tells who takes new clients, ICMP echo, and ICMP errors.
func (s *steering) push() {
	var active []sa.Slot
	for n, local := range s.uplink {
		if local {
			active = append(active, n)
		}
	}
	slices.Sort(active)
	def := sa.Slot(0)
	if len(s.share) > 0 {
		def = s.share[0]
	}
	s.a.problem(0, "steer new clients", s.a.steer.SetShare(steer.Share{NewClients: s.share, Default: def, LocalActive: active}))
}

// knownSlot reports whether the fleet has slot n.
func (a *Appliance) knownSlot(n sa.Slot) bool {
	return slices.ContainsFunc(a.cfg.Fleet.Slots, func(s config.Slot) bool { return s.Number == n })
}

// fleetSlot returns the configuration of slot n.
func fleetSlot(cfg *config.Config, n sa.Slot) config.Slot {
	i := slices.IndexFunc(cfg.Fleet.Slots, func(s config.Slot) bool { return s.Number == n })
	return cfg.Fleet.Slots[i]
}
