package collect

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// Disks knows which drive a kernel name (sda, nvme0n1, ata3) means, so that
// every source speaks of it under the same serial number. It is safe for
// concurrent use.
type Disks struct {
	roots Roots
	mu    sync.Mutex
	known map[string]hwhealth.Device // by kernel name
	place map[string]string          // sysfs path and unit serial number of the name, to notice a replacement
}

// NewDisks looks at the drives below roots.
func NewDisks(roots Roots) *Disks {
	return &Disks{roots: roots, known: map[string]hwhealth.Device{}, place: map[string]string{}}
}

// controller is an NVMe controller.
type controller struct {
	name   string // nvme0
	device hwhealth.Device
}

var (
	wholeDisk  = regexp.MustCompile(`^(sd[a-z]+|hd[a-z]|nvme\d+(c\d+)?n\d+|mmcblk\d+)$`)
	nvmeName   = regexp.MustCompile(`^nvme\d+$`)
	nvmeOfDisk = regexp.MustCompile(`^(nvme\d+)(c\d+)?n\d+(p\d+)?$`)
	partition  = regexp.MustCompile(`^((?:sd|hd)[a-z]+)\d+$|^(mmcblk\d+)p\d+$`)
)

// controllers lists the NVMe controllers.
func (k *Disks) controllers() []controller {
	names, _ := k.roots.sys("class", "nvme").List()
	var out []controller
	for _, n := range names {
		if nvmeName.MatchString(n) {
			out = append(out, controller{n, k.Lookup(n)})
		}
	}
	return out
}

// whole lists the block devices that are drives.
func (k *Disks) whole() ([]string, error) {
	all, err := k.roots.sys("block").List()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, n := range all {
		if wholeDisk.MatchString(n) {
			out = append(out, n)
		}
	}
	return out, nil
}

// Lookup is the drive behind a kernel name: a controller, a namespace, a disk
// or a partition. A name that sysfs does not know is its own serial number.
func (k *Disks) Lookup(name string) hwhealth.Device {
	if m := nvmeOfDisk.FindStringSubmatch(name); m != nil {
		name = m[1]
	} else if m := partition.FindStringSubmatch(name); m != nil {
		name = m[1] + m[2]
	}
	dir := k.roots.sys("block", name, "device")
	class := hwhealth.ClassDisk
	if nvmeName.MatchString(name) {
		dir, class = k.roots.sys("class", "nvme", name), hwhealth.ClassNVMe
	}
	text := func(f string) string { s, _ := dir.Text(f); return strings.TrimSpace(printable(s)) }
	where := dir.Resolve()
	unit := text("serial")
	if unit == "" {
		unit = unitSerial(dir.Path("vpd_pg80"))
	}
	if unit == "" {
		unit = text("wwid")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	// A drive that is swapped comes back at the same path; one that vanished is
	// still spoken of.
	if d, ok := k.known[name]; ok && (where == "" || k.place[name] == where+" "+unit) {
		return d
	}
	d := hwhealth.Device{Class: class, Name: name, Model: text("model"), Vendor: text("vendor"), Serial: unit}
	if d.Serial == "" {
		d.Serial = name
	}
	if where != "" { // what is not there may come, and is looked up again
		k.known[name], k.place[name] = d, where+" "+unit
	}
	return d
}

// learn replaces a serial number that is only a name by the one that smartctl
// found, and returns the device under which the drive is known from now on.
func (k *Disks) learn(name, serial, model string) hwhealth.Device {
	d := k.Lookup(name)
	k.mu.Lock()
	defer k.mu.Unlock()
	if serial = strings.TrimSpace(printable(serial)); d.Serial == d.Name && serial != "" {
		d.Serial = serial
	}
	if model != "" {
		d.Model = model
	}
	if _, ok := k.known[d.Name]; ok {
		k.known[d.Name] = d
	}
	return d
}

// unitSerial reads the SCSI unit serial number page (SPC-4 7.8.18): four octets
// of header, then ASCII.
func unitSerial(path string) string {
	b, err := os.ReadFile(path)
	if err != nil || len(b) < 5 || len(b) > 260 || b[1] != 0x80 {
		return ""
	}
	return strings.TrimSpace(printable(string(b[4:min(len(b), 4+int(b[3]))])))
}

// printable drops what does not belong in a name.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
}

// ATAPort is the drive behind "ata3": the block device whose path runs through it.
func (k *Disks) ATAPort(port string) (hwhealth.Device, bool) {
	names, err := k.whole()
	if err != nil {
		return hwhealth.Device{}, false
	}
	for _, n := range names {
		if strings.Contains(k.roots.sys("block", n).Resolve(), "/"+port+"/") {
			return k.Lookup(n), true
		}
	}
	return hwhealth.Device{}, false
}

// Under is the drive that holds the file system of path; ok is false where it
// is not a drive of its own (tmpfs, overlay, a volume over several).
func (k *Disks) Under(path string) (hwhealth.Device, bool) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return hwhealth.Device{}, false
	}
	dir := k.roots.sys("dev", "block", fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	at := dir.Resolve()
	for range 3 { // a volume manager's device, then a partition, then the disk
		if at == "" {
			return hwhealth.Device{}, false
		}
		base := filepath.Base(at)
		if wholeDisk.MatchString(base) || nvmeOfDisk.MatchString(base) || partition.MatchString(base) {
			return k.Lookup(base), true
		}
		slaves, err := os.ReadDir(filepath.Join(at, "slaves"))
		if err != nil || len(slaves) != 1 {
			return hwhealth.Device{}, false
		}
		if at, err = filepath.EvalSymlinks(filepath.Join(at, "slaves", slaves[0].Name())); err != nil {
			return hwhealth.Device{}, false
		}
	}
	return hwhealth.Device{}, false
}
