package swanctl

import (
	"slices"
	"strings"

	"github.com/shadowcast/shadowcast/sa/charon"
)

// eapMethods are the values of auth that gateways can serve, each by the plugin of
// its name. eap-identity is an exchange before a method, not one.
func eapMethods() []string {
	var out []string
	for _, p := range charon.DefaultPlugins {
		if strings.HasPrefix(p, "eap-") && p != "eap-identity" {
			out = append(out, p)
		}
	}
	return out
}

// eapMethod reports the EAP method that an authentication section names,
// "eap-mschapv2"; ok is false where it leaves the method open or uses no EAP.
func eapMethod(s *section) (v setting, ok bool) {
	v, ok = s.find("auth")
	return v, ok && strings.HasPrefix(v.value, "eap-")
}

// EAPMethods are the names of the EAP methods that connections ask for, each of which
// is a plugin of strongSwan's, sorted.
func (c *Config) EAPMethods() []string {
	var out []string
	for _, s := range c.conns {
		for _, round := range s.subs {
			if v, ok := eapMethod(round); ok && !slices.Contains(out, v.value) {
				out = append(out, v.value)
			}
		}
	}
	slices.Sort(out)
	return out
}
