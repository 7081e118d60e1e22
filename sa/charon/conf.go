package charon

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/sa"
)

// Names of the inner address pools; connections refer to them.
const (
	Pool4 = "shadowcast4"
	Pool6 = "shadowcast6"
)

// DefaultPlugins is what a gateway loads: no plugin that touches the machine
// outside of its slot (bypass-lan, dhcp, farp, resolve), none for IKEv1. gcrypt, the
// last of its kind, has MD4 and DES, which EAP-MSCHAPv2 is made of.
var DefaultPlugins = []string{
	"random", "nonce", "aes", "sha1", "sha2", "hmac", "kdf", "gcm", "chapoly", "ctr", "ccm", "cmac", "drbg",
	"curve25519", "gmp", "mgf1", "pem", "pkcs1", "pkcs7", "pkcs8", "x509", "revocation", "constraints", "pubkey",
	"openssl", "gcrypt", "attr", "kernel-netlink", "socket-default", "eap-identity", "eap-md5", "eap-mschapv2",
	"eap-tls", "eap-ttls", "eap-radius", "vici", "updown", "counters", "ha",
}

// Conf describes the strongswan.conf of one slot. Text renders it.
type Conf struct {
	Slot   sa.Slot
	RunDir string       // directory of the instance; the vici socket lies in it
	Pool4  netip.Prefix // inner IPv4 addresses of the slot; zero for none
	Pool6  netip.Prefix // inner IPv6 addresses of the slot; zero for none

	Plugins []string // default DefaultPlugins; charon skips those not installed

	LogFile  string         // charon's own log; "" for none
	LogLevel int            // of LogFile; default 1
	LogGroup map[string]int // per subsystem (ike, knl, cfg ...), optional

	// Retransmission of the gateway's own requests (RFC 7296 section 2.4); zero
	// values leave strongSwan's defaults (4s, 1.8, 5 tries).
	RetransmitTimeout time.Duration
	RetransmitBase    float64
	RetransmitTries   int

	// TableSize and TableSegments shape charon's table of IKE_SAs; powers of 2.
	// Defaults 4096 and 16, right for thousands of sessions in a slot.
	TableSize, TableSegments int

	// Extra adds settings of charon-systemd.*, by dotted name, e.g.
	// "plugins.attr.dns": "10.0.0.53". A setting that Conf renders itself is
	// refused.
	Extra map[string]string
}

// ViciSocket returns the vici socket of an instance whose directory is dir.
func ViciSocket(dir string) string { return filepath.Join(dir, "vici") }

var keyPattern = regexp.MustCompile(`^[A-Za-z0-9_%-]+(\.[A-Za-z0-9_%-]+)*$`)

// maxSocketPath is sizeof(sun_path) less its NUL.
const maxSocketPath = 107

