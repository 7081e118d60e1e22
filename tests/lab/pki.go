package lab

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

// ikePKI is the CA of the VPN's IKE certificates (not the fleet's). Ed25519: keys
// cost nothing to make and the exchanges fit one packet each.
type ikePKI struct {
	key  ed25519.PrivateKey
	cert *x509.Certificate
	// gateway is shared by all gateways: clients see one VIP.
	gateway credential
	serial  int64
}

// credential is a certificate with its key, DER (PKCS #8).
type credential struct{ cert, key []byte }

func newIKEPKI() (*ikePKI, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make IKE CA key: %w", err)
	}
	p := &ikePKI{key: key, serial: 1}
	t := template(1, "lab IKE CA")
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, pub, key)
	if err != nil {
		return nil, fmt.Errorf("make IKE CA certificate: %w", err)
	}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("make IKE CA certificate: %w", err)
	}
	p.gateway, err = p.issue(GatewayID)
	return p, err
}

func template(serial int64, cn string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: cn, Organization: []string{"lab"}},
		// A day either way: the guest's clock is the host's, nothing finer is promised.
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}

// issue makes a certificate whose subjectAltName is the IKE identity id.
func (p *ikePKI) issue(id string) (credential, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return credential{}, fmt.Errorf("make key of %s: %w", id, err)
	}
	p.serial++
	t := template(p.serial, id)
	t.DNSNames, t.KeyUsage = []string{id}, x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	cert, err := x509.CreateCertificate(rand.Reader, t, p.cert, pub, p.key)
	if err != nil {
		return credential{}, fmt.Errorf("make certificate of %s: %w", id, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return credential{}, fmt.Errorf("encode key of %s: %w", id, err)
	}
	return credential{cert, der}, nil
}

func certPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func keyPEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}
