package config

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite golden files")

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("Parse:\n%v", err)
	}
	return c
}

func TestExampleIsTyped(t *testing.T) {
	c := mustParse(t, Example())
	want := Slot{Number: 1, Home: "ams", Shadows: []string{"fra", "lhr"},
		Pools: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:1::/64")}}
	if got, ok := c.Fleet.Slot(1); !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("slot 1 = %+v, want %+v", got, want)
	}
	if got := want.Pool6().String(); got != "fd00:1::/64" {
		t.Errorf("Pool6 = %s", got)
	}
	if got := (Slot{}).Pool4(); got.IsValid() {
		t.Errorf("Pool4 of no pools = %s", got)
	}
	self := c.Self()
	if self.Replication().String() != "192.0.2.11:4501" || self.Probe().String() != "192.0.2.11:4502" {
		t.Errorf("self = %+v", self)
	}
	if self.Labels != (Labels{Rack: "a7", Power: "feed-1"}) || self.Location != (Location{Lat: 52.37, Lon: 4.90}) {
		t.Errorf("self = %+v", self)
	}
	if c.Log.Level != slog.LevelInfo || !c.Shadowing || c.Metrics.IsValid() || c.Fleet.DeadMan != time.Second {
		t.Errorf("defaults not applied: %+v", c)
	}
	if c.PKI.Cert != "/etc/shadowcast/pki/ams.crt" {
		t.Errorf("pki.cert = %s", c.PKI.Cert)
	}
	if got := c.BGP.Peers[0].BFD; got != (BFD{Enabled: true, Interval: 100 * time.Millisecond, Multiplier: 3}) {
		t.Errorf("peer bfd = %+v", got)
	}
	if got := c.BGP.Peers[1].BFD.Interval; got != 100*time.Millisecond {
		t.Errorf("default bfd interval = %v", got)
	}
	if got := c.Fleet.Probe.Detection(); got != 150*time.Millisecond {
		t.Errorf("detection = %v", got)
	}
	if c.Socket() != "/run/shadowcast/shadowcast.sock" || c.Netns(7) != "sc7" {
		t.Errorf("socket %s, netns %s", c.Socket(), c.Netns(7))
	}
	if len(c.Others()) != 2 || len(c.Fleet.SlotsOf("lhr")) != 3 || len(c.Fleet.SlotsOf("nyc")) != 0 {
		t.Errorf("others %v", c.Others())
	}
}

// The defaults that the example shows in comments are the defaults.
func TestExampleTellsDefaults(t *testing.T) {
	plain := mustParse(t, Example())
	var lines []string
	commented := regexp.MustCompile(`^(\s*)# (\s*)([a-z_]+):( |$)`)
	for line := range strings.SplitSeq(Example(), "\n") {
		if m := commented.FindStringSubmatch(line); m != nil {
			line = strings.Replace(line, "# ", "", 1)
		}
		lines = append(lines, line)
	}
	full := mustParse(t, strings.Join(lines, "\n"))
	if full.Metrics.String() != "127.0.0.1:9501" || full.Operator.String() != "192.0.2.11:4505" || full.BGP.Peers[0].PasswordFile == "" || full.Health.Smartctl == "" || full.Health.SmartDir == "" || full.Health.Ipmitool == "" || full.Health.Trace == "" || full.GeoIPFile == "" || full.DNS.TTL != 30*time.Second || len(full.DNS.Names) != 1 ||
		full.Redirect != (Redirect{"203.0.113.1", RedirectNever, 10}) || len(full.Fleet.Tiers.Rules) != 2 || full.Fleet.Tiers.Default != "standard" {
		t.Fatal("the optional keys were not uncommented")
	}
	full.Metrics, full.Operator, full.BGP.Peers[0].PasswordFile, full.DNS, full.Redirect = netip.AddrPort{}, netip.AddrPort{}, "", DNS{}, Redirect{}
	full.Fleet.Tiers, full.GeoIPFile = Tiers{}, ""
	full.Health.Smartctl, full.Health.SmartDir, full.Health.Ipmitool, full.Health.Trace = "", "", "", ""
	if !reflect.DeepEqual(plain, full) {
		t.Errorf("with the shown defaults:\n%+v\nwithout:\n%+v", full, plain)
	}
}

