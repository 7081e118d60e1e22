package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
)

func TestRefusal(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("refuse peer: %w", fmt.Errorf("%w: x", ErrOtherFleet)), "certificate of another fleet"},
		{fmt.Errorf("refuse peer: %w", ErrName), "wrong name"},
		{fmt.Errorf("refuse peer: %w", x509.CertificateInvalidError{Reason: x509.Expired}), "certificate expired"},
		{x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign}, "certificate"},
		{tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, "not TLS"},
		{&net.OpError{Op: "remote error", Err: errors.New("tls: bad certificate")}, "it refuses us"},
		{&net.OpError{Op: "read", Err: syscall.ECONNRESET}, ""},
		{io.EOF, ""},
		{errors.New("tls: client offered only unsupported versions"), "handshake"},
	} {
		if got := Refusal(tt.err); got != tt.want {
			t.Errorf("%v is %q, want %q", tt.err, got, tt.want)
		}
	}
}

// What verify says of real certificates.
func TestRefusalOfCertificates(t *testing.T) {
	home, other := t.TempDir(), t.TempDir()
	for _, dir := range []string{home, other} {
		if _, err := Init(dir, Options{}); err != nil {
			t.Fatal(err)
		}
	}
	ams := member(t, home, "ams", Options{})
	for want, id := range map[string]*Identity{"": member(t, home, "fra", Options{}), "certificate of another fleet": member(t, other, "fra", Options{})} {
		leaf, err := x509.ParseCertificate(id.state.Load().cert.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		_, err = ams.state.Load().verify([]*x509.Certificate{leaf}, x509.ExtKeyUsageClientAuth)
		if got := ""; err != nil {
			if got = Refusal(err); got != want {
				t.Errorf("%v is %q, want %q", err, got, want)
			}
		} else if want != "" {
			t.Errorf("accepted, want %q", want)
		}
	}
}
