package collect

import (
	"context"
	"math"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/hwhealth/collect/sysfs"
)

// zones reads /sys/class/thermal: zones with their trip points, and the
// devices that cool them.
type zones struct {
	roots  Roots
	roster roster
}

// tripRank orders the kernel's types of trip points.
var tripRank = map[string]float64{"active": 1, "passive": 2, "hot": 3, "critical": 4}

func (z *zones) read(_ context.Context, now time.Time) []hwhealth.Sample {
	b := newBatch("thermal", now)
	root := z.roots.sys("class", "thermal")
	names, err := root.List()
	if err != nil {
		b.missing(hwhealth.Device{Class: hwhealth.ClassThermal, Serial: "zones"}, hwhealth.ThermalTrip, "%v", err)
		return b.out
	}
	present := map[string]hwhealth.Device{}
	for _, name := range names {
		kind, _ := root.Text(name, "type")
		kind = strings.TrimSpace(printable(kind))
		d := hwhealth.Device{Class: hwhealth.ClassThermal, Serial: name + ":" + kind, Name: kind}
		switch {
		case strings.HasPrefix(name, "thermal_zone"):
			present[d.Key()] = d
			readZone(b, d, root.Sub(name))
		case strings.HasPrefix(name, "cooling_device"):
			present[d.Key()] = d
			readCooling(b, d, root.Sub(name))
		}
	}
	if len(present) == 0 {
		b.missing(hwhealth.Device{Class: hwhealth.ClassThermal, Serial: "zones"}, hwhealth.ThermalTrip, "no thermal zone below %s", root)
	}
	z.roster.call(b, present)
	return b.out
}

func readZone(b *batch, d hwhealth.Device, dir sysfs.Dir) {
	raw, err := dir.Int("temp")
	v := float64(raw) / 1000
	switch {
	case err != nil && !sysfs.Absent(err):
		b.missing(d, hwhealth.Temperature, "%v", err)
		return
	case err != nil:
		b.missing(d, hwhealth.Temperature, "the zone offers no temperature")
		return
	case v < minCelsius || v > maxCelsius:
		b.missing(d, hwhealth.Temperature, "%g degrees cannot be true", v)
		return
	}
	l := hwhealth.NoLimits()
	reached := 0.0
	for i := range 32 {
		kind, err := dir.Text("trip_point_" + itoa(i) + "_type")
		if err != nil {
			break
		}
		t, err := dir.Int("trip_point_" + itoa(i) + "_temp")
		at := float64(t) / 1000
		if err != nil || at <= 0 || at > maxCelsius { // a trip that is switched off
			continue
		}
		switch kind {
		case "passive", "hot":
			if math.IsNaN(l.HighWarn) || at < l.HighWarn {
				l.HighWarn = at
			}
		case "critical":
			l.HighCrit = at
		}
		if v >= at {
			reached = max(reached, tripRank[kind])
		}
	}
	b.limited(d, hwhealth.Temperature, v, l)
	b.put(d, hwhealth.ThermalTrip, reached)
}

func readCooling(b *batch, d hwhealth.Device, dir sysfs.Dir) {
	cur, err := dir.Int("cur_state")
	if err != nil {
		if !sysfs.Absent(err) {
			b.missing(d, hwhealth.CoolingState, "%v", err)
		}
		return
	}
	most, err := dir.Int("max_state")
	switch {
	case err != nil:
		b.missing(d, hwhealth.CoolingState, "%v", err)
	case most <= 0 || cur < 0 || cur > most: // intel_powerclamp shows -1 while idle
		b.missing(d, hwhealth.CoolingState, "state %d of %d means nothing", cur, most)
	default:
		b.put(d, hwhealth.CoolingState, float64(cur)/float64(most))
	}
}

// throttle reads how often and how long processors were throttled. Of each
// package it tells one total: the longest time of a core or of the package,
// and the sum of the counts.
type throttle struct{ roots Roots }

func (t *throttle) read(_ context.Context, now time.Time) []hwhealth.Sample {
	b := newBatch("throttle", now)
	root := t.roots.sys("devices", "system", "cpu")
	names, err := root.List()
	if err != nil {
		b.missing(hwhealth.Device{Class: hwhealth.ClassThermal, Serial: "package0"}, hwhealth.ThrottleCount, "%v", err)
		return b.out
	}
	type total struct {
		count, ms float64
		timed     bool
		packaged  bool
		err       error
	}
	totals := map[string]*total{}
	var order []string
	for _, cpu := range names {
		if kind, _, rest, ok := sysfs.Index(cpu); !ok || kind != "cpu" || rest != "" {
			continue
		}
		dir := root.Sub(cpu, "thermal_throttle")
		core, err := dir.Uint("core_throttle_count")
		if sysfs.Absent(err) {
			continue
		}
		pkg, perr := root.Text(cpu, "topology", "physical_package_id")
		if perr != nil || pkg == "" {
			pkg = "0"
		}
		p := totals[pkg]
		if p == nil {
			p = &total{}
			totals[pkg] = p
			order = append(order, pkg)
		}
		if err != nil {
			p.err = err
			continue
		}
		p.count += float64(core)
		if v, err := dir.Uint("core_throttle_total_time_ms"); err == nil {
			p.ms, p.timed = max(p.ms, float64(v)), true
		}
		if !p.packaged { // every processor shows its package's figures
			p.packaged = true
			if v, err := dir.Uint("package_throttle_count"); err == nil {
				p.count += float64(v)
			}
			if v, err := dir.Uint("package_throttle_total_time_ms"); err == nil {
				p.ms, p.timed = max(p.ms, float64(v)), true
			}
		}
	}
	for _, pkg := range order {
		p := totals[pkg]
		d := hwhealth.Device{Class: hwhealth.ClassThermal, Serial: "package" + printable(pkg), Name: "processor " + printable(pkg)}
		if p.err != nil {
			b.missing(d, hwhealth.ThrottleCount, "%v", p.err)
			continue
		}
		b.put(d, hwhealth.ThrottleCount, p.count)
		if p.timed {
			b.put(d, hwhealth.ThrottleTime, p.ms)
		}
	}
	if len(order) == 0 {
		b.missing(hwhealth.Device{Class: hwhealth.ClassThermal, Serial: "package0"}, hwhealth.ThrottleCount, "the processor tells no throttling")
	}
	return b.out
}
