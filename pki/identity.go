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
	until time.Time           // the last CA ends
	chain []*x509.Certificate // our own, leaf first
	cert  *tls.Certificate    // it with its key
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
	s, err := id.read()
	if err != nil {
		return err
	}
	name, err := s.verify(s.chain, x509.ExtKeyUsageAny)
	if err != nil {
		return fmt.Errorf("check %s: %w", id.files.Cert, err)
	}
	if name != id.name {
		return fmt.Errorf("check %s: it names %s, want %s", id.files.Cert, name, id.name)
	}
	id.state.Store(s)
	return nil
}

// read reads the files and checks that key and certificate belong together.
func (id *Identity) read() (*state, error) {
	cas, err := readCerts(id.files.CA)
	if err != nil {
		return nil, err
	}
	s := &state{roots: x509.NewCertPool()}
	for i, ca := range cas { // several while a CA is being replaced
		fleet, err := fleetOf(ca)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", id.files.CA, err)
		}
		if i > 0 && fleet != s.fleet {
			return nil, fmt.Errorf("read %s: it holds CAs of the fleets %s and %s", id.files.CA, s.fleet, fleet)
		}
		s.fleet = fleet
		s.roots.AddCert(ca)
		if ca.NotAfter.After(s.until) {
			s.until = ca.NotAfter
		}
	}
	if s.chain, err = readCerts(id.files.Cert); err != nil {
		return nil, err
	}
	key, err := readKey(id.files.Key)
	if err != nil {
		return nil, err
	}
	if !matches(s.chain[0], key) {
		return nil, fmt.Errorf("read %s: it is not the key of %s", id.files.Key, id.files.Cert)
	}
	s.cert = &tls.Certificate{PrivateKey: key, Leaf: s.chain[0]}
	for _, c := range s.chain {
		s.cert.Certificate = append(s.cert.Certificate, c.Raw)
	}
	return s, nil
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
	return server(id.config(id.member(x509.ExtKeyUsageClientAuth, allow)))
}

// server makes c demand a certificate.
func server(c *tls.Config) *tls.Config {
	c.ClientAuth = tls.RequireAnyClientCert // verified by VerifyConnection
	c.SessionTicketsDisabled = true         // a resumed session would outlive a Reload
	return c
}

// ClientTLS reaches the appliance called peer with TLS 1.3, and no other.
func (id *Identity) ClientTLS(peer string) *tls.Config {
	c := id.config(id.member(x509.ExtKeyUsageServerAuth, func(name string) error {
		if name != peer {
			return fmt.Errorf("it is %s, want %s", name, peer)
		}
		return nil
	}))
	c.ServerName = peer
	// VerifyConnection verifies instead: against the CA of the moment, which a
	// RootCAs fixed here would not follow, and by the rules of this package.
	c.InsecureSkipVerify = true
	return c
}

// member accepts chains of appliances that allow does not refuse.
func (id *Identity) member(usage x509.ExtKeyUsage, allow func(string) error) func([]*x509.Certificate) error {
	return func(chain []*x509.Certificate) error {
		name, err := id.state.Load().verify(chain, usage)
		if err == nil && allow != nil {
			if err = allow(name); err != nil {
				err = fmt.Errorf("%w: %w", ErrName, err)
			}
		}
		return err
	}
}

// config shows our certificate and lets accept judge the other's chain, leaf first.
func (id *Identity) config(accept func([]*x509.Certificate) error) *tls.Config {
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.state.Load().cert, nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.state.Load().cert, nil },
		VerifyConnection: func(cs tls.ConnectionState) error {
			if err := accept(cs.PeerCertificates); err != nil {
				return fmt.Errorf("refuse peer: %w", err)
			}
			return nil
		},
	}
}

// verify checks a chain, leaf first, and returns the appliance's name.
func (s *state) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage) (string, error) {
	leaf, err := s.verifyChain(chain, usage)
	if err != nil {
		return "", err
	}
	name, err := nameOf(leaf)
	if err != nil {
		return "", err
	}
	return name, s.ours(leaf)
}

// ours checks that a leaf, whose URI is one of ours, is of our fleet.
func (s *state) ours(leaf *x509.Certificate) error {
	if got := leaf.URIs[0].Host; got != s.fleet {
		return fmt.Errorf("certificate of %q: %w: %s, want %s", leaf.Subject.CommonName, ErrOtherFleet, got, s.fleet)
	}
	return nil
}

// verifyChain checks that a chain ends at a CA of ours, whoever its leaf names.
func (s *state) verifyChain(chain []*x509.Certificate, usage x509.ExtKeyUsage) (*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, errors.New("no certificate")
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
		return nil, fmt.Errorf("certificate of %q: %w", leaf.Subject.CommonName, err)
	}
	return leaf, nil
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
