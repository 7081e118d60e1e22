package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Files names the PEM files of one appliance.
type Files struct{ CA, Cert, Key string }

// Identity is one appliance's place in its fleet. The tls.Configs it gives
// follow Reload: connections made later use the new files.
type Identity struct {
	files Files
	name  string
	state atomic.Pointer[state]
}

// state is one consistent reading of the files.
type state struct {
	fleet string
	roots *x509.CertPool
	until time.Time // the last CA ends
	cert  *tls.Certificate
}

// Load reads the files of appliance name and checks that they belong together.
func Load(f Files, name string) (*Identity, error) {
	id := &Identity{files: f, name: name}
	if err := id.Reload(); err != nil {
		return nil, err
	}
	return id, nil
}

// Reload reads the files again. On an error the old ones stay in use.
func (id *Identity) Reload() error {
	cas, err := readCerts(id.files.CA)
	if err != nil {
		return err
	}
	s := &state{roots: x509.NewCertPool()}
	for i, ca := range cas { // several while a CA is being replaced
		fleet, err := fleetOf(ca)
		if err != nil {
			return fmt.Errorf("read %s: %w", id.files.CA, err)
		}
		if i > 0 && fleet != s.fleet {
			return fmt.Errorf("read %s: it holds CAs of the fleets %s and %s", id.files.CA, s.fleet, fleet)
		}
		s.fleet = fleet
		s.roots.AddCert(ca)
		if ca.NotAfter.After(s.until) {
			s.until = ca.NotAfter
		}
	}
	chain, err := readCerts(id.files.Cert)
	if err != nil {
		return err
	}
	key, err := readKey(id.files.Key)
	if err != nil {
		return err
	}
	if !matches(chain[0], key) {
		return fmt.Errorf("read %s: it is not the key of %s", id.files.Key, id.files.Cert)
	}
	s.cert = &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		s.cert.Certificate = append(s.cert.Certificate, c.Raw)
	}
	name, err := s.verify(chain, x509.ExtKeyUsageAny)
	if err != nil {
		return fmt.Errorf("check %s: %w", id.files.Cert, err)
	}
	if name != id.name {
		return fmt.Errorf("check %s: it names %s, want %s", id.files.Cert, name, id.name)
	}
	id.state.Store(s)
	return nil
}

// Name is the appliance's name.
func (id *Identity) Name() string { return id.name }

// Fleet is the identifier of the fleet.
func (id *Identity) Fleet() string { return id.state.Load().fleet }

// NotAfter is when our certificate expires.
func (id *Identity) NotAfter() time.Time { return id.state.Load().cert.Leaf.NotAfter }

// NotBefore is when our certificate begins.
func (id *Identity) NotBefore() time.Time { return id.state.Load().cert.Leaf.NotBefore }

// CANotAfter is when the last CA of the fleet that we know expires.
func (id *Identity) CANotAfter() time.Time { return id.state.Load().until }

// ServerTLS accepts appliances of our fleet with TLS 1.3. allow may refuse some
// by name; nil accepts every one. PeerName tells who it is afterwards.
func (id *Identity) ServerTLS(allow func(name string) error) *tls.Config {
	c := id.config(x509.ExtKeyUsageClientAuth, allow)
	c.ClientAuth = tls.RequireAnyClientCert // verified by VerifyConnection
	c.SessionTicketsDisabled = true         // a resumed session would outlive a Reload
	return c
}

// ClientTLS reaches the appliance called peer with TLS 1.3, and no other.
func (id *Identity) ClientTLS(peer string) *tls.Config {
	c := id.config(x509.ExtKeyUsageServerAuth, func(name string) error {
		if name != peer {
			return fmt.Errorf("it is %s, want %s", name, peer)
		}
		return nil
	})
	c.ServerName = peer
	// VerifyConnection verifies instead: against the CA of the moment, which a
	// RootCAs fixed here would not follow, and by the rules of this package.
	c.InsecureSkipVerify = true
	return c
}

func (id *Identity) config(usage x509.ExtKeyUsage, allow func(string) error) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.state.Load().cert, nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.state.Load().cert, nil },
		VerifyConnection: func(cs tls.ConnectionState) error {
			name, err := id.state.Load().verify(cs.PeerCertificates, usage)
			if err == nil && allow != nil {
				if err = allow(name); err != nil {
					err = fmt.Errorf("%w: %w", ErrName, err)
				}
			}
			if err != nil {
				return fmt.Errorf("refuse peer: %w", err)
			}
			return nil
		},
	}
}

// verify checks a chain, leaf first, and returns the appliance's name.
func (s *state) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage) (string, error) {
	if len(chain) == 0 {
		return "", errors.New("no certificate")
	}
	leaf := chain[0]
	opts := x509.VerifyOptions{Roots: s.roots, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{usage}}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(opts); err != nil {
		if _, foreign := errors.AsType[x509.UnknownAuthorityError](err); foreign {
			err = fmt.Errorf("%w: %w", ErrOtherFleet, err)
		}
		return "", fmt.Errorf("certificate of %q: %w", leaf.Subject.CommonName, err)
	}
	name, err := nameOf(leaf)
	if err != nil {
		return "", err
	}
	if got := leaf.URIs[0].Host; got != s.fleet {
		return "", fmt.Errorf("certificate of %q: %w: %s, want %s", name, ErrOtherFleet, got, s.fleet)
	}
	return name, nil
}

// nameOf reads the appliance's name, which stands in the certificate twice.
func nameOf(leaf *x509.Certificate) (string, error) {
	if len(leaf.URIs) == 1 && leaf.URIs[0].Scheme == scheme {
		name := strings.TrimPrefix(leaf.URIs[0].Path, "/")
		if nameForm.MatchString(name) && slices.Equal(leaf.DNSNames, []string{name}) && *leaf.URIs[0] == *memberURI(leaf.URIs[0].Host, name) {
			return name, nil
		}
	}
	return "", fmt.Errorf("certificate of %q: %w: want one DNS name and the URI %s://<fleet>/<that name>", leaf.Subject.CommonName, ErrName, scheme)
}

// PeerName returns the name of the appliance at the other end of a connection
// made with ServerTLS or ClientTLS.
func PeerName(cs tls.ConnectionState) (string, error) {
	if len(cs.PeerCertificates) == 0 {
		return "", errors.New("peer sent no certificate")
	}
	return nameOf(cs.PeerCertificates[0])
}
