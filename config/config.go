package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// Config is the configuration of one appliance. A Config returned by Load or
// Parse satisfies every rule of this package.
type Config struct {
	// Node is this appliance's name, one of Fleet.Appliances.
	Node string
	// RunDir holds sockets and per-slot run-time files; it is emptied by a reboot.
	RunDir string
	// StateDir holds what must survive a reboot (the ticket log).
	StateDir string
	// BPFDir is the directory on a bpf file system in which maps and programs
	// are pinned.
	BPFDir string
	// NetnsPrefix starts the name of every slot namespace, NetnsPrefix+number.
	NetnsPrefix string
	// SwanctlDir holds the operators' swanctl connections and credentials.
	SwanctlDir string
	Log        Log
	PKI        PKI
	// FleetKeyFile holds the symmetric key of the fleet (pki.LoadFleetKey).
	FleetKeyFile string
	// GeoIPFile is a MaxMind DB that says where clients are, for the choice of shadows
	// where nothing has been measured; empty: none.
	GeoIPFile string
	// Shadowing keeps sessions on shadows. False is for comparison only: a dead
	// appliance then takes its sessions with it.
	Shadowing bool
	// Metrics is where the Prometheus endpoint listens; the zero value is off.
	Metrics netip.AddrPort
	// Operator is where the operator API listens for people with certificates; the
	// zero value is off. The local socket is always there.
	Operator netip.AddrPort
	// Uplinks are the interfaces on which clients' packets arrive.
	Uplinks []string
	// Inside are the interfaces towards the protected network.
	Inside   []string
	BGP      BGP
	DNS      DNS
	Redirect Redirect
	Health   Health
	// Fleet is the same on every appliance; Fleet.Digest proves it.
	Fleet Fleet
}

// Log says what is logged and how.
type Log struct {
	Level  slog.Level
	Format string // "text" or "json"
}

// PKI names the PEM files of the fleet CA and of this appliance.
type PKI struct{ CA, Cert, Key string }

// Fleet is what all appliances must agree on.
type Fleet struct {
	Appliances []Appliance
	// VIPs are the anycast addresses, of either family.
	VIPs []netip.Addr
	// Registrars are the 1, 3 or 5 appliances that found the replicated ticket log;
	// package registrar knows who keeps it now.
	Registrars []string
	Slots      []Slot
	// Networks may lie behind clients (site-to-site): a session whose remote traffic
	// selectors lie in one of them has its slot's owner route and announce them. What a
	// client asks for beyond the pools and these is not routed.
	Networks []netip.Prefix `json:",omitempty"`
	// ClientDNS are the name servers that clients with an inner address are told of.
	ClientDNS  []netip.Addr `json:",omitempty"`
	ShadowSets ShadowSets
	Tiers      Tiers
	Probe      Probe
	Handover   Handover
	// DeadMan is how long the fence of an active slot that has a ready shadow
	// stays open without being refreshed by the daemon.
	DeadMan time.Duration
}

// Appliance is one machine of the fleet.
type Appliance struct {
	Name     string
	Site     string
	Location Location
	Labels   Labels
	// Address is the IPv4 address on the appliance's loopback interface to which
	// peers talk, announced as the liveness route.
	Address netip.Addr
	// ReplicationPort is the TCP port of the replication server.
	ReplicationPort uint16
	// ProbePort is the UDP port of probes and claims.
	ProbePort uint16
	// RegistrarPort is the TCP port of the ticket log.
	RegistrarPort uint16
	// GossipPort is the UDP and TCP port of membership.
	GossipPort uint16
}

// Replication is the address of the appliance's replication server.
func (a Appliance) Replication() netip.AddrPort {
	return netip.AddrPortFrom(a.Address, a.ReplicationPort)
}

// Registrar is the address of the appliance's part of the ticket log.
func (a Appliance) Registrar() netip.AddrPort {
	return netip.AddrPortFrom(a.Address, a.RegistrarPort)
}

// Gossip is the address of the appliance's part of membership.
func (a Appliance) Gossip() netip.AddrPort { return netip.AddrPortFrom(a.Address, a.GossipPort) }

// Probe is the address of the appliance's prober.
func (a Appliance) Probe() netip.AddrPort { return netip.AddrPortFrom(a.Address, a.ProbePort) }

// Location is a place on earth in degrees, north and east positive.
type Location struct{ Lat, Lon float64 }

// Labels are failure domains inside a site. Empty means unknown.
type Labels struct{ Rack, Power string }

// Slot is one virtual gateway.
type Slot struct {
	Number sa.Slot
	// Home is the appliance that owns the slot when all is well.
	Home string
	// Shadows keep twins of the slot, the first one claims first. Empty means
	// that the slot dies with its owner.
	Shadows []string
	// Selected says that Shadows were chosen by package shadowset from the fleet
	// section, because the text names none.
	Selected bool
	// Pools hold the clients' inner addresses, at most one prefix of a family.
	Pools []netip.Prefix
}

// Pool4 is the slot's IPv4 pool, the zero Prefix where there is none.
func (s Slot) Pool4() netip.Prefix { return s.pool(true) }

// Pool6 is the slot's IPv6 pool, the zero Prefix where there is none.
func (s Slot) Pool6() netip.Prefix { return s.pool(false) }

func (s Slot) pool(v4 bool) netip.Prefix {
	for _, p := range s.Pools {
		if p.Addr().Is4() == v4 {
			return p
		}
	}
	return netip.Prefix{}
}

// Members are the slot's home and shadows, home first.
func (s Slot) Members() []string { return append([]string{s.Home}, s.Shadows...) }