func TestDefaultHealthIsTheTextsDefault(t *testing.T) {
	if got := mustParse(t, Example()).Health; got != DefaultHealth() {
		t.Errorf("the text's default is %+v, DefaultHealth %+v", got, DefaultHealth())
	}
}

func TestMarshalRoundTrip(t *testing.T) {
	c := mustParse(t, Example())
	c.Metrics, c.Operator = netip.MustParseAddrPort("[::1]:9501"), netip.MustParseAddrPort("[::1]:4505")
	c.Shadowing = false
	c.Log = Log{Level: slog.LevelDebug, Format: "json"}
	c.Fleet.Slots[2].Shadows = nil
	c.BGP.Peers[1].BFD.Enabled = false
	c.BGP.Peers[1].TTLSecurity = true
	c.BGP.Peers[0].Communities, c.BGP.Peers[0].DrainCommunities = []Community{64496<<16 | 100}, []Community{64496<<16 | 666, 1}
	c.BGP.Peers[0].MEDAdd, c.BGP.Peers[0].Prepend, c.BGP.Peers[0].DrainPrepend, c.BGP.Peers[0].MaxPrefixes = 20, 1, 3, 50
	c.BGP.VIPMED = map[netip.Addr]uint32{c.Fleet.VIPs[0]: 0, c.Fleet.VIPs[1]: 300}
	c.DNS = DNS{Server: netip.MustParseAddrPort("[2001:db8::53]:5353"), Zone: "vpn.example", KeyFile: "/k", TTL: time.Minute, Names: []DNSName{
		{Name: "ams", Appliance: "ams", Addresses: c.Fleet.VIPs}, {Name: "fra.eu", Appliance: "fra", Addresses: c.Fleet.VIPs[1:]}}}
	c.Redirect = Redirect{Gateway: "vpn.example.net", Drain: RedirectUncovered, Rate: 25}
	c.BGP.ChangeWindow, c.BGP.MaxChanges, c.BGP.Dwell = time.Hour, 4, 0
	c.Fleet.Handover.DrainTime = 0
	c.GeoIPFile = "/city.mmdb"
	c.Fleet.Networks = []netip.Prefix{netip.MustParsePrefix("10.60.0.0/16"), netip.MustParsePrefix("fd00:60::/48")}
	c.Fleet.ClientDNS = []netip.Addr{netip.MustParseAddr("10.99.0.53"), netip.MustParseAddr("fd00:99::53")}
	for name, c := range map[string]*Config{"full": c, "without bgp": func() *Config {
		d := *c
		d.BGP.ASN, d.BGP.RouterID, d.BGP.Peers, d.BGP.VIPMED, d.Inside = 0, netip.Addr{}, nil, nil, nil
		return &d
	}()} {
		text, err := c.Marshal()
		if err != nil {
			t.Fatalf("%s: Marshal: %v", name, err)
		}
		if got := mustParse(t, string(text)); !reflect.DeepEqual(got, c) {
			t.Errorf("%s: read back\n%+v\nwant\n%+v\ntext:\n%s", name, got, c, text)
		}
	}
	c.Node = "nyc"
	if _, err := c.Marshal(); err == nil || !strings.Contains(err.Error(), `node: "nyc" is not in`) {
		t.Errorf("Marshal of a wrong config: %v", err)
	}
}

