package main

import "testing"

// TestMutantsApply: every mutant still changes the sources it was written for.
// That each is caught takes minutes: make sim-mutants.
func TestMutantsApply(t *testing.T) {
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		if _, err := m.patched(root); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
}
