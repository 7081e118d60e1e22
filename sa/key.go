package sa

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
)

// redacted is what every rendering of a Key shows.
const redacted = "[redacted]"

// Key is key material. It renders as "[redacted]" through fmt, slog, text and
// JSON; only the codecs that put it on the wire read its bytes.
type Key []byte

// String never shows the key.
func (k Key) String() string { return redacted }

// GoString never shows the key.
func (k Key) GoString() string { return "sa.Key(" + redacted + ")" }

// Format covers every verb, %x and %v of an enclosing struct included.
func (k Key) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// LogValue never shows the key.
func (k Key) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText never shows the key.
func (k Key) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON never shows the key. Replication uses Reveal.
func (k Key) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// UnmarshalJSON reads base64.
func (k *Key) UnmarshalJSON(b []byte) error {
	var v []byte
	if err := json.Unmarshal(b, &v); err != nil {
		return fmt.Errorf("decode key: not base64")
	}
	*k = v
	return nil
}

// Reveal returns the key as base64. Callers are the replication codec and the
// operator's explicit --reveal-keys.
func (k Key) Reveal() string { return base64.StdEncoding.EncodeToString(k) }

// Wipe overwrites the key.
func (k Key) Wipe() { clear(k) }
