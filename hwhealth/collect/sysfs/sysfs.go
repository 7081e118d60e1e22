// Package sysfs reads the small text files of sysfs and procfs below a root
// that tests and the lab may choose. It never interprets what a file means,
// and it never trusts one: size is bounded, numbers are parsed whole, and an
// error names the path.
package sysfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
)

// MaxFile is how many octets of a file are read. A page is the most that a
// sysfs attribute can hold; /proc/interrupts of a large machine needs more.
const MaxFile = 1 << 20

// Dir is a directory below which files are read.
type Dir string

// Path joins parts to the directory.
func (d Dir) Path(parts ...string) string {
	return filepath.Join(append([]string{string(d)}, parts...)...)
}

// Sub is the directory below d.
func (d Dir) Sub(parts ...string) Dir { return Dir(d.Path(parts...)) }

// Text is the content of a file without surrounding white space.
func (d Dir) Text(parts ...string) (string, error) {
	path := d.Path(parts...)
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var small [512]byte // most attributes; the rest is read on
	n, err := f.Read(small[:])
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if n < len(small) {
		return string(bytes.TrimSpace(small[:n])), nil
	}
	rest, err := io.ReadAll(io.LimitReader(f, MaxFile-int64(n)))
	if err != nil {
		return "", err
	}
	return string(bytes.TrimSpace(append(small[:n:n], rest...))), nil
}

// Int is the decimal number in a file.
func (d Dir) Int(parts ...string) (int64, error) {
	s, err := d.Text(parts...)
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %q is no number", d.Path(parts...), clip(s))
	}
	return v, nil
}

// Uint is the decimal number in a file, negative ones refused.
func (d Dir) Uint(parts ...string) (uint64, error) {
	s, err := d.Text(parts...)
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %q is no counter", d.Path(parts...), clip(s))
	}
	return v, nil
}

// List is the sorted names in a directory.
func (d Dir) List(parts ...string) ([]string, error) {
	f, err := os.Open(d.Path(parts...))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	sort.Strings(names)
	return names, nil
}

// Link is the last element of what a symbolic link points to, "" if it is none.
func (d Dir) Link(parts ...string) string {
	t, err := os.Readlink(d.Path(parts...))
	if err != nil {
		return ""
	}
	return filepath.Base(t)
}

// Resolve is the path with all symbolic links followed, "" if there is none.
func (d Dir) Resolve(parts ...string) string {
	p, err := filepath.EvalSymlinks(d.Path(parts...))
	if err != nil {
		return ""
	}
	return p
}

// Has reports whether the path exists.
func (d Dir) Has(parts ...string) bool {
	_, err := os.Lstat(d.Path(parts...))
	return err == nil
}

// Absent reports whether err means that the source does not offer the value,
// as opposed to offering it and failing: no such file, or a driver that says
// that it has nothing to say.
func Absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODATA) ||
		errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOTDIR)
}

// Index splits "temp12_input" into ("temp", 12, "input"); ok is false where s
// has not that form.
func Index(s string) (kind string, n int, rest string, ok bool) {
	i := strings.IndexFunc(s, func(r rune) bool { return r >= '0' && r <= '9' })
	if i <= 0 {
		return "", 0, "", false
	}
	j := i
	for j < len(s) && s[j] >= '0' && s[j] <= '9' {
		j++
	}
	n, err := strconv.Atoi(s[i:j])
	if err != nil {
		return "", 0, "", false
	}
	switch {
	case j == len(s):
		return s[:i], n, "", true
	case s[j] == '_':
		return s[:i], n, s[j+1:], true
	}
	return "", 0, "", false
}

// clip shortens what is quoted in an error.
func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "..."
	}
	return s
}
