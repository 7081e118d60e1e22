package collect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/hwhealth/collect/smart"
)

const (
	// perDrive bounds one run of smartctl: a drive that spins up takes 15 s, one
	// that is dying answers after the kernel's 30 s or never.
	perDrive = 20 * time.Second
	// staleDocument is when a document that another agent wrote says nothing
	// any more.
	staleDocument = 3 * everySMART
)

// drives asks disks by smartctl, or reads the documents that another agent has
// put into a directory: one smartctl --json output per drive, NAME.json.
type drives struct {
	disks  *Disks
	binary string        // "" is smartctl in PATH
	dir    string        // not "": documents instead of the binary
	limit  time.Duration // of one run
	roster roster
}

// run starts a program with a deadline, kills its whole process group when it
// does not keep it, and returns what it printed.
func run(ctx context.Context, limit time.Duration, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // a child in the kernel's hands may keep the pipe
	var out bytes.Buffer
	cmd.Stdout = &limited{to: &out, left: smart.MaxDocument}
	err := cmd.Run()
	if ctx.Err() != nil {
		return out.Bytes(), fmt.Errorf("%s: killed after %s", filepath.Base(name), limit)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return out.Bytes(), nil // the status is a set of bits, repeated in the document
	}
	return out.Bytes(), err
}

// limited drops what is beyond left octets.
type limited struct {
	to   io.Writer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	n := len(b)
	if n > l.left {
		b = b[:l.left]
	}
	l.left -= len(b)
	_, err := l.to.Write(b)
	return n, err
}

func (d *drives) read(ctx context.Context, now time.Time) []hwhealth.Sample {
	b := newBatch("smartctl", now)
	if d.dir != "" {
		d.documents(b)
		return b.out
	}
	binary, err := d.lookPath()
	names, lerr := d.disks.whole()
	if lerr != nil {
		b.missing(hwhealth.Device{Class: hwhealth.ClassDisk, Serial: "all"}, hwhealth.DiskPassed, "list drives: %v", lerr)
		return b.out
	}
	if err != nil {
		for _, n := range names {
			b.missing(d.disks.Lookup(n), hwhealth.DiskPassed, "smartctl: %v (Debian package smartmontools)", err)
		}
		return b.out
	}
	present := map[string]hwhealth.Device{}
	asked := map[string]bool{}
	for _, n := range names {
		dev := d.disks.Lookup(n)
		present[dev.Key()] = dev
		node := filepath.Join(d.disks.roots.Dev, n)
		if dev.Class == hwhealth.ClassNVMe {
			node = filepath.Join(d.disks.roots.Dev, dev.Name) // the controller, once for all its namespaces
		}
		if asked[node] {
			continue
		}
		asked[node] = true
		d.ask(ctx, b, binary, dev, smart.Found{Name: node}, present)
	}
	if d.disks.roots.Real() {
		d.hidden(ctx, b, binary, asked, present)
	}
	if len(present) == 0 {
		b.missing(hwhealth.Device{Class: hwhealth.ClassDisk, Serial: "all"}, hwhealth.DiskPassed, "this machine shows no drive")
	}
	d.roster.call(b, present)
	return b.out
}

// hidden asks the drives behind a controller that does not show them: only
// smartctl finds those.
func (d *drives) hidden(ctx context.Context, b *batch, binary string, asked map[string]bool, present map[string]hwhealth.Device) {
	out, err := run(ctx, d.limit, binary, "--json=c", "--scan")
	var found []smart.Found
	if err == nil {
		found, err = smart.ParseScan(out)
	}
	if err != nil {
		b.missing(hwhealth.Device{Class: hwhealth.ClassDisk, Serial: "all"}, hwhealth.DiskPassed, "smartctl --scan: %v", err)
	}
	for _, f := range found {
		if !strings.Contains(f.Type, ",") || asked[f.Name+f.Type] {
			continue
		}
		asked[f.Name+f.Type] = true
		id := filepath.Base(f.Name) + ":" + f.Type
		d.ask(ctx, b, binary, hwhealth.Device{Class: hwhealth.ClassDisk, Serial: id, Name: id}, f, present)
	}
}

func (d *drives) lookPath() (string, error) {
	if d.binary != "" {
		return d.binary, nil
	}
	return exec.LookPath("smartctl")
}

// ask runs smartctl for one drive.
func (d *drives) ask(ctx context.Context, b *batch, binary string, dev hwhealth.Device, f smart.Found, present map[string]hwhealth.Device) {
	args := []string{"--json=c", "-H", "-i", "-A", "-l", "error"}
	if f.Type != "" {
		args = append(args, "-d", f.Type)
	}
	out, err := run(ctx, d.limit, binary, append(args, f.Name)...)
	var r *smart.Report
	if err == nil {
		r, err = smart.ParseJSON(out)
	}
	if err != nil {
		b.missing(dev, hwhealth.DiskPassed, "smartctl %s: %v", f.Name, err)
		return
	}
	dev = d.name(dev, r)
	present[dev.Key()] = dev
	b.out = append(b.out, r.Samples(b.source, dev, b.now)...)
}

