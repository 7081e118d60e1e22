package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/strongswan/govici/vici"
)

// charon is a plain strongSwan daemon: a client, or a gateway without shadowcast
// to compare with. The appliances' charons belong to shadowcastd.
type charon struct {
	name string
	sock string
	proc *Proc
}

// charonConf loads no plugin that needs a service or a fixed path. %[1]s is the
// directory, %[2]s the log file, %[3]s further options, %[4]s further plugins.
const charonConf = `charon-systemd {
  load = random nonce aes sha1 sha2 hmac kdf drbg curve25519 pem pkcs1 pkcs8 x509 pubkey revocation constraints kernel-netlink socket-default vici updown%[4]s
  filelog { f { path = %[2]s
    default = 1
    ike = 2
    time_format = %%H:%%M:%%S
    time_add_ms = yes
    ike_name = yes
    append = yes
    flush_line = yes
  } }
  %[3]s
  plugins { vici { socket = unix://%[1]s/vici } }
}
`

// startCharon starts charon in ns, with plugins beside the usual ones, and waits for
// its vici socket.
func (l *Lab) startCharon(ctx context.Context, ns *Netns, name, options string, plugins ...string) (*charon, error) {
	dir := filepath.Join(l.dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make directory of charon %s: %w", name, err)
	}
	c := &charon{name: name, sock: filepath.Join(dir, "vici")}
	if err := os.Remove(c.sock); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket of charon %s: %w", name, err)
	}
	conf := filepath.Join(dir, "strongswan.conf")
	more := ""
	for _, p := range plugins {
		more += " " + p
	}
	text := fmt.Sprintf(charonConf, dir, filepath.Join(l.out, name+".charon.log"), options, more)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, fmt.Errorf("write configuration of charon %s: %w", name, err)
	}
	var err error
	c.proc, err = l.start(ns, "charon of "+name, filepath.Join(l.out, name+".out"), []string{"STRONGSWAN_CONF=" + conf}, "/usr/sbin/charon-systemd")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 15*time.Second, errors.New("no vici socket within 15 s"))
	defer cancel()
	return c, poll(ctx, 5*time.Millisecond, "charon of "+name, func() (bool, error) {
		if !c.proc.Alive() {
			return false, fmt.Errorf("it ended: %w", c.proc.err)
		}
		s, err := vici.NewSession(vici.WithSocketPath(c.sock))
		if err != nil {
			return false, err
		}
		return true, s.Close()
	})
}

// msg makes a vici message of alternating keys and values (string, []string or
// *vici.Message); other types are a mistake of the caller.
func msg(kv ...any) *vici.Message {
	m := vici.NewMessage()
	for i := 0; i < len(kv); i += 2 {
		if err := m.Set(kv[i].(string), kv[i+1]); err != nil {
			panic(err)
		}
	}
	return m
}

func (c *charon) command(name string, m *vici.Message) (*vici.Message, error) {
	s, err := vici.NewSession(vici.WithSocketPath(c.sock))
	if err != nil {
		return nil, fmt.Errorf("connect to charon of %s: %w", c.name, err)
	}
	defer s.Close()
	r, err := s.CommandRequest(name, m)
	if err == nil {
		err = r.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("%s at charon of %s: %w", name, c.name, err)
	}
	return r, nil
}

func (c *charon) stream(name, event string, m *vici.Message) ([]*vici.Message, error) {
	s, err := vici.NewSession(vici.WithSocketPath(c.sock))
	if err != nil {
		return nil, fmt.Errorf("connect to charon of %s: %w", c.name, err)
	}
	defer s.Close()
	r, err := s.StreamedCommandRequest(name, event, m)
	for _, x := range r {
		if err == nil {
			err = x.Err()
		}
	}
	if err != nil {
		return r, fmt.Errorf("%s at charon of %s: %w", name, c.name, err)
	}
	return r, nil
}

// psk is the pre-shared key of every lab: generated traffic between namespaces, not
// a secret.
const psk = "a pre-shared key of the lab"

// viciCommand is a command with its message.
type viciCommand struct {
	name string
	m    *vici.Message
}

func (c *charon) load(cmds []viciCommand) error {
	for _, x := range cmds {
		if _, err := c.command(x.name, x.m); err != nil {
			return err
		}
	}
	return nil
}

// pskSecret, caCert and ownCert load what proves identities.
func pskSecret() viciCommand {
	return viciCommand{"load-shared", msg("id", "lab", "type", "IKE", "data", psk, "owners", []string{"%any"})}
}

