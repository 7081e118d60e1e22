package config

import (
	"fmt"
	"reflect"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Changes lists the paths of values that differ between a and b, in the order of the
// alphabet; a list whose length changed is one path.
func Changes(a, b *Config) ([]string, error) {
	var trees [2]any
	for i, c := range []*Config{a, b} {
		text, err := c.Marshal()
		if err != nil {
			return nil, err
		}
		if err := yaml.Unmarshal(text, &trees[i]); err != nil {
			return nil, fmt.Errorf("read a configuration back: %w", err)
		}
	}
	paths := changes("", trees[0], trees[1])
	slices.Sort(paths)
	return paths, nil
}

func changes(path string, a, b any) []string {
	if reflect.DeepEqual(a, b) {
		return nil
	}
	var out []string
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok {
			break
		}
		keys := map[string]bool{}
		for k := range x {
			keys[k] = true
		}
		for k := range y {
			keys[k] = true
		}
		for k := range keys {
			p := k
			if path != "" {
				p = path + "." + k
			}
			out = append(out, changes(p, x[k], y[k])...)
		}
		return out
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			break
		}
		for i := range x {
			out = append(out, changes(at(path, i), x[i], y[i])...)
		}
		return out
	}
	return []string{path}
}
