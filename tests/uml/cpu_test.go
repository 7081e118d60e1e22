package uml

import "testing"

func TestOwnCPU(t *testing.T) {
	first, all, release, ok := ownCPU()
	defer release()
	if !ok {
		t.Skip("missing capability: a second processor")
	}
	second, again, release2, ok := ownCPU()
	defer release2()
	if !ok || again != all || first.Count() != 1 || second.Count() != 1 {
		t.Errorf("%v and %v of %v, %t", first, second, all, ok)
	}
	// With more guests than processors they share the last one.
	third, _, release3, ok := ownCPU()
	defer release3()
	if !ok || third.Count() != 1 {
		t.Errorf("third %v, %t", third, ok)
	}
}
