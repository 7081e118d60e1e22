package swanctl

import (
	"maps"
	"testing"
)

func TestUnique(t *testing.T) {
	c := &Config{}
	for name, v := range map[string]string{"a": "replace", "b": "keep", "c": "no", "d": "never", "e": "Replace", "f": "sometimes"} {
		c.conns = append(c.conns, &section{name: name, keys: []setting{{key: "unique", value: v}}})
	}
	want := map[string]string{"a": UniqueReplace, "b": UniqueKeep, "e": UniqueReplace}
	if got := c.Unique(); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	c.conns = []*section{{name: "a"}, {name: "b", keys: []setting{{key: "unique", value: "no"}}}}
	if got := c.Unique(); got != nil {
		t.Errorf("%v, want nothing", got)
	}
}

// A policy that a connection inherits counts.
func TestUniqueInherited(t *testing.T) {
	dir := t.TempDir()
	c, err := Parse(dir, "test", `base { unique = replace }
connections { rw : base { version = 2 } }
`)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Unique()["rw"]; got != UniqueReplace {
		t.Errorf("policy %q, want %q", got, UniqueReplace)
	}
}
