package collect

import (
	"context"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// A server of which there is much to read.
const (
	benchCPUs, benchChips, benchNICs, benchDisks, benchDIMMs = 64, 8, 4, 12, 24
)

// serverTree makes a two-socket server with ECC memory, four interfaces,
// twelve drives and 64 processors that report throttling.
func serverTree(b *testing.B) Roots {
	r := roots(b)
	sys := func(format string, args ...any) func(map[string]string) {
		dir := filepath.Join(r.Sys, fmt.Sprintf(format, args...))
		return func(files map[string]string) {
			for f, v := range files {
				write(b, filepath.Join(dir, f), v+"\n")
			}
		}
	}
	for i := range benchCPUs {
		sys("devices/system/cpu/cpu%d", i)(map[string]string{"topology/physical_package_id": itoa(i / 32), "thermal_throttle/core_throttle_count": "0",
			"thermal_throttle/core_throttle_total_time_ms": "0", "thermal_throttle/package_throttle_count": "0", "thermal_throttle/package_throttle_total_time_ms": "0"})
	}
	sys("devices/system/cpu")(map[string]string{"online": "0-63"})
	for c := range benchChips {
		chip := sys("class/hwmon/hwmon%d", c)
		files := map[string]string{"name": "chip" + itoa(c)}
		for i := 1; i <= 10; i++ {
			for f, v := range map[string]string{"input": "45000", "max": "80000", "crit": "95000", "crit_alarm": "0"} {
				files[fmt.Sprintf("temp%d_%s", i, f)] = v
			}
		}
		for i := 1; i <= 3; i++ {
			for f, v := range map[string]string{"input": "6000", "min": "500", "alarm": "0"} {
				files[fmt.Sprintf("fan%d_%s", i, f)] = v
			}
			for f, v := range map[string]string{"input": "12000", "min": "11400", "max": "12600", "alarm": "0"} {
				files[fmt.Sprintf("in%d_%s", i, f)] = v
			}
		}
		chip(files)
		sys("class/thermal/thermal_zone%d", c)(map[string]string{"type": "x86_pkg_temp", "temp": "45000", "trip_point_0_type": "critical", "trip_point_0_temp": "100000"})
	}
	for i := range benchNICs {
		nic := sys("class/net/eth%d", i)
		nic(map[string]string{"flags": "0x1003", "carrier": "1", "address": fmt.Sprintf("02:00:00:00:00:%02x", i+1), "addr_assign_type": "0", "carrier_down_count": "1",
			"statistics/rx_packets": "1", "statistics/rx_crc_errors": "0", "statistics/rx_missed_errors": "0", "statistics/rx_fifo_errors": "0", "statistics/rx_over_errors": "0",
			"speed": "25000", "device/vendor": "0x15b3", "device/current_link_width": "16", "device/max_link_width": "16", "device/current_link_speed": "8.0 GT/s PCIe",
			"device/max_link_speed": "8.0 GT/s PCIe", "device/aer_dev_correctable": "TOTAL_ERR_COR 0", "device/aer_dev_nonfatal": "TOTAL_ERR_NONFATAL 0", "device/aer_dev_fatal": "TOTAL_ERR_FATAL 0"})
		for q := range 32 {
			nic(map[string]string{fmt.Sprintf("queues/tx-%d/tx_timeout", q): "0"})
		}
	}
	for i := range benchDisks {
		sys("block/sd%c", 'a'+i)(map[string]string{"stat": "10 0 80 50 10 0 80 150 0 0 0 0 0 0 0 5 50", "device/model": "ST12000", "device/wwid": "naa." + itoa(i)})
	}
	for i := range benchDIMMs {
		sys("devices/system/edac/mc/mc%d/dimm%d", i/6, i%6)(map[string]string{"dimm_ce_count": "0", "dimm_ue_count": "0", "dimm_label": "D" + itoa(i)})
	}
	write(b, filepath.Join(r.Proc, "meminfo"), "MemTotal: 1 kB\nHardwareCorrupted:     0 kB\n")
	row := ""
	for range benchCPUs {
		row += " 0"
	}
	write(b, filepath.Join(r.Proc, "interrupts"), " THR:"+row+" Threshold APIC interrupts\n MCE:"+row+" Machine check exceptions\n")
	for _, p := range []string{"cpu", "memory", "io"} {
		write(b, filepath.Join(r.Proc, "pressure", p), "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
	}
	return r
}

// cpuTime is what this process and those it waited for have used.
func cpuTime(b *testing.B) time.Duration {
	var sum time.Duration
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum
}

// BenchmarkCollectors prints what all collectors together cost at their
// default intervals, as a share of one core. The file readers see a large
// server in memory; netlink, the clock, the probe and the runs of smartctl are
// those of this machine.
func BenchmarkCollectors(b *testing.B) {
	tree := serverTree(b)
	sources, _ := Machine(Config{Roots: tree, StateDir: b.TempDir(), Uplinks: []string{"eth0"}, Paths: func() []Path { return make([]Path, 16) }})
	real, _ := Machine(Config{Roots: RealRoots(), StateDir: b.TempDir()})
	for _, s := range real {
		switch s.Name {
		case "ethtool", "module", "nvme", "adjtimex":
			sources = append(sources, s)
		}
	}
	const rounds = 5
	var share float64
	lines := ""
	for b.Loop() {
		share, lines = 0, ""
		for _, s := range sources {
			s.Read(context.Background(), time.Now()) // lists are kept, names looked up
			n := rounds
			if s.Every >= everySMART {
				n = 1
			}
			before := cpuTime(b)
			for range n {
				s.Read(context.Background(), time.Now())
			}
			cost := (cpuTime(b) - before) / time.Duration(n)
			part := cost.Seconds() / s.Every.Seconds()
			share += part
			lines += fmt.Sprintf("%-18s %9s every %-6s %7.4f %%\n", s.Name, cost.Round(time.Microsecond), s.Every, 100*part)
		}
	}
	b.ReportMetric(100*share, "%core")
	b.ReportMetric(0, "ns/op")
	b.Logf("%s\nall collectors: %.3f %% of one core", lines, 100*share)
}
