package collect

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/hwhealth/collect/module"
	"github.com/shadowcast/shadowcast/hwhealth/collect/smart"
)

// roots is an empty tree.
func roots(t testing.TB) Roots {
	dir := scratch(t)
	return Roots{Sys: filepath.Join(dir, "sys"), Proc: filepath.Join(dir, "proc"), Dev: filepath.Join(dir, "dev")}
}

// nvmeTree shows one NVMe drive, nvme0, with serial S1.
func nvmeTree(t testing.TB, r Roots) {
	write(t, filepath.Join(r.Sys, "class/nvme/nvme0/serial"), "S1  \n")
	write(t, filepath.Join(r.Sys, "class/nvme/nvme0/model"), "ACME 1\n")
	write(t, filepath.Join(r.Sys, "block/nvme0n1/stat"), "0 0 0 0 0 0 0 0 0 0 0\n")
}

func TestInterfaces(t *testing.T) {
	r := roots(t)
	net := filepath.Join(r.Sys, "class/net")
	for name, f := range map[string]map[string]string{
		"eth0": {"flags": "0x1003", "carrier": "1", "address": "02:00:00:00:00:0b", "addr_assign_type": "3", "bonding_slave/perm_hwaddr": "02:00:00:00:00:01",
			"carrier_down_count": "3", "statistics/rx_crc_errors": "18446744073709551615", "statistics/rx_packets": "5",
			"statistics/rx_missed_errors": "1", "statistics/rx_fifo_errors": "2", "queues/tx-0/tx_timeout": "1", "queues/tx-1/tx_timeout": "2", "speed": "25000"},
		"eth1": {"flags": "0x1002", "address": "02:00:00:00:00:02", "addr_assign_type": "0", "carrier_changes": "9", "speed": "-1"},
		"lo":   {"flags": "0x9", "carrier": "1", "address": "00:00:00:00:00:00"},
	} {
		for file, v := range f {
			write(t, filepath.Join(net, name, file), v+"\n")
		}
		if name != "lo" {
			link(t, "../../../devices/pci0000:00/0000:03:00."+name[3:], filepath.Join(net, name, "device"))
		}
	}
	write(t, filepath.Join(net, "bond0/bonding/mode"), "802.3ad 4\n")
	link(t, "../bond0", filepath.Join(net, "eth0/master"))
	n := &nics{roots: r, uplinks: []string{"eth0", "eth9"}}
	got := check(t, n.read(context.Background(), at))
	want(t, got, map[string]float64{
		"link/02:00:00:00:00:01 link.carrier": 1, "link/02:00:00:00:00:01 link.uplink": 1, "link/02:00:00:00:00:01 link.downs": 3,
		"link/02:00:00:00:00:01 link.rx_crc_errors": 18446744073709551615, "link/02:00:00:00:00:01 link.rx_missed": 3,
		"link/02:00:00:00:00:01 link.tx_timeouts": 3, "link/02:00:00:00:00:01 link.speed": 25000,
		"link/02:00:00:00:00:02 link.admin_up": 0, "link/02:00:00:00:00:02 link.carrier": 0, "link/02:00:00:00:00:02 link.downs": 4,
	})
	wantMissing(t, got, map[string]string{"link/eth9 link.carrier": "does not exist"})
	if d := got["link/02:00:00:00:00:01 link.carrier"].Device; d.Redundant != "bond:bond0" || d.Name != "eth0" {
		t.Errorf("eth0 is %+v, want part of bond0", d)
	}
	for k := range got {
		if strings.Contains(k, "link/lo ") || k == "link/02:00:00:00:00:02 link.speed" {
			t.Errorf("%s is told", k)
		}
	}
}

func TestPCISlot(t *testing.T) {
	r := roots(t)
	nvmeTree(t, r)
	dev := filepath.Join(r.Sys, "class/nvme/nvme0/device")
	for f, v := range map[string]string{"vendor": "0x144d", "config": "\x4d\x14\x02\xa8", "current_link_width": "2", "max_link_width": "4",
		"current_link_speed": "8.0 GT/s PCIe", "max_link_speed": "16.0 GT/s PCIe", "aer_dev_correctable": "RxErr 3\nTOTAL_ERR_COR 7\n",
		"aer_dev_nonfatal": "TOTAL_ERR_NONFATAL -1\n", "power/runtime_status": "active"} {
		write(t, filepath.Join(dev, f), v)
	}
	p := &pcie{nics: &nics{roots: r}, disks: NewDisks(r)}
	write(t, filepath.Join(r.Sys, "class/net/bonding_masters"), "\n")
	got := check(t, p.read(context.Background(), at))
	want(t, got, map[string]float64{"nvme/S1 pcie.width": 2, "nvme/S1 pcie.width_max": 4, "nvme/S1 pcie.speed": 8, "nvme/S1 pcie.speed_max": 16, "nvme/S1 pcie.aer_correctable": 7})
	wantMissing(t, got, map[string]string{"nvme/S1 pcie.aer_nonfatal": "no counter"})
	write(t, filepath.Join(dev, "config"), "\xff\xff\xff\xff")
	want(t, check(t, p.read(context.Background(), at)), map[string]float64{"nvme/S1 gone": 1})
	write(t, filepath.Join(dev, "power/runtime_status"), "suspended\n")
	if _, gone := check(t, p.read(context.Background(), at))["nvme/S1 gone"]; gone {
		t.Error("a suspended drive counts as gone")
	}
}

