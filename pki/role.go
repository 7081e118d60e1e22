package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

// Role says what a person may do with the operator API. Each role may do what those
// below it may.
type Role uint8

// Roles, the least first. The zero value is none.
const (
	Viewer   Role = iota + 1 // looks
	Operator                 // moves slots, drains, holds the upgrade lock
	Admin                    // changes what the fleet is made of
)

var roleNames = [...]string{Viewer: "viewer", Operator: "operator", Admin: "admin"}

func (r Role) String() string {
	if r < Viewer || r > Admin {
		return "none"
	}
	return roleNames[r]
}

// ParseRole reads viewer, operator or admin.
func ParseRole(s string) (Role, error) {
	for r := Viewer; r <= Admin; r++ {
		if roleNames[r] == s {
			return r, nil
		}
	}
	return 0, fmt.Errorf("role %q: want viewer, operator or admin", s)
}

// Person is somebody with a certificate for the operator API.
type Person struct {
	Name string
	Role Role
}

// personURI stands in a person's certificate. It has one segment more than an
// appliance's, and the certificate no DNS name, so that neither passes for the other.
func personURI(fleet string, p Person) *url.URL {
	return &url.URL{Scheme: scheme, Host: fleet, Path: "/" + p.Role.String() + "/" + p.Name}
}

// personOf reads a person's certificate.
func personOf(leaf *x509.Certificate) (Person, error) {
	if len(leaf.URIs) == 1 && leaf.URIs[0].Scheme == scheme && len(leaf.DNSNames) == 0 {
		role, name, _ := strings.Cut(strings.TrimPrefix(leaf.URIs[0].Path, "/"), "/")
		r, err := ParseRole(role)
		p := Person{Name: name, Role: r}
		if err == nil && nameForm.MatchString(name) && *leaf.URIs[0] == *personURI(leaf.URIs[0].Host, p) {
			return p, nil
		}
	}
	return Person{}, fmt.Errorf("certificate of %q: %w: want no DNS name and the URI %s://<fleet>/<role>/<name>", leaf.Subject.CommonName, ErrName, scheme)
}

// IssuePerson makes the certificate and key of somebody who uses the operator API
// from elsewhere, as Issue does for an appliance.
func IssuePerson(dir string, p Person, o Options) (Made, error) {
	if _, err := ParseRole(p.Role.String()); err != nil {
		return Made{}, fmt.Errorf("issue certificate: %w", err)
	}
	return issueNamed(dir, p.Name, aPerson, o, func(fleet string, t *x509.Certificate) {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		t.URIs = []*url.URL{personURI(fleet, p)}
	})
}

// PeopleTLS accepts people of our fleet with TLS 1.3, and no appliances. PersonAt
// tells who it is afterwards.
func (id *Identity) PeopleTLS() *tls.Config {
	return server(id.config(func(chain []*x509.Certificate) error {
		_, err := id.state.Load().verifyPerson(chain)
		return err
	}))
}

// verifyPerson checks a chain, leaf first, and returns who it is.
func (s *state) verifyPerson(chain []*x509.Certificate) (Person, error) {
	leaf, err := s.verifyChain(chain, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return Person{}, err
	}
	p, err := personOf(leaf)
	if err != nil {
		return Person{}, err
	}
	return p, s.ours(leaf)
}

// PersonAt returns who is at the other end of a connection made with PeopleTLS.
func PersonAt(cs tls.ConnectionState) (Person, error) {
	if len(cs.PeerCertificates) == 0 {
		return Person{}, errors.New("peer sent no certificate")
	}
	return personOf(cs.PeerCertificates[0])
}

// PersonTLS reads a person's files and returns the way to reach an appliance of the
// fleet under its name or an address in its certificate.
func PersonTLS(f Files, appliance string) (*tls.Config, error) {
	id := &Identity{files: f}
	s, err := id.read()
	if err != nil {
		return nil, err
	}
	if _, err := s.verifyPerson(s.chain); err != nil {
		return nil, fmt.Errorf("check %s: %w", f.Cert, err)
	}
	id.state.Store(s)
	c := id.config(func(chain []*x509.Certificate) error {
		name, err := s.verify(chain, x509.ExtKeyUsageServerAuth)
		if err != nil {
			return err
		}
		if addr, err := netip.ParseAddr(appliance); err == nil {
			if herr := chain[0].VerifyHostname(addr.String()); herr != nil {
				return fmt.Errorf("%w: it is %s, whose certificate does not have the address %s", ErrName, name, addr)
			}
		} else if name != appliance {
			return fmt.Errorf("%w: it is %s, want %s", ErrName, name, appliance)
		}
		return nil
	})
	c.ServerName = appliance
	c.InsecureSkipVerify = true // VerifyConnection verifies instead, by the rules of this package
	return c, nil
}
