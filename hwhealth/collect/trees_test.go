package collect

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// files are the sources that only read files: no program, no own probe.
func files(t testing.TB, r Roots) []Source {
	t.Helper()
	sources, _ := Machine(Config{Roots: r, StateDir: t.TempDir(), Uplinks: []string{"eth0"}})
	var out []Source
	for _, s := range sources {
		if s.Name != "smartctl" && s.Name != "fsync-probe" {
			out = append(out, s)
		}
	}
	return out
}

func readAll(t testing.TB, sources []Source, now time.Time) map[string]hwhealth.Sample {
	t.Helper()
	var all []hwhealth.Sample
	for _, s := range sources {
		all = append(all, s.Read(context.Background(), now)...)
	}
	return check(t, all)
}

func TestNodeExporterTree(t *testing.T) {
	got := readAll(t, files(t, tree(t, "node_exporter")), at)
	want(t, got, map[string]float64{
		"link/eth0 link.uplink":                                   1,
		"link/eth0 link.carrier":                                  1,
		"link/eth0 link.downs":                                    1,
		"link/eth0 link.speed":                                    1000,
		"thermal/coretemp@coretemp.0/temp1 thermal.temperature":   55,
		"thermal/coretemp@coretemp.1/temp5 thermal.crit_alarm":    0,
		"thermal/hwmon4/temp2 thermal.temperature":                54,
		"fan/applesmc@hwmon2/fan2 fan.speed":                      1998,
		"fan/nct6779@nct6775.656/fan2 fan.alarm":                  0,
		"power/nct6779@nct6775.656/in0 power.rail":                0.792,
		"power/battery/38109 power.on_battery":                    1,
		"power/battery/38109 power.charge":                        81,
		"thermal/cooling_device0:Processor thermal.cooling_state": 0,
		"thermal/thermal_zone0:cpu-thermal thermal.temperature":   12.376,
		"thermal/package0 thermal.throttle_count":                 35,
		"memory/mc0 memory.ce":                                    2,
		"memory/mc0 memory.ue":                                    6,
		"memory/mc0/csrow0 memory.ce":                             3,
		"memory/mc0/csrow2 memory.ue":                             5,
		"cpu/machine cpu.offline":                                 0,
		"host/machine host.softnet_drops":                         41,
		"host/machine host.softnet_squeezed":                      146,
	})
	l := got["thermal/coretemp@coretemp.0/temp1 thermal.temperature"].Limits
	if l.HighWarn != 84 || l.HighCrit != 100 {
		t.Errorf("limits of the processor are %+v, want 84 and 100", l)
	}
	if l := got["fan/applesmc@hwmon2/fan2 fan.speed"].Limits; l.LowCrit != 2000 {
		t.Errorf("the fan's minimum is %v, want 2000", l.LowCrit)
	}
	wantMissing(t, got, map[string]string{
		// The chip has an alarm on an input whose limits are 0: it means nothing.
		"power/nct6779@nct6775.656/in1 power.alarm": "without a limit",
		"cpu/machine cpu.mce_corrected":             "interrupts",
		"memory/machine memory.hardware_corrupted":  "meminfo",
	})
}

func TestProcfsTree(t *testing.T) {
	got := readAll(t, files(t, tree(t, "procfs")), at)
	want(t, got, map[string]float64{
		"link/0000:00:1f.6 link.carrier":                            1,
		"link/0000:00:1f.6 pcie.aer_correctable":                    9,
		"thermal/thermal_zone0:bcm2835_thermal thermal.temperature": 49.925,
		"memory/machine memory.hardware_corrupted":                  0,
		"host/machine host.pressure_cpu":                            0.02,
		"host/machine host.pressure_io":                             0.03,
		"host/machine host.softnet_drops":                           161088,
		"cpu/machine cpu.mce_corrected":                             0,
	})
	wantMissing(t, got, map[string]string{
		"thermal/all thermal.temperature":                                "hwmon",
		"memory/machine memory.ce":                                       "no memory controller",
		"link/0000:00:1f.6 pcie.aer_nonfatal":                            "TOTAL_ERR_NONFATAL",
		"thermal/cooling_device2:intel_powerclamp thermal.cooling_state": "-1 of 27",
	})
	d := NewDisks(tree(t, "procfs")).Lookup("nvme0n1p2")
	if d.Class != hwhealth.ClassNVMe || d.Name != "nvme0" || d.Serial == "nvme0" || d.Model == "" {
		t.Errorf("a partition of the fixture's NVMe drive is %+v, want its controller with model and serial", d)
	}
}

// An empty machine says what is missing, source by source, and is not healthy
// silence.
func TestNothingThere(t *testing.T) {
	dir := t.TempDir()
	sources, _ := Machine(Config{Roots: Roots{Sys: dir, Proc: dir, Dev: dir}, StateDir: filepath.Join(dir, "gone"), Uplinks: []string{"eth7"}})
	quiet := map[string]bool{
		"sysfs-pci":    true, // follows the interfaces, whose reader has said it
		"power-supply": true, // servers without a UPS have none
	}
	for _, s := range sources {
		missing, told := 0, s.Read(context.Background(), at)
		for _, x := range check(t, told) {
			if x.Missing {
				missing++
			}
		}
		if missing == 0 && !quiet[s.Name] {
			t.Errorf("source %s has nothing to read and says %v", s.Name, told)
		}
		if missing != len(told) {
			t.Errorf("source %s has nothing to read and tells values: %v", s.Name, told)
		}
	}
}

