package swanctl

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/shadowcast/shadowcast/sa/charon"
	"github.com/strongswan/govici/vici"
)

// Caller sends one vici command; charon.Vici is one.
type Caller interface {
	Call(ctx context.Context, cmd string, in *vici.Message) (*vici.Message, error)
}

// vici can list the names of loaded secrets, but can neither unload one
// certificate nor tell loaded ones from received ones. So Load leaves markers:
// secrets of a kind that IKEv2 never looks up, owned by nobody, whose names tell
// which certificates, and which digest, are loaded.
const (
	certMarker   = "shadowcast-cert-"
	digestMarker = "shadowcast-digest-"
)

// curveHint explains the usual reason why charon refuses a sound key.
const curveHint = " (elliptic-curve keys need strongSwan's openssl plugin, Debian package libstrongswan-standard-plugins)"

// Load brings charon to the configuration: it loads everything and unloads
// connections, authorities, keys, secrets and certificates that earlier loads
// left and cfg has not. It may be repeated at any time; established SAs stay.
// Certificates that vanished cost a moment without any credentials, because
// vici can only clear them all.
func Load(ctx context.Context, v Caller, cfg *Config, ha charon.Version) error {
	digest, err := cfg.Digest(ha)
	if err != nil {
		return fmt.Errorf("load swanctl configuration: %w", err)
	}
	l := &loader{v: v, cfg: cfg, digest: digest, conn: cfg.connection}
	if err := l.load(ctx); err != nil {
		return fmt.Errorf("load swanctl configuration: %w", err)
	}
	return nil
}

// LoadPlain is Load without the settings of a gateway and without digest: for
// the lab's clients.
func LoadPlain(ctx context.Context, v Caller, cfg *Config) error {
	l := &loader{v: v, cfg: cfg, conn: cfg.plainConnection}
	if err := l.load(ctx); err != nil {
		return fmt.Errorf("load swanctl configuration: %w", err)
	}
	return nil
}

// LoadedDigest returns the digest of the configuration that charon has loaded
// completely, "" if none: what a twin's readiness compares, also after the
// daemon restarted.
func LoadedDigest(ctx context.Context, v Caller) (string, error) {
	names, err := names(ctx, v, "get-shared", "keys")
	if err != nil {
		return "", fmt.Errorf("read loaded digest: %w", err)
	}
	for _, n := range names {
		if d, ok := strings.CutPrefix(n, digestMarker); ok {
			return d, nil
		}
	}
	return "", nil
}

type loader struct {
	v      Caller
	cfg    *Config
	digest string // "" for none
	conn   func(*section) (*vici.Message, error)
}

func (l *loader) load(ctx context.Context) error {
	// A load that ends half-way must not look complete.
	old, err := names(ctx, l.v, "get-shared", "keys")
	if err != nil {
		return err
	}
	for _, n := range old {
		if strings.HasPrefix(n, digestMarker) {
			if err := l.unload(ctx, "unload-shared", "id", n); err != nil {
				return err
			}
		}
	}
	certs := map[string]credential{}
	for _, x := range l.cfg.certs {
		sum := sha256.Sum256([]byte(x.kind + "\x00" + x.flag + "\x00" + string(x.Data)))
		certs[certMarker+hex.EncodeToString(sum[:])] = x
	}
	for _, n := range old {
		if _, ok := certs[n]; !ok && strings.HasPrefix(n, certMarker) {
			if _, err := l.v.Call(ctx, "clear-creds", nil); err != nil {
				return err
			}
			old = nil
			break
		}
	}
	if err := l.credentials(ctx, certs, old); err != nil {
		return err
	}
	if err := l.sections(ctx, l.cfg.conns, l.conn, "conn", "conns"); err != nil {
		return err
	}
	if err := l.sections(ctx, l.cfg.authorities, l.cfg.authority, "authority", "authorities"); err != nil {
		return err
	}
	if l.digest == "" {
		return nil
	}
	return l.mark(ctx, digestMarker+l.digest)
}

