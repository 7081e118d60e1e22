package collect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// Record is one record of /dev/kmsg (Documentation/ABI/testing/dev-kmsg).
type Record struct {
	Facility int
	Sequence uint64
	Uptime   time.Duration
	Text     string
}

// ParseRecord reads "prio,seq,usec,flags[,...];text". Continuation lines with
// key=value pairs are dropped.
func ParseRecord(line string) (Record, error) {
	head, text, ok := strings.Cut(line, ";")
	f := strings.Split(head, ",")
	if !ok || len(f) < 3 {
		return Record{}, fmt.Errorf("kmsg record %.60q has no header", line)
	}
	prio, err1 := strconv.ParseUint(f[0], 10, 31)
	seq, err2 := strconv.ParseUint(f[1], 10, 64)
	us, err3 := strconv.ParseUint(f[2], 10, 53)
	if err := errors.Join(err1, err2, err3); err != nil {
		return Record{}, fmt.Errorf("kmsg record %.60q: %w", line, err)
	}
	text, _, _ = strings.Cut(text, "\n")
	return Record{Facility: int(prio >> 3), Sequence: seq, Uptime: time.Duration(min(us, 1<<50)) * time.Microsecond, Text: text}, nil
}

// Finding is what a line of the kernel log means.
type Finding struct {
	Signal hwhealth.Signal
	Disk   string // kernel name of the drive, "" if none
	Port   string // ATA port, "" if none
	PCI    string // PCI function, "" if none
	CPU    bool   // speaks of processors
}

// pattern: the named groups disk, port and pci say which part is meant.
type pattern struct {
	re  *regexp.Regexp
	sig hwhealth.Signal
	cpu bool
}

var patterns = []pattern{
	{re: regexp.MustCompile(`Remounting filesystem read-only|Shutting down filesystem|forced readonly`), sig: hwhealth.KernelReadOnly},
	{re: regexp.MustCompile(`(?:I/O|critical (?:medium|target)|medium) error, dev (?P<disk>[a-z0-9]+)`), sig: hwhealth.DiskIOErrors},
	{re: regexp.MustCompile(`(?:EXT4-fs error|BTRFS (?:error|critical)) \(device (?P<disk>[a-z0-9]+)`), sig: hwhealth.KernelFSError},
	{re: regexp.MustCompile(`XFS \((?P<disk>[a-z0-9-]+)\): (?:Metadata corruption|Internal error|Corruption)`), sig: hwhealth.KernelFSError},
	{re: regexp.MustCompile(`nvme (?P<disk>nvme\d+): (?:I/O (?:tag )?\d+.*timeout|.*[Dd]evice not ready|controller is down|Abort status)`), sig: hwhealth.DiskTimeouts},
	{re: regexp.MustCompile(`^(?P<port>ata\d+)(?:\.\d+)?: (?:exception Emask|hard resetting link|failed command|qc timeout)`), sig: hwhealth.DiskTimeouts},
	{re: regexp.MustCompile(`blocked for more than \d+ seconds`), sig: hwhealth.KernelHungTask},
	{re: regexp.MustCompile(`soft lockup|hard LOCKUP|rcu.*(?:self-)?detected stall|rcu.*detected expedited stalls`), sig: hwhealth.KernelLockup},
	{re: regexp.MustCompile(`watchdog.*pretimeout|watchdog did not stop|NMI received for unknown reason`), sig: hwhealth.KernelWatchdog},
	{re: regexp.MustCompile(`\[Hardware Error\].*(?:[Uu]ncorrected|PCC|[Ff]atal)|Machine check: Processor context corrupt`), sig: hwhealth.MCEUncorrected, cpu: true},
	{re: regexp.MustCompile(`\[Hardware Error\]`), sig: hwhealth.KernelHardware},
	{re: regexp.MustCompile(`[Mm]arking clocksource .* as unstable`), sig: hwhealth.KernelClockSource},
	{re: regexp.MustCompile(`(?P<pci>[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]).*(?i:firmware fatal|fw fatal|health compromised|firmware (?:assert|error|reset)|adapter reset|NIC reset|reset adapter unexpectedly)`), sig: hwhealth.LinkFirmwareFatal},
}

// notHardware: what the log says in passing and no part is to blame for.
var notHardware = regexp.MustCompile(`\[Hardware Error\]: (?:Corrected error, no action|event severity: (?:info|corrected)|\s*$)|Machine check events logged`)

// Match says what a line means; ok is false for most of them.
func Match(text string) (f Finding, ok bool) {
	if notHardware.MatchString(text) {
		return Finding{}, false
	}
	for _, p := range patterns {
		m := p.re.FindStringSubmatch(text)
		if m == nil {
			continue
		}
		f.Signal, f.CPU = p.sig, p.cpu
		for i, name := range p.re.SubexpNames() {
			switch name {
			case "disk":
				f.Disk = m[i]
			case "port":
				f.Port = m[i]
			case "pci":
				f.PCI = m[i]
			}
		}
		return f, true
	}
	return Finding{}, false
}

// kernelLog follows /dev/kmsg. It remembers in run_dir, which a reboot empties
// like the log itself, how far it has read: nothing is told twice and nothing
// is missed while the daemon is down.
type kernelLog struct {
	roots  Roots
	disks  *Disks
	nics   *nics
	runDir string // "" starts at the end
	now    func() time.Time
	rows   erredRows
}

func (k *kernelLog) seqFile() string { return filepath.Join(k.runDir, "kmsg.seq") }