func TestDigest(t *testing.T) {
	fleet := func() Fleet {
		f := mustParse(t, Example()).Fleet
		f.Networks = []netip.Prefix{netip.MustParsePrefix("10.60.0.0/16"), netip.MustParsePrefix("fd00:60::/48")}
		return f
	}
	base := fleet()
	digest := base.Digest()
	if len(digest) != 64 {
		t.Fatalf("digest %q", digest)
	}
	for name, tc := range map[string]struct {
		edit func(*Fleet)
		same bool
	}{
		"nothing":         {func(*Fleet) {}, true},
		"appliance order": {func(f *Fleet) { slices.Reverse(f.Appliances) }, true},
		"slot order":      {func(f *Fleet) { slices.Reverse(f.Slots) }, true},
		"pool order":      {func(f *Fleet) { slices.Reverse(f.Slots[0].Pools) }, true},
		"registrar order": {func(f *Fleet) { slices.Reverse(f.Registrars) }, true},
		"vip order":       {func(f *Fleet) { slices.Reverse(f.VIPs) }, true},
		"network":         {func(f *Fleet) { f.Networks = f.Networks[:1] }, false},
		"network order":   {func(f *Fleet) { slices.Reverse(f.Networks) }, true},
		"shadow order":    {func(f *Fleet) { slices.Reverse(f.Slots[0].Shadows) }, false},
		"probe":           {func(f *Fleet) { f.Probe.Lost++ }, false},
		"dead man":        {func(f *Fleet) { f.DeadMan++ }, false},
		"port":            {func(f *Fleet) { f.Appliances[0].ProbePort++ }, false},
		"gossip port":     {func(f *Fleet) { f.Appliances[0].GossipPort++ }, false},
		"registrar port":  {func(f *Fleet) { f.Appliances[0].RegistrarPort++ }, false},
		"label":           {func(f *Fleet) { f.Appliances[0].Labels.Rack = "z" }, false},
		"pool":            {func(f *Fleet) { f.Slots[0].Pools = f.Slots[0].Pools[:1] }, false},
	} {
		f := fleet()
		tc.edit(&f)
		if got := f.Digest() == digest; got != tc.same {
			t.Errorf("%s: same digest %v, want %v", name, got, tc.same)
		}
	}
	before := mustParse(t, Example()).Fleet
	slices.Reverse(before.Appliances)
	first := before.Appliances[0].Name
	before.Digest()
	if before.Appliances[0].Name != first {
		t.Error("Digest reordered the fleet")
	}
}

// wrong is one edit of the example: old becomes new ("" for old: new replaces
// the whole text).
type wrong struct{ name, old, new string }

