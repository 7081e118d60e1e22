package collect

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/hwhealth/collect/sysfs"
)

// justBooted is how long a start of the machine is news.
const justBooted = 15 * time.Minute

// pressure reads PSI and the drops of the network stack.
type pressure struct {
	roots  Roots
	booted bool // told
}

func (p *pressure) read(_ context.Context, now time.Time) []hwhealth.Sample {
	b := newBatch("procfs", now)
	p.boot(b)
	for _, r := range []struct {
		name string
		full bool
		sig  hwhealth.Signal
	}{{"cpu", false, hwhealth.PressureCPU}, {"memory", true, hwhealth.PressureMemory}, {"io", true, hwhealth.PressureIO}} {
		s, err := p.roots.proc("pressure").Text(r.name)
		if err != nil {
			if !sysfs.Absent(err) {
				b.missing(Host(), r.sig, "%v", err)
			}
			continue
		}
		if v, err := ParsePressure(s, r.full); err != nil {
			b.missing(Host(), r.sig, "/proc/pressure/%s: %v", r.name, err)
		} else {
			b.put(Host(), r.sig, v)
		}
	}
	fs, err := procfs.NewFS(p.roots.Proc)
	if err != nil {
		b.missing(Host(), hwhealth.SoftnetDrops, "%v", err)
		return b.out
	}
	if cpus, err := fs.NetSoftnetStat(); err != nil {
		b.missing(Host(), hwhealth.SoftnetDrops, "%v", err)
	} else {
		var dropped, squeezed float64
		for _, c := range cpus {
			dropped += float64(c.Dropped)
			squeezed += float64(c.TimeSqueezed)
		}
		b.put(Host(), hwhealth.SoftnetDrops, dropped)
		b.put(Host(), hwhealth.SoftnetSqueezed, squeezed)
	}
	if s, err := p.roots.proc("net").Text("xfrm_stat"); err == nil {
		if v, err := ParseXfrmStat(s); err != nil {
			b.missing(Host(), hwhealth.XfrmErrors, "/proc/net/xfrm_stat: %v", err)
		} else {
			b.put(Host(), hwhealth.XfrmErrors, v)
		}
	} else if !sysfs.Absent(err) {
		b.missing(Host(), hwhealth.XfrmErrors, "%v", err)
	}
	return b.out
}

// boot tells once that the machine has started a moment ago: fans and links of
// such a machine are not judged yet.
func (p *pressure) boot(b *batch) {
	if p.booted {
		return
	}
	s, err := p.roots.proc().Text("uptime")
	if err != nil {
		return
	}
	first, _, _ := strings.Cut(s, " ")
	up, err := strconv.ParseFloat(first, 64)
	if p.booted = err == nil; p.booted && up >= 0 && up < justBooted.Seconds() {
		b.event(Host(), hwhealth.HostBoot, 1, fmt.Sprintf("up for %.0f s", up))
	}
}

// ParsePressure is the share of the last minute in which some or all tasks
// waited, 0..1, out of a PSI file (Documentation/accounting/psi.rst).
func ParsePressure(s string, full bool) (float64, error) {
	want := "some"
	if full {
		want = "full"
	}
	for line := range strings.Lines(s) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != want {
			continue
		}
		for _, f := range fields[1:] {
			if t, ok := strings.CutPrefix(f, "avg60="); ok {
				v, err := strconv.ParseFloat(t, 64)
				if err != nil || !(v >= 0 && v <= 100) {
					return 0, fmt.Errorf("avg60 %q is no share", t)
				}
				return v / 100, nil
			}
		}
	}
	return 0, fmt.Errorf("no line %s with avg60", want)
}

// ParseXfrmStat sums the error counters of /proc/net/xfrm_stat. Not errors of
// this machine are what any outsider or a client's reordering causes: replayed
// or out-of-window packets, packets of unknown SAs, and states about to expire.
func ParseXfrmStat(s string) (float64, error) {
	total, lines := 0.0, 0
	for line := range strings.Lines(s) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 2 || !strings.HasPrefix(f[0], "Xfrm") {
			return 0, fmt.Errorf("line %q", strings.TrimSpace(line))
		}
		v, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s %q is no counter", f[0], f[1])
		}
		lines++
		switch f[0] {
		case "XfrmInNoStates", "XfrmInStateSeqError", "XfrmAcquireError", "XfrmInStateExpired", "XfrmOutStateExpired", "XfrmInHdrError":
			continue
		}
		total += float64(v)
	}
	if lines == 0 {
		return 0, fmt.Errorf("no counters")
	}
	return total, nil
}

// space reads how much of state_dir's file system is free, and whether it can
// be written at all.
type space struct {
	dir   string
	disks *Disks
}

func (s *space) read(_ context.Context, now time.Time) []hwhealth.Sample {
	b := newBatch("statfs", now)
	var st unix.Statfs_t
	if err := unix.Statfs(s.dir, &st); err != nil {
		b.missing(Host(), hwhealth.DiskSpaceFree, "statfs %s: %v", s.dir, err)
		return b.out
	}
	if st.Blocks > 0 {
		b.put(Host(), hwhealth.DiskSpaceFree, min(1, float64(st.Bavail)/float64(st.Blocks)))
	}
	if d, ok := s.disks.Under(s.dir); ok {
		b.put(d, hwhealth.DiskSystemVolume, 1)
		b.put(d, hwhealth.DiskReadOnly, flag(st.Flags&unix.ST_RDONLY != 0))
	}
	return b.out
}

// clock reads the kernel's clock discipline, and notices jumps of the wall
// clock against the monotonic one.
type clock struct {
	adjtimex func(*unix.Timex) (int, error)
	since    func(time.Time) time.Duration // by the monotonic clock
	last     time.Time
}

// ClockJump is how far the wall clock moved by itself between two readings; a
// figure only.
const ClockJump hwhealth.Signal = "host.clock_jump"

const (
	staUnsync = 0x40   // STA_UNSYNC
	staNano   = 0x2000 // STA_NANO: offset in nanoseconds
	timeError = 5      // TIME_ERROR
)

func (c *clock) read(_ context.Context, now time.Time) []hwhealth.Sample {
	b := newBatch("adjtimex", now)
	if !c.last.IsZero() {
		jump := now.Round(0).Sub(c.last.Round(0)) - c.since(c.last)
		if jump.Abs() > time.Second {
			s := hwhealth.Sample{Source: b.source, Device: Host(), Signal: ClockJump, Kind: hwhealth.Event, Unit: hwhealth.Seconds,
				Value: jump.Seconds(), Limits: hwhealth.NoLimits(), Why: "the wall clock was set by " + jump.Round(time.Millisecond).String(), At: now}
			b.out = append(b.out, s)
		}
	}
	c.last = now
	var tx unix.Timex
	state, err := c.adjtimex(&tx)
	if err != nil {
		b.missing(Host(), hwhealth.ClockSynchronous, "adjtimex: %v", err)
		return b.out
	}
	synced := state != timeError && tx.Status&staUnsync == 0
	b.put(Host(), hwhealth.ClockSynchronous, flag(synced))
	scale := 1e-3 // microseconds
	if tx.Status&staNano != 0 {
		scale = 1e-6
	}
	if synced {
		b.put(Host(), hwhealth.ClockOffset, math.Abs(float64(tx.Offset)*scale))
	}
	return b.out
}
