package collect

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/hwhealth/collect/sysfs"
)

func invalid(err error) bool { return errors.Is(err, syscall.EINVAL) }

// pcie reads the slots of network interfaces and NVMe drives.
type pcie struct {
	nics  *nics
	disks *Disks
}

func (p *pcie) read(_ context.Context, now time.Time) []hwhealth.Sample {
	b := newBatch("sysfs-pci", now)
	names, err := p.nics.interfaces()
	if err != nil {
		b.missing(hwhealth.Device{Class: hwhealth.ClassLink, Serial: "all"}, hwhealth.PCIeWidth, "list interfaces: %v", err)
	}
	for _, name := range names {
		readSlot(b, p.nics.device(name), p.nics.roots.sys("class", "net", name, "device"))
	}
	for _, c := range p.disks.controllers() {
		readSlot(b, c.device, p.nics.roots.sys("class", "nvme", c.name, "device"))
	}
	return b.out
}

// readSlot reads one PCI function; a device on another bus has none of this.
func readSlot(b *batch, d hwhealth.Device, dir sysfs.Dir) {
	if !dir.Has("vendor") {
		return
	}
	if v, err := liveVendor(dir); err == nil && v == 0xffff && awake(dir) {
		s := b.goneSample(d)
		s.Why = "its PCI configuration space reads 0xffff"
		b.out = append(b.out, s)
		return
	}
	for _, l := range []struct {
		file string
		sig  hwhealth.Signal
	}{
		{"current_link_width", hwhealth.PCIeWidth}, {"max_link_width", hwhealth.PCIeWidthMax},
	} {
		// 255 and 0 come from functions without a link of their own.
		if v, err := dir.Uint(l.file); err == nil && v > 0 && v <= 32 {
			b.put(d, l.sig, float64(v))
		} else if err != nil && !sysfs.Absent(err) && !invalid(err) {
			b.missing(d, l.sig, "%v", err)
		}
	}
	for _, l := range []struct {
		file string
		sig  hwhealth.Signal
	}{
		{"current_link_speed", hwhealth.PCIeSpeed}, {"max_link_speed", hwhealth.PCIeSpeedMax},
	} {
		s, err := dir.Text(l.file)
		if err != nil {
			continue
		}
		if v, err := ParseLinkSpeed(s); err == nil {
			b.put(d, l.sig, v)
		} else if !strings.HasPrefix(s, "Unknown") {
			b.missing(d, l.sig, "%s: %v", dir.Path(l.file), err)
		}
	}
	for _, l := range []struct {
		file, total string
		sig         hwhealth.Signal
	}{
		{"aer_dev_correctable", "TOTAL_ERR_COR", hwhealth.AERCorrectable},
		{"aer_dev_nonfatal", "TOTAL_ERR_NONFATAL", hwhealth.AERNonfatal},
		{"aer_dev_fatal", "TOTAL_ERR_FATAL", hwhealth.AERFatal},
	} {
		s, err := dir.Text(l.file)
		if sysfs.Absent(err) {
			continue
		}
		if err == nil {
			var v uint64
			if v, err = ParseAER(s, l.total); err == nil {
				b.put(d, l.sig, float64(v))
				continue
			}
		}
		b.missing(d, l.sig, "%s: %v", dir.Path(l.file), err)
	}
}

// liveVendor asks the device itself: the vendor attribute is a copy.
func liveVendor(dir sysfs.Dir) (uint16, error) {
	f, err := os.Open(dir.Path("config"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var v [2]byte
	if _, err := f.Read(v[:]); err != nil {
		return 0, err
	}
	return uint16(v[0]) | uint16(v[1])<<8, nil
}

// awake: a suspended function (D3cold) reads 0xffff as well.
func awake(dir sysfs.Dir) bool {
	s, err := dir.Text("power", "runtime_status")
	return err != nil || s == "active" || s == "unsupported"
}

// ParseLinkSpeed reads "8.0 GT/s PCIe" or "16 GT/s", in GT/s.
func ParseLinkSpeed(s string) (float64, error) {
	number, rest, _ := strings.Cut(s, " ")
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || !strings.HasPrefix(rest, "GT/s") || !(v > 0 && v < 1000) {
		return 0, fmt.Errorf("%q is no link speed", s)
	}
	return v, nil
}

// ParseAER finds the line called total in an aer_dev_* file ("NAME count").
func ParseAER(s, total string) (uint64, error) {
	for line := range strings.Lines(s) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if ok && name == total {
			v, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s %q is no counter", total, value)
			}
			return v, nil
		}
	}
	return 0, fmt.Errorf("no line %s", total)
}