var wrongs = []wrong{
	{"empty file", "", ""},
	{"not YAML", "", "node: [a\nb: c"},
	{"not YAML, indentation", "node: ams\n", "node: ams\n  run_dir: /run/x\n"},
	{"not text", "", "node: ams\x00\n"},
	{"a second document", "node: ams\n", "node: ams\n---\n"},
	{"not a mapping", "", "- node"},
	{"duplicate key", "node: ams\n", "node: ams\nnode: fra\n"},
	{"unknown key at the top", "node: ams\n", "node: ams\nbogus: 1\n"},
	{"unknown key, a slip", "router_id: 192", "routerid: 192"},
	{"unknown key in a list", "      home: ams\n", "      home: ams\n      shadwos: [fra]\n"},
	{"unknown key without a value", "node: ams\n", "node: ams\nbogus:\n"},
	{"unknown key with an empty section", "node: ams\n", "node: ams\nbogus: {}\n"},
	{"key with a dot", "node: ams\n", "node: ams\nlog.level: debug\n"},
	{"key without a value", "inside: [eth1]", "inside:"},
	{"number for a name", "node: ams\n", "node: 7\n"},
	{"text for a number", "number: 3", "number: three"},
	{"fraction for a number", "number: 3", "number: 3.5"},
	{"text for a list", "registrars: [ams, fra, lhr]", "registrars: ams"},
	{"text for a section", "location: {lat: 51.47, lon: -0.45}", "location: london"},
	{"section for a list", "vips: [198.51.100.1, \"2001:db8:51::1\"]", "vips: {v4: 198.51.100.1}"},
	{"list of text for a list of sections", "shadows: [fra, lhr]", "shadows: [{name: fra}]"},
	{"text for a bool", "node: ams\n", "node: ams\nshadowing: sometimes\n"},
	{"duration without unit", "interval: 100ms ", "interval: 50 "},
	{"duration with a wrong unit", "interval: 100ms ", "interval: 50 msec "},
	{"duration out of range", "  # dead_man: 1s ", "  dead_man: 1m "},
	{"node missing", "node: ams\n", "\n"},
	{"node unknown", "node: ams\n", "node: nyc\n"},
	{"node with capitals", "node: ams\n", "node: AMS\n"},
	{"no uplinks", "uplinks: [eth0]\n", "\n"},
	{"interface name too long", "uplinks: [eth0]", "uplinks: [enp129s0f0np0v1234]"},
	{"interface twice", "uplinks: [eth0]", "uplinks: [eth0, eth0]"},
	{"inside is an uplink", "inside: [eth1]", "inside: [eth0]"},
	{"relative path", "node: ams\n", "node: ams\nrun_dir: run/shadowcast\n"},
	{"run directory too deep", "node: ams\n", "node: ams\nrun_dir: /" + strings.Repeat("x", 90) + "\n"},
	{"namespace prefix", "node: ams\n", "node: ams\nnetns_prefix: shadowcast-of-ams-in-a-hall-with-far-too-many-racks\n"},
	{"log level", "node: ams\n", "node: ams\nlog: {level: verbose}\n"},
	{"log format", "node: ams\n", "node: ams\nlog: {format: xml}\n"},
	{"operator API on every address by accident", "node: ams\n", "node: ams\noperator: {listen: \":4505\"}\n"},
	{"metrics without port", "node: ams\n", "node: ams\nmetrics: {listen: 127.0.0.1}\n"},
	{"metrics on the replication port", "node: ams\n", "node: ams\nmetrics: {listen: 192.0.2.11:4501}\n"},
	{"metrics on the BGP port", "node: ams\n", "node: ams\nmetrics: {listen: 127.0.0.1:179}\n"},
	{"operator API on the gossip port of every address", "node: ams\n", "node: ams\noperator: {listen: \"[::]:4504\"}\n"},
	{"operator API and metrics in one place", "node: ams\n", "node: ams\noperator: {listen: 127.0.0.1:9501}\nmetrics: {listen: \"0.0.0.0:9501\"}\n"},
	{"key again in other letters", "node: ams\n", "node: ams\nNODE: fra\n"},
	{"slot's key again in other letters", "      home: fra\n", "      home: ams\n      Home: fra\n"},
	{"value without a key", "node: ams\n", "node: ams\n~: fra\n"},
	{"duplicate appliance", "name: fra\n", "name: ams\n"},
	{"appliance without name", "- name: fra\n", "- name: \"\"\n"},
	{"appliance without site", "      site: london\n", "\n"},
	{"latitude", "lat: 51.47", "lat: 514.7"},
	{"location missing", "      location: {lat: 51.47, lon: -0.45}\n", "\n"},
	{"peer address is a prefix", "address: 192.0.2.12", "address: 192.0.2.12/32"},
	{"peer address IPv6", "address: 192.0.2.12", "address: 2001:db8::12"},
	{"peer address loopback", "address: 192.0.2.12", "address: 127.0.0.1"},
	{"peer address twice", "address: 192.0.2.12", "address: 192.0.2.11"},
	{"probe port of IKE", "address: 192.0.2.12\n", "address: 192.0.2.12\n      probe_port: 4500\n"},
	{"registrar port twice", "address: 192.0.2.12\n", "address: 192.0.2.12\n      registrar_port: 4501\n"},
	{"gossip port twice", "address: 192.0.2.12\n", "address: 192.0.2.12\n      gossip_port: 4502\n"},
	{"gossip port out of range", "address: 192.0.2.12\n", "address: 192.0.2.12\n      gossip_port: 70000\n"},
	{"registrar port out of range", "address: 192.0.2.12\n", "address: 192.0.2.12\n      registrar_port: 0\n"},
	{"port out of range", "address: 192.0.2.12\n", "address: 192.0.2.12\n      replication_port: 70000\n"},
	{"no VIP", "vips: [198.51.100.1, \"2001:db8:51::1\"]", "vips: []"},
	{"VIP with port", "198.51.100.1,", "198.51.100.1:500,"},
	{"VIP with zone", "\"2001:db8:51::1\"", "\"fe80::1%eth0\""},
	{"VIP multicast", "198.51.100.1,", "224.0.0.1,"},
	{"VIP twice", "\"2001:db8:51::1\"", "198.51.100.1"},
	{"VIP is an appliance", "198.51.100.1,", "192.0.2.13,"},
	{"VIP inside a pool", "198.51.100.1,", "10.2.0.1,"},
	{"two registrars", "registrars: [ams, fra, lhr]", "registrars: [ams, fra]"},
	{"four registrars", "registrars: [ams, fra, lhr]", "registrars: [ams, fra, lhr, ams]"},
	{"registrar unknown", "registrars: [ams, fra, lhr]", "registrars: [ams, fra, nyc]"},
	{"registrar twice", "registrars: [ams, fra, lhr]", "registrars: [ams, fra, fra]"},
	{"slot number out of range", "number: 3", "number: 4096"},
	{"slot number missing", "number: 3", "number: 0"},
	{"slot number twice", "number: 3", "number: 1"},
	{"home unknown", "home: lhr", "home: nyc"},
	{"shadow unknown", "shadows: [fra, lhr]", "shadows: [fra, nyc]"},
	{"shadow is home", "shadows: [fra, lhr]", "shadows: [fra, ams]"},
	{"shadow twice", "shadows: [fra, lhr]", "shadows: [fra, fra]"},
	{"set too large", "  # probe:\n", "  shadow_sets: {size: 4}\n  # probe:\n"},
	{"sets that change too fast", "  # probe:\n", "  shadow_sets: {replace_after: 10ms, settle: 25h, change_every: soon}\n  # probe:\n"},
	{"negative weight", "  # probe:\n", "  shadow_sets: {load: -1, margin: .nan}\n  # probe:\n"},
	{"text for a weight", "  # probe:\n", "  shadow_sets: {latency: low}\n  # probe:\n"},
	{"tier unknown", "  # probe:\n", "  tiers: {default: gold, rules: [{connection: a, tier: silver}]}\n  # probe:\n"},
	{"tier without pattern", "  # probe:\n", "  tiers: {rules: [{tier: basic}]}\n  # probe:\n"},
	{"tier of too many shadows", "  # probe:\n", "  tiers: {shadows: {premium: 4, basic: 0}}\n  # probe:\n"},
	{"four shadows", "shadows: [fra, lhr]", "shadows: [fra, lhr, fra, lhr]"},
	{"pool overlaps", "10.3.0.0/16", "10.2.128.0/24"},
	{"pool overlaps a later one", "10.1.0.0/16", "10.0.0.0/12"},
	{"pool overlaps in its own slot", "\"fd00:3::/64\"", "10.3.1.0/24"},
	{"pool with host bits", "10.3.0.0/16", "10.3.0.1/16"},
	{"pool without length", "10.3.0.0/16", "10.3.0.0"},
	{"pool too small", "10.3.0.0/16", "10.3.0.0/32"},
	{"pool of multicast", "10.3.0.0/16", "224.0.0.0/16"},
	{"two pools of a family", "\"fd00:3::/64\"", "10.4.0.0/16"},
	{"no pools", "      pools: [10.3.0.0/16, \"fd00:3::/64\"]\n", "\n"},
	{"geoip file relative", "node: ams\n", "node: ams\ngeoip_file: city.mmdb\n"},
	{"network in a pool", "  # probe:\n", "  networks: [10.60.0.0/16, 10.2.5.0/24]\n  # probe:\n"},
	{"network twice", "  # probe:\n", "  networks: [10.60.0.0/16, 10.60.1.0/24]\n  # probe:\n"},
	{"network of everything", "  # probe:\n", "  networks: [0.0.0.0/0, \"fd00::/7\", 10.60.0.1/16, home]\n  # probe:\n"},
	{"client dns", "  # probe:\n", "  client_dns: [10.99.0.53, ns.example, 224.0.0.1]\n  # probe:\n"},
	{"network of a VIP", "  # probe:\n", "  networks: [198.51.100.0/24]\n  # probe:\n"},
	{"probe too slow", "  # probe:\n  #   interval: 50ms ", "  probe:\n    interval: 5s "},
	{"bgp without asn", "  asn: 64512\n  router_id", "  router_id"},
	{"bgp asn out of range", "  asn: 64512\n  router_id", "  asn: 4294967296\n  router_id"},
	{"bgp asn in dots", "  asn: 64512\n  router_id", "  asn: 1.10\n  router_id"},
	{"bgp asn reserved", "asn: 64496", "asn: 23456"},
	{"bgp router id", "router_id: 192.0.2.11", "router_id: ams"},
	{"bgp role", "role: outside", "role: upstream"},
	{"bgp peer without local address", "      local_address: 10.0.0.2\n", ""},
	{"bgp own asn", "asn: 64513", "asn: 64512"},
	{"bgp med base", "# med_base: 100 ", "med_base: 105 "},
	{"bgp vip unknown", "# vips: [] ", "vips: [{address: 198.51.100.9}] "},
	{"bgp vip twice", "# vips: [] ", "vips: [{address: 198.51.100.1}, {address: 198.51.100.1}] "},
	{"bgp vip med", "# vips: [] ", "vips: [{address: 198.51.100.1, med_base: 7}] "},
	{"bgp change window", "# change_window: 15m ", "change_window: 1s "},
	{"bgp max changes", "# max_changes: 2 ", "max_changes: 0 "},
	{"bgp dwell beyond the window", "# dwell: 1m ", "dwell: 16m "},
	{"bgp max prefixes", "# max_prefixes: 1000 ", "max_prefixes: 0 "},
	{"bgp med add", "# med_add: 0 ", "med_add: 5 "},
	{"bgp prepend", "# prepend: 0 ", "prepend: 11 "},
	{"bgp drain prepend", "# drain_prepend: 0 ", "drain_prepend: -1 "},
	{"bgp community", "# communities: [] ", "communities: [\"64496:65536\", \"x\", no-export] "},
	{"bgp graceful shutdown by hand", "# drain_communities: [] ", "drain_communities: [\"65535:0\"] "},
	{"bgp policy of an inside peer", "role: inside", "role: inside\n      prepend: 1"},
	{"bgp multihop word", "# max_prefixes: 1000 ", "multihop: true "},
	{"dns server without port", "node: ams\n", "node: ams\ndns: {server: 192.0.2.53, zone: vpn.example, key_file: /k, names: [{name: ams, appliance: ams, addresses: [198.51.100.1]}]}\n"},
	{"dns without key and names", "node: ams\n", "node: ams\ndns: {server: \"192.0.2.53:53\", zone: \"vpn..example\"}\n"},
	{"dns ttl", "node: ams\n", "node: ams\ndns: {server: \"192.0.2.53:53\", zone: vpn.example, key_file: /k, ttl: 2h, names: [{name: ams, appliance: ams, addresses: [198.51.100.1]}]}\n"},
	{"redirect rate and drain", "node: ams\n", "node: ams\nredirect: {gateway: 198.51.100.1, drain: sometimes, rate: 0}\n"},
	{"redirect to no address", "node: ams\n", "node: ams\nredirect: {gateway: \"0.0.0.0\"}\n"},
	{"redirect without gateway", "node: ams\n", "node: ams\nredirect: {drain: all}\n"},
	{"dns names", "node: ams\n", "node: ams\ndns:\n  server: 192.0.2.53:53\n  zone: vpn.example\n  key_file: /k\n  names:\n    - {name: ams, appliance: nyc, addresses: [198.51.100.1]}\n    - {name: AMS, appliance: fra, addresses: [192.0.2.12, 198.51.100.1, 198.51.100.1]}\n    - {name: -x, appliance: lhr}\n"},
	{"dead-man below the probes", "  # dead_man: 1s ", "  dead_man: 210ms\n  probe:\n    interval: 100ms\n  # "},
	{"bgp peer twice", "address: 10.0.0.1\n", "address: 203.0.113.1\n"},
	{"bgp peer name twice", "name: core1", "name: edge1"},
	{"bgp family mix", "local_address: 203.0.113.2 ", "local_address: 2001:db8::2 "},
	{"bgp peer is a VIP", "address: 203.0.113.1\n", "address: 198.51.100.1\n"},
	{"bgp local address is the peer", "local_address: 203.0.113.2 ", "local_address: 203.0.113.1 "},
	{"bgp hold time", "role: inside", "role: inside\n      hold_time: 1s"},
	{"bgp hold time in fractions", "role: inside", "role: inside\n      hold_time: 3500ms"},
	{"health risk", "node: ams\n", "node: ams\nhealth:\n  watch: {month: 120}\n"},
	{"health risks out of order", "node: ams\n", "node: ams\nhealth:\n  degraded: {hour: 9}\n"},
	{"health speed", "node: ams\n", "node: ams\nhealth:\n  speed: 0\n"},
	{"bfd multiplier", "multiplier: 3", "multiplier: 1"},
	{"several mistakes", "node: ams\n", "node: nyc\nlog: {format: xml}\nnetns_prefix: SC\n"},
}

