package config

// The raw structs mirror the text. Numbers are wide so that a value out of
// range reaches the check that can say what would be right.

// duration is a time.Duration as written, such as 50ms.
type duration string

type rawConfig struct {
	Node         string      `yaml:"node"`
	RunDir       string      `yaml:"run_dir"`
	StateDir     string      `yaml:"state_dir"`
	BPFDir       string      `yaml:"bpf_dir"`
	NetnsPrefix  string      `yaml:"netns_prefix"`
	SwanctlDir   string      `yaml:"swanctl_dir"`
	FleetKeyFile string      `yaml:"fleet_key_file"`
	GeoIPFile    string      `yaml:"geoip_file,omitempty"`
	Shadowing    bool        `yaml:"shadowing"`
	Log          rawLog      `yaml:"log"`
	PKI          rawPKI      `yaml:"pki"`
	Metrics      rawListen   `yaml:"metrics,omitempty"`
	Operator     rawListen   `yaml:"operator,omitempty"`
	Uplinks      []string    `yaml:"uplinks"`
	Inside       []string    `yaml:"inside,omitempty"`
	BGP          rawBGP      `yaml:"bgp,omitempty"`
	DNS          rawDNS      `yaml:"dns,omitempty"`
	Redirect     rawRedirect `yaml:"redirect,omitempty"`
	Health       rawHealth   `yaml:"health"`
	Fleet        rawFleet    `yaml:"fleet"`
}

type rawLog struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
}

type rawPKI struct {
	CA   string `yaml:"ca"`
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}

// rawListen is a service that listens somewhere, or is off.
type rawListen struct {
	Listen string `yaml:"listen,omitempty"`
}

type rawFleet struct {
	Appliances []rawAppliance `yaml:"appliances"`
	VIPs       []string       `yaml:"vips"`
	Registrars []string       `yaml:"registrars"`
	Slots      []rawSlot      `yaml:"slots"`
	Networks   []string       `yaml:"networks,omitempty"`
	ClientDNS  []string       `yaml:"client_dns,omitempty"`
	ShadowSets rawShadowSets  `yaml:"shadow_sets"`
	Tiers      rawTiers       `yaml:"tiers,omitempty"`
	Probe      rawProbe       `yaml:"probe"`
	Handover   rawHandover    `yaml:"handover"`
	DeadMan    duration       `yaml:"dead_man"`
}

type rawAppliance struct {
	Name            string      `yaml:"name"`
	Site            string      `yaml:"site"`
	Location        rawLocation `yaml:"location"`
	Labels          rawLabels   `yaml:"labels,omitempty"`
	Address         string      `yaml:"address"`
	ReplicationPort int         `yaml:"replication_port"`
	ProbePort       int         `yaml:"probe_port"`
	RegistrarPort   int         `yaml:"registrar_port"`
	GossipPort      int         `yaml:"gossip_port"`
}

type rawLocation struct {
	Lat *float64 `yaml:"lat"`
	Lon *float64 `yaml:"lon"`
}

type rawLabels struct {
	Rack  string `yaml:"rack,omitempty"`
	Power string `yaml:"power,omitempty"`
}

type rawSlot struct {
	Number  int      `yaml:"number"`
	Home    string   `yaml:"home"`
	Shadows pinned   `yaml:"shadows,omitempty"`
	Pools   []string `yaml:"pools"`
}

// pinned are names of shadows; nil, which is not written, leaves the choice to
// shadowcast, an empty list means none.
type pinned []string

// IsZero tells the YAML encoder what omitempty leaves out.
func (p pinned) IsZero() bool { return p == nil }

type rawShadowSets struct {
	Size       int     `yaml:"size"`
	Dispersion float64 `yaml:"dispersion"`
	Load       float64 `yaml:"load"`
	Latency    float64 `yaml:"latency"`
	Margin     float64 `yaml:"margin"`
	Dynamic    bool    `yaml:"dynamic"`

	ReplaceAfter duration `yaml:"replace_after"`
	Settle       duration `yaml:"settle"`
	ChangeEvery  duration `yaml:"change_every"`
}

type rawProbe struct {
	Interval duration `yaml:"interval"`
	Lost     int      `yaml:"lost"`
}

type rawHandover struct {
	HoldCap       duration `yaml:"hold_cap"`
	DrainTime     duration `yaml:"drain_time"`
	DrainRate     int      `yaml:"drain_rate"`
	StopDrain     duration `yaml:"stop_drain"`
	RekeySpread   duration `yaml:"rekey_spread"`
	AuditInterval duration `yaml:"audit_interval"`
	HoldDown      duration `yaml:"hold_down"`
	ShedLoad      int      `yaml:"shed_load"`
	ReturnDamping duration `yaml:"return_damping"`
}

type rawBGP struct {
	ASN        int       `yaml:"asn,omitempty"`
	RouterID   string    `yaml:"router_id,omitempty"`
	ListenPort int       `yaml:"listen_port"`
	MEDBase    int       `yaml:"med_base"`
	VIPs       []rawVIP  `yaml:"vips,omitempty"`
	Window     duration  `yaml:"change_window"`
	MaxChanges int       `yaml:"max_changes"`
	Dwell      duration  `yaml:"dwell"`
	Peers      []rawPeer `yaml:"peers,omitempty"`
}

type rawVIP struct {
	Address string `yaml:"address"`
	MEDBase int    `yaml:"med_base"`
}

type rawPeer struct {
	Name         string   `yaml:"name"`
	Address      string   `yaml:"address"`
	LocalAddress string   `yaml:"local_address,omitempty"`
	ASN          int      `yaml:"asn"`
	Role         string   `yaml:"role"`
	BFD          rawBFD   `yaml:"bfd"`
	PasswordFile string   `yaml:"password_file,omitempty"`
	TTLSecurity  bool     `yaml:"ttl_security"`
	HoldTime     duration `yaml:"hold_time"`
	MaxPrefixes  int      `yaml:"max_prefixes"`

	MEDAdd           int      `yaml:"med_add,omitempty"`
	Prepend          int      `yaml:"prepend,omitempty"`
	DrainPrepend     int      `yaml:"drain_prepend,omitempty"`
	Communities      []string `yaml:"communities,omitempty"`
	DrainCommunities []string `yaml:"drain_communities,omitempty"`
}

type rawBFD struct {
	Enabled    bool     `yaml:"enabled"`
	Interval   duration `yaml:"interval"`
	Multiplier int      `yaml:"multiplier"`
}
