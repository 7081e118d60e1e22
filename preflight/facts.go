package preflight

import (
	"net/netip"
	"time"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/sa"
)

// Facts are what Gather saw. A nil map or the zero value of a part says that it was
// not looked at; its checks find nothing then.
type Facts struct {
	Config *config.Config
	Now    time.Time

	Root bool
	// Release is the kernel's, Features what was tried: nil is "works", else why not.
	Release  string
	Features map[Feature]error
	// Swap: there is some. MemoryLock: all memory may be locked.
	Swap, MemoryLock bool

	// RunTmpfs and BPFMounted tell of the file systems of run_dir and bpf_dir.
	RunTmpfs, BPFMounted bool
	StateWritable        error

	Charon      string            // path of charon-systemd, "" for none
	Plugins     map[string]string // paths by name, "" for none
	Strongswan  string            // version of the package, "" unknown
	Connections []error           // violations of our rules, one each
	EAP         []string          // methods that connections ask for, by the names of their plugins
	DPD         time.Duration     // shortest dpd_delay, 0 for none
	Names       int               // connections

	// Ports are those in use in this namespace, by whom as far as that is known.
	Ports []Port

	Identity       error // the certificate, its key and the CA do not fit
	NotBefore      time.Time
	NotAfter       time.Time
	CANotAfter     time.Time
	ClockKnown     bool
	ClockSynced    bool
	FleetKey       error
	Interfaces     map[string]Interface
	LocalAddresses []netip.Addr
	Sysctls        map[string]string

	Routers []Router
	Paths   []Path
	// Sessions by slot, of a daemon that runs.
	Sessions map[sa.Slot]uint64
}

// Feature is something of the kernel that was tried.
type Feature string

// The features. The second group is needed for some configurations only.
const (
	XFRM        Feature = "XFRM (ESP)"
	ESN         Feature = "ESN and large replay windows"
	Netns       Feature = "network namespaces"
	Veth        Feature = "veth"
	ClsBPF      Feature = "tc/eBPF (clsact)"
	RingBuf     Feature = "BPF ring buffer"
	RedirectBPF Feature = "bpf_redirect_peer"

	IPIP Feature = "ipip"
	GRE6 Feature = "gre"
	Plug Feature = "sch_plug"
)

// Port is a socket that somebody has bound.
type Port struct {
	Protocol string // "udp" or "tcp"
	Addr     netip.AddrPort
	Process  string // name, "" unknown
	// Own: a charon that a daemon of ours has started; it may outlive the daemon.
	Own bool
}

// Interface is a network interface of the configuration.
type Interface struct {
	Exists, Up bool
	MTU        int
	// Features of ethtool that are switched on, by name.
	Features map[string]bool
}

// Router is a BGP peer that was tried.
type Router struct {
	Name string
	// Err is why TCP to port 179 failed, nil where it was answered. A refusal is an
	// answer too: the machine is there.
	Err     error
	Refused bool
}

// Path is the way to another appliance.
type Path struct {
	Peer    string
	Address netip.Addr
	// Answers says whether an echo came back at all; MTU is the largest of the
	// packets tried that came back whole, without fragmentation.
	Answers bool
	MTU     int
}
