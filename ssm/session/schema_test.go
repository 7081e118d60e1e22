package session

import (
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// schema checks values against the part of JSON Schema that
// docs/session.schema.json uses; any other keyword is an error.
type schema struct{ defs map[string]any }

func loadSchema(t *testing.T) (*schema, map[string]any) {
	t.Helper()
	var root map[string]any
	if err := json.Unmarshal(must(os.ReadFile("../../docs/session.schema.json")), &root); err != nil {
		t.Fatal(err)
	}
	return &schema{root["$defs"].(map[string]any)}, root
}

func (s *schema) check(path string, rule map[string]any, v any) error {
	for k, arg := range rule {
		bad := false
		switch k {
		case "description", "title", "$schema", "$id", "$defs":
		case "$ref":
			def, ok := s.defs[strings.TrimPrefix(arg.(string), "#/$defs/")].(map[string]any)
			if !ok {
				return fmt.Errorf("%s: no definition %s", path, arg)
			}
			if err := s.check(path, def, v); err != nil {
				return err
			}
		case "oneOf":
			n := 0
			var last error
			for _, r := range arg.([]any) {
				if err := s.check(path, r.(map[string]any), v); err != nil {
					last = err
				} else {
					n++
				}
			}
			if n != 1 {
				return fmt.Errorf("%s: %d alternatives match: %w", path, n, last)
			}
		case "const":
			bad = fmt.Sprint(v) != fmt.Sprint(arg)
		case "enum":
			bad = !slices.Contains(arg.([]any), v)
		case "type":
			_, isNumber := v.(json.Number)
			kinds := map[string]bool{"integer": isNumber, "string": is[string](v), "boolean": is[bool](v), "array": is[[]any](v), "object": is[map[string]any](v)}
			bad = !kinds[arg.(string)]
		case "minimum", "maximum":
			x, err := strconv.ParseFloat(string(v.(json.Number)), 64)
			bad = err != nil || k == "minimum" && x < arg.(float64) || k == "maximum" && x > arg.(float64)
		case "pattern":
			bad = !regexp.MustCompile(arg.(string)).MatchString(v.(string))
		case "maxLength":
			bad = len([]rune(v.(string))) > int(arg.(float64))
		case "minItems":
			bad = len(v.([]any)) < int(arg.(float64))
		case "maxItems":
			bad = len(v.([]any)) > int(arg.(float64))
		case "items":
			for i, x := range v.([]any) {
				if err := s.check(fmt.Sprintf("%s[%d]", path, i), arg.(map[string]any), x); err != nil {
					return err
				}
			}
		case "required":
			for _, key := range arg.([]any) {
				if _, ok := v.(map[string]any)[key.(string)]; !ok {
					return fmt.Errorf("%s.%s: is missing", path, key)
				}
			}
		case "properties":
			for key, r := range arg.(map[string]any) {
				if x, ok := v.(map[string]any)[key]; ok {
					if err := s.check(path+"."+key, r.(map[string]any), x); err != nil {
						return err
					}
				}
			}
		case "additionalProperties":
			for key := range v.(map[string]any) {
				if _, ok := rule["properties"].(map[string]any)[key]; !ok {
					return fmt.Errorf("%s.%s: unknown key", path, key)
				}
			}
		default:
			return fmt.Errorf("%s: the schema uses %s, which this test cannot check", path, k)
		}
		if bad {
			return fmt.Errorf("%s: %v violates %s %v", path, v, k, arg)
		}
	}
	return nil
}

func is[T any](v any) bool { _, ok := v.(T); return ok }

func (s *schema) document(root map[string]any, b []byte) error {
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return err
	}
	return s.check("$", root, v)
}

func TestSchemaAcceptsDocuments(t *testing.T) {
	s, root := loadSchema(t)
	for _, name := range []string{"spec.json", "session.json", "redacted.json"} {
		if err := s.document(root, must(os.ReadFile("testdata/"+name))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	golden := string(must(os.ReadFile("testdata/session.json")))
	for _, x := range [][2]string{{`"v":1`, `"v":2`}, {`"slot":7`, `"slot":0`}, {`"esn":true`, `"esn":1`}, {`"by":"client"`, `"by":"us"`}, {`"t":"SECRET"`, `"t":"secret"`}, {`"rev":`, `"version":`}} {
		b := strings.Replace(golden, x[0], x[1], 1)
		if b == golden {
			t.Fatalf("golden document has no %s", x[0])
		}
		if s.document(root, []byte(b)) == nil {
			t.Errorf("the schema accepts %s", x[1])
		}
		if _, err := Decode([]byte(b)); err == nil {
			t.Errorf("Decode accepts %s", x[1])
		}
	}
}

// The keys that the schema lists are those that encode.go writes.
func TestSchemaListsKeys(t *testing.T) {
	s, _ := loadSchema(t)
	for def, v := range map[string]any{
		"session": wireDoc{}, "generation": wireGen{}, "child": wireKid{}, "exchange": wireExc{}, "effect": wireEffect{},
		"crypto_params": wireCrypt{}, "esp_params": wireESP{}, "port_data": wirePorts{}, "attr": wireAttr{},
	} {
		d := s.defs[def].(map[string]any)
		var listed, written, required, always []string
		for k := range d["properties"].(map[string]any) {
			listed = append(listed, k)
		}
		for _, k := range d["required"].([]any) {
			required = append(required, k.(string))
		}
		for _, f := range reflect.VisibleFields(reflect.TypeOf(v)) {
			name, opt, _ := strings.Cut(f.Tag.Get("json"), ",")
			written = append(written, name)
			if opt == "" || def == "session" && slices.Contains([]string{"v", "slot", "ike"}, name) {
				always = append(always, name)
			}
		}
		for _, l := range [][]string{listed, written, required, always} {
			slices.Sort(l)
		}
		equal(t, def, listed, written)
		equal(t, def+" required", required, always)
	}
}
