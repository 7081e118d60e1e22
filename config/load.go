package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

// Load reads and checks the file at path. Mistakes in it come back as a FileError.
func Load(path string) (*Config, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read config: %w; `shadowctl config example` prints one to start from", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	c, err := Parse(text)
	var ps Problems
	if errors.As(err, &ps) {
		return nil, &FileError{File: path, Problems: ps}
	}
	return c, err
}

// Parse checks text and returns what it says. Its error is Problems.
func Parse(text []byte) (*Config, error) {
	col := &collector{}
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(text))
	if err := dec.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, yamlProblems(text, err)
	}
	if len(doc.Content) == 0 {
		return nil, Problems{{Text: "the file is empty; `shadowctl config example` prints one to start from"}}
	}
	if doc.Content[0].Kind != yaml.MappingNode {
		return nil, Problems{{Text: "want a list of `key: value` lines, `shadowctl config example` prints one", Line: doc.Content[0].Line}}
	}
	var second yaml.Node
	switch err := dec.Decode(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		return nil, yamlProblems(text, err)
	default:
		return nil, Problems{{Text: "a second document begins (`---`): nothing in it would be heeded", Line: second.Line}}
	}
	col.lines = map[string]int{}
	if !col.index("", doc.Content[0], 0) {
		return nil, Problems{{Text: "more values than a fleet can have, nested too deep, or an alias that holds itself"}}
	}

	raw := col.decode(text)
	if len(col.problems) > 0 {
		return nil, col.err() // values of the wrong kind would only cause follow-up errors
	}
	c := col.config(raw)
	if err := col.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// maxValues and maxDepth bound the walk through a document whose aliases multiply
// or point at themselves. 4095 slots with all their values are about 60,000.
const (
	maxValues = 200_000
	maxDepth  = 12
)

// index records the line of every value. It refuses keys without a value, and keys that
// differ in case only, of which viper would take any. False means that there are too many
// or that they nest too deep.
func (c *collector) index(path string, n *yaml.Node, depth int) bool {
	if c.values++; c.values > maxValues || depth > maxDepth {
		return false
	}
	if n.Kind == yaml.AliasNode {
		return c.index(path, n.Alias, depth+1)
	}
	c.lines[path] = n.Line
	switch n.Kind {
	case yaml.MappingNode:
		if len(n.Content) == 0 {
			c.addf(path, "is empty; give its keys or remove it")
		}
		names := map[string]*yaml.Node{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			name := strings.ToLower(key.Value)
			sub := name
			if path != "" {
				sub = path + "." + name
			}
			if first := names[name]; first != nil {
				if first.Value == key.Value {
					continue // the decoder says so
				}
				c.problems = append(c.problems, Problem{Path: sub, Text: fmt.Sprintf("%q is the key %q of line %d again; want it once", key.Value, first.Value, first.Line), Line: key.Line})
				continue
			}
			names[name] = key
			if key.Tag == "!!null" {
				c.problems = append(c.problems, Problem{Path: path, Text: "has a value without a key", Line: key.Line})
			}
			if !c.index(sub, value, depth+1) {
				return false
			}
			c.lines[sub] = key.Line
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			if !c.index(at(path, i), item, depth+1) {
				return false
			}
		}
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			c.addf(path, "has no value; give one or remove it")
		}
	}
	return true
}

// decode fills the raw structs, defaults included.
func (c *collector) decode(text []byte) *rawConfig {
	// Dots in keys must not make paths, so the delimiter is one that YAML refuses.
	v := viper.NewWithOptions(viper.KeyDelimiter("\x00"))
	v.SetConfigType("yaml")
	if err := v.ReadConfig(bytes.NewReader(text)); err != nil {
		c.problems = append(c.problems, yamlProblems(text, err)...)
		return nil
	}
	raw := &rawConfig{}
	err := v.UnmarshalExact(raw, func(d *mapstructure.DecoderConfig) {
		d.TagName = "yaml"
		d.WeaklyTypedInput = false
		d.DecodeHook = mapstructure.DecodeHookFuncValue(decodeHook)
	})
	c.decodeErrors(err)
	return raw
}

// decodeHook fills in defaults and refuses to cut a fraction off.
func decodeHook(from, to reflect.Value) (any, error) {
	if given, ok := from.Interface().(map[string]any); ok && to.Kind() == reflect.Struct {
		return withDefaults(to.Type(), given), nil
	}
	if from.Kind() == reflect.Float64 && to.Kind() == reflect.Int {
		return nil, errors.New("not a whole number")
	}
	return from.Interface(), nil
}

// decodeErrors turns every error of mapstructure into a problem.
func (c *collector) decodeErrors(err error) {
	var one *mapstructure.DecodeError
	switch multi, ok := err.(interface{ Unwrap() []error }); {
	case err == nil:
	case ok:
		for _, e := range multi.Unwrap() {
			c.decodeErrors(e)
		}
	case errors.As(err, &one):
		keys, unknown := strings.CutPrefix(one.Unwrap().Error(), "has invalid keys: ")
		if !unknown {
			c.addf(one.Name(), "want %s", kindAt(one.Name()))
			return
		}
		parent := one.Name()
		if parent == reflect.TypeFor[rawConfig]().String() {
			parent = "" // mapstructure names the root by its type
		}
		for key := range strings.SplitSeq(keys, ", ") {
			c.unknownKey(parent, key)
		}
	default:
		c.addf("", "decode: %v", err)
	}
}

// yamlLine is how the decoder names a line.
var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)$`)

// yamlProblems are the errors of the YAML decoder. A syntax error shows where the text
// stops making sense, a line or two away from the mistake.
func yamlProblems(text []byte, err error) Problems {
	texts, hint := []string{err.Error()}, "; look around there: indentation, colons, quotes, brackets"
	var te *yaml.TypeError
	if errors.As(err, &te) {
		texts, hint = te.Errors, ""
	}
	if i := bytes.IndexFunc(text, func(r rune) bool { return r < ' ' && r != '\n' && r != '\r' && r != '\t' || r == utf8.RuneError }); i >= 0 {
		return Problems{{Text: "not a text file: it holds bytes that no text has", Line: 1 + bytes.Count(text[:i], []byte("\n"))}}
	}
	var out Problems
	for _, t := range texts {
		m := yamlLine.FindStringSubmatch(strings.ReplaceAll(t, "\n", " "))
		line, _ := strconv.Atoi(m[1]) // "" where there is none: 0
		out = append(out, Problem{Text: "read YAML: " + m[2] + hint, Line: line})
	}
	return out
}
