package config

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Bounds that other layers impose.
const (
	maxRunDir      = 80 // + /slot4095/charon.vici stays below the 107 bytes of a unix socket path
	maxInterface   = 15 // IFNAMSIZ - 1
	maxNetnsPrefix = 40 // + v4095 stays a legal interface name
)

var (
	// nameForm is a DNS label: appliance names go into certificates.
	nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)
	// wordForm is for names that only people and logs read.
	wordForm      = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$`)
	prefixForm    = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	interfaceForm = regexp.MustCompile(`^[^\s/:]+$`)
)

// config turns the raw structs into a Config and records every rule broken.
func (c *collector) config(r *rawConfig) *Config {
	cfg := &Config{
		Node:         c.name("node", r.Node),
		RunDir:       c.file("run_dir", r.RunDir),
		StateDir:     c.file("state_dir", r.StateDir),
		BPFDir:       c.file("bpf_dir", r.BPFDir),
		NetnsPrefix:  r.NetnsPrefix,
		SwanctlDir:   c.file("swanctl_dir", r.SwanctlDir),
		FleetKeyFile: c.file("fleet_key_file", r.FleetKeyFile),
		Shadowing:    r.Shadowing,
		Log:          c.log(r.Log),
		PKI:          c.pki(r.PKI, r.Node),
		Metrics:      c.listen("metrics.listen", r.Metrics.Listen),
		Operator:     c.listen("operator.listen", r.Operator.Listen),
		Uplinks:      c.interfaces("uplinks", r.Uplinks),
		Inside:       c.interfaces("inside", r.Inside),
		Fleet:        c.fleet(&r.Fleet),
	}
	if r.GeoIPFile != "" {
		cfg.GeoIPFile = c.file("geoip_file", r.GeoIPFile)
	}
	cfg.BGP = c.bgp(&r.BGP, &cfg.Fleet)
	for i, p := range cfg.BGP.Peers {
		c.outside(&cfg.Fleet, at("bgp.peers", i)+".address", p.Address)
		c.outside(&cfg.Fleet, at("bgp.peers", i)+".local_address", p.LocalAddress)
	}
	cfg.DNS = c.dns(&r.DNS, &cfg.Fleet)
	cfg.Redirect = c.redirect(&r.Redirect, &cfg.Fleet)
	cfg.Health = c.health(&r.Health)
	c.ports(cfg)
	if len(cfg.RunDir) > maxRunDir {
		c.addf("run_dir", "%d characters; want at most %d, so that sockets below it fit the kernel's limit", len(cfg.RunDir), maxRunDir)
	}
	if !prefixForm.MatchString(cfg.NetnsPrefix) || len(cfg.NetnsPrefix) > maxNetnsPrefix {
		c.addf("netns_prefix", "%q; want a letter, then letters, digits or hyphens, at most %d in all", cfg.NetnsPrefix, maxNetnsPrefix)
	}
	if len(cfg.Uplinks) == 0 {
		c.addf("uplinks", "missing; want the interfaces on which clients' packets arrive, such as [eth0]")
	}
	for i, name := range cfg.Inside {
		if slices.Contains(cfg.Uplinks, name) {
			c.addf(at("inside", i), "%s is an uplink already; want another interface (a VLAN will do)", name)
		}
	}
	if names := applianceNames(&cfg.Fleet); nameForm.MatchString(cfg.Node) && len(names) > 0 && !slices.Contains(names, cfg.Node) {
		c.addf("node", "%q is not in fleet.appliances; want %s", cfg.Node, oneOf(names))
	}
	return cfg
}

func (c *collector) log(r rawLog) Log {
	l := Log{Format: r.Format}
	if err := l.Level.UnmarshalText([]byte(r.Level)); err != nil || strings.ContainsAny(r.Level, "+-") {
		c.addf("log.level", "%q; want debug, info, warn or error", r.Level)
	}
	c.choice("log.format", r.Format, "text", "json")
	return l
}

func (c *collector) pki(r rawPKI, node string) PKI {
	if r.Cert == "" {
		r.Cert = defaultCert(node)
	}
	if r.Key == "" {
		r.Key = defaultKey(node)
	}
	return PKI{
		CA:   c.file("pki.ca", r.CA),
		Cert: c.file("pki.cert", r.Cert),
		Key:  c.file("pki.key", r.Key),
	}
}

// name checks a name that becomes part of a certificate.
func (c *collector) name(path, s string) string {
	switch {
	case s == "":
		c.addf(path, "missing; want a name such as ams")
	case !nameForm.MatchString(s):
		c.addf(path, "%q; want at most 32 lower-case letters, digits and inner hyphens, such as ams-1", s)
	}
	return s
}

// word checks a name for people; empty is allowed where optional is set.
func (c *collector) word(path, s string, optional bool) string {
	switch {
	case s == "" && optional:
	case s == "":
		c.addf(path, "missing; want a name")
	case !wordForm.MatchString(s):
		c.addf(path, "%q; want at most 64 letters, digits, dots, underscores and hyphens", s)
	}
	return s
}

// file checks an absolute path.
func (c *collector) file(path, s string) string {
	switch {
	case s == "":
		c.addf(path, "missing; want an absolute path")
		return ""
	case !filepath.IsAbs(s):
		c.addf(path, "%q; want an absolute path, such as /%s", s, strings.TrimPrefix(filepath.Clean("/"+s), "/"))
	}
	return filepath.Clean(s)
}

func (c *collector) choice(path, s string, want ...string) {
	if !slices.Contains(want, s) {
		c.addf(path, "%q; want %s", s, oneOf(want))
	}
}

func (c *collector) interfaces(path string, names []string) []string {
	seen := map[string]int{}
	for i, n := range names {
		if n == "" || len(n) > maxInterface || n == "." || n == ".." || !interfaceForm.MatchString(n) {
			c.addf(at(path, i), "%q; want the name of a network interface, at most %d characters", n, maxInterface)
		}
		if j, dup := seen[n]; dup {
			c.addf(at(path, i), "%s is %s already", n, at(path, j))
		}
		seen[n] = i
	}
	return nilIfEmpty(names)
}

// nilIfEmpty makes [] and a missing list one value.
func nilIfEmpty(s []string) []string {
	if len(s) == 0 {
		return nil
	}
	return s
}

// within checks a number and returns it, or lo where it is out of range.
func (c *collector) within(path string, n, lo, hi int) int {
	if n < lo || n > hi {
		c.addf(path, "%d; want %d to %d", n, lo, hi)
		return lo
	}
	return n
}

// duration checks a duration and returns it, or lo where it is out of range.
func (c *collector) duration(path string, s duration, lo, hi time.Duration) time.Duration {
	d, err := time.ParseDuration(string(s))
	if err != nil {
		c.addf(path, "%q is not a duration; want a number and a unit, such as 50ms or 2m", s)
		return lo
	}
	if d < lo || d > hi {
		c.addf(path, "%v; want %s to %s", d, short(lo), short(hi))
		return lo
	}
	return d
}

// short renders a duration without empty units: 1m, not 1m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// addr checks one unicast address of a machine: no prefix, no port, no zone.
func (c *collector) addr(path, s, what string) netip.Addr {
	if s == "" {
		c.addf(path, "missing; want %s", what)
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		if p, perr := netip.ParsePrefix(s); perr == nil {
			c.addf(path, "%s is a prefix; want an address, such as %s", s, p.Addr())
		} else if ap, perr := netip.ParseAddrPort(s); perr == nil {
			c.addf(path, "%s carries a port; want an address, such as %s", s, ap.Addr())
		} else {
			c.addf(path, "%q is not an IP address; want %s", s, what)
		}
		return netip.Addr{}
	}
	switch {
	case a.Is4In6():
		c.addf(path, "%s is IPv4 in IPv6 form; want %s", s, a.Unmap())
	case a.Zone() != "":
		c.addf(path, "%s carries a zone; want %s", s, a.WithZone(""))
	case a.IsUnspecified(), a.IsMulticast(), a.IsLoopback(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		c.addf(path, "%s cannot be reached by others; want %s", s, what)
	default:
		return a
	}
	return netip.Addr{}
}

// addr4 is addr for IPv4 only.
func (c *collector) addr4(path, s, what string) netip.Addr {
	a := c.addr(path, s, what)
	if a.Is6() {
		c.addf(path, "%s is IPv6; want %s", s, what)
		return netip.Addr{}
	}
	return a
}

// listen checks an address and port to listen on; empty is the zero AddrPort.
func (c *collector) listen(path, s string) netip.AddrPort {
	if s == "" {
		return netip.AddrPort{}
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		c.addf(path, "%q; want an address and port, such as 127.0.0.1:9501 or [::]:9501", s)
		return netip.AddrPort{}
	}
	return ap
}

// levelText is the form of a level that the text uses.
func levelText(l slog.Level) string { return strings.ToLower(l.String()) }

// applianceNames returns every name that the fleet has, once.
func applianceNames(f *Fleet) []string {
	var names []string
	for _, a := range f.Appliances {
		if a.Name != "" && !slices.Contains(names, a.Name) {
			names = append(names, a.Name)
		}
	}
	return names
}
