package dnsupdate

import (
	"encoding/base64"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/miekg/dns"
)

// Key is a TSIG key (RFC 8945). It renders without its secret.
type Key struct {
	Name      string // fully qualified
	Algorithm string // such as "hmac-sha256."
	secret    string // base64
}

// String shows name and algorithm only.
func (k Key) String() string { return fmt.Sprintf("key %s (%s)", k.Name, k.Algorithm) }

// GoString shows no secret either.
func (k Key) GoString() string { return k.String() }

// Format covers every verb, those of an enclosing struct included.
func (k Key) Format(f fmt.State, _ rune) { fmt.Fprint(f, k.String()) }

// LogValue shows no secret either.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText shows no secret either.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

var algorithms = map[string]string{
	"hmac-sha224": dns.HmacSHA224, "hmac-sha256": dns.HmacSHA256, "hmac-sha384": dns.HmacSHA384, "hmac-sha512": dns.HmacSHA512,
}

// ReadKey reads a file as tsig-keygen writes it. It must be readable by its owner
// only.
func ReadKey(path string) (Key, error) {
	st, err := os.Stat(path)
	if err != nil {
		return Key{}, fmt.Errorf("read TSIG key: %w", err)
	}
	if perm := st.Mode().Perm(); perm&0o077 != 0 {
		return Key{}, fmt.Errorf("read TSIG key: %s has mode %04o, want 0600 or 0400: the key is a secret", path, perm)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Key{}, fmt.Errorf("read TSIG key: %w", err)
	}
	k, err := parseKey(string(b))
	if err != nil {
		return Key{}, fmt.Errorf("read TSIG key: %s: %w", path, err)
	}
	return k, nil
}

// parseKey reads `key "name" { algorithm hmac-sha256; secret "base64"; };`. Errors
// quote nothing of the text: it holds the secret.
func parseKey(text string) (k Key, err error) {
	const want = `want key "NAME" { algorithm hmac-sha256; secret "BASE64"; }; as tsig-keygen writes it`
	toks := tokens(text)
	if len(toks) < 4 || toks[0] != "key" || toks[2] != "{" {
		return k, fmt.Errorf("no key statement, %s", want)
	}
	if _, ok := dns.IsDomainName(toks[1]); !ok {
		return k, fmt.Errorf("the key's name is no domain name, %s", want)
	}
	k.Name = dns.CanonicalName(toks[1])
	for toks = toks[3:]; len(toks) >= 3 && toks[0] != "}"; toks = toks[3:] {
		if toks[2] != ";" {
			return Key{}, fmt.Errorf("a statement without its semicolon, %s", want)
		}
		switch toks[0] {
		case "algorithm":
			if k.Algorithm = algorithms[strings.ToLower(strings.TrimSuffix(toks[1], "."))]; k.Algorithm == "" {
				return Key{}, fmt.Errorf("unknown algorithm, want hmac-sha224, hmac-sha256, hmac-sha384 or hmac-sha512")
			}
		case "secret":
			if b, err := base64.StdEncoding.DecodeString(toks[1]); err != nil || len(b) == 0 {
				return Key{}, fmt.Errorf("the secret is no base64, %s", want)
			}
			k.secret = toks[1]
		default:
			return Key{}, fmt.Errorf("a statement that is neither algorithm nor secret, %s", want)
		}
	}
	switch {
	case len(toks) == 0 || toks[0] != "}":
		return Key{}, fmt.Errorf("the key statement does not end, %s", want)
	case len(toks) > 2 || len(toks) == 2 && toks[1] != ";":
		return Key{}, fmt.Errorf("more than one statement, want one key")
	case k.Algorithm == "" || k.secret == "":
		return Key{}, fmt.Errorf("algorithm or secret is missing, %s", want)
	}
	return k, nil
}

// tokens splits text as named.conf does: words, quoted strings without their quotes,
// and { } ; by themselves; comments are left out.
func tokens(s string) (out []string) {
	for s != "" {
		switch {
		case strings.HasPrefix(s, "//"), s[0] == '#':
			_, s, _ = strings.Cut(s, "\n")
		case strings.HasPrefix(s, "/*"):
			_, s, _ = strings.Cut(s[2:], "*/")
		case strings.ContainsRune(" \t\r\n", rune(s[0])):
			s = s[1:]
		case strings.ContainsRune("{};", rune(s[0])):
			out, s = append(out, s[:1]), s[1:]
		case s[0] == '"':
			word, rest, _ := strings.Cut(s[1:], `"`)
			out, s = append(out, word), rest
		default:
			n := strings.IndexAny(s, " \t\r\n{};\"")
			if n < 0 {
				n = len(s)
			}
			out, s = append(out, s[:n]), s[n:]
		}
	}
	return out
}
