package session

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/shadowcast/shadowcast/sa/charon"
)

func TestPackedForm(t *testing.T) {
	d := goldenDoc(t)
	b := must(d.Pack())
	golden(t, "session.packed", b)
	golden(t, "created.packed", must(plainDoc(t).Pack()))
	back, err := Unpack(bytes.Clone(b))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, d) {
		t.Error("unpacking gives another document")
	}
	if !bytes.Equal(must(back.EncodeSecret()), must(d.EncodeSecret())) {
		t.Error("the packed form and JSON do not say the same")
	}
	viaJSON, err := Unpack(must(d.EncodeSecret()))
	if err != nil || !reflect.DeepEqual(viaJSON, d) {
		t.Errorf("Unpack does not read JSON: %v", err)
	}
}

func TestPackedFormRefused(t *testing.T) {
	d := goldenDoc(t)
	b := must(d.Pack())
	for n := range len(b) {
		if _, err := Unpack(b[:n:n]); err == nil {
			t.Fatalf("the first %d of %d octets are taken for a document", n, len(b))
		}
	}
	change := func(f func([]byte) []byte) []byte { return f(bytes.Clone(b)) }
	id := len(d.SessionID)
	for _, x := range []struct {
		raw  []byte
		want string
	}{
		{change(func(b []byte) []byte { b[0] = 9; return b }), "unknown packed form 9"},
		{append(bytes.Clone(b), 0), "1 octets follow the document"},
		{change(func(b []byte) []byte { b[1] |= 0x80; return append(b[:2:2], append([]byte{0}, b[2:]...)...) }), "not in its shortest form"},
		{change(func(b []byte) []byte { b[2+id] = 0; return b }), "$.slot: 0 is no slot"},
		{change(func(b []byte) []byte { b[3] = 0xff; return b }), "session id is not UTF-8"},
		{make([]byte, MaxSize+1), "at most"},
	} {
		if _, err := Unpack(x.raw); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("got %v, want %q", err, x.want)
		}
	}
	if _, err := (&Document{SessionID: "x"}).Pack(); err == nil {
		t.Error("a document of another system is packed")
	}
}

// The packed form names attributes by the numbers of HA protocol version 5: their
// order is part of the format.
func TestPackedAttributeNumbers(t *testing.T) {
	for n := 1; n < 256; n++ {
		a := charon.AttrType(n)
		if !a.Valid() {
			continue
		}
		if w, ok := a.Number(charon.V5); !ok || int(w) != n {
			t.Errorf("%s is %d, in version 5 %d", a, n, w)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	d := goldenDoc(f)
	f.Add(must(d.Pack()))
	f.Add(must(plainDoc(f).Pack()))
	f.Fuzz(func(t *testing.T, in []byte) {
		d, err := Unpack(in)
		if err != nil || in[0] == '{' {
			return
		}
		b, err := d.Pack()
		if err != nil || !bytes.Equal(b, in) {
			t.Fatalf("%v: packed again it differs", err)
		}
		j, err := d.EncodeSecret()
		if err != nil {
			return // longer than a JSON document may be
		}
		if back, err := Decode(j); err == nil && !reflect.DeepEqual(back, d) {
			t.Fatal("JSON says something else")
		}
	})
}
