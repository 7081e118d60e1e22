package node

import (
	"context"
	"encoding/binary"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/shadowcast/shadowcast/bgp"
	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm"
)

// routes turns what the core wants announced into the speaker's desired state.
type routes struct {
	a       *Appliance
	speaker *bgp.Speaker // nil without BGP
	wanted  *latest[ssm.ActAnnounce]
	asked   atomic.Uint64 // wishes so far
	told    atomic.Uint64 // wishes that the speaker has

	mu       sync.Mutex
	last     ssm.ActAnnounce            // the newest wish
	networks map[sa.Slot][]netip.Prefix // behind the clients of slots here, beside the pools
}

func newRoutes(a *Appliance) (*routes, error) {
	r := &routes{a: a, wanted: newLatest[ssm.ActAnnounce](), networks: map[sa.Slot][]netip.Prefix{}}
	cfg := a.cfg
	if !cfg.BGP.Enabled() {
		return r, nil
	}
	c := bgp.Config{ASN: cfg.BGP.ASN, RouterID: cfg.BGP.RouterID, ListenPort: int(cfg.BGP.ListenPort), Node: cfg.Node, OnEvent: r.onEvent,
		ChangeWindow: cfg.BGP.ChangeWindow, MaxChanges: cfg.BGP.MaxChanges, Dwell: cfg.BGP.Dwell}
	for _, p := range cfg.Fleet.Appliances {
		c.FleetLiveness = append(c.FleetLiveness, hostPrefix(p.Address))
	}
	for _, p := range cfg.BGP.Peers {
		bp := bgp.Peer{Name: p.Name, Address: p.Address, LocalAddress: p.LocalAddress, ASN: p.ASN, Role: bgp.Outside,
			BFD:         bgp.BFD{Enabled: p.BFD.Enabled, Interval: p.BFD.Interval, Multiplier: uint8(p.BFD.Multiplier)},
			TTLSecurity: p.TTLSecurity, HoldTime: p.HoldTime, MaxPrefixes: p.MaxPrefixes,
			MEDAdd: p.MEDAdd, Prepend: p.Prepend, DrainPrepend: p.DrainPrepend,
			Communities: communities(p.Communities), DrainCommunities: communities(p.DrainCommunities)}
		if p.Role == config.Inside {
			bp.Role = bgp.Inside
		}
		if p.PasswordFile != "" {
			b, err := os.ReadFile(p.PasswordFile)
			if err != nil {
				return nil, err
			}
			bp.Password = bgp.Password(strings.TrimSpace(string(b)))
		}
		c.Peers = append(c.Peers, bp)
	}
	var err error
	r.speaker, err = bgp.New(c, a.log)
	return r, err
}

func (r *routes) onEvent(e bgp.Event) {
	switch e.Kind {
	case bgp.PeerUp:
		r.a.events.Add(Entry{Kind: "bgp", Text: "BGP session with " + e.Peer + " is up"})
	case bgp.PeerDown:
		r.a.events.Add(Entry{Kind: "bgp", Warn: true, Text: "BGP session with " + e.Peer + " is down", Reason: e.Reason})
	case bgp.PeerRefused:
		r.a.events.Add(Entry{Kind: "bgp", Warn: true, Text: "BGP session with " + e.Peer + " does not come up", Reason: e.Reason})
	case bgp.PeerFlapping:
		r.a.events.Add(Entry{Kind: "bgp", Warn: true, Text: "BGP session with " + e.Peer + " flaps", Reason: e.Reason})
	case bgp.BFDRefused:
		r.a.events.Add(Entry{Kind: "bgp", Warn: true, Text: "BFD packet of " + e.Peer + " refused", Reason: e.Reason})
	case bgp.VIPRetired:
		r.a.events.Add(Entry{Kind: "bgp", Warn: true, Text: "VIP " + e.Prefix.Addr().String() + " is taken back", Reason: e.Reason})
	case bgp.LivenessUp, bgp.LivenessDown:
		if e.Kind == bgp.LivenessDown && !e.Withdrawn {
			return // we lost our own sessions; that says nothing about the other
		}
		for _, p := range r.a.cfg.Fleet.Appliances {
			if hostPrefix(p.Address) == e.Prefix && p.Name != r.a.cfg.Node {
				r.a.post(ssm.EvLiveness{Node: ssm.Node(p.Name), Up: e.Kind == bgp.LivenessUp})
			}
		}
	}
}

func (r *routes) want(x ssm.ActAnnounce) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = x
	r.asked.Add(1)
	r.wanted.put(x)
}

