package routers

import (
	_ "embed"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"time"
)

// Role says which side of the appliances the router is on.
type Role string

const (
	// Outside routers carry clients: VIPs in, liveness routes in and back out
	// to the other appliances.
	Outside Role = "outside"
	// Inside routers lead to the protected network: inner prefixes in.
	Inside Role = "inside"
)

// RouterConfig is one router and its sessions with appliances.
type RouterConfig struct {
	Name         string
	RouterID     netip.Addr
	ASN          uint32
	Role         Role
	ApplianceASN uint32 // the one all appliances share
	Sessions     []Session
	VIPs         []netip.Prefix // outside: host routes to accept
	Liveness     []netip.Prefix // outside: ranges the appliances' host routes lie in
	Inner        []netip.Prefix // inside: ranges that pools and site prefixes lie in
	// BFDInterval and BFDMultiplier: zero selects 100 ms x 3, as in package bgp.
	BFDInterval   time.Duration
	BFDMultiplier int
	HoldTime      time.Duration // zero: 9 s
	LogFile       string        // empty: standard error (BIRD), none (FRR)
}

// Session is one BGP session with an appliance, of the family of Address; an
// appliance with IPv4 and IPv6 has two.
type Session struct {
	Name         string // appliance
	Address      netip.Addr
	LocalAddress netip.Addr
	Interface    string
	Password     string // TCP MD5, empty: none
	TTLSecurity  bool
}