// smartctl that hangs is killed with its children; one that is not there is
// said for every drive.
func TestSmartctl(t *testing.T) {
	r := roots(t)
	nvmeTree(t, r)
	pidFile := filepath.Join(t.TempDir(), "child")
	script := filepath.Join(t.TempDir(), "smartctl")
	write(t, script, "#!/bin/sh\nsleep 600 & echo $! > "+pidFile+"\nwait\n")
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	d := &drives{disks: NewDisks(r), binary: script, limit: 300 * time.Millisecond}
	wantMissing(t, check(t, d.read(context.Background(), at)), map[string]string{"nvme/S1 disk.smart_passed": "killed after 300ms"})
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for alive(strings.TrimSpace(string(b))) {
		if time.Now().After(deadline) {
			t.Fatalf("child %s of the killed smartctl lives on", b)
		}
		time.Sleep(10 * time.Millisecond)
	}
	d.binary = filepath.Join(t.TempDir(), "smartctl-is-not-here")
	wantMissing(t, check(t, d.read(context.Background(), at)), map[string]string{"nvme/S1 disk.smart_passed": "no such file"})
	t.Setenv("PATH", t.TempDir())
	d.binary = ""
	wantMissing(t, check(t, d.read(context.Background(), at)), map[string]string{"nvme/S1 disk.smart_passed": "smartmontools"})
}

// alive reports whether a process runs and is no zombie.
func alive(pid string) bool {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	return err == nil && !strings.Contains(string(b), ") Z ")
}

func TestSmartDocuments(t *testing.T) {
	r := roots(t)
	nvmeTree(t, r)
	dir := t.TempDir()
	doc := `{"json_format_version":[1,0],"smartctl":{"exit_status":0},"device":{"protocol":"NVMe"},"serial_number":"S1","model_name":"ACME 1",
		"smart_status":{"passed":true},"temperature":{"current":41},
		"nvme_smart_health_information_log":{"critical_warning":2,"available_spare":100,"percentage_used":3,"media_errors":5}}`
	write(t, filepath.Join(dir, "nvme0.json"), doc)
	write(t, filepath.Join(dir, "sda.json"), doc[:60])
	write(t, filepath.Join(dir, "README"), "no document")
	now := time.Now()
	d := &drives{disks: NewDisks(r), dir: dir}
	got := check(t, d.read(context.Background(), now))
	want(t, got, map[string]float64{"nvme/S1 nvme.critical_warning": 2, "nvme/S1 nvme.media_errors": 5, "nvme/S1 disk.temperature": 41})
	wantMissing(t, got, map[string]string{"disk/sda disk.smart_passed": "smartctl document"})
	wantMissing(t, check(t, d.read(context.Background(), now.Add(2*staleDocument))), map[string]string{"nvme/S1 disk.smart_passed": "old"})
	if err := os.Remove(filepath.Join(dir, "nvme0.json")); err != nil {
		t.Fatal(err)
	}
	want(t, check(t, d.read(context.Background(), now)), map[string]float64{"nvme/S1 gone": 1})
}

func TestNVMeLog(t *testing.T) {
	r := roots(t)
	nvmeTree(t, r)
	n := &nvmeLogs{disks: NewDisks(r), get: func(path string, page []byte) error {
		if path != filepath.Join(r.Dev, "nvme0") || len(page) != smart.LogSize {
			t.Errorf("asked %s for %d octets", path, len(page))
		}
		page[0], page[3], page[4] = 1, 5, 10
		return nil
	}}
	want(t, check(t, n.read(context.Background(), at)), map[string]float64{"nvme/S1 nvme.critical_warning": 1, "nvme/S1 nvme.available_spare": 5})
	n.get = nvmeHealthLog // the device node does not exist
	wantMissing(t, check(t, n.read(context.Background(), at)), map[string]string{"nvme/S1 nvme.critical_warning": "no such file"})
	if err := os.RemoveAll(filepath.Join(r.Sys, "class/nvme/nvme0")); err != nil {
		t.Fatal(err)
	}
	want(t, check(t, n.read(context.Background(), at)), map[string]float64{"nvme/S1 gone": 1})
}

