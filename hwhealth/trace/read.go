package trace

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// Handler takes what a trace says, in its order. An error ends the reading.
type Handler interface {
	Begin(Start) error
	Reading(at time.Time, samples []hwhealth.Sample) error
}

// maxLine bounds one line; a reading of a thousand signals has 20 KiB.
const maxLine = 4 << 20

// Read reads the files of a trace. Errors name the file and the line.
func Read(dir string, h Handler) error {
	names, err := days(dir)
	if err != nil {
		return fmt.Errorf("read trace: %w", err)
	}
	if len(names) == 0 {
		return fmt.Errorf("read trace: %s has no file YYYY-MM-DD%s; health.trace in the configuration has the daemon write some", dir, suffix)
	}
	for _, n := range names {
		if err := readFile(filepath.Join(dir, n), h); err != nil {
			return err
		}
	}
	return nil
}

func readFile(path string, h Handler) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read trace: %w", err)
	}
	defer f.Close()
	return read(f, path, h)
}

// read reads one file, name is for errors.
func read(f io.Reader, name string, h Handler) error {
	in := bufio.NewReaderSize(f, 64<<10)
	var known map[int]*series
	for number := 1; ; number++ {
		b, err := readLine(in)
		if errors.Is(err, io.EOF) { // what comes without an end was never written in full
			return nil
		}
		if err == nil {
			known, err = handle(b, known, h)
		}
		if err != nil {
			return fmt.Errorf("%s:%d: %w", name, number, err)
		}
	}
}

// readLine returns a whole line.
func readLine(in *bufio.Reader) ([]byte, error) {
	var out []byte
	for {
		b, err := in.ReadSlice('\n')
		if len(out)+len(b) > maxLine {
			return nil, fmt.Errorf("line is longer than %d octets", maxLine)
		}
		out = append(out, b...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return out, err
		}
	}
}

// handle takes one line; known are the series so far, nil before the first start.
func handle(b []byte, known map[int]*series, h Handler) (map[int]*series, error) {
	if len(bytes.TrimSpace(b)) == 0 {
		return known, nil
	}
	l, err := parse(b)
	switch {
	case err != nil:
		return known, err
	case l.Start != nil:
		return map[int]*series{}, h.Begin(*l.Start)
	case known == nil:
		return known, errors.New("the first line must be a start")
	case l.Series != nil:
		known[l.Series.N] = l.Series
		return known, nil
	}
	at := time.UnixMilli(*l.At).UTC()
	samples := make([]hwhealth.Sample, 0, len(l.Values))
	for _, v := range l.Values {
		s := known[v.n]
		if s == nil {
			return known, fmt.Errorf("series %d was not told", v.n)
		}
		x := s.sample(at)
		x.Value, x.Missing, x.Why = v.v, v.gone, v.text
		samples = append(samples, x)
	}
	return known, h.Reading(at, samples)
}