// Every mistake that a person would make gives one precise message; the golden
// file is the table of them.
func TestWrongConfigs(t *testing.T) {
	var b strings.Builder
	for _, w := range wrongs {
		text := w.new
		if w.old != "" {
			if !strings.Contains(Example(), w.old) {
				t.Fatalf("%s: the example does not have %q", w.name, w.old)
			}
			text = strings.Replace(Example(), w.old, w.new, 1)
		}
		_, err := Parse([]byte(text))
		var ps Problems
		if !errors.As(err, &ps) {
			t.Errorf("%s: Parse gave %v, want Problems", w.name, err)
			continue
		}
		fmt.Fprintf(&b, "# %s\n%v\n\n", w.name, err)
	}
	golden := filepath.Join("testdata", "wrong.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("messages differ from %s (rewrite with -update):\n%s", golden, b.String())
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(Example()))
	for _, w := range wrongs {
		f.Add([]byte(w.new))
	}
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse(text)
		if err != nil {
			return
		}
		again, err := c.Marshal()
		if err != nil {
			t.Fatalf("Marshal of an accepted config: %v", err)
		}
		if d, err := Parse(again); err != nil || !reflect.DeepEqual(c, d) {
			t.Fatalf("read back %+v (%v), want %+v", d, err, c)
		}
	})
}

