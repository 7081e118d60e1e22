package bench

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth/drive"
)

// fittedFrom is the first fold that the table was fitted on.
const fittedFrom = 5

// Result is the outcome of one run.
type Result struct {
	Path     string
	Drives   int
	Rows     int
	Labelled bool
	Elapsed  time.Duration // the whole run, files included
	CPU      time.Duration // processor time of it, what one free core would need
	Points   []PointResult
}

// PointResult is one operating point.
type PointResult struct {
	Point drive.Point
	// Unseen are the drives of folds the table was not fitted on, Fitted the
	// others; nil if there are none or no labels.
	Unseen, Fitted *Score
	Alarmed        int // drives that ever were in alarm
	File           string
}

// Run replays the benchmark in dir and writes alarms-<point>.csv into out, in
// the scorer's format.
func Run(dir, out string, table *drive.Table) (res *Result, err error) {
	start, cpu := time.Now(), cpuTime()
	r, err := Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := os.MkdirAll(out, 0o755); err != nil {
		return nil, fmt.Errorf("make %s: %w", out, err)
	}
	res = &Result{Path: r.Path, Labelled: r.Labelled}
	n := len(table.Points)
	thresholds := make([]float64, n)
	files := make([]*alarmFile, n)
	scorers := make([][2]Scorer, n)
	for k, p := range table.Points {
		thresholds[k] = p.Threshold
		pr := PointResult{Point: p, File: filepath.Join(out, "alarms-"+p.Name+".csv")}
		if files[k], err = createAlarms(pr.File); err != nil {
			return nil, err
		}
		res.Points = append(res.Points, pr)
	}
	intervals := make([][]Interval, n)
	for {
		d, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		res.Drives++
		res.Rows += len(d.Rows)
		for k := range intervals {
			intervals[k] = intervals[k][:0]
		}
		Alarms(table, d, thresholds, intervals)
		part := 0
		if d.Fold >= fittedFrom {
			part = 1
		}
		for k, iv := range intervals {
			if len(iv) > 0 {
				res.Points[k].Alarmed++
			}
			files[k].write(d.Serial, iv)
			if r.Labelled {
				scorers[k][part].Add(d.FirstHour, d.Label, iv)
			}
		}
	}
	for k := range files {
		if err := files[k].close(); err != nil {
			return nil, err
		}
		for part, to := range []**Score{&res.Points[k].Unseen, &res.Points[k].Fitted} {
			if s := scorers[k][part].Score(); s.Failed+s.Healthy > 0 {
				*to = &s
			}
		}
	}
	res.Elapsed, res.CPU = time.Since(start), cpuTime()-cpu
	return res, nil
}

// cpuTime is what the process has used so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// alarmFile writes serial,on_hour,off_hour; an empty off_hour means until the
// end.
type alarmFile struct {
	f *os.File
	w *bufio.Writer
	c *csv.Writer
}

func createAlarms(path string) (*alarmFile, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	a := &alarmFile{f: f, w: bufio.NewWriter(f)}
	a.c = csv.NewWriter(a.w)
	return a, a.c.Write([]string{"serial", "on_hour", "off_hour"})
}

func (a *alarmFile) write(serial string, iv []Interval) {
	h := func(v float64) string {
		if math.IsInf(v, 1) {
			return ""
		}
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	for _, i := range iv {
		_ = a.c.Write([]string{serial, h(i.On), h(i.Off)}) // kept by the writer until close
	}
}

func (a *alarmFile) close() error {
	a.c.Flush()
	if err := errors.Join(a.c.Error(), a.w.Flush(), a.f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", a.f.Name(), err)
	}
	return nil
}
