package config

import (
	"fmt"
	"net/netip"
	"slices"
)

// Redirect says where clients go that must leave this appliance (IKEv2 REDIRECT,
// RFC 5685); the zero value: nowhere.
type Redirect struct {
	Gateway string        // address or name, as the clients reach it; "" for none
	Drain   RedirectDrain // which clients a drain tells
	Rate    int           // clients told in a second, at most
}

// RedirectDrain says which clients a drain tells to leave.
type RedirectDrain string

// Clients that a drain tells to leave.
const (
	// RedirectNever: none; shadowctl redirect does it by hand.
	RedirectNever RedirectDrain = "never"
	// RedirectUncovered: those of slots that nobody can take over.
	RedirectUncovered RedirectDrain = "uncovered"
	// RedirectAll: all, and at once: the appliance or its site is given up.
	RedirectAll RedirectDrain = "all"
)

var redirectDrains = []string{string(RedirectNever), string(RedirectUncovered), string(RedirectAll)}

type rawRedirect struct {
	Gateway string `yaml:"gateway"`
	Drain   string `yaml:"drain"`
	Rate    int    `yaml:"rate"`
}

// IsZero tells the YAML encoder that there is no section to write.
func (r rawRedirect) IsZero() bool { return r.Gateway == "" }

func (c *collector) redirect(r *rawRedirect, f *Fleet) (d Redirect) {
	if *r == (rawRedirect{}) {
		return d
	}
	d = Redirect{Gateway: r.Gateway, Drain: RedirectDrain(r.Drain), Rate: c.within("redirect.rate", r.Rate, 1, 1000)}
	if wrong := GatewayProblem(r.Gateway, f); wrong != "" {
		c.addf("redirect.gateway", "%s", wrong)
	}
	if !slices.Contains(redirectDrains, r.Drain) {
		c.addf("redirect.drain", "%q; want %s", r.Drain, oneOf(redirectDrains))
	}
	return d
}

// GatewayProblem says why clients of the fleet f cannot be told to go to a gateway, and
// what would be right; "" where they can.
func GatewayProblem(gateway string, f *Fleet) string {
	const want = "want the address or the name of the gateway to which clients shall go"
	a, err := netip.ParseAddr(gateway)
	switch {
	case gateway == "":
		return "missing; " + want
	case err != nil && !domain(gateway):
		return fmt.Sprintf("%q; %s", gateway, want)
	case err != nil:
		return ""
	case a.IsUnspecified() || a.IsMulticast() || a.Zone() != "":
		return fmt.Sprintf("%s; want the unicast address of a gateway", a)
	case len(f.VIPs) == 1 && f.VIPs[0] == a:
		return fmt.Sprintf("%s is the only VIP of this fleet; want another gateway: clients would come back here", a)
	}
	return ""
}

func (r Redirect) raw() rawRedirect {
	return rawRedirect{Gateway: r.Gateway, Drain: string(r.Drain), Rate: r.Rate}
}