// Who ends a service must find it, however wrong the rest is.
func TestPlacesOf(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	d := defaultPlaces
	for text, want := range map[string]struct {
		p   Places
		err string
	}{
		"bpf_dir: /b\nnode: [1]\nnodee: x\n":                       {Places{d.RunDir, "/b", d.NetnsPrefix}, ""},
		"run_dir: /r\nBPF_Dir: /b\nnetns_prefix: vpn\nfleet: {}\n": {Places{"/r", "/b", "vpn"}, ""},
		"node: a\nnode: b\nbpf_dir: /b\n":                          {Places{d.RunDir, "/b", d.NetnsPrefix}, ""},
		"node: ams\n":                                              {d, ""},
		"":                                                         {d, ""},
		"[bpf_dir, /b]\n":                                          {d, ""},
		"bpf_dir: b\nrun_dir: /r\n":                                {Places{"/r", d.BPFDir, d.NetnsPrefix}, `bpf_dir of ` + file + `: "b" is no absolute path`},
		"netns_prefix: ../x\n":                                     {d, "netns_prefix of "},
		"bpf_dir: [\n":                                             {d, "read " + file},
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		p, err := PlacesOf(file)
		if p != want.p || (err == nil) != (want.err == "") || err != nil && !strings.Contains(err.Error(), want.err) {
			t.Errorf("%q: %v, %v", text, p, err)
		}
	}
	if p, err := PlacesOf(file + ".none"); p != d || err == nil {
		t.Errorf("no file: %v, %v", p, err)
	}
	c := mustParse(t, "run_dir: /r\n"+Example())
	if c.Places() != (Places{"/r", d.BPFDir, d.NetnsPrefix}) {
		t.Errorf("places of a configuration: %v", c.Places())
	}
	if p := mustParse(t, Example()).Places(); p != d {
		t.Errorf("without any they are %v, want %v", p, d)
	}
}