// Whatever counters do, a wait is a number that their growth can explain.
func TestAwait(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := rapid.OneOf(rapid.Uint64Range(0, 1000), rapid.Uint64(), rapid.Just(^uint64(0)))
		prev := BlockStat{Ops: c.Draw(t, "ops"), Millis: c.Draw(t, "ms")}
		next := BlockStat{Ops: c.Draw(t, "ops'"), Millis: c.Draw(t, "ms'")}
		ms, ok := next.Await(prev)
		grew := next.Ops > prev.Ops && next.Millis >= prev.Millis
		if ok != grew {
			t.Fatalf("%+v to %+v: ok is %v", prev, next, ok)
		}
		if ok && (ms < 0 || ms > float64(next.Millis)) {
			t.Fatalf("%+v to %+v: %v ms", prev, next, ms)
		}
	})
	r := roots(t)
	nvmeTree(t, r)
	l := &latency{disks: NewDisks(r)}
	stat := filepath.Join(r.Sys, "block/nvme0n1/stat")
	l.read(context.Background(), at)
	write(t, stat, "10 0 80 50 10 0 80 150 0 0 0 0 0 0 0 5 50\n")
	want(t, check(t, l.read(context.Background(), at)), map[string]float64{"nvme/S1 disk.await": 10})
	write(t, stat, "1 0 8 5 1 0 8 5 0 0 0 0 0 0 0 0 0\n") // the driver was loaded again
	if got := check(t, l.read(context.Background(), at)); len(got) != 0 {
		t.Errorf("a restart of the counters gave %v", got)
	}
	write(t, stat, "1 0 8 x 1 0 8 5 0 0 0\n")
	wantMissing(t, check(t, l.read(context.Background(), at)), map[string]string{"nvme/S1 disk.await": "figure 4"})
}

func TestSyncProbe(t *testing.T) {
	dir := t.TempDir()
	p := &syncProbe{dir: dir, disks: NewDisks(roots(t))}
	got := check(t, p.read(context.Background(), time.Now()))["disk/state_dir disk.fsync_p99"]
	if got.Missing || got.Value <= 0 {
		t.Errorf("the probe says %+v", got)
	}
	if st, err := os.Stat(filepath.Join(dir, probeFile)); err != nil || st.Size() != probeBlock {
		t.Errorf("the probe's file: %v, %v", st, err)
	}
	hung := time.Now().Add(-40 * time.Second)
	p.busy.Store(&hung)
	if got := check(t, p.read(context.Background(), hung.Add(40*time.Second)))["disk/state_dir disk.fsync_p99"]; got.Value != 40000 {
		t.Errorf("a probe that hangs for 40 s is %v ms", got.Value)
	}
	p = &syncProbe{dir: filepath.Join(dir, "gone"), disks: p.disks}
	wantMissing(t, check(t, p.read(context.Background(), time.Now())), map[string]string{"disk/state_dir disk.fsync_p99": "no such file"})
}

func TestClock(t *testing.T) {
	status, offset, passed := int32(staNano), int64(2_500_000), time.Minute
	c := &clock{adjtimex: func(tx *unix.Timex) (int, error) { tx.Status, tx.Offset = status, offset; return 0, nil },
		since: func(time.Time) time.Duration { return passed }}
	want(t, check(t, c.read(context.Background(), at)), map[string]float64{"host/machine host.clock_synchronised": 1, "host/machine host.clock_offset": 2.5})
	got := check(t, c.read(context.Background(), at.Add(time.Minute-time.Hour))) // set back by an hour
	want(t, got, map[string]float64{"host/machine host.clock_jump": -3600})
	status = staUnsync
	got = check(t, c.read(context.Background(), at.Add(2*time.Minute-time.Hour)))
	want(t, got, map[string]float64{"host/machine host.clock_synchronised": 0})
	if _, ok := got["host/machine host.clock_jump"]; ok {
		t.Error("a minute that passed is a jump")
	}
	c.adjtimex = func(*unix.Timex) (int, error) { return 0, errors.New("not permitted") }
	wantMissing(t, check(t, c.read(context.Background(), at)), map[string]string{"host/machine host.clock_synchronised": "not permitted"})
}

