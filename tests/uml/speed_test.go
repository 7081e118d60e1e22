package uml

import (
	"testing"
	"time"
)

func TestRound(t *testing.T) {
	d, err := Round()
	if err != nil {
		t.Fatal(err)
	}
	if d < 100*time.Nanosecond || d > time.Second {
		t.Errorf("a stop of a traced process and a page fault take %s", d)
	}
	t.Logf("a stop of a traced process and a page fault take %s", d)
}
