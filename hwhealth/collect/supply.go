package collect

import (
	"context"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/hwhealth/collect/sysfs"
)

// supplies reads mains and batteries, an UPS among them, as the kernel's power
// supply class shows them (Documentation/ABI/testing/sysfs-class-power).
type supplies struct{ roots Roots }

// maxHoldUp bounds what a battery may claim: a year.
const maxHoldUp = 365 * 24 * 3600

func (p *supplies) read(_ context.Context, now time.Time) []hwhealth.Sample {
	b := newBatch("power-supply", now)
	root := p.roots.sys("class", "power_supply")
	names, err := root.List()
	if err != nil { // a machine without the class has supplies that only a BMC knows
		if !sysfs.Absent(err) {
			b.missing(hwhealth.Device{Class: hwhealth.ClassPower, Serial: "machine"}, hwhealth.PowerOK, "%v", err)
		}
		return b.out
	}
	var mains, batteries []string
	for _, n := range names {
		// Type and scope decide; what cannot be read is no supply of this machine.
		kind, err := root.Text(n, "type")
		scope, _ := root.Text(n, "scope")
		switch {
		case err != nil || scope == "Device": // of a mouse
		case kind == "Mains":
			mains = append(mains, n)
		case kind == "Battery" || kind == "UPS":
			batteries = append(batteries, n)
		}
	}
	for _, n := range mains {
		d := hwhealth.Device{Class: hwhealth.ClassPower, Serial: "power_supply/" + n, Name: printable(n)}
		if len(mains) > 1 {
			d.Redundant = "mains"
		} else if len(batteries) > 0 {
			continue // the battery says it, and for how long
		}
		v, err := root.Int(n, "online")
		switch {
		case err != nil:
			b.missing(d, hwhealth.PowerOK, "%v", err)
		case v < 0 || v > 2: // 2: fixed by hand
			b.missing(d, hwhealth.PowerOK, "online %d means nothing", v)
		default:
			b.put(d, hwhealth.PowerOK, flag(v != 0))
		}
	}
	for _, n := range batteries {
		battery(b, root.Sub(n), n)
	}
	return b.out
}

// battery reads whether one is the source of power, and for how long or how full.
func battery(b *batch, dir sysfs.Dir, name string) {
	if present, err := dir.Int("present"); err == nil && present == 0 {
		return
	}
	serial, _ := dir.Text("serial_number")
	if serial = printable(serial); serial == "" || serial == "0" {
		serial = name
	}
	model, _ := dir.Text("model_name")
	d := hwhealth.Device{Class: hwhealth.ClassPower, Serial: "battery/" + serial, Name: printable(name), Model: printable(model)}
	status, err := dir.Text("status")
	switch {
	case err != nil:
		b.missing(d, hwhealth.PowerOnBattery, "%v", err)
	case status == "Charging" || status == "Not charging" || status == "Full":
		b.put(d, hwhealth.PowerOnBattery, 0)
	case status == "Discharging":
		b.put(d, hwhealth.PowerOnBattery, 1)
	default:
		b.missing(d, hwhealth.PowerOnBattery, "status %.20q", printable(status))
	}
	left, err := dir.Int("time_to_empty_now")
	if err != nil {
		left, err = dir.Int("time_to_empty_avg")
	}
	if err == nil && left > 0 && left <= maxHoldUp {
		b.put(d, hwhealth.PowerHoldUp, float64(left)/60)
		return
	}
	full, err := dir.Int("capacity")
	switch {
	case sysfs.Absent(err):
	case err != nil:
		b.missing(d, hwhealth.PowerCharge, "%v", err)
	case full < 0 || full > 100:
		b.missing(d, hwhealth.PowerCharge, "%d%% cannot be true", full)
	default:
		b.put(d, hwhealth.PowerCharge, float64(full))
	}
}