// Every file of the real trees, replaced by every kind of rubbish: nothing
// crashes, nothing that cannot be true goes through, and what is damaged is
// missing for a reason or not offered at all.
func TestCorruptedTrees(t *testing.T) {
	for _, which := range []string{"node_exporter", "procfs"} {
		r := tree(t, which)
		sources := files(t, r)
		if len(readAll(t, sources, at)) == 0 {
			t.Errorf("%s: the tree says nothing", which)
		}
		now := at
		for name, rubbish := range map[string]string{
			"garbage": "\x00\xff%s\n\x7f", "empty": "", "negative": "-1\n", "sensor -128": "-128000\n",
			"65535": "65535\n", "65535000": "65535000\n", "wrapped": "18446744073709551615\n", "overflow": "99999999999999999999999\n",
			"float": "1.5e300\n", "hex": "0x", "long": strings.Repeat("9 ", 4096),
		} {
			t.Run(which+"/"+name, func(t *testing.T) {
				for _, root := range []string{r.Sys, r.Proc} {
					overwrite(t, root, rubbish)
				}
				for range 2 {
					now = now.Add(2 * rescan)
					for k, s := range readAll(t, sources, now) {
						if s.Missing {
							continue
						}
						switch s.Signal {
						case hwhealth.Temperature:
							if s.Value < minCelsius || s.Value > maxCelsius {
								t.Errorf("%s is %v", k, s.Value)
							}
						case hwhealth.FanSpeed:
							if s.Value < 0 || s.Value > maxRPM {
								t.Errorf("%s is %v", k, s.Value)
							}
						case hwhealth.Gone:
							if s.Value == 1 && name != "garbage" && s.Device.Class != hwhealth.ClassThermal {
								t.Errorf("%s: the files are still there", k)
							}
						}
						if s.Unit == hwhealth.Flag && s.Value != 0 && s.Value != 1 || s.Unit == hwhealth.Ratio && (s.Value < 0 || s.Value > 1) {
							t.Errorf("%s is %v %s", k, s.Value, s.Unit)
						}
					}
				}
			})
		}
	}
}

// overwrite replaces the content of all files below root that name or identify
// nothing.
func overwrite(t *testing.T, root, content string) {
	t.Helper()
	keep := map[string]bool{"name": true, "type": true, "address": true, "addr_assign_type": true, "serial": true, "model": true,
		"physical_package_id": true, "perm_hwaddr": true}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || keep[d.Name()] || strings.HasSuffix(d.Name(), "_label") {
			return err
		}
		return os.WriteFile(path, []byte(content), 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Parts that vanish are told until they are back.
func TestVanish(t *testing.T) {
	r := tree(t, "node_exporter")
	sources := files(t, r)
	readAll(t, sources, at)
	chip := filepath.Join(r.Sys, "class/hwmon/hwmon0")
	target, err := os.Readlink(chip)
	if err != nil {
		t.Fatal(err)
	}
	dimm := filepath.Join(r.Sys, "devices/system/edac/mc/mc0/csrow1")
	nic := filepath.Join(r.Sys, "class/net/eth0")
	for _, p := range []string{chip, dimm, nic} {
		if err := os.Rename(p, p[:len(r.Sys)]+"/away-"+filepath.Base(p)); err != nil {
			t.Fatal(err)
		}
	}
	for i := 1; i <= 2; i++ {
		want(t, readAll(t, sources, at.Add(time.Duration(i)*rescan)), map[string]float64{
			"thermal/coretemp@coretemp.0/temp1 gone": 1, "memory/mc0/csrow1 gone": 1, "link/eth0 gone": 1,
		})
	}
	os.Remove(r.Sys + "/away-hwmon0")
	link(t, target, chip)
	for _, p := range []string{dimm, nic} {
		if err := os.Rename(p[:len(r.Sys)]+"/away-"+filepath.Base(p), p); err != nil {
			t.Fatal(err)
		}
	}
	got := readAll(t, sources, at.Add(3*rescan))
	want(t, got, map[string]float64{"thermal/coretemp@coretemp.0/temp1 gone": 0, "memory/mc0/csrow1 gone": 0, "link/eth0 gone": 0})
	for k := range readAll(t, sources, at.Add(4*rescan)) {
		if strings.HasSuffix(k, " gone") {
			t.Errorf("%s is told although all is there", k)
		}
	}
}

// A drive that is swapped between two readings is not missed, and the new one is
// known by its own serial number.
func TestSwappedDrive(t *testing.T) {
	r := roots(t)
	nvmeTree(t, r)
	n := &nvmeLogs{disks: NewDisks(r), get: func(string, []byte) error { return nil }}
	want(t, check(t, n.read(context.Background(), at)), map[string]float64{"nvme/S1 nvme.critical_warning": 0})
	write(t, filepath.Join(r.Sys, "class/nvme/nvme0/serial"), "S2\n")
	for range 2 {
		got := check(t, n.read(context.Background(), at))
		want(t, got, map[string]float64{"nvme/S2 nvme.critical_warning": 0})
		if _, gone := got["nvme/S1 gone"]; gone {
			t.Error("the drive that was replaced is missed")
		}
	}
}
