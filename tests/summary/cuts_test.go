package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCutsOfAllParts(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	a := write("a", `{"metrics":{"cuts":[{"cut":1,"outage_ms":300,"detection_ms":250,"session_kept":true},{"cut":1,"outage_ms":320,"detection_ms":250,"session_kept":true},
		{"cut":2,"outage_ms":500,"detection_ms":400,"session_kept":true}]}}`)
	b := write("b", `{"metrics":{"cuts":[{"cut":1,"outage_ms":-1,"detection_ms":1,"session_kept":false,"quiet_ms":900}]}}`)
	var out bytes.Buffer
	ok, err := cuts([]string{a, b}, &out)
	if err != nil || ok {
		t.Errorf("a lost session: ok %t, %v", ok, err)
	}
	for _, want := range []string{"3 power cuts, 4 sessions hit, 1 lost, 0 of these", "outage, ms                      320      500      500", "outage - detection, ms           70      100      100"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if ok, err := cuts([]string{a}, &out); err != nil || !ok {
		t.Errorf("nothing lost: ok %t, %v", ok, err)
	}
	for _, bad := range []string{filepath.Join(dir, "none"), write("empty", `{}`), write("broken", `{`)} {
		if _, err := cuts([]string{bad}, &out); err == nil {
			t.Errorf("%s is no part of a campaign and was read", bad)
		}
	}
}
