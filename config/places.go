package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Places are where a daemon leaves what outlives it.
type Places struct {
	RunDir, BPFDir, NetnsPrefix string
}

var defaultPlaces = Places{RunDir: "/run/shadowcast", BPFDir: "/sys/fs/bpf/shadowcast", NetnsPrefix: "sc"}

// Places returns those of c.
func (c *Config) Places() Places { return Places{c.RunDir, c.BPFDir, c.NetnsPrefix} }

// PlacesOf reads the places of the file at path, however wrong the rest of it is: who ends
// a service must find it. What cannot be read is the error and has its default.
func PlacesOf(path string) (Places, error) {
	p := defaultPlaces
	text, err := os.ReadFile(path)
	if err != nil {
		return p, fmt.Errorf("read config: %w", err)
	}
	// Keys given twice are no error here, and have no case.
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return p, fmt.Errorf("read %s: %w", path, err)
	}
	if len(doc.Content) == 0 || doc.Content[0].Kind != yaml.MappingNode {
		return p, nil
	}
	var errs []error
	for top := doc.Content[0].Content; len(top) > 1; top = top[2:] {
		key, value := strings.ToLower(top[0].Value), top[1].Value
		file := map[string]*string{"run_dir": &p.RunDir, "bpf_dir": &p.BPFDir}[key]
		switch {
		case file != nil && filepath.IsAbs(value):
			*file = value
		case file != nil:
			errs = append(errs, fmt.Errorf("read %s of %s: %q is no absolute path", key, path, value))
		case key == "netns_prefix" && prefixForm.MatchString(value):
			p.NetnsPrefix = value
		case key == "netns_prefix":
			errs = append(errs, fmt.Errorf("read %s of %s: %q is none", key, path, value))
		}
	}
	return p, errors.Join(errs...)
}
