package collect

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// supplyTree writes files NAME/FILE below the power supply class.
func supplyTree(t *testing.T, files map[string]string) Roots {
	t.Helper()
	r := roots(t)
	for name, text := range files {
		write(t, filepath.Join(r.Sys, "class/power_supply", name), text+"\n")
	}
	return r
}

func TestSupplies(t *testing.T) {
	read := func(files map[string]string) map[string]hwhealth.Sample {
		return check(t, (&supplies{supplyTree(t, files)}).read(context.Background(), at))
	}
	got := read(map[string]string{
		"AC0/type": "Mains", "AC0/online": "1", "AC1/type": "Mains", "AC1/online": "0",
		"mouse/type": "Battery", "mouse/scope": "Device", "mouse/status": "Discharging", "mouse/capacity": "3",
		"usb/type": "USB", "usb/online": "0",
	})
	want(t, got, map[string]float64{"power/power_supply/AC0 power.ok": 1, "power/power_supply/AC1 power.ok": 0})
	if len(got) != 2 {
		t.Errorf("told are %v", names(got))
	}
	if d := got["power/power_supply/AC1 power.ok"].Device; d.Redundant == "" {
		t.Error("one of two supplies stands alone")
	}
	got = read(map[string]string{
		"AC/type": "Mains", "AC/online": "0", // what the batteries say counts
		"ups/type": "UPS", "ups/status": "Discharging", "ups/time_to_empty_now": "240", "ups/capacity": "55", "ups/serial_number": "A7",
		"old/type": "Battery", "old/status": "Full", "old/capacity": "100",
		"bay/type": "Battery", "bay/present": "0", "bay/status": "Discharging",
	})
	want(t, got, map[string]float64{"power/battery/A7 power.on_battery": 1, "power/battery/A7 power.hold_up": 4,
		"power/battery/old power.on_battery": 0, "power/battery/old power.charge": 100})
	if len(got) != 4 {
		t.Errorf("told are %v", names(got))
	}
	got = read(map[string]string{
		"AC/type": "Mains", "AC/online": "7",
		"DC/type": "Mains", "DC/online": "x",
	})
	wantMissing(t, got, map[string]string{"power/power_supply/AC power.ok": "online 7", "power/power_supply/DC power.ok": "DC"})
	got = read(map[string]string{"ups/type": "UPS", "ups/status": "Unknown", "ups/time_to_empty_now": "-1", "ups/capacity": "250"})
	wantMissing(t, got, map[string]string{"power/battery/ups power.on_battery": "Unknown", "power/battery/ups power.charge": "250%"})
}

// A machine on a battery that ends passes the hard limit, one that has time left
// does not; both are at risk.
func TestBatteryNearItsEndIsALimit(t *testing.T) {
	for _, c := range []struct {
		file, left string
		limit      string
	}{{"time_to_empty_now", "3600", ""}, {"time_to_empty_avg", "300", "P1.hold-up"}, {"capacity", "60", ""}, {"capacity", "10", "P1.charge"}} {
		src := &supplies{supplyTree(t, map[string]string{"ups/type": "UPS", "ups/status": "Discharging", "ups/" + c.file: c.left})}
		p := hwhealth.New()
		now := at
		for range 8 {
			for _, s := range src.read(context.Background(), now) {
				p.Observe(s, now)
			}
			now = now.Add(everyFan)
		}
		a := p.Assess(now)
		got := ""
		for _, l := range a.Limits {
			got += l.Limit
		}
		if got != c.limit || a.R1h < .19 {
			t.Errorf("%s %s: limit %q, want %q; R1h %.3f", c.file, c.left, got, c.limit, a.R1h)
		}
	}
}
