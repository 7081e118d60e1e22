package fabric

import (
	"encoding/pem"
	"fmt"
	"os"
	"strconv"

	"github.com/strongswan/govici/vici"

	"github.com/shadowcast/shadowcast/sa"
)

// childName is the one child of every connection; connections are called after
// their peers.
const childName = "tunnel"

// Proposals: one each, both ends run the same code. The one for IKE takes no plugin
// beyond strongSwan's base package. aes128gcm16 is what machines do fastest; ESN
// because a busy pair wraps 32 bits within an hour.
const (
	ikeProposal = "aes256-sha256-x25519"
	espProposal = "aes128gcm16-x25519-esn"
)

// protocols of the tunnel devices: ipip and gre.
var protocols = []uint8{4, 47}

// credentials are the contents of the PEM files, in DER.
type credentials struct {
	cas, chain []string
	key        sa.Key
}

func (c *Config) credentials() (credentials, error) {
	var r credentials
	var err error
	if r.cas, err = readPEM(c.CA, "CERTIFICATE"); err != nil {
		return r, err
	}
	if r.chain, err = readPEM(c.Cert, "CERTIFICATE"); err != nil {
		return r, err
	}
	keys, err := readPEM(c.Key, "PRIVATE KEY")
	if err != nil {
		return r, err
	}
	r.key = sa.Key(keys[0])
	return r, nil
}

// readPEM returns the blocks of one type, at least one.
func readPEM(path, kind string) ([]string, error) {
	rest, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read credentials: %w", err)
	}
	defer clear(rest)
	var out []string
	for b, r := pem.Decode(rest); b != nil; b, r = pem.Decode(r) {
		if b.Type == kind {
			out = append(out, string(b.Bytes))
		}
		clear(b.Bytes)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("read credentials: %s has no %s block in PEM form", path, kind)
	}
	return out, nil
}

// command is one vici command of a load.
type command struct {
	name string
	what string // for errors
	m    *vici.Message
}

// commands loads credentials and connections. The trust anchors are named in each
// connection: a CA that an earlier load left in charon's memory counts for nothing.
func (c *Config) commands(r credentials) ([]command, error) {
	var out []command
	var errs error
	add := func(name, what string, kv ...any) {
		m, err := message(kv...)
		if err != nil && errs == nil {
			errs = fmt.Errorf("build vici message for %s: %w", what, err)
		}
		out = append(out, command{name, what, m})
	}
	for _, ca := range r.cas {
		add("load-cert", "the fleet's CA", "type", "X509", "flag", "CA", "data", ca)
	}
	for _, cert := range r.chain {
		add("load-cert", "the certificate", "type", "X509", "flag", "NONE", "data", cert)
	}
	add("load-key", "the private key", "type", "any", "data", string(r.key))
	for _, p := range c.Peers {
		conn, err := c.connection(p, r)
		if err != nil {
			return nil, fmt.Errorf("build vici message for peer %s: %w", p.Name, err)
		}
		add("load-conn", "peer "+p.Name, p.Name, conn)
	}
	return out, errs
}

func (c *Config) connection(p Peer, r credentials) (*vici.Message, error) {
	b := &builder{}
	local := b.section("auth", "pubkey", "id", "fqdn:"+c.Self, "certs", r.chain[:1])
	remote := b.section("auth", "pubkey", "id", "fqdn:"+p.Name, "cacerts", r.cas)
	child := b.section(
		"mode", "transport", "local_ts", selectors(c.Local.String()), "remote_ts", selectors(p.Addr.String()),
		"esp_proposals", []string{espProposal}, "replay_window", "1024", "reqid", strconv.FormatUint(uint64(p.reqid()), 10),
		"start_action", "trap", "dpd_action", "clear", "close_action", "none", "rekey_time", "1h")
	conn := b.section(
		"version", "2", "local_addrs", []string{c.Local.String()}, "remote_addrs", []string{p.Addr.String()},
		"proposals", []string{ikeProposal}, "mobike", "no", "send_cert", "always", "unique", "never",
		"keyingtries", "1", "dpd_delay", "10s", "rekey_time", "4h", "reauth_time", "0s",
		"local", local, "remote", remote, "children", b.section(childName, child))
	return conn, b.err
}

func selectors(addr string) []string {
	var out []string
	for _, p := range protocols {
		out = append(out, fmt.Sprintf("%s/32[%d]", addr, p))
	}
	return out
}

// builder makes nested sections; its error is the first that occurred.
type builder struct{ err error }

func (b *builder) section(kv ...any) *vici.Message {
	m, err := message(kv...)
	if b.err == nil {
		b.err = err
	}
	return m
}

// message builds a vici message of keys and values.
func message(kv ...any) (*vici.Message, error) {
	m := vici.NewMessage()
	for i := 0; i+1 < len(kv); i += 2 {
		if err := m.Set(kv[i].(string), kv[i+1]); err != nil {
			return m, fmt.Errorf("%v: %w", kv[i], err)
		}
	}
	return m, nil
}