// name completes a device by what the drive says of itself.
func (d *drives) name(dev hwhealth.Device, r *smart.Report) hwhealth.Device {
	if strings.Contains(dev.Name, ":") { // hidden: sysfs does not know it
		if s := strings.TrimSpace(printable(r.Serial)); s != "" {
			dev.Serial = s
		}
		dev.Model, dev.Class = r.Model, r.Class()
		return dev
	}
	return d.disks.learn(dev.Name, r.Serial, r.Model)
}

// documents reads what another agent wrote.
func (d *drives) documents(b *batch) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		b.missing(hwhealth.Device{Class: hwhealth.ClassDisk, Serial: "all"}, hwhealth.DiskPassed, "%v", err)
		return
	}
	present := map[string]hwhealth.Device{}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		dev := d.disks.Lookup(name)
		r, err := readDocument(filepath.Join(d.dir, e.Name()), b.now)
		if err != nil {
			present[dev.Key()] = dev
			b.missing(dev, hwhealth.DiskPassed, "%v", err)
			continue
		}
		dev = d.disks.learn(name, r.Serial, r.Model)
		if dev.Class = r.Class(); dev.Model == "" {
			dev.Model = r.Model
		}
		if dev.Serial == dev.Name && r.Serial != "" {
			dev.Serial = strings.TrimSpace(printable(r.Serial))
		}
		present[dev.Key()] = dev
		b.out = append(b.out, r.Samples(b.source, dev, b.now)...)
	}
	d.roster.call(b, present)
}

func readDocument(path string, now time.Time) (*smart.Report, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if age := now.Sub(st.ModTime()); age > staleDocument {
		return nil, fmt.Errorf("%s is %s old", path, age.Round(time.Second))
	}
	body, err := io.ReadAll(io.LimitReader(f, smart.MaxDocument+1))
	if err != nil {
		return nil, err
	}
	return smart.ParseJSON(body)
}

// nvmeLogs reads the health log page of NVMe controllers by ioctl: cheap enough
// for every minute.
type nvmeLogs struct {
	disks  *Disks
	get    func(path string, page []byte) error
	roster roster
}

func (n *nvmeLogs) read(_ context.Context, now time.Time) []hwhealth.Sample {
	b := newBatch("nvme", now)
	present := map[string]hwhealth.Device{}
	for _, c := range n.disks.controllers() {
		present[c.device.Key()] = c.device
		page := make([]byte, smart.LogSize)
		err := n.get(filepath.Join(n.disks.roots.Dev, c.name), page)
		var r *smart.Report
		if err == nil {
			r, err = smart.ParseLog(page)
		}
		if err != nil {
			b.missing(c.device, hwhealth.NVMeCriticalWarning, "%v", err)
			continue
		}
		b.out = append(b.out, r.Samples(b.source, c.device, now)...)
	}
	n.roster.call(b, present)
	return b.out
}

// nvmeAdminCmd is struct nvme_passthru_cmd of linux/nvme_ioctl.h.
type nvmeAdminCmd struct {
	opcode, flags                            uint8
	rsvd1                                    uint16
	nsid, cdw2, cdw3                         uint32
	metadata, addr                           uint64
	metadataLen, dataLen                     uint32
	cdw10, cdw11, cdw12, cdw13, cdw14, cdw15 uint32
	timeoutMS, result                        uint32
}

const (
	nvmeIoctlAdmin = 0xc0484e41 // NVME_IOCTL_ADMIN_CMD
	nvmeGetLogPage = 0x02
	logHealth      = 0x02
	allNamespaces  = 0xffffffff
)

// nvmeHealthLog asks a controller for log page 02h. The kernel gives the
// command up after the timeout.
func nvmeHealthLog(path string, page []byte) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := nvmeAdminCmd{opcode: nvmeGetLogPage, nsid: allNamespaces, addr: uint64(uintptr(unsafe.Pointer(&page[0]))),
		dataLen: uint32(len(page)), cdw10: logHealth | uint32(len(page)/4-1)<<16, timeoutMS: 5000}
	status, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), nvmeIoctlAdmin, uintptr(unsafe.Pointer(&cmd)))
	if errno != 0 {
		return fmt.Errorf("get health log of %s: %w", path, errno)
	}
	if status != 0 {
		return fmt.Errorf("get health log of %s: NVMe status %#x", path, status)
	}
	return nil
}
