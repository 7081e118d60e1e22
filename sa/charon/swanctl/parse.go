package swanctl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Pos is a place in a configuration file. Lines count from 1.
type Pos struct {
	File string
	Line int
}

func (p Pos) String() string { return fmt.Sprintf("%s:%d", p.File, p.Line) }

// section is a section as written: settings and sub-sections in file order.
type section struct {
	name string
	pos  Pos
	refs []ref
	keys []setting
	subs []*section
}

type setting struct {
	key, value string
	pos        Pos
}

// ref is one entry of "section : a.b, c { ... }".
type ref struct {
	path []string
	pos  Pos
}

func (s *section) find(key string) (setting, bool) {
	for _, k := range s.keys {
		if k.key == key {
			return k, true
		}
	}
	return setting{}, false
}

func (s *section) sub(name string) *section {
	for _, x := range s.subs {
		if x.name == name {
			return x
		}
	}
	return nil
}

// source is where a parser gets files from; tests and fuzzing replace it.
type source struct {
	read func(path string) ([]byte, error)
	glob func(pattern string) ([]string, error)
}

var diskSource = source{read: os.ReadFile, glob: filepath.Glob}

// Bounds that keep a malformed file from exhausting memory or stack.
const (
	maxDepth    = 32 // nested sections
	maxIncludes = 16 // nested includes
	maxFiles    = 4096
)

type parser struct {
	src   source
	files int
}

// parseInto reads one file into s.
func (p *parser) parseInto(s *section, path string, depth int) error {
	if p.files++; p.files > maxFiles {
		return fmt.Errorf("%s: more than %d files included", path, maxFiles)
	}
	b, err := p.src.read(path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	return (&lexer{p: p, in: b, pos: Pos{path, 1}, include: depth}).settings(s, 0)
}

// lexer reads one file.
type lexer struct {
	p       *parser
	in      []byte
	off     int
	pos     Pos
	include int // depth of includes
}

func (l *lexer) fail(pos Pos, format string, a ...any) error {
	return fmt.Errorf("%s: %w", pos, fmt.Errorf(format, a...))
}

func (l *lexer) peek() byte {
	if l.off >= len(l.in) {
		return 0
	}
	return l.in[l.off]
}

func (l *lexer) eof() bool { return l.off >= len(l.in) }

func (l *lexer) next() byte {
	c := l.in[l.off]
	l.off++
	if c == '\n' {
		l.pos.Line++
	}
	return c
}

// blank skips spaces and, with lines set, line ends and comments too.
func (l *lexer) blank(lines bool) {
	for !l.eof() {
		switch c := l.peek(); {
		case c == ' ' || c == '\t' || c == '\r':
		case lines && c == '\n':
		case lines && c == '#':
			l.comment()
			continue
		default:
			return
		}
		l.next()
	}
}

func (l *lexer) comment() {
	for !l.eof() && l.peek() != '\n' {
		l.next()
	}
}

func nameByte(c byte) bool { return c > ' ' && c < 0x7f && !strings.ContainsRune(`.,:{}="#`, rune(c)) }

func (l *lexer) name() string {
	from := l.off
	for !l.eof() && nameByte(l.peek()) {
		l.next()
	}
	return string(l.in[from:l.off])
}

// settings reads the body of s up to its closing brace, or, at depth 0, up to
// the end of the file.
func (l *lexer) settings(s *section, depth int) error {
	for {
		l.blank(true)
		if l.eof() {
			if depth > 0 {
				return l.fail(s.pos, "section %s is not closed, want }", s.name)
			}
			return nil
		}
		if l.peek() == '}' {
			if depth == 0 {
				return l.fail(l.pos, "} without an open section")
			}
			l.next()
			return nil
		}
		pos := l.pos
		name := l.name()
		if name == "" {
			return l.fail(pos, "unexpected %q, want a name", l.peek())
		}
		spaced := !nameByte(l.peek())
		l.blank(false)
		var err error
		switch c := l.peek(); {
		case c == '=' && !l.eof():
			l.next()
			err = l.setting(s, name, pos)
		case name == "include" && spaced && c != '{' && c != ':' && c != '\n':
			err = l.includes(s, pos)
		default:
			err = l.section(s, name, pos, depth)
		}
		if err != nil {
			return err
		}
	}
}

func (l *lexer) setting(s *section, key string, pos Pos) error {
	v, err := l.value()
	if err != nil {
		return err
	}
	if old, ok := s.find(key); ok {
		return l.fail(pos, "%s is set twice in this section, first at %s", key, old.pos)
	}
	s.keys = append(s.keys, setting{key, v, pos})
	return nil
}

// value reads what follows "=" or "include" up to the end of the line, a comment
// or a closing brace; or a quoted string, which may span lines.
func (l *lexer) value() (string, error) {
	l.blank(false)
	if !l.eof() && l.peek() == '"' {
		v, err := l.quoted()
		if err != nil {
			return "", err
		}
		l.blank(false)
		if c := l.peek(); !l.eof() && c != '\n' && c != '#' && c != '}' {
			return "", l.fail(l.pos, "unexpected %q after a quoted value", c)
		}
		return v, nil
	}
	from := l.off
	for !l.eof() {
		switch c := l.peek(); c {
		case '\n', '#', '}':
			return strings.TrimSpace(string(l.in[from:l.off])), nil
		case '{', '"':
			return "", l.fail(l.pos, "%q inside a value, want the whole value in quotes", c)
		case 0:
			return "", l.fail(l.pos, "NUL inside a value")
		}
		l.next()
	}
	return strings.TrimSpace(string(l.in[from:l.off])), nil
}

func (l *lexer) quoted() (string, error) {
	start := l.pos
	l.next()
	var b strings.Builder
	for !l.eof() {
		c := l.next()
		switch {
		case c == '"':
			return b.String(), nil
		case c == 0:
			return "", l.fail(l.pos, "NUL inside a value")
		case c == '\\' && !l.eof():
			switch e := l.next(); e {
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			case 'r':
				b.WriteByte('\r')
			case '\n': // a continued line
			default:
				b.WriteByte(e)
			}
		default:
			b.WriteByte(c)
		}
	}
	return "", l.fail(start, "quoted value is not closed, want \"")
}

func (l *lexer) includes(s *section, pos Pos) error {
	pattern, err := l.value()
	if err != nil {
		return err
	}
	if pattern == "" {
		return l.fail(pos, "include names no file")
	}
	if l.include+1 > maxIncludes {
		return l.fail(pos, "files include each other more than %d deep", maxIncludes)
	}
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(pos.File), pattern)
	}
	files := []string{pattern}
	if strings.ContainsAny(pattern, "*?[") {
		if files, err = l.p.src.glob(pattern); err != nil {
			return l.fail(pos, "include %s: %w", pattern, err)
		}
	}
	for _, f := range files {
		if err := l.p.parseInto(s, f, l.include+1); err != nil {
			if errors.Is(err, os.ErrNotExist) {
				return l.fail(pos, "include: %w", err)
			}
			return err
		}
	}
	return nil
}

