package steer

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/tests/uml"
)

func TestMain(m *testing.M) {
	uml.Init()
	os.Exit(m.Run())
}

// TestOnOlderKernel runs all tests once more in user-mode Linux: its kernel is
// the oldest supported one, has no JIT and a stricter verifier, and has the
// tunnel devices that this machine may lack.
func TestOnOlderKernel(t *testing.T) {
	switch {
	case uml.InGuest():
		t.Skip("this is it")
	case testing.Short():
		t.Skip("-short")
	case raceDetector:
		t.Skip("missing capability user-mode Linux with the race detector")
	case !uml.Available():
		t.Skip("missing capability user-mode Linux")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	code, err := uml.Run(context.Background(), uml.Options{
		Argv:    []string{self, "-test.v", "-test.timeout=4m"},
		Modules: []string{"ip_gre"},
		Stdout:  &out,
		Timeout: 5 * time.Minute,
	})
	if err != nil || code != 0 {
		t.Fatalf("exit status %d, %v\n%s", code, err, &out)
	}
	for l := range strings.Lines(out.String()) {
		if strings.HasPrefix(l, "--- ") {
			t.Log(strings.TrimSpace(l))
		}
	}
}
