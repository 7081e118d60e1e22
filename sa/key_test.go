package sa

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// secrets is how the key could show through.
func secrets(k Key) []string {
	raw := []byte(k)
	return []string{string(raw), hex.EncodeToString(raw), strings.ToUpper(hex.EncodeToString(raw)), base64.StdEncoding.EncodeToString(raw),
		strings.Trim(fmt.Sprint(raw), "[]"), fmt.Sprintf("%#v", raw), fmt.Sprintf("% x", raw), fmt.Sprintf("%q", raw), fmt.Sprintf("%o", raw)}
}

func leaks(t *testing.T, k Key, how, out string) {
	t.Helper()
	for _, s := range secrets(k) {
		if strings.Contains(out, s) {
			t.Errorf("%s shows the key: %s", how, out)
		}
	}
}

type document struct {
	Name string
	K    Key
	P    *Key
	L    []Key
	M    map[string]Key
	A    any
}

func TestKeyNeverShows(t *testing.T) {
	k := Key("sUpErSeCrEt\x01\x02\xff")
	d := document{Name: "doc", K: k, P: &k, L: []Key{k}, M: map[string]Key{"k": k}, A: k}
	values := map[string]any{"key": k, "pointer": &k, "struct": d, "struct pointer": &d, "slice": d.L, "map": d.M, "array": [1]Key{k}}
	// fmt asks no method about a verb it calls bad for the operand: %w of what
	// is no error, %p of what is no pointer. vet refuses both in source.
	verbs := []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%#x", "%d", "%o", "%b", "%c", "%U", "%t", "%e", "%T", "%08v", "%.3s", "%z", "%!"}
	for name, v := range values {
		for _, verb := range verbs {
			leaks(t, k, name+" "+verb, fmt.Sprintf(verb, v))
		}
		leaks(t, k, name+" Sprint", fmt.Sprint(v))
		leaks(t, k, name+" Sprintln", fmt.Sprintln(v))
		b, err := json.Marshal(v)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		leaks(t, k, name+" JSON", string(b))
		var text, js bytes.Buffer
		opts := &slog.HandlerOptions{Level: slog.LevelDebug}
		for _, l := range []*slog.Logger{slog.New(slog.NewTextHandler(&text, opts)), slog.New(slog.NewJSONHandler(&js, opts))} {
			l.Info("x", "v", v, slog.Group("g", "v", v), "e", fmt.Errorf("with %v", v))
			l.With("v", v).WithGroup("g").Debug("y", slog.Any("v", v))
		}
		leaks(t, k, name+" slog text", text.String())
		leaks(t, k, name+" slog JSON", js.String())
	}
	for _, s := range []string{k.String(), k.GoString(), fmt.Sprintf("%x", k), errors.New(k.String()).Error()} {
		if !strings.Contains(s, "[redacted]") {
			t.Errorf("%q does not say that something is missing", s)
		}
	}
}

func TestKeyRevealAndWipe(t *testing.T) {
	k := Key{1, 2, 3}
	b, err := json.Marshal(k.Reveal())
	var back Key
	if err != nil || json.Unmarshal(b, &back) != nil || !bytes.Equal(back, k) {
		t.Errorf("Reveal does not read back: %v %v", b, err)
	}
	for _, bad := range []string{`"!secret!"`, `{"a":1}`, `7`} {
		err := json.Unmarshal([]byte(bad), &back)
		if err == nil {
			t.Errorf("%s: no error", bad)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the error quotes the input: %v", err)
		}
	}
	k.Wipe()
	if !bytes.Equal(k, make([]byte, 3)) {
		t.Error("not wiped")
	}
}
