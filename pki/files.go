package pki

import (
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/shadowcast/shadowcast/sa"
)

// Names of the files in a PKI directory. An appliance's are <name>.crt and
// <name>.key.
const (
	CACertFile   = "ca.crt"
	CAKeyFile    = "ca.key"
	FleetKeyFile = "fleet.key"
)

// FleetKeySize is the length of the fleet key in bytes.
const FleetKeySize = 32

// ErrKind says that a person's certificate would be replaced by an appliance's, or the
// other way round.
var ErrKind = errors.New("a certificate of another kind")

// ErrOpen says that others than the owner may read a key.
var ErrOpen = errors.New("open to others")

// ErrExists says that a file would be overwritten.
var ErrExists = errors.New("exists already")

// ErrInUse says that certificates of a CA to retire are still around.
var ErrInUse = errors.New("of a CA that would be retired")

const (
	certBlock = "CERTIFICATE"
	keyBlock  = "PRIVATE KEY" // PKCS #8
)

// output is one file to write.
type output struct {
	path string
	mode os.FileMode
	data []byte
}

// writeAll writes all files or, unless force is set, none where one exists. Each
// is complete when it appears under its name.
func writeAll(outs []output, force bool) error {
	for _, o := range outs {
		if _, err := os.Lstat(o.path); err == nil && !force {
			return fmt.Errorf("write %s: %w", o.path, ErrExists)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("write %s: %w", o.path, err)
		}
	}
	for _, o := range outs {
		if err := writeFile(o, force); err != nil {
			return fmt.Errorf("write %s: %w", o.path, err)
		}
	}
	return nil
}

func writeFile(o output, force bool) error {
	f, err := os.CreateTemp(filepath.Dir(o.path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(o.data)
	err = errors.Join(err, f.Chmod(o.mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if force {
		return os.Rename(f.Name(), o.path)
	}
	if err := os.Link(f.Name(), o.path); errors.Is(err, fs.ErrExist) { // never replaces
		return ErrExists
	} else if err != nil {
		return err
	}
	return nil
}

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: der})
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), nil
}

// readCerts reads every certificate of a PEM file.
func readCerts(path string) ([]*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != certBlock {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse certificate %s: %w", path, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("read certificate %s: no %s block in PEM form", path, certBlock)
	}
	return certs, nil
}

// readKey reads a private key that nobody else can read.
func readKey(path string) (crypto.Signer, error) {
	data, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	block, _ := pem.Decode(data)
	if block == nil || block.Type != keyBlock {
		return nil, fmt.Errorf("read key %s: no %s block in PEM form", path, keyBlock)
	}
	defer clear(block.Bytes)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read key %s: not in PKCS #8 form", path)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("read key %s: %T cannot sign", path, key)
	}
	return signer, nil
}

// matches reports whether key is the private half of cert's key.
func matches(cert *x509.Certificate, key crypto.Signer) bool {
	pub, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(key.Public())
}

func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	if perm := st.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("read key %s: %w (mode %04o), want 0600", path, ErrOpen, perm)
	}
	const limit = 64 << 10
	if st.Size() > limit {
		return nil, fmt.Errorf("read key %s: %d bytes, want at most %d", path, st.Size(), limit)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	return data, nil
}

// LoadFleetKey reads the symmetric key that all appliances share.
func LoadFleetKey(path string) (sa.Key, error) {
	data, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	key := make(sa.Key, FleetKeySize)
	text := strings.TrimSpace(string(data))
	if len(text) != 2*FleetKeySize {
		return nil, fmt.Errorf("read fleet key %s: %d characters, want %d hexadecimal digits", path, len(text), 2*FleetKeySize)
	}
	if _, err := hex.Decode(key, []byte(text)); err != nil {
		return nil, fmt.Errorf("read fleet key %s: not hexadecimal", path) // the cause would quote a digit
	}
	return key, nil
}