func caCert(ca []byte) viciCommand {
	return viciCommand{"load-cert", msg("type", "X509", "flag", "CA", "data", string(ca))}
}

func ownCert(own credential) []viciCommand {
	return []viciCommand{
		{"load-cert", msg("type", "X509", "flag", "NONE", "data", string(own.cert))},
		{"load-key", msg("type", "any", "data", string(own.key))},
	}
}

const ikeProposal = "aes128-sha256-x25519"

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// plugins are what a client's way to authenticate needs beside the usual ones.
// MSCHAPv2 is made of MD4 and DES, which gcrypt has.
func (s ConnSpec) plugins() []string {
	switch s.EAP {
	case EAPMSCHAPv2:
		return []string{"eap-identity", "eap-mschapv2", "gcrypt"}
	case EAPTLS:
		return []string{"eap-identity", "gcrypt", "eap-tls"}
	}
	return nil
}

// prove returns what a client loads to prove who it is and to recognise the gateway,
// and the two sections of its connection.
func (c *Client) prove() (cmds []viciCommand, local, remote *vici.Message, err error) {
	p := c.lab.pki
	if c.Spec.auth() == "psk" {
		return []viciCommand{pskSecret()}, msg("auth", "psk", "id", c.ID()), msg("auth", "psk", "id", GatewayID), nil
	}
	cmds, remote = []viciCommand{caCert(p.cert.Raw)}, msg("auth", "pubkey", "id", GatewayID)
	if c.Spec.EAP == EAPMSCHAPv2 {
		secret := msg("id", c.user(), "type", "EAP", "data", password(c.user()), "owners", []string{c.user()})
		return append(cmds, viciCommand{"load-shared", secret}), msg("auth", "eap-mschapv2", "id", c.ID(), "eap_id", c.user()), remote, nil
	}
	own, err := p.issue(c.ID())
	if err != nil {
		return nil, nil, nil, err
	}
	auth := "pubkey"
	if c.Spec.EAP != "" {
		auth = c.Spec.auth()
	}
	return append(cmds, ownCert(own)...), msg("auth", auth, "id", c.ID(), "certs", []string{string(own.cert)}), remote, nil
}

// loadConnection loads the connection "home" with the child "net".
func (c *Client) loadConnection() error {
	cmds, lo, re, err := c.prove()
	if err != nil {
		return err
	}
	if err := c.charon.load(cmds); err != nil {
		return err
	}
	s := c.Spec
	child := msg("remote_ts", []string{InsideNet.String()}, "esp_proposals", []string{s.clientESP()}, "mode", "tunnel",
		"rekey_time", orZero(s.ChildRekey), "life_time", hardLimit(s.ChildRekey), "rand_time", spreadOf(s.ChildRekey),
		"dpd_action", lossAction(s), "close_action", "none")
	if s.Window > 0 {
		if err := child.Set("replay_window", fmt.Sprint(s.Window)); err != nil {
			return fmt.Errorf("build connection of %s: %w", c.Name, err)
		}
	}
	vips := []string{"0.0.0.0"}
	if s.Site.IsValid() {
		if vips, err = nil, child.Set("local_ts", []string{s.Site.String()}); err != nil {
			return fmt.Errorf("build connection of %s: %w", c.Name, err)
		}
	}
	_, err = c.charon.command("load-conn", msg("home", msg(
		"version", "2", "local_addrs", []string{c.Addr.String()}, "remote_addrs", []string{c.gateway().String()}, "vips", vips,
		"mobike", yesNo(s.Mobike), "encap", yesNo(s.Encap), "proposals", []string{ikeProposal},
		"rekey_time", orZero(s.IKERekey), "over_time", hardLimit(s.IKERekey), "rand_time", spreadOf(s.IKERekey), "dpd_delay", orZero(s.DPD), "keyingtries", keyingTries(s),
		"local", lo, "remote", re, "children", msg("net", child))))
	return err
}

// hardLimit is how long what should be rekeyed may live on: strongSwan's tenth of a
// short rekey time ends before an outage does.
func hardLimit(rekey string) string {
	if rekey == "" {
		return "0s"
	}
	return "1h"
}

// spreadOf is by how much a rekey comes early at random; strongSwan takes the whole
// time up to the hard limit otherwise.
func spreadOf(rekey string) string {
	if rekey == "" {
		return "0s"
	}
	return "1s"
}

func lossAction(s ConnSpec) string {
	if s.Reconnect {
		return "restart"
	}
	return "none"
}

// keyingTries: 0 goes on for ever.
func keyingTries(s ConnSpec) string {
	if s.Reconnect {
		return "0"
	}
	return "1"
}

