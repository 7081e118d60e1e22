package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// A command that does not exist is a mistake: scripts must not take it for done.
func TestUnknownCommands(t *testing.T) {
	for _, args := range [][]string{{"fence"}, {"fence", "clos", "--all"}, {"netns", "bogus"}, {"fence", "close", "now"}} {
		root := newRoot()
		root.SetArgs(args)
		root.SetOut(&bytes.Buffer{})
		root.SetErr(&bytes.Buffer{})
		var usage *usageError
		if err := root.Execute(); !errors.As(err, &usage) {
			t.Errorf("%q: %v, want a mistake of the command line", args, err)
		}
	}
}

// Fences are closed whatever else is wrong with the configuration.
func TestFenceCloseWithAWrongConfiguration(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "shadowcast.yaml")
	if err := os.WriteFile(file, []byte("bpf_dir: "+dir+"\nfleet: {sots: []}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"--config", file},
		{"--config", file + ".none", "--bpf-dir", dir},
	} {
		root, said := newRoot(), &bytes.Buffer{}
		root.SetErr(said)
		root.SetArgs(append([]string{"fence", "close"}, args...))
		if err := root.Execute(); err != nil || said.String() != "closed: none; open: none\n" {
			t.Errorf("%q: %v, said %q", args, err, said)
		}
	}
}
