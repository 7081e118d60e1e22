package collect

import (
	"context"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/hwhealth/collect/sysfs"
)

// Source is something that is read at an interval.
type Source struct {
	Name    string
	Every   time.Duration
	Timeout time.Duration
	// Read returns what the source says at now. It must return when ctx ends as
	// far as the kernel lets it. It is never called twice at the same time.
	Read func(ctx context.Context, now time.Time) []hwhealth.Sample
}

// Stream is something that speaks up by itself. Follow returns when ctx ends,
// or with the reason why it cannot go on; it is then tried again later.
type Stream struct {
	Name   string
	Follow func(ctx context.Context, emit func(hwhealth.Sample)) error
}

// Roots says where the machine is looked at.
type Roots struct {
	Sys  string // /sys
	Proc string // /proc
	Dev  string // /dev
}

// RealRoots are those of the running machine.
func RealRoots() Roots { return Roots{Sys: "/sys", Proc: "/proc", Dev: "/dev"} }

// Real reports whether these are the running machine's, so that what only the
// kernel itself can be asked (netlink, ioctl) belongs to the same machine.
func (r Roots) Real() bool { return r == RealRoots() }

func (r Roots) sys(parts ...string) sysfs.Dir  { return sysfs.Dir(r.Sys).Sub(parts...) }
func (r Roots) proc(parts ...string) sysfs.Dir { return sysfs.Dir(r.Proc).Sub(parts...) }

// Host is the device of what concerns the machine as a whole.
func Host() hwhealth.Device { return hwhealth.Device{Class: hwhealth.ClassHost, Serial: "machine"} }

// kernel is the device of kernel messages about no part in particular.
func kernel() hwhealth.Device {
	return hwhealth.Device{Class: hwhealth.ClassKernel, Serial: "machine"}
}

// Default intervals of the catalogue.
const (
	everyTemperature = 5 * time.Second
	everyLink        = 10 * time.Second
	everyFan         = 10 * time.Second
	everyThrottle    = 10 * time.Second
	everyMemory      = 10 * time.Second
	everyPressure    = 10 * time.Second
	everyPath        = 10 * time.Second
	everyCounters    = 30 * time.Second
	everyDiskLatency = 30 * time.Second
	everyModule      = time.Minute
	everyPCIe        = time.Minute
	everyNVMe        = time.Minute
	everySlow        = time.Minute // space, clock, IPMI, machine checks
	everySMART       = 30 * time.Minute

	// quick bounds a source that reads files; probing a dying part may take the
	// kernel's own retries.
	quick = 5 * time.Second
	slow  = 25 * time.Second
	// rescan is how long the list of sensors of a hwmon tree is kept.
	rescan = time.Minute
)
