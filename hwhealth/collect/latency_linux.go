package collect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/hwhealth/collect/sysfs"
)

// latency computes the mean wait of disk operations between two readings.
type latency struct {
	disks  *Disks
	last   map[string]BlockStat
	roster roster
}

// BlockStat is what /sys/block/D/stat says (Documentation/block/stat.rst):
// operations done and milliseconds waited, of reads, writes and flushes.
type BlockStat struct{ Ops, Millis uint64 }

// ParseBlockStat reads the 11 to 17 figures of a stat file.
func ParseBlockStat(s string) (BlockStat, error) {
	f := strings.Fields(s)
	if len(f) < 11 {
		return BlockStat{}, fmt.Errorf("%d figures, want 11 or more", len(f))
	}
	v := make([]uint64, min(len(f), 17))
	for i := range v {
		n, err := strconv.ParseUint(f[i], 10, 64)
		if err != nil {
			return BlockStat{}, fmt.Errorf("figure %d %q is no counter", i+1, f[i])
		}
		v[i] = n
	}
	st := BlockStat{Ops: v[0] + v[4], Millis: v[3] + v[7]}
	if len(v) >= 17 {
		st.Ops += v[15]
		st.Millis += v[16]
	}
	return st, nil
}

// Await is the mean wait of the operations between prev and s; ok is false
// without operations and across a restart of the counters.
func (s BlockStat) Await(prev BlockStat) (ms float64, ok bool) {
	if s.Ops <= prev.Ops || s.Millis < prev.Millis {
		return 0, false
	}
	return float64(s.Millis-prev.Millis) / float64(s.Ops-prev.Ops), true
}

func (l *latency) read(_ context.Context, now time.Time) []hwhealth.Sample {
	b := newBatch("block-stat", now)
	names, err := l.disks.whole()
	if err != nil {
		b.missing(hwhealth.Device{Class: hwhealth.ClassDisk, Serial: "all"}, hwhealth.DiskAwait, "%v", err)
		return b.out
	}
	if l.last == nil {
		l.last = map[string]BlockStat{}
	}
	present := map[string]hwhealth.Device{}
	for _, n := range names {
		if !l.disks.roots.sys("block", n).Has("stat") {
			continue
		}
		d := l.disks.Lookup(n)
		present[d.Key()] = d
		s, err := l.disks.roots.sys("block", n).Text("stat")
		if err != nil && sysfs.Absent(err) {
			continue
		}
		var st BlockStat
		if err == nil {
			st, err = ParseBlockStat(s)
		}
		if err != nil {
			b.missing(d, hwhealth.DiskAwait, "/sys/block/%s/stat: %v", n, err)
			continue
		}
		if prev, ok := l.last[n]; ok {
			if ms, ok := st.Await(prev); ok {
				b.put(d, hwhealth.DiskAwait, ms)
			}
		}
		l.last[n] = st
	}
	l.roster.call(b, present)
	return b.out
}

// syncProbe writes one block past every cache and measures how long it takes.
type syncProbe struct {
	dir   string
	disks *Disks
	busy  atomic.Pointer[time.Time] // start of a write that has not come back
}

// probeBlock is the size of the probe, one page.
const probeBlock = 4096

// probeFile is what it writes to, in state_dir.
const probeFile = ".health-probe"

func (p *syncProbe) read(ctx context.Context, now time.Time) []hwhealth.Sample {
	b := newBatch("fsync-probe", now)
	d, ok := p.disks.Under(p.dir)
	if !ok { // a volume over several drives, or a virtual one
		d = hwhealth.Device{Class: hwhealth.ClassDisk, Serial: "state_dir", Name: p.dir}
	}
	if since := p.busy.Load(); since != nil {
		// The last one still hangs in the kernel: that is the figure.
		b.put(d, hwhealth.DiskFsync, float64(now.Sub(*since))/1e6)
		return b.out
	}
	start := now
	p.busy.Store(&start)
	type result struct {
		took time.Duration
		err  error
	}
	done := make(chan result, 1)
	// A write to a dead disk cannot be interrupted; busy keeps it the only one.
	go func() {
		took, err := p.write()
		p.busy.Store(nil)
		done <- result{took, err}
	}()
	select {
	case <-ctx.Done():
		b.put(d, hwhealth.DiskFsync, float64(time.Since(start))/1e6)
	case r := <-done:
		switch {
		case errors.Is(r.err, syscall.EIO):
			b.event(d, hwhealth.DiskIOErrors, 1, "own probe: "+r.err.Error())
		case errors.Is(r.err, syscall.EROFS):
			b.put(d, hwhealth.DiskReadOnly, 1)
		case r.err != nil:
			b.missing(d, hwhealth.DiskFsync, "%v", r.err)
		default:
			b.put(d, hwhealth.DiskFsync, float64(r.took)/1e6)
		}
	}
	return b.out
}

// write writes and syncs one aligned block, without O_DIRECT where the file
// system does not take it (tmpfs, overlay).
func (p *syncProbe) write() (time.Duration, error) {
	path := filepath.Join(p.dir, probeFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_DIRECT|unix.O_DSYNC, 0o600)
	if errors.Is(err, syscall.EINVAL) {
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_DSYNC, 0o600)
	}
	if err != nil {
		return 0, fmt.Errorf("open probe: %w", err)
	}
	defer f.Close()
	buf := make([]byte, 2*probeBlock)
	skip := (probeBlock - int(uintptr(unsafe.Pointer(&buf[0]))%probeBlock)) % probeBlock // O_DIRECT wants aligned memory
	start := time.Now()
	if _, err := f.WriteAt(buf[skip:skip+probeBlock], 0); err != nil {
		return 0, fmt.Errorf("write probe: %w", err)
	}
	if err := f.Sync(); err != nil {
		return 0, fmt.Errorf("sync probe: %w", err)
	}
	return time.Since(start), nil
}