// Probe says how appliances watch each other.
type Probe struct {
	Interval time.Duration
	// Lost is how many probes in a row must be missing for a peer to be suspect.
	Lost int
}

// Detection is the time after which a silent peer is suspect.
func (p Probe) Detection() time.Duration { return p.Interval * time.Duration(p.Lost) }

// Handover bounds a planned move.
type Handover struct {
	// HoldCap bounds how long the new owner holds outbound packets back so that
	// those in flight through the old owner arrive first.
	HoldCap time.Duration
	// DrainTime is how long existing sessions may finish before they are moved.
	DrainTime time.Duration
	// DrainRate bounds the slots that a drain moves in a minute.
	DrainRate int
	// StopDrain is how long a daemon that is told to stop drains first; 0: not at
	// all, its slots go on without it.
	StopDrain time.Duration
	// AuditInterval is how often charon, the kernel and the daemon's memory of a
	// slot are compared; 0: never.
	AuditInterval time.Duration
	// RekeySpread is the time over which the children of a slot that was taken
	// over are rekeyed; 0: they are not.
	RekeySpread time.Duration
	// ShedLoad is the share of the capacity in use, in percent, at which an
	// appliance sheds new sessions and then slots; 0: never.
	ShedLoad int
	// ReturnDamping is the half-life of the penalty that an appliance earns with
	// each failure and that keeps its slots from returning; 0: none.
	ReturnDamping time.Duration
	// HoldDown is how long an appliance must be well before its home slots return.
	HoldDown time.Duration
}

// BGP is the speaker of this appliance. ASN 0 means that it has none.
type BGP struct {
	ASN        uint32
	RouterID   netip.Addr
	ListenPort uint16
	// MEDBase is the MED of an appliance in normal state.
	MEDBase uint32
	// VIPMED replaces it for single VIPs.
	VIPMED map[netip.Addr]uint32
	// ChangeWindow, MaxChanges and Dwell bound changes of attributes that nobody
	// ordered: so many in the window, none for the better sooner than Dwell.
	ChangeWindow time.Duration
	MaxChanges   int
	Dwell        time.Duration
	Peers        []BGPPeer
}

// Community is a standard community (RFC 1997): ASN<<16 | value.
type Community uint32

func (c Community) String() string { return fmt.Sprintf("%d:%d", uint32(c)>>16, uint32(c)&0xffff) }

// Enabled reports whether this appliance speaks BGP.
func (b BGP) Enabled() bool { return b.ASN != 0 }

// Role is the side of the appliance on which a BGP peer stands.
type Role string

// Outside peers hear VIPs and liveness routes, inside peers hear pools.
const (
	Outside Role = "outside"
	Inside  Role = "inside"
)

// BGPPeer is one neighbouring router.
type BGPPeer struct {
	Name    string
	Address netip.Addr
	// LocalAddress is our end; the zero Addr leaves the choice to the kernel.
	LocalAddress netip.Addr
	ASN          uint32
	Role         Role
	BFD          BFD
	// PasswordFile holds the TCP MD5 password, empty for none.
	PasswordFile string
	// TTLSecurity refuses packets that crossed a router (RFC 5082).
	TTLSecurity bool
	HoldTime    time.Duration
	// MaxPrefixes closes the session of a router that sends more.
	MaxPrefixes uint32
	// MEDAdd, Prepend and Communities change the VIPs sent to this peer, DrainPrepend
	// and DrainCommunities those of an appliance that drains. Outside peers only.
	MEDAdd           uint32
	Prepend          uint8
	DrainPrepend     uint8
	Communities      []Community
	DrainCommunities []Community
}

// BFD is Bidirectional Forwarding Detection towards one peer. A failure is
// detected after Interval x Multiplier.
type BFD struct {
	Enabled    bool
	Interval   time.Duration
	Multiplier int
}

// Socket is the path of the operator socket.
func (c *Config) Socket() string { return SocketIn(c.RunDir) }

// SocketIn is where the operator API of a daemon with this run_dir listens.
func SocketIn(runDir string) string { return filepath.Join(runDir, "shadowcast.sock") }

// Self is this appliance's own entry in the fleet.
func (c *Config) Self() Appliance {
	a, _ := c.Fleet.Appliance(c.Node)
	return a
}

// Others are all appliances of the fleet but this one.
func (c *Config) Others() []Appliance {
	return slices.DeleteFunc(slices.Clone(c.Fleet.Appliances), func(a Appliance) bool { return a.Name == c.Node })
}

// Netns is the name of the namespace of slot n.
func (c *Config) Netns(n sa.Slot) string { return c.NetnsPrefix + strconv.Itoa(int(n)) }

// Appliance returns the appliance called name.
func (f *Fleet) Appliance(name string) (Appliance, bool) {
	i := slices.IndexFunc(f.Appliances, func(a Appliance) bool { return a.Name == name })
	if i < 0 {
		return Appliance{}, false
	}
	return f.Appliances[i], true
}

// Slot returns slot n.
func (f *Fleet) Slot(n sa.Slot) (Slot, bool) {
	i := slices.IndexFunc(f.Slots, func(s Slot) bool { return s.Number == n })
	if i < 0 {
		return Slot{}, false
	}
	return f.Slots[i], true
}

// SlotsOf returns the slots of which appliance name is home or shadow.
func (f *Fleet) SlotsOf(name string) []Slot {
	var out []Slot
	for _, s := range f.Slots {
		if slices.Contains(s.Members(), name) {
			out = append(out, s)
		}
	}
	return out
}
