package config

import (
	"reflect"
	"strconv"
	"strings"
)

// kindAt says in words what the raw struct holds at path.
func kindAt(path string) string {
	t := typeAt(path)
	if t == nil {
		return "another type"
	}
	switch {
	case t == reflect.TypeFor[duration]():
		return "a duration such as 50ms or 2m"
	case t.Kind() == reflect.String:
		return "text (in quotes, if it looks like a number)"
	case t.Kind() == reflect.Int:
		return "a whole number"
	case t.Kind() == reflect.Float64:
		return "a number"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		return "a list of entries, each with " + strings.Join(keysOf(t.Elem()), ", ")
	case t.Kind() == reflect.Slice:
		return "a list such as [a, b]"
	default:
		return "a section with " + strings.Join(keysOf(t), ", ")
	}
}

// unknownKey records a key of the section parent that no struct has, and what is
// meant perhaps.
func (c *collector) unknownKey(parent, key string) {
	path := key
	if parent != "" {
		path = parent + "." + key
	}
	t := typeAt(parent)
	if t == nil || t.Kind() != reflect.Struct {
		c.addf(path, "unknown key")
		return
	}
	known := keysOf(t)
	if near := nearest(key, known); near != "" {
		c.addf(path, "unknown key; did you mean %s?", near)
		return
	}
	c.addf(path, "unknown key; want one of %s", strings.Join(known, ", "))
}

// typeAt returns the type of the raw value at path, nil where there is none.
func typeAt(path string) reflect.Type {
	t := reflect.TypeFor[rawConfig]()
	for part := range strings.FieldsFuncSeq(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		if _, err := strconv.Atoi(part); err == nil && t.Kind() == reflect.Slice {
			t = t.Elem()
			continue
		}
		if t.Kind() != reflect.Struct {
			return nil
		}
		f, ok := t.FieldByNameFunc(func(name string) bool {
			f, _ := t.FieldByName(name)
			return keyOf(f) == part
		})
		if !ok {
			return nil
		}
		if t = f.Type; t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
	}
	return t
}

func keyOf(f reflect.StructField) string {
	key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return key
}

func keysOf(t reflect.Type) []string {
	var keys []string
	for i := range t.NumField() {
		keys = append(keys, keyOf(t.Field(i)))
	}
	return keys
}

// nearest returns the known key that key is a slip of, "" where none is near.
func nearest(key string, known []string) string {
	best, dist := "", 3
	for _, k := range known {
		if d := editDistance(key, k); d < dist && d < len(k) {
			best, dist = k, d
		}
	}
	return best
}

// editDistance counts insertions, deletions and substitutions from a to b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diag, row[j+1] = row[j+1], min(row[j]+1, row[j+1]+1, diag+cost)
		}
	}
	return row[len(b)]
}
