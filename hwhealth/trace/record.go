package trace

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// keepDays is how many files a recorder leaves in its directory.
const keepDays = 14

const (
	suffix    = ".jsonl"
	dayFormat = "2006-01-02"
)

// Recorder writes a trace. It is not safe for concurrent use.
type Recorder struct {
	dir   string
	start Start
	day   string
	file  *os.File
	known map[string]*series
}

// NewRecorder makes a recorder into dir, which it makes, too. node names the
// appliance, boot this life of the machine.
func NewRecorder(dir, node, boot string, policy hwhealth.Policy) *Recorder {
	return &Recorder{dir: dir, start: Start{Version: Version, Node: node, Boot: boot, Policy: &policy}}
}

// Write appends samples, those of one moment as one line. What makes no sense is
// left out, as the predictor does. After an error the next Write begins anew.
func (r *Recorder) Write(samples []hwhealth.Sample) (err error) {
	defer func() {
		if err != nil {
			_ = r.Close() // what was said counts, not this
		}
	}()
	var now line
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	flush := func() error {
		if now.At == nil {
			return nil
		}
		err := enc.Encode(now)
		now = line{}
		return err
	}
	for _, s := range samples {
		if s.Check() != nil {
			continue
		}
		at := s.At.UnixMilli()
		if now.At != nil && *now.At != at {
			if err := flush(); err != nil {
				return err
			}
		}
		if day := s.At.UTC().Format(dayFormat); day > r.day || r.file == nil {
			if err := errors.Join(flush(), r.write(&b), r.open(day, at, enc)); err != nil {
				return err
			}
		}
		n, fresh := r.number(s)
		if fresh != nil {
			if err := errors.Join(flush(), enc.Encode(line{Series: fresh})); err != nil {
				return err
			}
		}
		now.At = &at
		now.Values = append(now.Values, value{n: n, v: s.Value, gone: s.Missing, text: s.Why})
	}
	return errors.Join(flush(), r.write(&b))
}

// number returns the number of the sample's series, and what is to be said of it
// if it is new or has other limits.
func (r *Recorder) number(s hwhealth.Sample) (int, *series) {
	key := s.Source + "\x00" + s.Device.Key() + "\x00" + string(s.Signal)
	l := limits(s.Limits)
	if x := r.known[key]; x != nil {
		// A missing sample has no limits; those of the part stay.
		if s.Missing || x.Device == s.Device && sameLimits(x.Limits, l) {
			return x.N, nil
		}
		x.Device, x.Limits = s.Device, l
		return x.N, x
	}
	x := &series{N: len(r.known) + 1, Source: s.Source, Device: s.Device, Signal: s.Signal, Kind: s.Kind, Unit: s.Unit, Limits: l}
	r.known[key] = x
	return x.N, x
}

func sameLimits(a, b []*float64) bool {
	return slices.EqualFunc(a, b, func(x, y *float64) bool { return (x == nil) == (y == nil) && (x == nil || *x == *y) })
}

func (r *Recorder) write(b *bytes.Buffer) error {
	if b.Len() == 0 {
		return nil
	}
	_, err := r.file.Write(b.Bytes())
	b.Reset()
	if err != nil {
		return fmt.Errorf("write trace: %w", err)
	}
	return nil
}

// open begins the file of a day, or goes on with it after what was lost with the
// last life is cut off, and removes the oldest.
func (r *Recorder) open(day string, at int64, enc *json.Encoder) error {
	if err := r.Close(); err != nil {
		return err
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return fmt.Errorf("make the trace's directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(r.dir, day+suffix), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open trace: %w", err)
	}
	if err := toEnd(f); err != nil {
		f.Close()
		return fmt.Errorf("open trace: %w", err)
	}
	r.file, r.day, r.known = f, day, map[string]*series{}
	r.start.At = at
	names, err := days(r.dir)
	if err != nil {
		return err
	}
	for _, old := range names[:max(0, len(names)-keepDays)] {
		if err := os.Remove(filepath.Join(r.dir, old)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove an old trace: %w", err)
		}
	}
	return enc.Encode(line{Start: &r.start})
}

// toEnd goes to the end of the last whole line and cuts off the rest.
func toEnd(f *os.File) error {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	const step = 4096
	buf := make([]byte, step)
	for end > 0 {
		from := max(0, end-step)
		n, err := f.ReadAt(buf[:end-from], from)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if i := bytes.LastIndexByte(buf[:n], '\n'); i >= 0 {
			end = from + int64(i) + 1
			break
		}
		end = from
	}
	if err := f.Truncate(end); err != nil {
		return err
	}
	_, err = f.Seek(end, io.SeekStart)
	return err
}

// Close ends the file; a later Write goes on with it.
func (r *Recorder) Close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}

// days are the trace's files in the order of time.
func days(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if len(e.Name()) != len(dayFormat)+len(suffix) || filepath.Ext(e.Name()) != suffix {
			continue
		}
		if _, err := time.Parse(dayFormat, e.Name()[:len(dayFormat)]); err == nil {
			out = append(out, e.Name())
		}
	}
	slices.Sort(out)
	return out, nil
}
