package ipmi

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
)

const sample = "../../../../shared/hwhealth/data/ipmi_sample/ipmi_10min.tar.gz"

var at = time.Unix(1700000000, 0)

// readings returns each server's lists, one per reading.
func readings(t *testing.T) map[string][]string {
	t.Helper()
	file, err := os.Open(sample)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("missing capability: field data ipmi_sample (see docs/health.md)")
	}
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	gz, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	tr := tar.NewReader(gz)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(h.Name, ".txt") {
			continue
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(h.Name[strings.LastIndex(h.Name, "/")+1:], ".txt")
		for _, part := range strings.Split(string(b), "Timestamp:")[1:] {
			_, list, _ := strings.Cut(part, "\n")
			out[name] = append(out[name], list)
		}
	}
}

func TestServers(t *testing.T) {
	type tally struct{ lists, off, unknown, fanAlarms, rails, temps int }
	got := map[string]tally{}
	battery := 10.0
	for name, lists := range readings(t) {
		n := tally{lists: len(lists)}
		for _, list := range lists {
			sensors, _, err := Parse(list)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			on, known := HostOn(sensors)
			if !known {
				n.unknown++
			} else if !on {
				n.off++
			}
			for _, s := range Samples(sensors, "machine", at) {
				if err := s.Check(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				switch {
				case s.Signal == hwhealth.FanAlarm && s.Value == 1:
					n.fanAlarms++
				case s.Signal == hwhealth.PowerRail:
					n.rails++
				case s.Signal == hwhealth.Temperature:
					n.temps++
				case s.Signal == hwhealth.PowerCMOS && name == "holy7c20310":
					battery = min(battery, s.Value)
				}
			}
		}
		got[name] = n
		t.Logf("%s: %+v", name, n)
	}
	// The fans of a machine that is off stand still and are "critical".
	if g := got["holygpu2c0711"]; g.off == 0 || g.fanAlarms != 0 || g.off+g.unknown != g.lists {
		t.Errorf("holygpu2c0711 is off: %+v, want every list off and no alarm", g)
	}
	if g := got["lichtmandce03"]; g.off != 0 || g.fanAlarms != 0 || g.temps < g.lists || g.rails < g.lists {
		t.Errorf("lichtmandce03 is running well: %+v", g)
	}
	if battery > 2 {
		t.Errorf("lowest clock battery of holy7c20310 is %v V, want 1.98", battery)
	}
}

func TestElist(t *testing.T) {
	sensors, others, err := Parse(`Ambient Temp     | 30h | ok  | 12.1 | 24 degrees C
CPU 1 Temp       | 31h | ok  |  3.1 | 255 degrees C
Fan 1 Tach       | 40h | cr  | 29.1 | 0 RPM
Fan 2 Tach       | 41h | ok  | 29.2 | 65535 RPM
Power Supply 1   | 70h | ok  | 10.1 | Presence detected
Power Supply 2   | 71h | ok  | 10.2 | Presence detected, Power Supply AC lost
SysBrd 12V       | 50h | nc  |  7.1 | 11.30 Volts
Get Device ID command failed
`)
	if err != nil || len(sensors) != 7 || len(others) != 1 {
		t.Fatalf("%d sensors, %d other lines, %v", len(sensors), len(others), err)
	}
	got := map[string]hwhealth.Sample{}
	for _, s := range Samples(sensors, "machine", at) {
		got[s.Device.Name+" "+string(s.Signal)] = s
	}
	for k, v := range map[string]float64{"Ambient Temp thermal.temperature": 24, "Fan 1 Tach fan.speed": 0, "Fan 1 Tach fan.alarm": 1,
		"Power Supply 1 power.ok": 1, "Power Supply 2 power.ok": 0, "SysBrd 12V power.rail": 11.3, "SysBrd 12V power.alarm": 1,
		"SysBrd 12V power.crit_alarm": 0, " host.powered": 1} {
		if s, ok := got[k]; !ok || s.Missing || s.Value != v {
			t.Errorf("%s is %+v, want %v", k, s, v)
		}
	}
	for _, k := range []string{"CPU 1 Temp thermal.temperature", "Fan 2 Tach fan.speed"} {
		if !got[k].Missing {
			t.Errorf("%s is %+v, want missing: it cannot be true", k, got[k])
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("Fan 1A Tach | 0 RPM | cr\nCPU 1 Temp | no reading | ns\n")
	f.Add("PSU1 | 70h | ok | 10.1 | Failure detected\nX | NaN Volts | ok\n")
	f.Fuzz(func(t *testing.T, s string) {
		sensors, _, err := Parse(s)
		if err != nil {
			return
		}
		for _, x := range Samples(sensors, "machine", at) {
			if err := x.Check(); err != nil {
				t.Error(err)
			}
		}
	})
}