// Text renders strongswan.conf, the same text for the same Conf.
func (c Conf) Text() (string, error) {
	if err := c.check(); err != nil {
		return "", fmt.Errorf("render strongswan.conf of slot %d: %w", c.Slot, err)
	}
	lo, hi := c.Slot.SPIRange()
	plugins := c.Plugins
	if plugins == nil {
		plugins = DefaultPlugins
	}
	root := &confSection{}
	set := func(key, format string, a ...any) { root.set(key, fmt.Sprintf(format, a...)) }
	set("load", "%s", strings.Join(plugins, " "))
	set("spi_min", "0x%08x", uint32(lo))
	set("spi_max", "0x%08x", uint32(hi))
	set("spi_mask", "0x%016x", sa.IKEMask)
	set("spi_label", "0x%016x", c.Slot.IKELabel())
	set("install_routes", "no")
	set("install_virtual_ip", "no")
	set("process_route", "no")
	set("interfaces_use", "lo")
	set("ikesa_table_size", "%d", orInt(c.TableSize, 4096))
	set("ikesa_table_segments", "%d", orInt(c.TableSegments, 16))
	if c.RetransmitTimeout > 0 {
		set("retransmit_timeout", "%s", strconv.FormatFloat(c.RetransmitTimeout.Seconds(), 'f', -1, 64))
	}
	if c.RetransmitBase > 0 {
		set("retransmit_base", "%s", strconv.FormatFloat(c.RetransmitBase, 'f', -1, 64))
	}
	if c.RetransmitTries > 0 {
		set("retransmit_tries", "%d", c.RetransmitTries)
	}
	if c.LogFile != "" {
		set("filelog.f.path", "%s", quote(c.LogFile))
		set("filelog.f.default", "%d", orInt(c.LogLevel, 1))
		for _, g := range slices.Sorted(maps.Keys(c.LogGroup)) {
			set("filelog.f."+g, "%d", c.LogGroup[g])
		}
		set("filelog.f.time_format", "%%H:%%M:%%S")
		set("filelog.f.time_add_ms", "yes")
		set("filelog.f.ike_name", "yes")
		set("filelog.f.append", "yes")
		set("filelog.f.flush_line", "yes")
	}
	set("plugins.kernel-netlink.roam_events", "no")
	set("plugins.vici.socket", "%s", quote("unix://"+ViciSocket(c.RunDir)))
	ha := "plugins.ha."
	set(ha+"local", "%s", charonAddr)
	set(ha+"remote", "%s", daemonAddr)
	set(ha+"segment_count", "1")
	set(ha+"monitor", "no")
	set(ha+"fifo_interface", "no")
	set(ha+"resync", "no")
	set(ha+"buflen", "%d", MaxDatagram)
	if c.Pool4.IsValid() {
		set(ha+"pools."+Pool4, "%s", c.Pool4)
	}
	if c.Pool6.IsValid() {
		set(ha+"pools."+Pool6, "%s", c.Pool6)
	}
	for _, k := range slices.Sorted(maps.Keys(c.Extra)) {
		if !root.set(k, quote(c.Extra[k])) {
			return "", fmt.Errorf("render strongswan.conf of slot %d: extra setting %q: shadowcast sets it itself", c.Slot, k)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# slot %d; written by shadowcastd, edits are lost\ncharon-systemd {\n", c.Slot)
	root.render(&b, 1)
	b.WriteString("}\n")
	return b.String(), nil
}

func (c Conf) check() error {
	if !c.Slot.Valid() {
		return fmt.Errorf("slot %d is not in 1..%d", c.Slot, sa.MaxSlot)
	}
	if !filepath.IsAbs(c.RunDir) {
		return fmt.Errorf("run directory %q is not absolute", c.RunDir)
	}
	if p := ViciSocket(c.RunDir); len(p) > maxSocketPath {
		return fmt.Errorf("vici socket path %q has %d bytes, at most %d fit", p, len(p), maxSocketPath)
	}
	for _, p := range []struct {
		name   string
		prefix netip.Prefix
		v4     bool
	}{{Pool4, c.Pool4, true}, {Pool6, c.Pool6, false}} {
		if p.prefix == (netip.Prefix{}) {
			continue
		}
		if !p.prefix.IsValid() || p.prefix.Addr().Is4() != p.v4 || p.prefix.Addr().Is4In6() {
			return fmt.Errorf("pool %s: %s is no prefix of that address family", p.name, p.prefix)
		}
		if p.prefix != p.prefix.Masked() {
			return fmt.Errorf("pool %s: %s has host bits set, want %s", p.name, p.prefix, p.prefix.Masked())
		}
	}
	for _, n := range []int{orInt(c.TableSize, 1), orInt(c.TableSegments, 1)} {
		if n < 1 || n&(n-1) != 0 {
			return fmt.Errorf("IKE_SA table size or segments %d is no power of 2", n)
		}
	}
	if len(c.Plugins) > 0 && !slices.Contains(c.Plugins, "ha") {
		return fmt.Errorf("plugin list lacks ha")
	}
	for _, p := range c.Plugins {
		if !keyPattern.MatchString(p) || strings.Contains(p, ".") {
			return fmt.Errorf("plugin name %q is malformed", p)
		}
	}
	for _, s := range append(slices.Collect(maps.Values(c.Extra)), c.RunDir, c.LogFile) {
		if strings.ContainsAny(s, "\n\r\x00") {
			return fmt.Errorf("value %q contains a line break or a NUL", s)
		}
	}
	for k := range c.Extra {
		if !keyPattern.MatchString(k) {
			return fmt.Errorf("extra setting %q: want dotted names of letters, digits, _ and -", k)
		}
	}
	for g := range c.LogGroup {
		if !keyPattern.MatchString(g) || strings.Contains(g, ".") {
			return fmt.Errorf("log group %q is malformed", g)
		}
	}
	return nil
}

func orInt(v, def int) int {
	if v == 0 {
		return def
	}
	return v
}

// quote renders a value so that spaces, # and braces in it mean themselves.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// confSection is a section of strongswan.conf; keys and sections keep the order
// in which they were set.
type confSection struct {
	names []string
	value map[string]string
	sub   map[string]*confSection
}

// set adds a setting by dotted name; false if it, or a section or value of its
// name, is there already.
func (s *confSection) set(key, value string) bool {
	name, rest, nested := strings.Cut(key, ".")
	if s.value == nil {
		s.value, s.sub = map[string]string{}, map[string]*confSection{}
	}
	if _, ok := s.value[name]; ok {
		return false
	}
	sub, ok := s.sub[name]
	if !nested {
		if ok {
			return false
		}
		s.names, s.value[name] = append(s.names, name), value
		return true
	}
	if !ok {
		sub = &confSection{}
		s.names, s.sub[name] = append(s.names, name), sub
	}
	return sub.set(rest, value)
}

func (s *confSection) render(b *strings.Builder, depth int) {
	pad := strings.Repeat("  ", depth)
	for _, n := range s.names {
		if sub, ok := s.sub[n]; ok {
			fmt.Fprintf(b, "%s%s {\n", pad, n)
			sub.render(b, depth+1)
			fmt.Fprintf(b, "%s}\n", pad)
			continue
		}
		fmt.Fprintf(b, "%s%s = %s\n", pad, n, s.value[n])
	}
}
