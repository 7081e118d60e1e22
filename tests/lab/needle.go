package lab

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

// needle is one piece of key material and every spelling of it that a program may
// leave behind.
type needle struct {
	what   string
	spelt  map[string][]byte
	fields []string // of spelt, in a fixed order
}

// newNeedle spells out key; 8 octets are the least that cannot occur by chance.
func newNeedle(what string, key []byte) (needle, error) {
	if len(key) < 8 {
		return needle{}, fmt.Errorf("%s has %d octets, which may occur by chance", what, len(key))
	}
	n := needle{what: what, spelt: map[string][]byte{}}
	add := func(how string, b []byte) {
		n.spelt[how] = b
		n.fields = append(n.fields, how)
	}
	add("octets", key)
	h := hex.EncodeToString(key)
	add("hex", []byte(h))
	add("HEX", []byte(strings.ToUpper(h)))
	add("hex with colons", []byte(spaced(key, "%02x", ":")))
	add("hex with spaces", []byte(spaced(key, "%02X", " "))) // charon's dumps
	add("Go's %v", []byte(spaced(key, "%d", " ")))
	// In base64 of a longer value the key may begin at any of three places; the
	// characters at its edges depend on its neighbours.
	for shift := range 3 {
		b := base64.StdEncoding.EncodeToString(append(make([]byte, shift), key...))
		from, to := (8*shift+5)/6, 8*(shift+len(key))/6
		add(fmt.Sprintf("base64 at %d", shift), []byte(b[from:to]))
	}
	return n, nil
}

func spaced(key []byte, format, sep string) string {
	parts := make([]string, len(key))
	for i, b := range key {
		parts[i] = fmt.Sprintf(format, b)
	}
	return strings.Join(parts, sep)
}

// in tells how the key is spelt in b, empty where it is not there.
func (n needle) in(b []byte) string {
	for _, how := range n.fields {
		if bytes.Contains(b, n.spelt[how]) {
			return how
		}
	}
	return ""
}
