package swanctl

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/strongswan/govici/vici"
)

// builder collects a vici message; its error is the first that occurred.
type builder struct {
	m   *vici.Message
	err error
}

func newBuilder() *builder { return &builder{m: vici.NewMessage()} }

func (b *builder) set(key string, v any) *builder {
	if b.err == nil {
		if err := b.m.Set(key, v); err != nil {
			b.err = fmt.Errorf("build vici message: %s: %w", key, err)
		}
	}
	return b
}

// connection returns the load-conn message of one connection of a gateway.
func (c *Config) connection(s *section) (*vici.Message, error) { return c.build(s, true) }

// plainConnection returns it as written.
func (c *Config) plainConnection(s *section) (*vici.Message, error) { return c.build(s, false) }

func (c *Config) build(s *section, gateway bool) (*vici.Message, error) {
	b := newBuilder()
	c.fill(b, s, connKeys)
	for _, x := range s.subs {
		sub := newBuilder()
		if x.name == "children" {
			for _, y := range x.subs {
				child := newBuilder()
				c.fill(child, y, childKeys)
				if gateway {
					gatewayDefaults(child, y)
				}
				sub.set(y.name, child.m)
				b.keep(child)
			}
		} else {
			c.fill(sub, x, authKeys)
			for _, y := range x.subs {
				cert := newBuilder()
				c.fill(cert, y, certKeys)
				sub.set(y.name, cert.m)
				b.keep(cert)
			}
		}
		b.set(x.name, sub.m)
		b.keep(sub)
	}
	out := newBuilder().set(s.name, b.m)
	out.keep(b)
	return out.m, out.err
}

func (b *builder) keep(from *builder) {
	if b.err == nil {
		b.err = from.err
	}
}

// fill adds the settings of a section.
func (c *Config) fill(b *builder, s *section, kinds map[string]keyKind) {
	for _, k := range s.keys {
		switch kinds[k.key] {
		case listed:
			b.set(k.key, splitList(k.value))
		case blobs:
			var l []string
			for _, n := range splitList(k.value) {
				l = append(l, string(c.files[c.path(fileKeys[k.key], n)]))
			}
			b.set(k.key, l)
		default:
			b.set(k.key, k.value)
		}
	}
}

// gatewayDefaults adds what a gateway's child needs and its section lacks.
func gatewayDefaults(b *builder, s *section) {
	if v, ok := s.find("mode"); ok && (v.value == "pass" || v.value == "drop") {
		return
	}
	def := func(key string, n uint64) {
		if _, ok := s.find(key); !ok {
			b.set(key, strconv.FormatUint(n, 10))
		}
	}
	number := func(key string, otherwise uint64) uint64 {
		if v, ok := s.find(key); ok {
			if n, err := parseCount(v.value); err == nil {
				return n
			}
		}
		return otherwise
	}
	life := number("life_packets", lifePackets)
	rekey := number("rekey_packets", life/2)
	def("life_packets", life)
	def("rekey_packets", rekey)
	// strongSwan would subtract a random share of up to the whole soft limit.
	def("rand_packets", rekey/8)
	def("replay_window", minReplayWindow)
}

// authority returns the load-authority message of one authority.
func (c *Config) authority(s *section) (*vici.Message, error) {
	b := newBuilder()
	for _, k := range s.keys {
		switch {
		case k.key == "cacert":
			b.set("cacert", string(c.files[c.path("x509ca", strings.TrimSpace(k.value))]))
		case authorityKeys[k.key] == listed:
			b.set(k.key, splitList(k.value))
		default:
			b.set(k.key, k.value)
		}
	}
	out := newBuilder().set(s.name, b.m)
	out.keep(b)
	return out.m, out.err
}

// secret returns the load-shared message of one secret.
func (s shared) message() (*vici.Message, error) {
	b := newBuilder().set("id", s.name).set("type", s.kind).set("data", string(s.Data))
	if len(s.owners) > 0 {
		b.set("owners", s.owners)
	}
	return b.m, b.err
}
