package session

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"
)

// node is one parsed JSON value: nil, bool, json.Number, string, []node or
// map[string]node. encoding/json alone neither names the path of an unknown key
// nor refuses a key that occurs twice.
type node any

// maxDepth is the deepest nesting of a document plus slack; maxNodes bounds the
// memory that parsing may take.
const (
	maxDepth = 12
	maxNodes = 200_000
)

// parse reads one JSON value that spans all of b.
func parse(b []byte) (node, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("$: document has %d bytes, at most %d are allowed", len(b), MaxSize)
	}
	if !json.Valid(b) {
		return nil, errors.New("$: not valid JSON")
	}
	p := parser{dec: json.NewDecoder(bytes.NewReader(b))}
	p.dec.UseNumber()
	return p.value("$", 0)
}

type parser struct {
	dec   *json.Decoder
	nodes int
}

func (p *parser) value(path string, depth int) (node, error) {
	if p.nodes++; p.nodes > maxNodes {
		return nil, fmt.Errorf("%s: document has more than %d values", path, maxNodes)
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("%s: nested deeper than %d", path, maxDepth)
	}
	tok, err := p.dec.Token()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	switch tok {
	case json.Delim('{'):
		m := map[string]node{}
		for p.dec.More() {
			k, err := p.dec.Token()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			key, _ := k.(string)
			at := path + "." + clip(key)
			if _, twice := m[key]; twice {
				return nil, fmt.Errorf("%s: key occurs twice", at)
			}
			if m[key], err = p.value(at, depth+1); err != nil {
				return nil, err
			}
		}
		_, err = p.dec.Token()
		return m, err
	case json.Delim('['):
		l := []node{}
		for p.dec.More() {
			v, err := p.value(path+"["+strconv.Itoa(len(l))+"]", depth+1)
			if err != nil {
				return nil, err
			}
			l = append(l, v)
		}
		_, err = p.dec.Token()
		return l, err
	}
	return tok, nil
}

func clip(s string) string {
	if len(s) > 40 {
		return strconv.Quote(s[:40]) + "..."
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r != '_' && (r < '0' || r > 'z') }) {
		return strconv.Quote(s)
	}
	return s
}

// reader turns nodes into values. The first failure sticks; the methods of
// object then return zero values, so that the code reads as a list of fields.
type reader struct{ err error }

func (r *reader) fail(path, format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%s: "+format, append([]any{path}, args...)...)
	}
}

// object is a JSON object whose keys are taken one by one; close refuses the rest.
type object struct {
	r    *reader
	path string
	m    map[string]node
}

func (r *reader) object(path string, n node) *object {
	m, ok := n.(map[string]node)
	if !ok && r.err == nil {
		r.fail(path, "is %s, want an object", typeName(n))
	}
	c := make(map[string]node, len(m))
	for k, v := range m {
		c[k] = v
	}
	return &object{r, path, c}
}

func (o *object) close() {
	if len(o.m) == 0 || o.r.err != nil {
		return
	}
	keys := make([]string, 0, len(o.m))
	for k := range o.m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	o.r.fail(o.path+"."+clip(keys[0]), "unknown key")
}

func (o *object) at(key string) string { return o.path + "." + key }

func (o *object) has(key string) bool { _, ok := o.m[key]; return ok }

func (o *object) take(key string) (node, bool) {
	n, ok := o.m[key]
	delete(o.m, key)
	if !ok {
		o.r.fail(o.at(key), "is missing")
	}
	return n, ok && o.r.err == nil
}

func take[T any](o *object, key, want string) (v T) {
	n, ok := o.take(key)
	if !ok {
		return v
	}
	v, ok = n.(T)
	if !ok {
		o.r.fail(o.at(key), "is %s, want %s", typeName(n), want)
	}
	return v
}

func (o *object) object(key string) *object {
	n, ok := o.take(key)
	if !ok {
		return &object{r: o.r, path: o.at(key)}
	}
	return o.r.object(o.at(key), n)
}

// list calls each for every element of the array, at most limit of them.
func (o *object) list(key string, limit int, each func(path string, n node)) {
	l := take[[]node](o, key, "an array")
	o.r.each(o.at(key), l, limit, each)
}

func (r *reader) each(path string, l []node, limit int, each func(path string, n node)) {
	if len(l) > limit {
		r.fail(path, "has %d elements, at most %d are allowed", len(l), limit)
	}
	for i, n := range l {
		if r.err != nil {
			return
		}
		each(path+"["+strconv.Itoa(i)+"]", n)
	}
}

func (o *object) bool(key string) bool { return take[bool](o, key, "a boolean") }

func (o *object) text(key string, limit int) string {
	s := take[string](o, key, "a string")
	if len(s) > limit {
		o.r.fail(o.at(key), "has %d bytes, at most %d are allowed", len(s), limit)
	}
	return s
}

func (o *object) uint(key string, bits int) uint64 {
	n := take[json.Number](o, key, "a number")
	if o.r.err != nil {
		return 0
	}
	v, err := strconv.ParseUint(string(n), 10, bits)
	if err != nil {
		o.r.fail(o.at(key), "%s is no whole number of %d bits", clip(string(n)), bits)
	}
	return v
}

func (o *object) base64(key string, limit int) []byte {
	s := o.text(key, base64.StdEncoding.EncodedLen(limit))
	if o.r.err != nil {
		return nil
	}
	if s == redacted {
		o.r.fail(o.at(key), "is redacted: only the output of EncodeSecret can be decoded")
		return nil
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") {
		o.r.fail(o.at(key), "is not base64")
	}
	return b
}

// time reads an optional time, in the one spelling that this package writes.
func (o *object) time(key string) time.Time {
	if !o.has(key) {
		return time.Time{}
	}
	s := o.text(key, 64)
	if o.r.err != nil {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if t = stamp(t); err != nil || t.IsZero() || wireTime(t) != s {
		o.r.fail(o.at(key), "%s is no UTC time in the form 2006-01-02T15:04:05.999999999Z", clip(s))
	}
	return t
}

// parseText reads a string through a TextUnmarshaler, such as an SPI.
func (o *object) parseText(key string, into interface{ UnmarshalText([]byte) error }) {
	s := o.text(key, 64)
	if o.r.err != nil {
		return
	}
	if err := into.UnmarshalText([]byte(s)); err != nil {
		o.r.fail(o.at(key), "%w", err)
	}
}

func typeName(n node) string {
	switch n.(type) {
	case bool:
		return "a boolean"
	case json.Number:
		return "a number"
	case string:
		return "a string"
	case []node:
		return "an array"
	case map[string]node:
		return "an object"
	}
	return "null"
}