// credentials loads certificates that are new, and all keys and secrets; then
// unloads keys and secrets that are gone.
func (l *loader) credentials(ctx context.Context, certs map[string]credential, loaded []string) error {
	want := map[string]bool{}
	for marker, x := range certs {
		want[marker] = true
		if slices.Contains(loaded, marker) {
			continue
		}
		b := newBuilder().set("type", x.kind).set("flag", x.flag).set("data", string(x.Data))
		if b.err != nil {
			return b.err
		}
		if _, err := l.v.Call(ctx, "load-cert", b.m); err != nil {
			return fmt.Errorf("certificate %s: %w%s", x.path, err, curveHint)
		}
		if err := l.mark(ctx, marker); err != nil {
			return err
		}
	}
	keys := map[string]bool{}
	for _, x := range l.cfg.keys {
		b := newBuilder().set("type", x.kind).set("data", string(x.Data))
		if b.err != nil {
			return b.err
		}
		m, err := l.v.Call(ctx, "load-key", b.m)
		if err != nil {
			return fmt.Errorf("private key %s: %w%s", x.path, err, curveHint)
		}
		id, _ := m.Get("id").(string)
		keys[id] = true
	}
	if err := l.unloadOthers(ctx, "get-keys", "keys", keys, "unload-key", "id"); err != nil {
		return err
	}
	for _, s := range l.cfg.shared {
		m, err := s.message()
		if err != nil {
			return err
		}
		if _, err := l.v.Call(ctx, "load-shared", m); err != nil {
			return fmt.Errorf("%s: secret %s: %w", s.pos, s.name, err)
		}
		want[s.name] = true
	}
	return l.unloadOthers(ctx, "get-shared", "keys", want, "unload-shared", "id")
}

// sections loads connections or authorities and unloads the others.
func (l *loader) sections(ctx context.Context, list []*section, build func(*section) (*vici.Message, error), one, many string) error {
	want := map[string]bool{}
	for _, s := range list {
		m, err := build(s)
		if err != nil {
			return fmt.Errorf("%s: %s %s: %w", s.pos, one, s.name, err)
		}
		if _, err := l.v.Call(ctx, "load-"+one, m); err != nil {
			return fmt.Errorf("%s: %s %s: %w", s.pos, one, s.name, err)
		}
		want[s.name] = true
	}
	return l.unloadOthers(ctx, "get-"+many, many, want, "unload-"+one, "name")
}

func (l *loader) unloadOthers(ctx context.Context, get, key string, want map[string]bool, cmd, by string) error {
	have, err := names(ctx, l.v, get, key)
	if err != nil {
		return err
	}
	for _, n := range have {
		if !want[n] {
			if err := l.unload(ctx, cmd, by, n); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *loader) unload(ctx context.Context, cmd, by, name string) error {
	b := newBuilder().set(by, name)
	if b.err != nil {
		return b.err
	}
	if _, err := l.v.Call(ctx, cmd, b.m); err != nil {
		return fmt.Errorf("unload %s: %w", name, err)
	}
	return nil
}

// mark loads a marker: a post-quantum pre-shared key, which charon looks up only
// for the ppk_id of a connection, and which nobody knows.
func (l *loader) mark(ctx context.Context, name string) error {
	secret := make([]byte, 32)
	rand.Read(secret)
	b := newBuilder().set("id", name).set("type", "PPK").set("data", string(secret)).set("owners", []string{name + ".invalid"})
	if b.err != nil {
		return b.err
	}
	if _, err := l.v.Call(ctx, "load-shared", b.m); err != nil {
		return fmt.Errorf("mark %s: %w", name, err)
	}
	return nil
}

func names(ctx context.Context, v Caller, cmd, key string) ([]string, error) {
	m, err := v.Call(ctx, cmd, nil)
	if err != nil {
		return nil, err
	}
	l, _ := m.Get(key).([]string)
	return l, nil
}
