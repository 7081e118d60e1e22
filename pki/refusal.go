package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
)

var (
	// ErrOtherFleet marks certificates that are not of our fleet.
	ErrOtherFleet = errors.New("not of this fleet")
	// ErrName marks certificates that name no appliance, or another than the
	// one that may be at the other end.
	ErrName = errors.New("wrong name")
)

// Refusal sorts the error of a TLS handshake made with ServerTLS or ClientTLS
// into one of a few fixed words, "" for a connection that just ended.
func Refusal(err error) string {
	invalid, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	op, isOp := errors.AsType[*net.OpError](err)
	_, isRecord := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case errors.Is(err, ErrOtherFleet):
		return "certificate of another fleet"
	case errors.Is(err, ErrName):
		return "wrong name"
	case isInvalid && invalid.Reason == x509.Expired:
		return "certificate expired"
	case isInvalid:
		return "certificate"
	case isRecord:
		return "not TLS"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
		return ""
	case isOp && op.Op == "remote error": // crypto/tls's word for an alert
		return "it refuses us"
	case isOp:
		return "" // a reset or a time-out says nothing about who it was
	}
	return "handshake"
}
