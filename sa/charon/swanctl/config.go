package swanctl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/shadowcast/shadowcast/sa"
)

// Config is a swanctl directory in memory: parsed, inheritance resolved,
// credential files read. It is immutable.
type Config struct {
	dir         string
	conns       []*section // effective, in file order
	authorities []*section
	pools       *section // nil where the files have none
	shared      []shared
	certs       []credential
	keys        []credential
	refused     []problem         // found while reading, reported by Check
	files       map[string][]byte // certificates that connections name, by path
	digests     map[uint8]string  // by HA version
	mu          sync.Mutex        // guards digests
}

// credential is the content of one credential file, or of one PEM block of it.
type credential struct {
	path string
	kind string // type of load-cert or load-key
	flag string // flag of load-cert
	Data sa.Key // DER
}

// shared is one secret of the secrets section.
type shared struct {
	name   string
	kind   string // IKE, EAP, NTLM, PPK
	Data   sa.Key
	owners []string
	pos    Pos
}

// Format hides the content: fmt cannot reach a Key's own methods through
// unexported fields.
func (x credential) Format(f fmt.State, _ rune) { fmt.Fprint(f, x.path) }

// Format hides the secret.
func (s shared) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.name) }

// Read reads a directory like /etc/swanctl: swanctl.conf with what it includes
// (or conf.d/*.conf where there is no swanctl.conf), x509*, private, rsa, ecdsa
// and pkcs8. Syntax errors and unreadable files are errors here; what a gateway
// cannot do is reported by Check.
func Read(dir string) (*Config, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("read swanctl directory: %w", err)
	}
	text := "include swanctl.conf\n"
	if _, err := os.Stat(filepath.Join(dir, "swanctl.conf")); errors.Is(err, os.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, "conf.d")); err != nil {
			return nil, fmt.Errorf("read swanctl directory %s: neither swanctl.conf nor conf.d in it", dir)
		}
		text = "include conf.d/*.conf\n"
	}
	src := diskSource
	entry := filepath.Join(dir, "(directory)")
	src.read = func(p string) ([]byte, error) {
		if p == entry {
			return []byte(text), nil
		}
		return os.ReadFile(p)
	}
	return read(dir, entry, src)
}

// Parse reads one text as swanctl.conf of directory dir, whose credentials are
// read too; name stands for the file in errors.
func Parse(dir, name, text string) (*Config, error) {
	src := diskSource
	entry := filepath.Join(dir, name)
	src.read = func(p string) ([]byte, error) {
		if p == entry {
			return []byte(text), nil
		}
		return os.ReadFile(p)
	}
	return read(dir, entry, src)
}

func read(dir, entry string, src source) (*Config, error) {
	root := &section{}
	if err := (&parser{src: src}).parseInto(root, entry, 0); err != nil {
		return nil, fmt.Errorf("read swanctl configuration: %w", err)
	}
	c := &Config{dir: dir, files: map[string][]byte{}, digests: map[uint8]string{}}
	if err := c.resolve(root); err != nil {
		return nil, fmt.Errorf("read swanctl configuration: %w", err)
	}
	if err := c.readFiles(); err != nil {
		return nil, fmt.Errorf("read swanctl credentials: %w", err)
	}
	return c, nil
}

func (c *Config) resolve(root *section) error {
	r := &resolver{root: root}
	for _, k := range root.keys {
		c.refuse(k.pos, "", "setting %s outside of any section", k.key)
	}
	for _, s := range root.subs {
		switch s.name {
		case "connections", "authorities", "secrets", "pools":
		default:
			if !referenced(root, s) {
				c.refuse(s.pos, "", "unknown section %s, want connections, secrets, authorities or a section others inherit from", s.name)
			}
			continue
		}
		e, err := r.effective(s)
		if err != nil {
			return err
		}
		if s.name != "pools" {
			for _, k := range e.keys {
				c.refuse(k.pos, s.name, "setting %s directly in this section, want a named section around it", k.key)
			}
		}
		switch s.name {
		case "connections":
			c.conns = e.subs
		case "authorities":
			c.authorities = e.subs
		case "secrets":
			c.readSecrets(e)
		case "pools":
			c.pools = e
		}
	}
	return nil
}

// referenced reports whether some section of the file inherits from s or from a
// section inside it.
func referenced(root, s *section) bool {
	var walk func(*section) bool
	walk = func(x *section) bool {
		for _, r := range x.refs {
			if r.path[0] == s.name {
				return true
			}
		}
		return slices.ContainsFunc(x.subs, walk)
	}
	return slices.ContainsFunc(root.subs, walk)
}

// Connections returns the names of the connections, in file order.
func (c *Config) Connections() []string {
	out := make([]string, len(c.conns))
	for i, s := range c.conns {
		out[i] = s.name
	}
	return out
}

// Certificates, Keys and Secrets count what was read, for status output.
func (c *Config) Certificates() int { return len(c.certs) }

// Keys counts private keys.
func (c *Config) Keys() int { return len(c.keys) }

// Secrets counts shared secrets.
func (c *Config) Secrets() int { return len(c.shared) }

// String never shows secrets.
func (c *Config) String() string {
	return fmt.Sprintf("swanctl %s: connections %s, %d certificates, %d keys, %d secrets",
		c.dir, strings.Join(c.Connections(), " "), len(c.certs), len(c.keys), len(c.shared))
}

// Format covers every verb.
func (c *Config) Format(f fmt.State, _ rune) { fmt.Fprint(f, c.String()) }

// splitList splits a comma-separated value.
func splitList(v string) []string {
	var out []string
	for _, x := range strings.Split(v, ",") {
		if x = strings.TrimSpace(x); x != "" {
			out = append(out, x)
		}
	}
	return out
}
