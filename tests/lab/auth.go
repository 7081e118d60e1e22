package lab

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// EAP methods by which a client may prove who it is (RFC 7296 section 2.16); the
// gateway has a certificate then.
const (
	EAPMSCHAPv2 = "mschapv2" // a user with a password
	EAPTLS      = "tls"      // a certificate, shown inside of TLS
)

// auth names the way to prove identities: psk, cert, eap-mschapv2 or eap-tls.
func (c ConnSpec) auth() string {
	switch {
	case c.EAP != "":
		return "eap-" + c.EAP
	case c.Cert:
		return "cert"
	}
	return "psk"
}

// offer names what gateways offer such a client: one connection for each.
func (c ConnSpec) offer() string {
	if c.Site.IsValid() {
		return c.auth() + "-site"
	}
	return c.auth()
}

// user is the identity that a client gives by EAP. That of EAP-TLS must be in the
// certificate, so it is the IKE identity again.
func (c *Client) user() string {
	if c.Spec.EAP == EAPMSCHAPv2 {
		return c.Name + "@users.example"
	}
	return c.ID()
}

// password is the user's: no secret outside of the lab, long enough to be searched for.
func password(user string) string { return "the password of " + user }

// ID is the client's IKE identity. Gateways tell by its domain which EAP method a client
// wants, and which are gateways of sites.
func (c *Client) ID() string {
	name := cmp.Or(c.Spec.As, c.Name)
	switch {
	case c.Spec.EAP != "":
		return name + "." + c.Spec.EAP + ".example"
	case c.Spec.Site.IsValid():
		return name + ".site.example"
	}
	return name + ".example"
}

// connectionOf names the gateways' connection for clients such as c.
func connectionOf(l *Lab, c ConnSpec) string {
	if c.offer() == l.opt.Conn.offer() {
		return "rw"
	}
	return "rw-" + c.offer()
}

// gatewayAuth is how a gateway authenticates itself and its clients in swanctl.conf.
func (c ConnSpec) gatewayAuth() string {
	local, remote, id := "auth = pubkey\n      certs = gateway.pem", "pubkey", "%any"
	switch {
	case c.EAP != "":
		remote, id = "eap-"+c.EAP+"\n      eap_id = %any", "*."+c.EAP+".example"
	case !c.Cert:
		local, remote = "auth = psk", "psk"
	}
	if c.Site.IsValid() {
		id = "*.site.example"
	}
	return fmt.Sprintf(`    local { %s
      id = %s }
    remote { auth = %s
      id = %s }
`, local, GatewayID, remote, id)
}

// secrets are the secrets section of the gateways: a pre-shared key, or the users
// with their passwords.
func (l *Lab) secrets() string {
	var b strings.Builder
	conns, _ := l.offered()
	if slices.ContainsFunc(conns, func(c ConnSpec) bool { return c.auth() == "psk" }) {
		fmt.Fprintf(&b, "  ike-lab {\n    secret = %q\n  }\n", psk)
	}
	for _, c := range l.clients {
		if c.Spec.EAP == EAPMSCHAPv2 {
			fmt.Fprintf(&b, "  eap-%s {\n    id = %s\n    secret = %q\n  }\n", c.Name, c.user(), password(c.user()))
		}
	}
	if b.Len() == 0 {
		return ""
	}
	return "secrets {\n" + b.String() + "}\n"
}