// behind says which networks lie behind the clients of slot n: they are announced where
// its pools are.
func (r *routes) behind(n sa.Slot, ps []netip.Prefix) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Equal(r.networks[n], ps) {
		return
	}
	r.networks[n] = ps
	r.asked.Add(1)
	r.wanted.put(r.last)
}

// behindOf are the networks behind the clients of slot n, as far as this appliance knows.
func (r *routes) behindOf(n sa.Slot) []netip.Prefix {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.networks[n]
}

// convergence is what a neighbour on the same link needs to put an announcement
// into its kernel: 5 to 50 ms with BIRD.
const convergence = 30 * time.Millisecond

// converge waits until the newest wish has been announced and had time to arrive,
// at most limit. It gives the packets of a takeover precedence over bookkeeping
// that grows with the number of sessions.
func (r *routes) converge(ctx context.Context, limit time.Duration) {
	if r.speaker == nil {
		return
	}
	end := time.NewTimer(limit)
	defer end.Stop()
	every := time.NewTicker(5 * time.Millisecond)
	defer every.Stop()
	for want := r.asked.Load(); r.told.Load() < want; {
		select {
		case <-ctx.Done():
			return
		case <-end.C:
			return
		case <-every.C:
		}
	}
	select {
	case <-ctx.Done():
	case <-end.C:
	case <-time.After(convergence):
	}
}

// run applies what is wanted. The liveness route is announced from the start:
// it says "this appliance runs", not "send me packets".
func (r *routes) run(ctx context.Context) error {
	if r.speaker == nil {
		<-ctx.Done()
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-r.speaker.Ready():
	}
	r.a.problem(0, "announce liveness", r.speaker.Set(r.desired(ssm.ActAnnounce{})))
	return r.wanted.run(ctx, func(x ssm.ActAnnounce) {
		n := r.asked.Load()
		r.a.problem(0, "announce", r.speaker.Set(r.desired(x)))
		r.told.Store(n)
	})
}

func (r *routes) desired(x ssm.ActAnnounce) bgp.Desired {
	cfg := r.a.cfg
	// Ownership changes and what an operator asks for are this service's
	// purpose, not flapping: they pass the change budget that estimates of
	// health and load must keep to.
	d := bgp.Desired{Level: level(x.Level), MEDBase: cfg.BGP.MEDBase, Force: !x.Paced}
	d.Owner = ownerTag(cfg)
	d.VIPMED = map[netip.Prefix]uint32{}
	for _, v := range cfg.Fleet.VIPs {
		d.VIPs = append(d.VIPs, hostPrefix(v))
		if med, ok := cfg.BGP.VIPMED[v]; ok {
			d.VIPMED[hostPrefix(v)] = med
		}
	}
	d.InnerSlot = map[netip.Prefix]uint32{}
	for _, p := range cfg.Fleet.Appliances {
		if p.Name == cfg.Node {
			d.Liveness = append(d.Liveness, hostPrefix(p.Address))
		}
	}
	pools := func(to *[]netip.Prefix, slots []sa.Slot) {
		for _, n := range slots {
			for _, p := range slices.Concat(fleetSlot(cfg, n).Pools, r.behindOf(n)) {
				if _, dup := d.InnerSlot[p]; dup {
					continue // two slots have a client with this network; what is ours goes first
				}
				*to, d.InnerSlot[p] = append(*to, p), uint32(n)
			}
		}
	}
	pools(&d.Inner, x.Pools)
	pools(&d.Backup, x.Backup)
	return d
}

// ownerTag says on every VIP and pool which appliance announces it: the router id
// is an IPv4 address.
func ownerTag(cfg *config.Config) bgp.LargeCommunity {
	id := cfg.BGP.RouterID.As4()
	return bgp.LargeCommunity{Global: cfg.BGP.ASN, Function: bgp.TagOwner, Value: binary.BigEndian.Uint32(id[:])}
}

func communities(cs []config.Community) (out []bgp.Community) {
	for _, c := range cs {
		out = append(out, bgp.Community(c))
	}
	return out
}

// level is the speaker's rung for one of the core's.
func level(l ssm.Level) bgp.Level {
	switch l {
	case ssm.LevelNormal:
		return bgp.Normal
	case ssm.LevelDegraded:
		return bgp.Degraded
	case ssm.LevelDraining:
		return bgp.Draining
	}
	return bgp.Withdrawn
}

// withdraw takes the VIP back in an orderly way before the process ends.
func (r *routes) withdraw() {
	if r.speaker == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	r.a.problem(0, "withdraw the VIP", r.speaker.Withdraw(ctx))
}

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
