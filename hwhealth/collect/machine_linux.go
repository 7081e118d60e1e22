package collect

import (
	"time"

	"golang.org/x/sys/unix"
)

// Config says what is collected.
type Config struct {
	Roots   Roots
	Uplinks []string // interfaces that carry the VIP's traffic
	// StateDir is probed for latency and space. RunDir keeps the position in the
	// kernel log.
	StateDir, RunDir string
	// Smartctl is the program, "" for the one in PATH.
	Smartctl string
	// SmartDir holds documents of another agent instead: NAME.json.
	SmartDir string
	// Ipmitool is the program, "" for none.
	Ipmitool string
	// Speed divides all intervals, for tests and the lab; 0 means 1.
	Speed float64
	// Paths lists what is known of the ways to peers and routers; nil for none.
	Paths func() []Path
}

// Machine makes the sources and streams of a configuration.
func Machine(c Config) ([]Source, []Stream) {
	disks := NewDisks(c.Roots)
	links := &nics{roots: c.Roots, uplinks: c.Uplinks}
	temps := &chips{roots: c.Roots, source: "hwmon-temperature", kinds: map[string]bool{"temp": true}}
	fans := &chips{roots: c.Roots, source: "hwmon", kinds: map[string]bool{"fan": true, "in": true, "curr": true, "power": true}}
	smart := &drives{disks: disks, binary: c.Smartctl, dir: c.SmartDir, limit: perDrive}
	sources := []Source{
		{"sysfs-net", everyLink, quick, links.read},
		{"sysfs-pci", everyPCIe, quick, (&pcie{nics: links, disks: disks}).read},
		{"hwmon-temperature", everyTemperature, quick, temps.read},
		{"hwmon", everyFan, quick, fans.read},
		{"power-supply", everyFan, quick, (&supplies{c.Roots}).read},
		{"thermal", everyTemperature, quick, (&zones{roots: c.Roots}).read},
		{"throttle", everyThrottle, quick, (&throttle{c.Roots}).read},
		{"edac", everyMemory, quick, (&memory{roots: c.Roots}).read},
		{"mce", everySlow, quick, (&processors{roots: c.Roots}).read},
		{"procfs", everyPressure, quick, (&pressure{roots: c.Roots}).read},
		{"block-stat", everyDiskLatency, quick, (&latency{disks: disks}).read},
		{"fsync-probe", everyDiskLatency, slow, (&syncProbe{dir: c.StateDir, disks: disks}).read},
		{"statfs", everySlow, quick, (&space{dir: c.StateDir, disks: disks}).read},
		{"smartctl", everySMART, 10 * time.Minute, smart.read},
	}
	var streams []Stream
	if c.SmartDir != "" {
		sources[len(sources)-1].Every = everyNVMe // files: as cheap as the log page
	}
	kmsg := &kernelLog{roots: c.Roots, disks: disks, nics: links, runDir: c.RunDir, now: time.Now}
	streams = append(streams, Stream{"kmsg", kmsg.follow})
	// What only the kernel itself can be asked belongs to its own machine.
	if c.Roots.Real() {
		w := &wires{nics: links}
		sources = append(sources,
			Source{"ethtool", everyCounters, quick, w.counters},
			Source{"module", everyModule, slow, w.modules},
			Source{"nvme", everyNVMe, slow, (&nvmeLogs{disks: disks, get: nvmeHealthLog}).read},
			Source{"adjtimex", everySlow, quick, (&clock{adjtimex: unix.Adjtimex, since: time.Since}).read})
		streams = append(streams, Stream{"rtnetlink", links.linkEvents})
	}
	if c.Ipmitool != "" {
		sources = append(sources, Source{"ipmi", everySlow, slow + quick, (&bmc{c.Ipmitool}).read})
	}
	if c.Paths != nil {
		sources = append(sources, Source{"path", everyPath, quick, (&paths{c.Paths}).read})
	}
	if c.Speed > 0 {
		for i := range sources {
			sources[i].Every = max(50*time.Millisecond, time.Duration(float64(sources[i].Every)/c.Speed))
		}
	}
	return sources, streams
}
