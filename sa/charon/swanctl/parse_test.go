package swanctl

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// memory is a source of files that live in a map.
func memory(files map[string]string) source {
	return source{
		read: func(p string) ([]byte, error) {
			b, ok := files[p]
			if !ok {
				return nil, &os.PathError{Op: "open", Path: p, Err: os.ErrNotExist}
			}
			return []byte(b), nil
		},
		glob: func(pattern string) ([]string, error) {
			var out []string
			for f := range files {
				ok, err := filepath.Match(pattern, f)
				if err != nil {
					return nil, err
				}
				if ok {
					out = append(out, f)
				}
			}
			return out, nil
		},
	}
}

func parseText(files map[string]string) (*section, error) {
	root := &section{}
	err := (&parser{src: memory(files)}).parseInto(root, "/e/main", 0)
	return root, err
}

// dump renders a section on one line: a=1 s{b=2}.
func dump(s *section) string {
	var out []string
	for _, k := range s.keys {
		out = append(out, k.key+"="+k.value)
	}
	for _, x := range s.subs {
		out = append(out, x.name+"{"+dump(x)+"}")
	}
	return strings.Join(out, " ")
}

func TestParse(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"", ""},
		{"# only a comment", ""},
		{"a = b", "a=b"},
		{"a=b # c\n", "a=b"},
		{"a = b c  \r\n", "a=b c"},
		{"a =\nb = 1", "a= b=1"},
		{`a = "x # { } \" \\ \n y" # z`, "a=x # { } \" \\ \n y"},
		{"a = \"one \\\n two\"", "a=one  two"},
		{"id = C=CH, O=x, CN=*", "id=C=CH, O=x, CN=*"},
		{"s { a = 1 }", "s{a=1}"},
		{"s { a = 1 } t { u { b = 2 } c = 3 }", "s{a=1} t{c=3 u{b=2}}"},
		{"s\n{\na = 1\n}\n", "s{a=1}"},
		{"s{a=1}s{b=2}", "s{a=1 b=2}"},
		{"local-1 { certs = a.pem, b.pem }", "local-1{certs=a.pem, b.pem}"},
		{"include = x", "include=x"},
		{"include { a = 1 }", "include{a=1}"},
	} {
		s, err := parseText(map[string]string{"/e/main": tc.in})
		if err != nil {
			t.Errorf("%q: %v", tc.in, err)
		} else if got := dump(s); got != tc.want {
			t.Errorf("%q: got %q, want %q", tc.in, got, tc.want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"}", "/e/main:1: } without an open section"},
		{"a\n", "/e/main:1: a is followed by neither = nor {"},
		{"s {\n a = 1\n", "/e/main:1: section s is not closed"},
		{"s {\n a = \"x\n", "/e/main:2: quoted value is not closed"},
		{"a = x \"y\"", "inside a value, want the whole value in quotes"},
		{"a = x{y", "inside a value, want the whole value in quotes"},
		{"a = \"x\" y", "after a quoted value"},
		{"= 1", "want a name"},
		{"a += 1", "/e/main:1: a is followed by neither = nor {"},
		{"s {\n a = 1\n a = 2 }", "/e/main:3: a is set twice in this section, first at /e/main:2"},
		{"c { rw { }\n rw { } }", "/e/main:2: section rw is given twice, first at /e/main:1"},
		{"a : { }", "inherit from"},
		{strings.Repeat("s {", 40), "nested more than 32 deep"},
		{"include nothere", "/e/main:1: include: read configuration: open /e/nothere"},
		{"include main", "files include each other more than 16 deep"},
		{"include \n", "neither = nor {"},
	} {
		_, err := parseText(map[string]string{"/e/main": tc.in})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v, want %q", tc.in, err, tc.want)
		}
	}
}

func TestIncludes(t *testing.T) {
	s, err := parseText(map[string]string{
		"/e/main":          "include conf.d/*.conf\ninclude nothing.d/*\nconnections { include /abs/x }",
		"/e/conf.d/a.conf": "connections { a { v = 1 } }",
		"/e/conf.d/b.conf": "connections { b { v = 2 } } # end",
		"/abs/x":           "c { v = 3 }",
	})
	if err != nil {
		t.Fatal(err)
	}
	got := dump(s)
	for _, want := range []string{"a{v=1}", "b{v=2}", "c{v=3}"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
	_, err = parseText(map[string]string{"/e/main": "a = 1\ninclude x", "/e/x": "\nb = 1\n}"})
	if err == nil || !strings.Contains(err.Error(), "/e/x:3: }") {
		t.Errorf("error in an included file: %v", err)
	}
}

func TestInheritance(t *testing.T) {
	const in = `conn { version = 2
  encap = yes
  local { auth = psk }
  children { net { mode = tunnel
    life = 1 } } }
child { life = 2
  esp = x }
connections {
  a : conn { encap =
    children { net : child { mode = transport } } }
  b : connections.a, conn { version = 1 }
}`
	s, err := parseText(map[string]string{"/e/main": in})
	if err != nil {
		t.Fatal(err)
	}
	e, err := (&resolver{root: s}).effective(s.sub("connections"))
	if err != nil {
		t.Fatal(err)
	}
	want := "a{version=2 children{net{mode=transport life=2 esp=x}} local{auth=psk}} " +
		"b{version=1 children{net{mode=transport life=2 esp=x}} local{auth=psk}}"
	if got := dump(e); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for in, want := range map[string]string{
		"a : nope { }":         "/e/main:1: section a inherits from nope, which does not exist",
		"a : b { }\nb : a { }": "inherits from itself",
		"a { b : a { } }":      "inherits from itself",
	} {
		s, err := parseText(map[string]string{"/e/main": in})
		if err == nil {
			_, err = (&resolver{root: s}).effective(s)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "a = b", "s { a = \"x\\n\" } # c", "a : b, c.d { e = f }\nb { }\nc { d { g = h } }", "include x\ninclude *\n",
		"connections { rw { version = 2\n local_addrs = 198.51.100.1\n local { auth = psk }\n children { net { } } } }\nsecrets { ike-1 { secret = 0x00 } }",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		src := memory(map[string]string{"/e/main": in, "/e/x": "y { z = 1 }"})
		root := &section{}
		if err := (&parser{src: src}).parseInto(root, "/e/main", 0); err != nil {
			if !strings.Contains(err.Error(), "/e/") {
				t.Fatalf("error without a place: %v", err)
			}
			return
		}
		c := &Config{dir: "/nonexistent", files: map[string][]byte{}, digests: map[uint8]string{}}
		if c.resolve(root) != nil {
			return
		}
		_ = c.Check(Rules{})
		for _, s := range c.conns {
			_, _ = c.connection(s)
		}
		if _, err := c.openDigest(3); err != nil {
			return
		}
	})
}
