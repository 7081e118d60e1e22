package collect

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/hwhealth/collect/sysfs"
)

func itoa(i int) string { return strconv.Itoa(i) }

// memory reads EDAC's counters per DIMM, and how much memory the kernel has
// taken out of use.
type memory struct {
	roots  Roots
	roster roster
}

func (m *memory) read(_ context.Context, now time.Time) []hwhealth.Sample {
	b := newBatch("edac", now)
	machine := hwhealth.Device{Class: hwhealth.ClassMemory, Serial: "machine"}
	if s, err := m.roots.proc().Text("meminfo"); err != nil {
		b.missing(machine, hwhealth.MemoryCorrupted, "%v", err)
	} else if v, ok, err := ParseHardwareCorrupted(s); err != nil {
		b.missing(machine, hwhealth.MemoryCorrupted, "/proc/meminfo: %v", err)
	} else if ok {
		b.put(machine, hwhealth.MemoryCorrupted, v)
	}
	root := m.roots.sys("devices", "system", "edac", "mc")
	names, err := root.List()
	if err != nil && !sysfs.Absent(err) {
		b.missing(machine, hwhealth.MemoryCE, "%v", err)
		return b.out
	}
	present := map[string]hwhealth.Device{}
	for _, mc := range names {
		if kind, _, rest, ok := sysfs.Index(mc); ok && kind == "mc" && rest == "" {
			m.controller(b, root.Sub(mc), mc, present)
		}
	}
	if len(present) == 0 {
		b.missing(machine, hwhealth.MemoryCE, "no memory controller reports errors (EDAC driver not loaded, or memory without ECC)")
	}
	m.roster.call(b, present)
	return b.out
}

// controller reads one memory controller: what it could not attribute under
// its own name, the rest per DIMM, or per row where there are no DIMMs.
func (m *memory) controller(b *batch, dir sysfs.Dir, mc string, present map[string]hwhealth.Device) {
	own := hwhealth.Device{Class: hwhealth.ClassMemory, Serial: mc, Name: mc}
	present[own.Key()] = own
	b.counter(own, hwhealth.MemoryCE, dir, "ce_noinfo_count")
	b.counter(own, hwhealth.MemoryUE, dir, "ue_noinfo_count")
	names, err := dir.List()
	if err != nil {
		b.missing(own, hwhealth.MemoryCE, "%v", err)
		return
	}
	dimms := 0
	for _, n := range names {
		kind, _, rest, ok := sysfs.Index(n)
		if !ok || rest != "" || kind != "dimm" && kind != "rank" {
			continue
		}
		dimms++
		label, _ := dir.Text(n, "dimm_label")
		d := dimm(mc, n, label)
		present[d.Key()] = d
		b.counter(d, hwhealth.MemoryCE, dir, n, "dimm_ce_count")
		b.counter(d, hwhealth.MemoryUE, dir, n, "dimm_ue_count")
	}
	if dimms > 0 {
		return
	}
	for _, n := range names {
		if kind, _, rest, ok := sysfs.Index(n); ok && kind == "csrow" && rest == "" {
			d := hwhealth.Device{Class: hwhealth.ClassMemory, Serial: mc + "/" + n, Name: mc + " " + n}
			present[d.Key()] = d
			b.counter(d, hwhealth.MemoryCE, dir, n, "ce_count")
			b.counter(d, hwhealth.MemoryUE, dir, n, "ue_count")
		}
	}
}

// ParseHardwareCorrupted finds HardwareCorrupted in /proc/meminfo, in octets.
// ok is false where the kernel does not tell.
func ParseHardwareCorrupted(meminfo string) (v float64, ok bool, err error) {
	for line := range strings.Lines(meminfo) {
		rest, found := strings.CutPrefix(line, "HardwareCorrupted:")
		if !found {
			continue
		}
		number, unit, _ := strings.Cut(strings.TrimSpace(rest), " ")
		n, err := strconv.ParseUint(number, 10, 50)
		if err != nil || unit != "kB" {
			return 0, false, fmt.Errorf("%q is no amount of kB", strings.TrimSpace(rest))
		}
		return float64(n) * 1024, true, nil
	}
	return 0, false, nil
}

// processors reads machine checks out of /proc/interrupts, and which
// processors went offline.
type processors struct {
	roots     Roots
	exception float64 // last total of machine check exceptions
	known     bool
	online    map[int]bool // were online at some time
}

func (p *processors) read(_ context.Context, now time.Time) []hwhealth.Sample {
	b := newBatch("mce", now)
	d := hwhealth.Device{Class: hwhealth.ClassCPU, Serial: "machine"}
	if s, err := p.roots.proc().Text("interrupts"); err != nil {
		b.missing(d, hwhealth.MCECorrected, "%v", err)
	} else {
		// THR: the threshold interrupt of corrected errors. MCE: exceptions, that
		// is uncorrected errors, survived or we would not be here.
		if v, ok := ParseInterrupts(s, "THR"); ok {
			b.put(d, hwhealth.MCECorrected, v)
		} else {
			b.missing(d, hwhealth.MCECorrected, "/proc/interrupts has no usable line THR")
		}
		if v, ok := ParseInterrupts(s, "MCE"); ok {
			if p.known && v > p.exception { // those before our start are in the kernel log
				b.event(d, hwhealth.MCEUncorrected, v-p.exception, "machine check exceptions in /proc/interrupts")
			}
			p.exception, p.known = v, true
		}
	}
	s, err := p.roots.sys("devices", "system", "cpu").Text("online")
	if err != nil {
		if !sysfs.Absent(err) {
			b.missing(d, hwhealth.CPUOffline, "%v", err)
		}
		return b.out
	}
	online, err := ParseCPUList(s)
	if err != nil {
		b.missing(d, hwhealth.CPUOffline, "cpu/online: %v", err)
		return b.out
	}
	if p.online == nil {
		p.online = map[int]bool{}
	}
	lost := len(p.online)
	for _, c := range online {
		if p.online[c] {
			lost--
		}
		p.online[c] = true
	}
	b.put(d, hwhealth.CPUOffline, float64(lost))
	return b.out
}

// ParseInterrupts sums the line called name of /proc/interrupts.
func ParseInterrupts(s, name string) (total float64, ok bool) {
	for line := range strings.Lines(s) {
		head, rest, found := strings.Cut(line, ":")
		if !found || strings.TrimSpace(head) != name {
			continue
		}
		for _, f := range strings.Fields(rest) {
			v, err := strconv.ParseUint(f, 10, 64)
			if err != nil {
				break // the words after the figures
			}
			total, ok = total+float64(v), true
		}
		return total, ok
	}
	return 0, false
}

// maxCPU bounds a list of processors (NR_CPUS is at most 8192).
const maxCPU = 1 << 14

// ParseCPUList reads the kernel's "0-3,8,10-11"; empty means none.
func ParseCPUList(s string) ([]int, error) {
	var out []int
	if s == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(from)
		z := a
		if err == nil && isRange {
			z, err = strconv.Atoi(to)
		}
		if err != nil || a < 0 || z < a || z >= maxCPU {
			return nil, fmt.Errorf("%q is no list of processors", s)
		}
		for c := a; c <= z; c++ {
			out = append(out, c)
		}
		if len(out) > maxCPU {
			return nil, fmt.Errorf("%q is no list of processors", s[:min(len(s), 40)])
		}
	}
	return out, nil
}