func (l *lexer) section(s *section, name string, pos Pos, depth int) error {
	if depth+1 > maxDepth {
		return l.fail(pos, "sections nested more than %d deep", maxDepth)
	}
	child := &section{name: name, pos: pos}
	l.blank(true)
	if !l.eof() && l.peek() == ':' {
		l.next()
		var err error
		if child.refs, err = l.references(name); err != nil {
			return err
		}
	}
	if l.eof() || l.peek() != '{' {
		return l.fail(pos, "%s is followed by neither = nor {", name)
	}
	l.next()
	if old := s.sub(name); old != nil {
		if s.name != "" || len(child.refs) > 0 || len(old.refs) > 0 {
			return l.fail(pos, "section %s is given twice, first at %s", name, old.pos)
		}
		child = old // top-level sections may be spread over files
	} else {
		s.subs = append(s.subs, child)
	}
	return l.settings(child, depth+1)
}

func (l *lexer) references(of string) ([]ref, error) {
	var out []ref
	for {
		l.blank(true)
		r := ref{pos: l.pos}
		for {
			n := l.name()
			if n == "" {
				return nil, l.fail(l.pos, "section %s: want the name of a section to inherit from after : or ,", of)
			}
			r.path = append(r.path, n)
			if l.eof() || l.peek() != '.' {
				break
			}
			l.next()
		}
		out = append(out, r)
		l.blank(true)
		if l.eof() || l.peek() != ',' {
			return out, nil
		}
		l.next()
	}
}