func TestThrottleAndProcessors(t *testing.T) {
	r := roots(t)
	cpu := filepath.Join(r.Sys, "devices/system/cpu")
	for n, pkg := range []string{"0", "0", "1"} {
		dir := filepath.Join(cpu, "cpu"+itoa(n))
		write(t, filepath.Join(dir, "topology/physical_package_id"), pkg)
		for f, v := range map[string]string{"core_throttle_count": "5", "package_throttle_count": "7", "core_throttle_total_time_ms": itoa(100 * n), "package_throttle_total_time_ms": "20"} {
			write(t, filepath.Join(dir, "thermal_throttle", f), v)
		}
	}
	want(t, check(t, (&throttle{r}).read(context.Background(), at)), map[string]float64{
		"thermal/package0 thermal.throttle_count": 17, "thermal/package0 thermal.throttle_time": 100,
		"thermal/package1 thermal.throttle_count": 12, "thermal/package1 thermal.throttle_time": 200})
	p := &processors{roots: r}
	write(t, filepath.Join(cpu, "online"), "0-3\n")
	write(t, filepath.Join(r.Proc, "interrupts"), "           CPU0       CPU1\n THR:          4          1   Threshold APIC interrupts\n MCE:          0          0   Machine check exceptions\n")
	want(t, check(t, p.read(context.Background(), at)), map[string]float64{"cpu/machine cpu.mce_corrected": 5, "cpu/machine cpu.offline": 0})
	write(t, filepath.Join(cpu, "online"), "0,2-3\n")
	write(t, filepath.Join(r.Proc, "interrupts"), " THR:          4          9   Threshold APIC interrupts\n MCE:          0          1   Machine check exceptions\n")
	want(t, check(t, p.read(context.Background(), at)), map[string]float64{"cpu/machine cpu.mce_corrected": 13, "cpu/machine cpu.offline": 1, "cpu/machine cpu.mce_uncorrected": 1})
}

func TestOpticOfTheSFPDriver(t *testing.T) {
	r := roots(t)
	chip := filepath.Join(r.Sys, "class/hwmon/hwmon0")
	for f, v := range map[string]string{"name": "sfp_eth0", "temp1_input": "41000", "temp1_crit": "78000", "in0_input": "3300", "curr1_input": "36",
		"curr1_label": "bias", "power1_input": "501", "power1_label": "TX_power", "power2_input": "316", "power2_label": "RX_power", "power2_lcrit": "10", "power2_min": "50"} {
		write(t, filepath.Join(chip, f), v+"\n")
	}
	sources, _ := Machine(Config{Roots: r, StateDir: t.TempDir()})
	var all []hwhealth.Sample
	for _, s := range sources {
		if strings.HasPrefix(s.Name, "hwmon") {
			all = append(all, s.Read(context.Background(), at)...)
		}
	}
	got := check(t, all)
	for k, v := range map[string]float64{"optic.rx_power": -5, "optic.tx_power": -3, "optic.bias": 36, "optic.temperature": 41, "optic.voltage": 3.3} {
		s := got["optic/sfp_eth0@hwmon0 "+k]
		if s.Value < v-.01 || s.Value > v+.01 || s.Missing {
			t.Errorf("%s is %+v, want %v", k, s, v)
		}
	}
	if l := got["optic/sfp_eth0@hwmon0 optic.rx_power"].Limits; l.LowCrit > -19.9 || l.LowCrit < -20.1 {
		t.Errorf("low alarm of the received power is %v dBm, want -20", l.LowCrit)
	}
}

func TestModuleSamples(t *testing.T) {
	b := newBatch("module", at)
	putModule(b, hwhealth.Device{Class: hwhealth.ClassOptic, Serial: "in eth0", Name: "eth0"}, &module.Module{Serial: "UK1", Part: "LR", Diagnostics: true,
		Temperature: module.Reading{Value: -128, Limits: hwhealth.NoLimits()}, Voltage: module.Reading{Value: 3.3, Limits: hwhealth.NoLimits()}})
	got := check(t, b.out)
	want(t, got, map[string]float64{"optic/UK1 optic.voltage": 3.3})
	wantMissing(t, got, map[string]string{"optic/UK1 optic.temperature": "cannot be true"})
}

func TestPaths(t *testing.T) {
	p := &paths{list: func() []Path {
		return []Path{
			{Name: "fra", Measured: true, Loss: .02, RTT: 12 * time.Millisecond, Jitter: time.Millisecond, Complains: true},
			{Name: "lhr"}, {Name: "odd", Measured: true, Loss: 7}, {Name: "r1", Router: true, BGPFlaps: 3, BFDFlaps: 2}}
	}}
	got := check(t, p.read(context.Background(), at))
	want(t, got, map[string]float64{"path/appliance:fra path.loss": .02, "path/appliance:fra path.rtt": 12, "path/appliance:fra path.jitter": 1,
		"path/router:r1 path.bgp_flaps": 3, "path/router:r1 path.bfd_flaps": 2, "path/self path.complaint": 1.0 / 3})
	wantMissing(t, got, map[string]string{"path/appliance:lhr path.loss": "not answered", "path/appliance:odd path.loss": "cannot be true"})
}
