package session

import (
	"encoding/base64"
	"fmt"
	"net/netip"
	"slices"

	"github.com/shadowcast/shadowcast/sa/charon"
)

// summarise derives the fields of the specification from the content.
func (d *Document) summarise(tier func(connection, identity string) string) {
	live := d.Live()
	if live == nil {
		return
	}
	up := live.Update
	client, server := up.addr(charon.RemoteAddr), up.addr(charon.LocalAddr)
	d.ClientIP, d.ClientInternalIP, d.SourceIPs = "", "", nil
	d.Ports = PortData{ClientPort: client.Port(), ServerPort: server.Port()}
	if client.IsValid() {
		d.ClientIP = client.Addr().String()
	}
	if inner := up.inner(); len(inner) > 0 {
		d.ClientInternalIP = inner[0].String()
	}
	for _, a := range append(up.only(charon.RemoteAddr), up.only(charon.PeerAddr)...) {
		ap, err := a.Addr()
		if s := ap.Addr().String(); err == nil && !slices.Contains(d.SourceIPs, s) && len(d.SourceIPs) < maxSources {
			d.SourceIPs = append(d.SourceIPs, s)
		}
	}

	add := live.Add[0]
	d.Crypto = CryptoParams{EncryptionAlgorithm: add.cipher(), KeyExchange: add.algorithm(charon.DH, groupNames)}
	if s, ok := add.find(charon.Secret); ok {
		if k, err := s.Key(); err == nil {
			d.Crypto.SharedSecret = Secret(base64.StdEncoding.EncodeToString(k))
		}
	}
	d.ESP, d.SeqNumber = ESPParams{}, 0
	if n := len(d.Children); n > 0 {
		c := d.Children[n-1]
		d.SeqNumber = c.InSeq
		d.ESP.Algorithm = c.Add.cipher()
		if i := c.Add.algorithm(charon.Integ, integNames); i != "" {
			d.ESP.Algorithm += "/" + i
		}
	}
	if tier != nil {
		connection, id, ok := d.Client()
		identity := ""
		if ok {
			identity = id.String()
		}
		d.Tier = tier(connection, identity)
	}
}

// Client returns the name of the session's connection, "" where it is not known, and who
// the client is: by EAP if it gave an identity there, else by IKE.
func (d *Document) Client() (connection string, identity charon.Identity, ok bool) {
	live := d.Live()
	if live == nil {
		return "", identity, false
	}
	if a, found := live.Update.find(charon.ConfigName); found {
		connection, _ = a.Name()
	}
	for _, t := range []charon.AttrType{charon.EAPID, charon.RemoteID} {
		if a, found := live.Update.find(t); found {
			if id, err := a.Identity(); err == nil {
				return connection, id, true
			}
		}
	}
	return connection, identity, false
}

func (a Attrs) addr(t charon.AttrType) netip.AddrPort {
	x, ok := a.find(t)
	if !ok {
		return netip.AddrPort{}
	}
	ap, _ := x.Addr()
	return ap
}

// inner returns the client's inner addresses.
func (a Attrs) inner() []netip.Addr {
	var out []netip.Addr
	for _, x := range a.only(charon.RemoteVIP) {
		if ap, err := x.Addr(); err == nil && ap.Addr().IsValid() && !ap.Addr().IsUnspecified() {
			out = append(out, ap.Addr())
		}
	}
	return out
}

// Transform IDs of the IANA registry "IKEv2 Parameters".
var (
	encrNames  = map[uint32]string{3: "3DES", 11: "NULL", 12: "AES-CBC", 13: "AES-CTR", 18: "AES-GCM-8", 19: "AES-GCM-12", 20: "AES-GCM-16", 28: "CHACHA20-POLY1305"}
	integNames = map[uint32]string{2: "HMAC-SHA1-96", 5: "AES-XCBC-96", 12: "HMAC-SHA2-256-128", 13: "HMAC-SHA2-384-192", 14: "HMAC-SHA2-512-256"}
	groupNames = map[uint32]string{
		14: "MODP-2048", 15: "MODP-3072", 16: "MODP-4096", 17: "MODP-6144", 18: "MODP-8192", 19: "ECP-256", 20: "ECP-384", 21: "ECP-521",
		31: "CURVE25519", 32: "CURVE448", 35: "ML-KEM-512", 36: "ML-KEM-768", 37: "ML-KEM-1024",
	}
)

// cipher names the encryption with its key length in bits: "AES-CBC-256".
func (a Attrs) cipher() string {
	s := a.algorithm(charon.Encr, encrNames)
	if n, ok := a.uint(charon.EncrLen); ok && n != 0 && s != "" {
		s += fmt.Sprintf("-%d", n)
	}
	return s
}

func (a Attrs) algorithm(t charon.AttrType, names map[uint32]string) string {
	n, ok := a.uint(t)
	switch name := names[n]; {
	case !ok || n == 0:
		return ""
	case name != "":
		return name
	}
	return fmt.Sprintf("%s-%d", t, n)
}
