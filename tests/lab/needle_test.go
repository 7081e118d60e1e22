package lab

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"
)

func TestNeedles(t *testing.T) {
	key := []byte("\x00\x11\x9fkey of a session\xfe")
	n, err := newNeedle("key", key)
	if err != nil {
		t.Fatal(err)
	}
	long := func(before, after int) []byte {
		b := append(make([]byte, before), key...)
		return append(b, make([]byte, after)...)
	}
	document, _ := json.Marshal(map[string]any{"v": long(2, 0)})
	for _, x := range [][]byte{
		long(5, 5), []byte(fmt.Sprintf("key=%x.", key)), []byte(fmt.Sprintf("0x%X", key)), []byte(fmt.Sprintf("% X", key)), []byte(fmt.Sprint(key)),
		[]byte(base64.StdEncoding.EncodeToString(long(0, 1))), []byte(base64.StdEncoding.EncodeToString(long(1, 0))),
		[]byte(base64.StdEncoding.EncodeToString(long(3, 2))), document,
	} {
		if n.in(x) == "" {
			t.Errorf("not found in %q", x)
		}
	}
	other := append([]byte(nil), key...)
	other[9]++
	for _, x := range [][]byte{other, []byte(fmt.Sprintf("%x", other)), []byte(base64.StdEncoding.EncodeToString(other)), nil} {
		if how := n.in(x); how != "" {
			t.Errorf("found as %s in %q", how, x)
		}
	}
	if _, err := newNeedle("short", key[:7]); err == nil {
		t.Error("a key that may occur by chance is looked for")
	}
}
