package bench

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/shadowcast/shadowcast/hwhealth/drive"
)

// Meta is what a predictor may know of a drive beforehand.
type Meta struct {
	Serial, Vendor, Model string
	FirstHour             float64
}

// Label is what became of a drive.
type Label struct {
	LastHour float64
	Failed   bool
}

// Row is one change of a drive's values.
type Row struct {
	Hour   float64
	Values drive.Values
}

// Drive is one drive of the benchmark.
type Drive struct {
	Meta
	Label Label // zero if the file has none
	Fold  int
	Rows  []Row // valid until the next call of Next
}

// Fold is the benchmark's split: 0-2 held out, 3-4 to validate, 5-9 to fit.
func Fold(serial string) int {
	s := sha256.Sum256([]byte(serial))
	return int(binary.BigEndian.Uint32(s[:4]) % 10)
}

// Reader reads a benchmark directory drive by drive.
type Reader struct {
	Labelled bool // the drives file has labels
	Path     string

	drives, changes *table
	index           int
	pending         int // drive that the row in hand belongs to
	have            bool
	row             Row
	rows            []Row
	closers         []io.Closer
}

// names of the files, in order of preference.
var driveFiles = []string{"drives.csv.gz", "drives.csv", "drives_blind.csv.gz", "drives_blind.csv"}
var changeFiles = []string{"changes.csv.gz", "changes.csv", "changes_blind.csv.gz", "changes_blind.csv"}

// Open opens the benchmark in dir, or in its subdirectory backblaze_2013_2016.
// The error of a directory without one wraps fs.ErrNotExist.
func Open(dir string) (*Reader, error) {
	sub := filepath.Join(dir, "backblaze_2013_2016")
	if _, err := os.Stat(sub); err == nil {
		dir = sub
	}
	r := &Reader{}
	d, err := r.open(dir, driveFiles)
	if err != nil {
		return nil, err
	}
	c, err := r.open(dir, changeFiles)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	if err := r.columns(d, c); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	r.Path = d.path
	return r, r.advance()
}

// columns fixes which columns are read.
func (r *Reader) columns(d, c *table) error {
	if err := d.need("serial", "model", "first_hour"); err != nil {
		return err
	}
	d.optional("vendor", "fold", "last_hour", "failed")
	r.Labelled = d.has("last_hour") && d.has("failed")
	if err := c.need("i", "hour"); err != nil {
		return err
	}
	for _, id := range drive.Attrs {
		c.optional("smart_" + strconv.Itoa(id))
	}
	r.drives, r.changes = d, c
	return nil
}

func (r *Reader) open(dir string, names []string) (*table, error) {
	for _, n := range names {
		p := filepath.Join(dir, n)
		f, err := os.Open(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		r.closers = append(r.closers, f)
		var in io.Reader = f
		if strings.HasSuffix(n, ".gz") {
			z, err := gzip.NewReader(f)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", p, err)
			}
			in = z
		}
		return newTable(p, in)
	}
	return nil, fmt.Errorf("no benchmark in %s: none of %s there: %w", dir, strings.Join(names, ", "), fs.ErrNotExist)
}

