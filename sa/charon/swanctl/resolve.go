package swanctl

import (
	"fmt"
	"slices"
	"strings"
)

// maxSettings bounds what inheritance may multiply.
const maxSettings = 1 << 17

// resolver turns sections as written into effective ones: what they inherit is
// merged in, empty settings (which clear an inherited value) are gone.
type resolver struct {
	root  *section
	stack []*section
	count int
}

// effective returns s with everything it inherits; s itself stays as it is.
func (r *resolver) effective(s *section) (*section, error) {
	out, err := r.expand(s)
	if err != nil {
		return nil, err
	}
	prune(out)
	return out, nil
}

func (r *resolver) expand(s *section) (*section, error) {
	if slices.Contains(r.stack, s) {
		return nil, fmt.Errorf("%s: section %s inherits from itself", s.pos, s.name)
	}
	r.stack = append(r.stack, s)
	defer func() { r.stack = r.stack[:len(r.stack)-1] }()
	if r.count += 1 + len(s.keys); r.count > maxSettings {
		return nil, fmt.Errorf("%s: section %s inherits more than %d settings", s.pos, s.name, maxSettings)
	}
	out := &section{name: s.name, pos: s.pos, keys: slices.Clone(s.keys)}
	for _, x := range s.subs {
		e, err := r.expand(x)
		if err != nil {
			return nil, err
		}
		out.subs = append(out.subs, e)
	}
	for _, f := range s.refs {
		target := r.lookup(f.path)
		if target == nil {
			return nil, fmt.Errorf("%s: section %s inherits from %s, which does not exist", f.pos, s.name, strings.Join(f.path, "."))
		}
		e, err := r.expand(target)
		if err != nil {
			return nil, err
		}
		inherit(out, e)
	}
	return out, nil
}

func (r *resolver) lookup(path []string) *section {
	s := r.root
	for _, n := range path {
		if s = s.sub(n); s == nil {
			return nil
		}
	}
	return s
}

// inherit adds to s what from has and s has not. from is a fresh copy.
func inherit(s, from *section) {
	for _, k := range from.keys {
		if _, ok := s.find(k.key); !ok {
			s.keys = append(s.keys, k)
		}
	}
	for _, x := range from.subs {
		if own := s.sub(x.name); own != nil {
			inherit(own, x)
		} else {
			s.subs = append(s.subs, x)
		}
	}
}

func prune(s *section) {
	s.keys = slices.DeleteFunc(s.keys, func(k setting) bool { return k.value == "" })
	for _, x := range s.subs {
		prune(x)
	}
}
