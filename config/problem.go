package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one mistake in a configuration.
type Problem struct {
	// Path names the value, for example fleet.slots[2].pools[0]. It is empty
	// where the text as a whole is at fault.
	Path string
	// Line is the line of the value in the text, 0 where there is none.
	Line int
	// Text says what is wrong and what would be right.
	Text string
}

func (p Problem) String() string {
	var b strings.Builder
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Text)
	if p.Line > 0 {
		fmt.Fprintf(&b, " (line %d)", p.Line)
	}
	return b.String()
}

// In names the file in front: file:12: fleet.slots: want ...
func (p Problem) In(file string) string {
	line := p.Line
	if p.Line = 0; line == 0 {
		return file + ": " + p.String()
	}
	return fmt.Sprintf("%s:%d: %s", file, line, p)
}

// Problems is every mistake found in one configuration, in the order of the
// text.
type Problems []Problem

// Error lists the problems, one a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// FileError is what is wrong with a file. It holds Problems.
type FileError struct {
	File     string
	Problems Problems
}

// Error lists the problems, one a line, as compilers do.
func (e *FileError) Error() string {
	lines := []string{"the configuration is wrong:"}
	for _, p := range e.Problems {
		lines = append(lines, p.In(e.File))
	}
	return strings.Join(lines, "\n")
}

func (e *FileError) Unwrap() error { return e.Problems }

// collector gathers problems and knows where in the text each path stands.
type collector struct {
	lines    map[string]int
	values   int // in the text, aliases expanded
	problems Problems
}

// addf records a problem at path, once.
func (c *collector) addf(path, format string, args ...any) {
	p := Problem{Path: path, Line: c.line(path), Text: fmt.Sprintf(format, args...)}
	if !slices.Contains(c.problems, p) {
		c.problems = append(c.problems, p)
	}
}

// line returns the line of path, or of the closest enclosing value that the
// text has.
func (c *collector) line(path string) int {
	for {
		if n, ok := c.lines[path]; ok {
			return n
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return 0
		}
		path = path[:i]
	}
}

// err returns the problems in the order of the text, or nil.
func (c *collector) err() error {
	if len(c.problems) == 0 {
		return nil
	}
	slices.SortStableFunc(c.problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return c.problems
}

// at joins a path and a list index.
func at(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

// oneOf renders a choice for a message: "ams, fra or lhr".
func oneOf(names []string) string {
	switch n := len(names); n {
	case 0:
		return "(none)"
	case 1:
		return names[0]
	default:
		return strings.Join(names[:n-1], ", ") + " or " + names[n-1]
	}
}
