package config

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
)

// DNS says which names follow the appliances by dynamic update (RFC 2136); the zero
// value: none.
type DNS struct {
	Server  netip.AddrPort // primary of Zone
	Zone    string         // without the final dot
	KeyFile string         // TSIG key, as tsig-keygen writes it
	TTL     time.Duration  // whole seconds
	Names   []DNSName
}

// DNSName is the name of an appliance's site. While that appliance owns its first home
// slot the name has its addresses, else those of the appliance that does.
type DNSName struct {
	Name      string // relative to the zone
	Appliance string
	Addresses []netip.Addr // VIPs
}

// Enabled reports whether there are names to keep.
func (d DNS) Enabled() bool { return d.Server.IsValid() }

// AddressesOf are what a name gets while the appliance owns what it stands for: those
// of its own first name, else all VIPs.
func (c *Config) AddressesOf(appliance string) []netip.Addr {
	for _, n := range c.DNS.Names {
		if n.Appliance == appliance {
			return n.Addresses
		}
	}
	return c.Fleet.VIPs
}

type rawDNS struct {
	Server  string       `yaml:"server"`
	Zone    string       `yaml:"zone"`
	KeyFile string       `yaml:"key_file"`
	TTL     duration     `yaml:"ttl"`
	Names   []rawDNSName `yaml:"names"`
}

// IsZero tells the YAML encoder that there is no section to write.
func (r rawDNS) IsZero() bool { return r.Server == "" && len(r.Names) == 0 }

type rawDNSName struct {
	Name      string   `yaml:"name"`
	Appliance string   `yaml:"appliance"`
	Addresses []string `yaml:"addresses"`
}

var domainForm = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$`)

func (c *collector) dns(r *rawDNS, f *Fleet) (d DNS) {
	if r.Server == "" && r.Zone == "" && r.KeyFile == "" && len(r.Names) == 0 {
		return d
	}
	if ap, err := netip.ParseAddrPort(r.Server); err != nil || ap.Port() == 0 || ap.Addr().IsUnspecified() {
		c.addf("dns.server", "%q; want the address and port of the zone's primary, such as 192.0.2.53:53", r.Server)
	} else {
		d.Server = ap
	}
	d.Zone = c.domain("dns.zone", r.Zone, "the zone that the names are in, such as vpn.example")
	d.KeyFile = c.file("dns.key_file", r.KeyFile)
	d.TTL = c.duration("dns.ttl", r.TTL, time.Second, time.Hour)
	if d.TTL%time.Second != 0 {
		c.addf("dns.ttl", "%v; want whole seconds", d.TTL)
	}
	if len(r.Names) == 0 {
		c.addf("dns.names", "missing; want a name for each appliance's site, or no dns section")
	}
	var appliances []string
	for _, a := range f.Appliances {
		appliances = append(appliances, a.Name)
	}
	seen := map[string]int{}
	for i, rn := range r.Names {
		path := at("dns.names", i)
		n := DNSName{Name: c.domain(path+".name", rn.Name, "a name below the zone, such as ams"), Appliance: rn.Appliance}
		key := strings.ToLower(n.Name)
		if j, dup := seen[key]; dup && key != "" {
			c.addf(path+".name", "%q is the name of %s already; want a name of its own", n.Name, at("dns.names", j))
		}
		seen[key] = i
		if _, ok := f.Appliance(rn.Appliance); !ok {
			c.addf(path+".appliance", "%q is not in fleet.appliances; want %s", rn.Appliance, oneOf(appliances))
		} else if !slices.ContainsFunc(f.Slots, func(s Slot) bool { return s.Home == rn.Appliance }) {
			c.addf(path+".appliance", "%s is the home of no slot; want an appliance whose slots say who serves its site", rn.Appliance)
		}
		if len(rn.Addresses) == 0 {
			c.addf(path+".addresses", "missing; want addresses of fleet.vips")
		}
		for j, s := range rn.Addresses {
			here := at(path+".addresses", j)
			a := c.addr(here, s, "one of fleet.vips")
			switch {
			case !a.IsValid():
				continue
			case !slices.Contains(f.VIPs, a):
				c.addf(here, "%s is no VIP; want one of fleet.vips: nothing else answers clients", a)
			case slices.Contains(n.Addresses, a):
				c.addf(here, "%s is named twice; want each address once", a)
			}
			n.Addresses = append(n.Addresses, a)
		}
		d.Names = append(d.Names, n)
	}
	return d
}

// domain checks a domain name without its final dot.
func (c *collector) domain(path, s, what string) string {
	switch {
	case s == "":
		c.addf(path, "missing; want %s", what)
	case !domain(s):
		c.addf(path, "%q; want %s", s, what)
	}
	return s
}

// domain reports whether s has the form of a domain name.
func domain(s string) bool { return len(s) <= 200 && domainForm.MatchString(s) }

func (d DNS) raw() (r rawDNS) {
	if !d.Enabled() {
		return r
	}
	r = rawDNS{Server: d.Server.String(), Zone: d.Zone, KeyFile: d.KeyFile, TTL: duration(short(d.TTL))}
	for _, n := range d.Names {
		x := rawDNSName{Name: n.Name, Appliance: n.Appliance}
		for _, a := range n.Addresses {
			x.Addresses = append(x.Addresses, a.String())
		}
		r.Names = append(r.Names, x)
	}
	return r
}