func orZero(d string) string {
	if d == "" {
		return "0s"
	}
	return d
}

// loadGateway loads a connection "rw" that serves every client from pool; clients
// have certificates or a pre-shared key.
func (c *charon) loadGateway(p *ikePKI, s ConnSpec, pool string) error {
	cmds, lo, re := []viciCommand{pskSecret()}, msg("auth", "psk", "id", GatewayID), msg("auth", "psk", "id", "%any")
	if s.Cert {
		cmds = append([]viciCommand{caCert(p.cert.Raw)}, ownCert(p.gateway)...)
		lo, re = msg("auth", "pubkey", "id", GatewayID, "certs", []string{string(p.gateway.cert)}), msg("auth", "pubkey", "id", "%any")
	}
	if err := c.load(cmds); err != nil {
		return err
	}
	if _, err := c.command("load-pool", msg("lab", msg("addrs", pool))); err != nil {
		return err
	}
	_, err := c.command("load-conn", msg("rw", msg(
		"version", "2", "local_addrs", []string{VIP.String()}, "remote_addrs", []string{"%any"}, "pools", []string{"lab"},
		"mobike", yesNo(s.Mobike), "proposals", []string{ikeProposal}, "rekey_time", "0s", "dpd_delay", "0s",
		"local", lo, "remote", re,
		"children", msg("net", msg("local_ts", []string{InsideNet.String()}, "esp_proposals", []string{s.esp()},
			"mode", "tunnel", "replay_window", "1024", "rekey_time", "0s")))))
	return err
}

// IKESA is one IKE_SA as charon lists it.
type IKESA struct {
	UniqueID   string   `json:"unique_id"`
	State      string   `json:"state"`
	SPIi       string   `json:"spi_i"`
	SPIr       string   `json:"spi_r"`
	LocalVIPs  []string `json:"local_vips,omitempty"`
	RemoteHost string   `json:"remote_host,omitempty"`
	Children   []Child  `json:"children"`
}

// Child is one CHILD_SA as charon lists it.
type Child struct {
	Name       string `json:"name"`
	State      string `json:"state"`
	In         string `json:"in"`
	Out        string `json:"out"`
	Encap      bool   `json:"encap"`
	Cipher     string `json:"cipher"` // "AES_GCM_16"
	ESN        bool   `json:"esn"`
	PacketsIn  string `json:"packets_in"`
	PacketsOut string `json:"packets_out"`
}

// list returns the IKE_SAs.
func (c *charon) list() ([]IKESA, error) {
	ms, err := c.stream("list-sas", "list-sa", nil)
	if err != nil {
		return nil, err
	}
	var out []IKESA
	for _, m := range ms {
		for _, k := range m.Keys() {
			if sa, ok := m.Get(k).(*vici.Message); ok {
				out = append(out, parseSA(sa))
			}
		}
	}
	return out, nil
}

func parseSA(m *vici.Message) IKESA {
	s := IKESA{UniqueID: str(m, "uniqueid"), State: str(m, "state"), SPIi: str(m, "initiator-spi"), SPIr: str(m, "responder-spi"), RemoteHost: str(m, "remote-host")}
	s.LocalVIPs, _ = m.Get("local-vips").([]string)
	if cs, ok := m.Get("child-sas").(*vici.Message); ok {
		for _, k := range cs.Keys() {
			c, ok := cs.Get(k).(*vici.Message)
			if !ok {
				continue
			}
			s.Children = append(s.Children, Child{
				Name: str(c, "name"), State: str(c, "state"), In: str(c, "spi-in"), Out: str(c, "spi-out"),
				Encap: str(c, "encap") == "yes", Cipher: str(c, "encr-alg"), ESN: str(c, "esn") == "1", PacketsIn: str(c, "packets-in"), PacketsOut: str(c, "packets-out"),
			})
		}
	}
	return s
}

func str(m *vici.Message, key string) string {
	s, _ := m.Get(key).(string)
	return s
}

// Installed are the children that carry traffic, rekeyed ones left out.
func (s IKESA) Installed() []Child {
	var out []Child
	for _, c := range s.Children {
		if c.State == "INSTALLED" || c.State == "REKEYING" {
			out = append(out, c)
		}
	}
	return out
}

func (s IKESA) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "#%s %s %s_%s vip %v", s.UniqueID, s.State, s.SPIi, s.SPIr, s.LocalVIPs)
	for _, c := range s.Children {
		fmt.Fprintf(&b, " {%s %s in %s out %s}", c.Name, c.State, c.In, c.Out)
	}
	return b.String()
}