// Close closes the files.
func (r *Reader) Close() error {
	var errs []error
	for _, c := range r.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// advance reads the next change row into r.row.
func (r *Reader) advance() error {
	ok, err := r.changes.next()
	if err != nil || !ok {
		r.have = false
		return err
	}
	i, err := r.changes.number(0)
	if err == nil && (i != math.Trunc(i) || i < float64(r.pending)) {
		err = fmt.Errorf("%s: i is %v after %d; the rows must come in the order of the drives", r.changes.where(), i, r.pending)
	}
	if err != nil {
		return err
	}
	r.pending = int(i)
	if r.row.Hour, err = r.changes.hour(1); err != nil {
		return err
	}
	for k := range r.row.Values {
		if r.row.Values[k], err = r.changes.maybe(2 + k); err != nil {
			return err
		}
	}
	r.have = true
	return nil
}

// Next reads one drive with its rows; io.EOF ends.
func (r *Reader) Next() (*Drive, error) {
	ok, err := r.drives.next()
	if err != nil {
		return nil, err
	}
	if !ok {
		if r.have {
			return nil, fmt.Errorf("%s: row of drive %d, but there are %d drives", r.changes.where(), r.pending, r.index)
		}
		return nil, io.EOF
	}
	d := &Drive{Meta: Meta{Serial: r.drives.text(0), Model: r.drives.text(1), Vendor: r.drives.text(3)}}
	if d.Serial == "" {
		return nil, fmt.Errorf("%s: serial is empty", r.drives.where())
	}
	if d.FirstHour, err = r.drives.hour(2); err != nil {
		return nil, err
	}
	d.Fold = Fold(d.Serial)
	if r.Labelled {
		if d.Label.LastHour, err = r.drives.hour(5); err != nil {
			return nil, err
		}
		d.Label.Failed = r.drives.text(6) == "1"
	}
	r.rows = r.rows[:0]
	for r.have && r.pending == r.index {
		r.rows = append(r.rows, r.row)
		if err := r.advance(); err != nil {
			return nil, err
		}
	}
	d.Rows = r.rows
	for k := 1; k < len(d.Rows); k++ {
		if d.Rows[k].Hour < d.Rows[k-1].Hour {
			return nil, fmt.Errorf("%s: drive %d (%s) goes back from hour %v to %v", r.changes.path, r.index, d.Serial, d.Rows[k-1].Hour, d.Rows[k].Hour)
		}
	}
	r.index++
	return d, nil
}

// table is a comma-separated file without quotes, read by column name.
type table struct {
	path   string
	line   int
	in     *bufio.Scanner
	header []string
	cols   []int // positions of the wanted columns, -1 if absent
	fields [][]byte
}

func newTable(path string, in io.Reader) (*table, error) {
	t := &table{path: path, in: bufio.NewScanner(in)}
	if !t.in.Scan() {
		if err := t.in.Err(); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		return nil, fmt.Errorf("read %s: it is empty, a header is due", path)
	}
	t.line = 1
	t.header = strings.Split(strings.TrimRight(t.in.Text(), "\r"), ",")
	return t, nil
}

func (t *table) has(name string) bool { return slices.Contains(t.header, name) }

func (t *table) optional(names ...string) {
	for _, n := range names {
		t.cols = append(t.cols, slices.Index(t.header, n))
	}
}

func (t *table) need(names ...string) error {
	for _, n := range names {
		if !t.has(n) {
			return fmt.Errorf("read %s: no column %q in the header %s", t.path, n, strings.Join(t.header, ","))
		}
	}
	t.optional(names...)
	return nil
}

func (t *table) where() string { return fmt.Sprintf("%s:%d", t.path, t.line) }

func (t *table) next() (bool, error) {
	if !t.in.Scan() {
		if err := t.in.Err(); err != nil {
			return false, fmt.Errorf("read %s after line %d: %w", t.path, t.line, err)
		}
		return false, nil
	}
	t.line++
	b := bytes.TrimRight(t.in.Bytes(), "\r")
	t.fields = t.fields[:0]
	for {
		i := bytes.IndexByte(b, ',')
		if i < 0 {
			t.fields = append(t.fields, b)
			break
		}
		t.fields = append(t.fields, b[:i])
		b = b[i+1:]
	}
	if len(t.fields) != len(t.header) {
		return false, fmt.Errorf("%s: %d fields, the header has %d", t.where(), len(t.fields), len(t.header))
	}
	return true, nil
}

func (t *table) text(k int) string {
	if t.cols[k] < 0 {
		return ""
	}
	return string(t.fields[t.cols[k]])
}

// number reads a column that must hold one.
func (t *table) number(k int) (float64, error) {
	v, err := t.maybe(k)
	if err == nil && math.IsNaN(v) {
		err = fmt.Errorf("%s: %s is empty", t.where(), t.header[t.cols[k]])
	}
	return v, err
}

// longest is more hours than any drive lived, about 1100 years.
const longest = 1e7

// hour reads a power-on hour.
func (t *table) hour(k int) (float64, error) {
	v, err := t.number(k)
	if err == nil && (v < 0 || v > longest) {
		err = fmt.Errorf("%s: %s is %v, want hours from 0 to %.0f", t.where(), t.header[t.cols[k]], v, float64(longest))
	}
	return v, err
}

// maybe reads a column that may be empty: NaN then.
func (t *table) maybe(k int) (float64, error) {
	c := t.cols[k]
	if c < 0 || len(t.fields[c]) == 0 {
		return math.NaN(), nil
	}
	f := t.fields[c]
	n := 0.0
	for _, ch := range f {
		if ch < '0' || ch > '9' || len(f) > 15 {
			v, err := strconv.ParseFloat(string(f), 64)
			if err != nil || math.IsInf(v, 0) || math.IsNaN(v) {
				return 0, fmt.Errorf("%s: %s is %.40q, want a number", t.where(), t.header[c], f)
			}
			return v, nil
		}
		n = n*10 + float64(ch-'0')
	}
	return n, nil
}