// load returns the sequence number of the first record to tell.
func (k *kernelLog) load() uint64 {
	b, err := os.ReadFile(k.seqFile())
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (k *kernelLog) save(next uint64) error {
	tmp := k.seqFile() + ".new"
	if err := os.WriteFile(tmp, []byte(strconv.FormatUint(next, 10)+"\n"), 0o600); err != nil {
		return fmt.Errorf("save position in the kernel log: %w", err)
	}
	return os.Rename(tmp, k.seqFile())
}

// pollKmsg bounds how long a stop takes.
const pollKmsg = 500 // milliseconds

func (k *kernelLog) follow(ctx context.Context, emit func(hwhealth.Sample)) error {
	path := filepath.Join(k.roots.Dev, "kmsg")
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat %s: %w", path, err)
	}
	// Another tree may hold a plain file or a pipe of records, one a line.
	device := st.Mode&unix.S_IFMT == unix.S_IFCHR
	var next, saved uint64
	if k.runDir != "" {
		next = k.load()
		saved = next
	} else if device {
		if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
			return fmt.Errorf("seek %s: %w", path, err)
		}
	}
	buf := make([]byte, 16<<10) // a record of the device is read whole; 8 KiB is its most
	var rest []byte
	for ctx.Err() == nil {
		n, err := unix.Read(fd, buf)
		switch {
		case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.EPIPE): // EPIPE: overwritten before we read it
			continue
		case errors.Is(err, syscall.EAGAIN), err == nil && n == 0:
			if k.runDir != "" && next != saved {
				if err := k.save(next); err != nil {
					return err
				}
				saved = next
			}
			if err := wait(ctx, fd, device); err != nil {
				return err
			}
			continue
		case err != nil:
			return fmt.Errorf("read %s: %w", path, err)
		}
		lines := [][]byte{buf[:n]}
		if !device {
			rest = append(rest, buf[:n]...)
			lines = bytes.SplitAfter(rest, []byte("\n"))
			rest = bytes.Clone(lines[len(lines)-1])
			lines = lines[:len(lines)-1]
			if len(rest) > len(buf) {
				rest = nil // no record is that long
			}
		}
		for _, line := range lines {
			r, err := ParseRecord(string(line))
			if err != nil || r.Sequence < next {
				continue
			}
			next = r.Sequence + 1
			if s, ok := k.tell(r); ok {
				emit(s)
			}
		}
	}
	return ctx.Err()
}

// wait returns when there may be more.
func wait(ctx context.Context, fd int, device bool) error {
	if !device { // poll says that a plain file is always readable
		select {
		case <-ctx.Done():
		case <-time.After(pollKmsg * time.Millisecond):
		}
		return nil
	}
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	if _, err := unix.Poll(fds, pollKmsg); err != nil && !errors.Is(err, syscall.EINTR) {
		return fmt.Errorf("poll kmsg: %w", err)
	}
	return nil
}

// kernelFacility is that of the kernel; whoever may write to /dev/kmsg gets
// another one.
const kernelFacility = 0

// tell makes the sample of a record.
func (k *kernelLog) tell(r Record) (hwhealth.Sample, bool) {
	if e, ok := ParseCorrectedError(r.Text); ok && r.Facility == kernelFacility {
		if k.rows == nil {
			k.rows = erredRows{}
		}
		d, n, ok := k.rows.add(k.roots, e)
		return hwhealth.Of("kmsg", d, hwhealth.MemoryRows, n, k.now()), ok
	}
	f, ok := Match(r.Text)
	if !ok || r.Facility != kernelFacility {
		return hwhealth.Sample{}, false
	}
	d := kernel()
	switch {
	case f.CPU:
		d = hwhealth.Device{Class: hwhealth.ClassCPU, Serial: "machine"}
	case f.Signal == hwhealth.LinkFirmwareFatal:
		if d, ok = k.interfaceAt(f.PCI); !ok {
			return hwhealth.Sample{}, false // some other card
		}
	case f.Signal == hwhealth.KernelFSError: // the file system's word, not a drive's
	case f.Disk != "" && k.exists(f.Disk):
		d = k.disks.Lookup(f.Disk)
	case f.Port != "":
		if d, ok = k.disks.ATAPort(f.Port); !ok {
			return hwhealth.Sample{}, false // an empty port, or a CD drive
		}
	case f.Signal == hwhealth.DiskIOErrors:
		f.Signal = hwhealth.KernelIOError
	case f.Signal == hwhealth.DiskTimeouts:
		d = hwhealth.Device{Class: hwhealth.ClassNVMe, Serial: f.Disk, Name: f.Disk}
	}
	s := hwhealth.Of("kmsg", d, f.Signal, 1, k.now())
	s.Why = r.Text
	if len(s.Why) > 200 {
		s.Why = s.Why[:200]
	}
	s.Why = printable(s.Why)
	return s, true
}

// exists reports whether a kernel name is a drive or a part of one.
func (k *kernelLog) exists(name string) bool {
	if nvmeName.MatchString(name) {
		return k.roots.sys("class", "nvme").Has(name)
	}
	return wholeDisk.MatchString(name) || partition.MatchString(name) || nvmeOfDisk.MatchString(name)
}

// interfaceAt is the interface of a PCI function.
func (k *kernelLog) interfaceAt(pci string) (hwhealth.Device, bool) {
	names, err := k.nics.interfaces()
	if err != nil {
		return hwhealth.Device{}, false
	}
	for _, n := range names {
		if k.roots.sys("class", "net", n).Link("device") == pci {
			return k.nics.device(n), true
		}
	}
	return hwhealth.Device{}, false
}
