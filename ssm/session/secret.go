package session

import (
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/shadowcast/shadowcast/sa/charon"
)

const redacted = "[redacted]"

// Secret is key material as it stands in a document: base64 in documents of
// this package, any text in external ones. It renders as "[redacted]"; only
// EncodeSecret writes it out.
type Secret string

func (s Secret) shown() string {
	if s == "" {
		return ""
	}
	return redacted
}

// String never shows the secret.
func (s Secret) String() string { return s.shown() }

// Format covers every verb, %x and %v of an enclosing struct included.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.shown()) }

// LogValue never shows the secret.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.shown()) }

// MarshalText never shows the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.shown()), nil }

// MarshalJSON redacts secrets; it is for people and for logs.
func (a Attrs) MarshalJSON() ([]byte, error) { return json.Marshal(wireAttrs(a, false)) }

// LogValue shows the session's name, not its content.
func (d *Document) LogValue() slog.Value {
	return slog.GroupValue(slog.String("session", d.SessionID), slog.Int("slot", int(d.Slot)), slog.Uint64("rev", d.Rev))
}

// Format shows the session's name, not its content, for every verb.
func (d *Document) Format(f fmt.State, _ rune) {
	fmt.Fprintf(f, "session %s slot %d rev %d", d.SessionID, d.Slot, d.Rev)
}

// Message returns the effect as a datagram without a version; charon.Message.As
// gives it one.
func (e Effect) Message() charon.Message { return e.Attrs.message(e.Type) }
