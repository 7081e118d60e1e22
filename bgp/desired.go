package bgp

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
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
	// BackupMED is the MED of a prefix behind a slot at those who shadow it: above what
	// its owner may announce it with, which is none (0, RFC 4271 9.1.2.2) plus MEDAdd.
	BackupMED uint32 = 1 << 31
	// DrainMED is the MED of Draining: one below the maximum, which some
	// routers read as "no MED at all".
	DrainMED uint32 = 1<<32 - 2
	// MEDStep quantises MEDBase and VIPOffset, so that small differences in
	// what is desired never become updates.
	MEDStep = 10
	// maxMEDBase leaves room for offsets and steps.
	maxMEDBase = 1 << 30
)

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
	// VIPMED replaces MEDBase for single VIPs: of several VIPs each may be at home
	// at another appliance.
	VIPMED map[netip.Prefix]uint32
	// Liveness are this appliance's host routes that say "I am here".
	Liveness []netip.Prefix
	// Inner are the prefixes behind slots owned here, for inside peers, and
	// InnerSlot the slot behind each, which is tagged.
	Inner     []netip.Prefix
	InnerSlot map[netip.Prefix]uint32
	// Backup are the prefixes behind slots shadowed here, for inside peers: a way to
	// their owner through this appliance, for as long as the owner's own announcement is
	// missing. They are in InnerSlot, too.
	Backup []netip.Prefix
	// Owner tags what carries a MED or lies inside with the appliance that
	// announces it; the zero value leaves the tag out.
	Owner LargeCommunity
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
	for p, med := range d.VIPMED {
		if med%MEDStep != 0 || med > maxMEDBase {
			bad("vip_med[%v]: %d, want a multiple of %d, at most %d", p, med, MEDStep, maxMEDBase)
		}
		if !slices.Contains(d.VIPs, p) {
			bad("vip_med[%v]: no such VIP, want one of %v", p, d.VIPs)
		}
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
	check("backup", d.Backup, false)
	return errors.Join(errs...)
}

// MED returns the MED of a VIP at d's level.
func (d Desired) MED(vip netip.Prefix) uint32 {
	if d.Level >= Draining {
		return DrainMED
	}
	base, ok := d.VIPMED[vip]
	if !ok {
		base = d.MEDBase
	}
	m := max(0, int64(base)+int64(d.VIPOffset))
	if d.Level == Degraded {
		m += DegradedStep
	}
	return uint32(m)
}

func (d Desired) clone() Desired {
	d.VIPs, d.Liveness = slices.Clone(d.VIPs), slices.Clone(d.Liveness)
	d.Inner, d.Backup, d.Tags = slices.Clone(d.Inner), slices.Clone(d.Backup), slices.Clone(d.Tags)
	d.VIPMED, d.InnerSlot = maps.Clone(d.VIPMED), maps.Clone(d.InnerSlot)
	return d
}

// route is one announcement as the wire sees it; comparable, so that equality
// means "nothing to send".
type route struct {
	inside      bool
	hasMED      bool
	med         uint32
	communities string // sorted, 4 bytes each, big endian
	large       string // sorted, 12 bytes each, big endian
}

func (r route) draining() bool {
	return slices.Contains(unpackCommunities(r.communities), GracefulShutdown)
}

// retired is r on its way out: usable, but only where nobody else has the prefix.
func (r route) retired() route {
	r.med, r.communities = DrainMED, packCommunities(append(unpackCommunities(r.communities), GracefulShutdown))
	return r
}

// worseThan reports whether r is less preferred than o.
func (r route) worseThan(o route) bool {
	if d := r.draining(); d != o.draining() {
		return d
	}
	return r.med > o.med
}

// routes returns what d announces.
func (d Desired) routes() map[netip.Prefix]route {
	m := make(map[netip.Prefix]route, len(d.VIPs)+len(d.Liveness)+len(d.Inner)+len(d.Backup))
	if d.Level != Withdrawn {
		tags := d.Tags
		if d.Level == Draining {
			tags = append(slices.Clone(tags), GracefulShutdown)
		}
		for _, p := range d.VIPs {
			m[p] = route{hasMED: true, med: d.MED(p), communities: packCommunities(tags), large: packLarge(d.owner())}
		}
	}
	for _, p := range d.Liveness {
		m[p] = route{}
	}
	for _, p := range d.Inner {
		m[p] = route{inside: true, large: d.inner(p)}
	}
	for _, p := range d.Backup {
		m[p] = route{inside: true, hasMED: true, med: BackupMED, large: d.inner(p)}
	}
	return m
}

// inner are the tags of a prefix behind a slot.
func (d Desired) inner(p netip.Prefix) string {
	large := d.owner()
	if n, ok := d.InnerSlot[p]; ok && len(large) > 0 {
		large = append(large, LargeCommunity{d.Owner.Global, TagSlot, n})
	}
	return packLarge(large)
}

func (d Desired) owner() []LargeCommunity {
	if d.Owner == (LargeCommunity{}) {
		return nil
	}
	return []LargeCommunity{d.Owner}
}

// sortedPrefixes returns the keys of m in a stable order.
func sortedPrefixes[V any](m map[netip.Prefix]V) []netip.Prefix {
	return slices.SortedFunc(maps.Keys(m), netip.Prefix.Compare)
}
