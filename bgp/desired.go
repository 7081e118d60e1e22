package bgp

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Level is a rung of the preference ladder of the VIPs.
type Level int

const (
	// Normal announces MED base + offset.
	Normal Level = iota
	// Degraded announces DegradedStep more: others are preferred, if there are any.
	Degraded
	// Draining announces the highest usable MED and GRACEFUL_SHUTDOWN: routers
	// use the VIP here only if nobody else announces it.
	Draining
	// Withdrawn announces no VIP.
	Withdrawn
)

var levelNames = [...]string{"normal", "degraded", "draining", "withdrawn"}

func (l Level) String() string {
	if l < 0 || int(l) >= len(levelNames) {
		return fmt.Sprintf("level %d", int(l))
	}
	return levelNames[l]
}

// MarshalText renders the name.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads a name.
func (l *Level) UnmarshalText(b []byte) error {
	i := slices.Index(levelNames[:], string(b))
	if i < 0 {
		return fmt.Errorf("parse level %.32q: want one of %s", b, strings.Join(levelNames[:], ", "))
	}
	*l = Level(i)
	return nil
}

const (
	// DegradedStep is what Degraded adds to the MED.
	DegradedStep = 50
	// DrainMED is the MED of Draining: one below the maximum, which some
	// routers read as "no MED at all".
	DrainMED uint32 = 1<<32 - 2
	// MEDStep quantises MEDBase and VIPOffset, so that small differences in
	// what is desired never become updates.
	MEDStep = 10
	// maxMEDBase leaves room for offsets and steps.
	maxMEDBase = 1 << 30
)

// Community is a standard community (RFC 1997): ASN<<16 | value.
type Community uint32

// GracefulShutdown is RFC 8326's 65535:0.
const GracefulShutdown Community = 0xffff0000

func (c Community) String() string { return fmt.Sprintf("%d:%d", uint32(c)>>16, uint32(c)&0xffff) }

// MarshalText renders asn:value.
func (c Community) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText reads asn:value, both 0..65535.
func (c *Community) UnmarshalText(b []byte) error {
	if len(b) <= len("65535:65535") {
		hi, lo, ok := strings.Cut(string(b), ":")
		h, err1 := strconv.ParseUint(hi, 10, 16)
		l, err2 := strconv.ParseUint(lo, 10, 16)
		if ok && err1 == nil && err2 == nil {
			*c = Community(h<<16 | l)
			return nil
		}
	}
	return fmt.Errorf("parse community %.32q: want asn:value, both 0..65535", b)
}

// Desired is the whole state to announce.
type Desired struct {
	VIPs  []netip.Prefix
	Level Level
	// MEDBase is the site's MED, a multiple of MEDStep.
	MEDBase uint32
	// VIPOffset shifts the MED of Normal and Degraded, a multiple of MEDStep;
	// the result stops at 0. A successor uses a negative one to fall below
	// everybody.
	VIPOffset int
	// Liveness are this appliance's host routes that say "I am here".
	Liveness []netip.Prefix
	// Inner are the prefixes behind slots owned here, for inside peers.
	Inner []netip.Prefix
	// Tags are further communities of the VIPs.
	Tags []Community
	// Force lets attribute changes pass the change budget: an operator's move.
	Force bool
}

// Validate reports everything wrong with d.
func (d Desired) Validate() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if d.Level < Normal || d.Level > Withdrawn {
		bad("level: %v, want one of %s", d.Level, strings.Join(levelNames[:], ", "))
	}
	if d.MEDBase%MEDStep != 0 || d.MEDBase > maxMEDBase {
		bad("med_base: %d, want a multiple of %d, at most %d", d.MEDBase, MEDStep, maxMEDBase)
	}
	if d.VIPOffset%MEDStep != 0 || d.VIPOffset > maxMEDBase || d.VIPOffset < -maxMEDBase {
		bad("vip_offset: %d, want a multiple of %d within +-%d", d.VIPOffset, MEDStep, maxMEDBase)
	}
	seen := map[netip.Prefix]string{}
	check := func(field string, ps []netip.Prefix, host bool) {
		for i, p := range ps {
			at := fmt.Sprintf("%s[%d]", field, i)
			switch {
			case !p.IsValid() || p.Addr().Is4In6() || p.Addr().Zone() != "":
				bad("%s: %v, want an IPv4 or IPv6 prefix", at, p)
			case p != p.Masked():
				bad("%s: %v has host bits, want %v", at, p, p.Masked())
			case host && !p.IsSingleIP():
				bad("%s: %v, want a host route (/32 or /128)", at, p)
			case seen[p] != "":
				bad("%s: %v is %s already", at, p, seen[p])
			}
			seen[p] = at
		}
	}
	check("vips", d.VIPs, true)
	check("liveness", d.Liveness, true)
	check("inner", d.Inner, false)
	return errors.Join(errs...)
}

// MED returns the MED of the VIPs at d's level.
func (d Desired) MED() uint32 {
	if d.Level >= Draining {
		return DrainMED
	}
	m := max(0, int64(d.MEDBase)+int64(d.VIPOffset))
	if d.Level == Degraded {
		m += DegradedStep
	}
	return uint32(m)
}

func (d Desired) clone() Desired {
	d.VIPs, d.Liveness = slices.Clone(d.VIPs), slices.Clone(d.Liveness)
	d.Inner, d.Tags = slices.Clone(d.Inner), slices.Clone(d.Tags)
	return d
}

// route is one announcement as the wire sees it; comparable, so that equality
// means "nothing to send".
type route struct {
	inside      bool
	hasMED      bool
	med         uint32
	communities string // sorted, 4 bytes each, big endian
}

func packCommunities(cs []Community) string {
	cs = slices.Clone(cs)
	slices.Sort(cs)
	var b []byte
	for _, c := range slices.Compact(cs) {
		b = append(b, byte(c>>24), byte(c>>16), byte(c>>8), byte(c))
	}
	return string(b)
}

func (r route) unpackCommunities() []Community {
	var cs []Community
	for b := r.communities; len(b) >= 4; b = b[4:] {
		cs = append(cs, Community(b[0])<<24|Community(b[1])<<16|Community(b[2])<<8|Community(b[3]))
	}
	return cs
}

func (r route) draining() bool { return slices.Contains(r.unpackCommunities(), GracefulShutdown) }

// worseThan reports whether r is less preferred than o.
func (r route) worseThan(o route) bool {
	if d := r.draining(); d != o.draining() {
		return d
	}
	return r.med > o.med
}

// routes returns what d announces.
func (d Desired) routes() map[netip.Prefix]route {
	m := make(map[netip.Prefix]route, len(d.VIPs)+len(d.Liveness)+len(d.Inner))
	if d.Level != Withdrawn {
		tags := d.Tags
		if d.Level == Draining {
			tags = append(slices.Clone(tags), GracefulShutdown)
		}
		vip := route{hasMED: true, med: d.MED(), communities: packCommunities(tags)}
		for _, p := range d.VIPs {
			m[p] = vip
		}
	}
	for _, p := range d.Liveness {
		m[p] = route{}
	}
	for _, p := range d.Inner {
		m[p] = route{inside: true}
	}
	return m
}

// sortedPrefixes returns the keys of m in a stable order.
func sortedPrefixes[V any](m map[netip.Prefix]V) []netip.Prefix {
	return slices.SortedFunc(maps.Keys(m), netip.Prefix.Compare)
}