var (
	nameRE     = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,62}$`)
	ifaceRE    = regexp.MustCompile(`^[A-Za-z0-9_.@-]{1,15}$`)
	passwordRE = regexp.MustCompile(`^[A-Za-z0-9_.,:;+/=@%^*()-]{0,80}$`)
	fileRE     = regexp.MustCompile(`^[A-Za-z0-9_./-]*$`)
)

// Validate reports everything that would render to a broken configuration.
func (c RouterConfig) Validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if !nameRE.MatchString(c.Name) {
		bad("name: %q, want a host name", c.Name)
	}
	if !c.RouterID.Is4() {
		bad("router_id: %v, want an IPv4 address", c.RouterID)
	}
	if c.ASN == 0 || c.ASN == c.ApplianceASN {
		bad("asn: %d, want the router's AS number, not the appliances'", c.ASN)
	}
	if c.ApplianceASN == 0 {
		bad("appliance_asn: 0, want the AS number the appliances share")
	}
	if c.Role != Outside && c.Role != Inside {
		bad("role: %q, want %q or %q", c.Role, Outside, Inside)
	}
	if !fileRE.MatchString(c.LogFile) {
		bad("log_file: %q, want a path of letters, digits and _./-", c.LogFile)
	}
	if c.BFDInterval%time.Millisecond != 0 || c.BFDInterval < 0 {
		bad("bfd_interval: %v, want whole milliseconds", c.BFDInterval)
	}
	if c.BFDMultiplier < 0 || c.BFDMultiplier == 1 || c.BFDMultiplier > 255 {
		bad("bfd_multiplier: %d, want 2..255", c.BFDMultiplier)
	}
	if c.HoldTime%time.Second != 0 || c.HoldTime < 0 {
		bad("hold_time: %v, want whole seconds", c.HoldTime)
	}
	for i, s := range c.Sessions {
		at := fmt.Sprintf("sessions[%d]", i)
		if !nameRE.MatchString(s.Name) {
			bad("%s.name: %q, want the appliance's name", at, s.Name)
		}
		if !s.Address.IsValid() || s.Address.Is4() != s.LocalAddress.Is4() || !s.LocalAddress.IsValid() {
			bad("%s.address: %v and local_address %v, want two addresses of one family", at, s.Address, s.LocalAddress)
		}
		if !ifaceRE.MatchString(s.Interface) {
			bad("%s.interface: %q, want an interface name", at, s.Interface)
		}
		if !passwordRE.MatchString(s.Password) {
			bad("%s.password: want up to 80 letters, digits and punctuation without quotes or blanks", at)
		}
		for _, o := range c.Sessions[:i] {
			if o.Address == s.Address || protocolName(o) == protocolName(s) {
				bad("%s: same address or same name and family as another session", at)
			}
		}
	}
	for field, ps := range map[string][]netip.Prefix{"vips": c.VIPs, "liveness": c.Liveness, "inner": c.Inner} {
		for i, p := range ps {
			if !p.IsValid() || p != p.Masked() {
				bad("%s[%d]: %v, want a prefix without host bits", field, i, p)
			}
		}
	}
	return errors.Join(errs...)
}

//go:embed bird2.tmpl
var birdText string

//go:embed frr.tmpl
var frrText string

//go:embed junos.tmpl
var junosText string

//go:embed iosxr.tmpl
var iosxrText string

//go:embed eos.tmpl
var eosText string

var funcs = template.FuncMap{
	"proto": protocolName,
	"v4":    func(ps []netip.Prefix) []netip.Prefix { return family(ps, false) },
	"v6":    func(ps []netip.Prefix) []netip.Prefix { return family(ps, true) },
	"ms":    func(d time.Duration) int64 { return d.Milliseconds() },
	"sec":   func(d time.Duration) int64 { return int64(d / time.Second) },
	// keepalive is a third of the hold time, in seconds.
	"keepalive": func(d time.Duration) int64 { return max(1, int64(d/time.Second)/3) },
	"seq":       func(i int) int { return 5 * (i + 1) },
	// hosts renders a BIRD prefix set of the host routes inside each range,
	// ranges one of the range itself and everything inside it.
	"hosts":  func(ps []netip.Prefix) string { return birdSet(ps, true) },
	"ranges": func(ps []netip.Prefix) string { return birdSet(ps, false) },
	"bits":   func(p netip.Prefix) int { return p.Addr().BitLen() },
}

// addressFamily is IPv4 or IPv6 in the words of each vendor.
type addressFamily struct{ N int }

// Of returns the prefixes of the family.
func (f addressFamily) Of(ps []netip.Prefix) []netip.Prefix { return family(ps, f.N == 6) }

// Junos says inet, Cisco ipv4, EOS ip.
func (f addressFamily) Junos() string { return map[int]string{4: "inet", 6: "inet6"}[f.N] }

// Cisco is also what EOS calls an address family.
func (f addressFamily) Cisco() string { return map[int]string{4: "ipv4", 6: "ipv6"}[f.N] }

// EOS is the word of its prefix lists.
func (f addressFamily) EOS() string { return map[int]string{4: "ip", 6: "ipv6"}[f.N] }

var (
	birdTemplate = template.Must(template.New("bird2").Funcs(funcs).Parse(birdText))
	frrTemplate  = template.Must(template.New("frr").Funcs(funcs).Parse(frrText))

	junosTemplate = template.Must(template.New("junos").Funcs(funcs).Parse(junosText))
	iosxrTemplate = template.Must(template.New("iosxr").Funcs(funcs).Parse(iosxrText))
	eosTemplate   = template.Must(template.New("eos").Funcs(funcs).Parse(eosText))
)

// RenderBIRD returns the configuration file of BIRD 2 for c.
func RenderBIRD(c RouterConfig) (string, error) { return render(birdTemplate, c) }

// RenderFRR returns the configuration of FRR's zebra, bgpd and bfdd for c, as
// one file for vtysh -f.
func RenderFRR(c RouterConfig) (string, error) {
	for i, s := range c.Sessions {
		if s.TTLSecurity {
			return "", fmt.Errorf("check configuration of router %s: sessions[%d].ttl_security: FRR then asks for multihop BFD, which appliances do not speak, want false", c.Name, i)
		}
	}
	return render(frrTemplate, c)
}

// RenderJunos returns a Junos configuration. Nothing of shadowcast runs it, nor what
// the next two return.
func RenderJunos(c RouterConfig) (string, error) { return render(junosTemplate, c) }

// RenderIOSXR returns a configuration of Cisco IOS XR.
func RenderIOSXR(c RouterConfig) (string, error) { return render(iosxrTemplate, c) }

// RenderEOS returns a configuration of Arista EOS.
func RenderEOS(c RouterConfig) (string, error) { return render(eosTemplate, c) }

// view is what the templates see.
type view struct {
	RouterConfig
	Interfaces string // quoted, comma separated
	Sessions4  []Session
	Sessions6  []Session
}

// Families are those that have a session.
func (v view) Families() (out []addressFamily) {
	for _, f := range []addressFamily{{4}, {6}} {
		if len(v.SessionsOf(f)) > 0 {
			out = append(out, f)
		}
	}
	return out
}

// SessionsOf returns the sessions of a family.
func (v view) SessionsOf(f addressFamily) []Session {
	if f.N == 6 {
		return v.Sessions6
	}
	return v.Sessions4
}

func render(t *template.Template, c RouterConfig) (string, error) {
	if err := c.Validate(); err != nil {
		return "", fmt.Errorf("check configuration of router %s: %w", c.Name, err)
	}
	if c.BFDInterval == 0 {
		c.BFDInterval = 100 * time.Millisecond
	}
	if c.BFDMultiplier == 0 {
		c.BFDMultiplier = 3
	}
	if c.HoldTime == 0 {
		c.HoldTime = 9 * time.Second
	}
	v := view{RouterConfig: c}
	var ifs []string
	for _, s := range c.Sessions {
		if s.Address.Is4() {
			v.Sessions4 = append(v.Sessions4, s)
		} else {
			v.Sessions6 = append(v.Sessions6, s)
		}
		ifs = append(ifs, `"`+s.Interface+`"`)
	}
	slices.Sort(ifs)
	v.Interfaces = strings.Join(slices.Compact(ifs), ", ")
	var b strings.Builder
	if err := t.Execute(&b, v); err != nil {
		return "", fmt.Errorf("render configuration of router %s: %w", c.Name, err)
	}
	return b.String(), nil
}

// protocolName is a BIRD symbol for the session.
func protocolName(s Session) string {
	n := strings.ReplaceAll(s.Name, "-", "_")
	if s.Address.Is6() {
		return n + "_6"
	}
	return n + "_4"
}

func family(ps []netip.Prefix, v6 bool) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range ps {
		if p.Addr().Is6() == v6 {
			out = append(out, p)
		}
	}
	return out
}

func birdSet(ps []netip.Prefix, hostsOnly bool) string {
	var parts []string
	for _, p := range ps {
		bits := p.Addr().BitLen()
		switch {
		case p.IsSingleIP():
			parts = append(parts, p.String())
		case hostsOnly:
			parts = append(parts, fmt.Sprintf("%v{%d,%d}", p, bits, bits))
		default:
			parts = append(parts, fmt.Sprintf("%v{%d,%d}", p, p.Bits(), bits))
		}
	}
	return "[ " + strings.Join(parts, ", ") + " ]"
}
