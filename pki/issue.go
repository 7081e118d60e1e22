package pki

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Default validities. An appliance's certificate is short enough to be renewed
// in the life of a machine.
const (
	DefaultCAValidity   = 10 * 365 * 24 * time.Hour
	DefaultCertValidity = 365 * 24 * time.Hour
)

// skew is how far back a new certificate is valid, so that a peer whose clock is
// behind accepts it.
const skew = time.Hour

const scheme = "shadowcast"

var (
	nameForm  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)
	fleetForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{2,31}$`)
)

// Options of Init and Issue. The zero value is right for most.
type Options struct {
	// Fleet is the identifier for a new CA; empty draws a random one. Issue
	// ignores it.
	Fleet string
	// Validity counts from now; 0 is the default of what is made.
	Validity time.Duration
	// Force overwrites existing files, and retires CAs that are in use.
	Force bool
	// Now is the time of issue; zero is the present.
	Now time.Time
}

func (o *Options) fill(validity time.Duration) error {
	if o.Validity == 0 {
		o.Validity = validity
	}
	if o.Validity < 0 {
		return fmt.Errorf("validity %v: want more than 0", o.Validity)
	}
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	return nil
}

// Made tells what Init or Issue wrote.
type Made struct {
	Fleet    string
	Files    []string
	NotAfter time.Time
}

// Init makes the fleet's CA and its symmetric key in dir. It overwrites nothing
// unless told to (ErrExists).
func Init(dir string, o Options) (Made, error) {
	if err := o.fill(DefaultCAValidity); err != nil {
		return Made{}, fmt.Errorf("make CA: %w", err)
	}
	if o.Fleet == "" {
		o.Fleet = hex.EncodeToString(random(8))
	}
	if !fleetForm.MatchString(o.Fleet) {
		return Made{}, fmt.Errorf("make CA: fleet %q: want 3 to 32 lower-case letters, digits and hyphens", o.Fleet)
	}
	der, keyPEM, until, err := newCA(o)
	if err != nil {
		return Made{}, fmt.Errorf("make CA: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Made{}, fmt.Errorf("make CA: %w", err)
	}
	return write(o, until, o.Fleet,
		output{filepath.Join(dir, CAKeyFile), 0o600, keyPEM},
		output{filepath.Join(dir, CACertFile), 0o644, encodeCert(der)},
		output{filepath.Join(dir, FleetKeyFile), 0o600, []byte(hex.EncodeToString(random(FleetKeySize)) + "\n")},
	)
}

// newCA makes the CA of fleet o.Fleet: its certificate (DER), its key (PEM) and its end.
func newCA(o Options) (der, keyPEM []byte, until time.Time, err error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, until, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{Organization: []string{"shadowcast"}, CommonName: "shadowcast fleet " + o.Fleet},
		NotBefore:             o.Now.Add(-skew),
		NotAfter:              o.Now.Add(o.Validity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
		URIs:                  []*url.URL{{Scheme: scheme, Host: o.Fleet}},
	}
	if der, err = x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key); err != nil {
		return nil, nil, until, err
	}
	keyPEM, err = encodeKey(key)
	return der, keyPEM, tmpl.NotAfter, err
}

// maxCAs bounds the CAs that a fleet trusts at once.
const maxCAs = 3

// Rotate makes a new CA for the fleet whose CA is in dir. ca.crt holds the old ones
// beside it until Retire, so that certificates of both are trusted meanwhile; ca.key is
// the new one's. The fleet key stays.
func Rotate(dir string, o Options) (Made, error) {
	wrap := func(err error) (Made, error) { return Made{}, fmt.Errorf("replace the CA: %w", err) }
	if err := o.fill(DefaultCAValidity); err != nil {
		return wrap(err)
	}
	_, _, fleet, err := loadCA(dir)
	if err != nil {
		return wrap(err)
	}
	olds, err := readCerts(filepath.Join(dir, CACertFile))
	if err != nil {
		return wrap(err)
	}
	if len(olds) >= maxCAs {
		return wrap(fmt.Errorf("%s holds %d CAs already: retire the old ones first", CACertFile, len(olds)))
	}
	o.Fleet, o.Force = fleet, true
	der, keyPEM, until, err := newCA(o)
	if err != nil {
		return wrap(err)
	}
	bundle := encodeCert(der)
	for _, c := range olds {
		bundle = append(bundle, encodeCert(c.Raw)...)
	}
	made, err := write(o, until, fleet, output{filepath.Join(dir, CACertFile), 0o644, bundle}, output{filepath.Join(dir, CAKeyFile), 0o600, keyPEM})
	if err != nil {
		return wrap(err)
	}
	return made, nil
}

// Retire leaves in dir's ca.crt the CA alone whose key is ca.key: certificates of the
// others are worthless once every appliance has that file. It refuses (ErrInUse) while a
// certificate in dir is of another one and has not expired, unless o.Force is set.
func Retire(dir string, o Options) (Made, error) {
	ca, _, fleet, err := loadCA(dir)
	if err == nil {
		var all []*x509.Certificate
		if all, err = readCerts(filepath.Join(dir, CACertFile)); err == nil && len(all) == 1 {
			err = fmt.Errorf("%s holds one CA: there is none to retire", CACertFile)
		}
	}
	if err == nil && !o.Force {
		err = othersOf(dir, ca)
	}
	var made Made
	if err == nil {
		made, err = write(Options{Force: true}, ca.NotAfter, fleet, output{filepath.Join(dir, CACertFile), 0o644, encodeCert(ca.Raw)})
	}
	if err != nil {
		return Made{}, fmt.Errorf("retire old CAs: %w", err)
	}
	return made, nil
}

// othersOf names the certificates in dir that are not of ca and still count.
func othersOf(dir string, ca *x509.Certificate) error {
	paths, err := filepath.Glob(filepath.Join(dir, "*.crt"))
	if err != nil {
		return err
	}
	var others []string
	for _, path := range paths {
		name := filepath.Base(path)
		if name == CACertFile {
			continue
		}
		cs, err := readCerts(path)
		if err != nil {
			return err
		}
		if cs[0].CheckSignatureFrom(ca) != nil && time.Now().Before(cs[0].NotAfter) {
			others = append(others, name)
		}
	}
	if len(others) > 0 {
		return fmt.Errorf("%s: %w; issue them again and install them first", strings.Join(others, ", "), ErrInUse)
	}
	return nil
}

// Issue makes the certificate and key of appliance name, signed by the CA in
// dir, and writes them there. The addresses go into the certificate for the
// charon that protects the peer tunnels; peers check the name only. A certificate that is
// replaced (Force) keeps its addresses where none are given.
func Issue(dir, name string, addresses []netip.Addr, o Options) (Made, error) {
	if o.Force && len(addresses) == 0 {
		addresses = addressesOf(filepath.Join(dir, name+".crt"))
	}
	return issueNamed(dir, name, anAppliance, o, func(fleet string, t *x509.Certificate) {
		t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		t.DNSNames, t.URIs = []string{name}, []*url.URL{memberURI(fleet, name)}
		for _, a := range addresses {
			t.IPAddresses = append(t.IPAddresses, net.IP(a.AsSlice()))
		}
	})
}

// addressesOf returns the addresses in a certificate that is about to be replaced: who
// renews it does not mean to take them away.
func addressesOf(path string) (out []netip.Addr) {
	old, err := readCerts(path)
	if err != nil {
		return nil // there is none, or none that is of use
	}
	for _, ip := range old[0].IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// The two kinds of certificates, for messages.
const anAppliance, aPerson = "an appliance", "a person"

// kindOf is what the certificate at path is for, "" where there is none that is of use.
func kindOf(path string) string {
	old, err := readCerts(path)
	if err != nil {
		return ""
	}
	if _, err := personOf(old[0]); err == nil {
		return aPerson
	}
	return anAppliance
}

// issueNamed makes name's certificate, in which about says what it is for. It does not
// make a person's an appliance's, or the other way round: that is a forgotten role.
func issueNamed(dir, name, kind string, o Options, about func(fleet string, t *x509.Certificate)) (Made, error) {
	if !nameForm.MatchString(name) {
		return Made{}, fmt.Errorf("issue certificate: name %q: want at most 32 lower-case letters, digits and inner hyphens", name)
	}
	if name+".crt" == CACertFile || name+".key" == FleetKeyFile {
		return Made{}, fmt.Errorf("issue certificate: name %q: its files would replace the fleet's own, want another name", name)
	}
	path := filepath.Join(dir, name+".crt")
	if old := kindOf(path); o.Force && old != "" && old != kind {
		return Made{}, fmt.Errorf("issue certificate for %s: %s is that of %s, not of %s: %w; want another name, the role it had, or that file gone", name, path, old, kind, ErrKind)
	}
	made, err := issue(dir, name, o, about)
	if err != nil {
		return Made{}, fmt.Errorf("issue certificate for %s: %w", name, err)
	}
	return made, nil
}

func issue(dir, name string, o Options, about func(fleet string, t *x509.Certificate)) (Made, error) {
	if err := o.fill(DefaultCertValidity); err != nil {
		return Made{}, err
	}
	ca, caKey, fleet, err := loadCA(dir)
	if err != nil {
		return Made{}, err
	}
	notAfter := o.Now.Add(o.Validity)
	if notAfter.After(ca.NotAfter) {
		notAfter = ca.NotAfter
	}
	if !notAfter.After(o.Now) {
		return Made{}, fmt.Errorf("the CA expired at %s", ca.NotAfter.UTC().Format(time.RFC3339))
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Made{}, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{Organization: []string{"shadowcast"}, CommonName: name},
		NotBefore:             o.Now.Add(-skew),
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
	about(fleet, tmpl)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca, key.Public(), caKey)
	if err != nil {
		return Made{}, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return Made{}, err
	}
	return write(o, notAfter, fleet,
		output{filepath.Join(dir, name+".key"), 0o600, keyPEM},
		output{filepath.Join(dir, name+".crt"), 0o644, encodeCert(der)},
	)
}

func write(o Options, notAfter time.Time, fleet string, outs ...output) (Made, error) {
	if err := writeAll(outs, o.Force); err != nil {
		return Made{}, err
	}
	made := Made{Fleet: fleet, NotAfter: notAfter}
	for _, f := range outs {
		made.Files = append(made.Files, f.path)
	}
	return made, nil
}

func loadCA(dir string) (*x509.Certificate, crypto.Signer, string, error) {
	certs, err := readCerts(filepath.Join(dir, CACertFile))
	if err != nil {
		return nil, nil, "", err
	}
	key, err := readKey(filepath.Join(dir, CAKeyFile))
	if err != nil {
		return nil, nil, "", err
	}
	i := slices.IndexFunc(certs, func(c *x509.Certificate) bool { return matches(c, key) })
	if i < 0 {
		return nil, nil, "", fmt.Errorf("%s is not the key of %s", CAKeyFile, CACertFile)
	}
	fleet, err := fleetOf(certs[i])
	return certs[i], key, fleet, err
}

// fleetOf reads the fleet identifier from a CA certificate.
func fleetOf(ca *x509.Certificate) (string, error) {
	for _, u := range ca.URIs {
		if u.Scheme == scheme && fleetForm.MatchString(u.Host) && u.Path == "" && ca.IsCA {
			return u.Host, nil
		}
	}
	return "", fmt.Errorf("certificate of %q is no fleet CA: want the URI %s://<fleet>", ca.Subject.CommonName, scheme)
}

func memberURI(fleet, name string) *url.URL {
	return &url.URL{Scheme: scheme, Host: fleet, Path: "/" + name}
}

func serial() *big.Int {
	b := random(16)
	b[0] &= 0x7f // positive (RFC 5280 section 4.1.2.2)
	return new(big.Int).SetBytes(b)
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails (crypto/rand)
	return b
}
