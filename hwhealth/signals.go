package hwhealth

import (
	"strconv"
	"strings"
)

// Signal is the name of what is measured, the same on every machine.
type Signal string

// SignalInfo is what the table knows about a signal.
type SignalInfo struct {
	Kind Kind
	Unit Unit
	Help string // what a person should know, with the source
}

// Gone is the signal of a device that was there and is not: 1 means that it
// vanished from sysfs or the PCI bus (a read of 0xffff), 0 that it is there.
const Gone Signal = "gone"

// The signals with a meaning to the predictor.
const (
	LinkCarrier          Signal = "link.carrier"
	LinkAdminUp          Signal = "link.admin_up"
	LinkDowns            Signal = "link.downs"
	LinkCRCErrors        Signal = "link.rx_crc_errors"
	LinkRxPackets        Signal = "link.rx_packets"
	LinkSymbolErrors     Signal = "link.rx_symbol_errors"
	LinkFECCorrected     Signal = "link.fec_corrected"
	LinkFECUncorrectable Signal = "link.fec_uncorrectable"
	LinkRxMissed         Signal = "link.rx_missed"
	LinkTxTimeouts       Signal = "link.tx_timeouts"
	LinkDevlinkErrors    Signal = "link.devlink_errors"
	LinkFirmwareFatal    Signal = "link.firmware_fatal"
	LinkSpeed            Signal = "link.speed"
	LinkUplink           Signal = "link.uplink"

	PCIeWidth        Signal = "pcie.width"
	PCIeWidthMax     Signal = "pcie.width_max"
	PCIeSpeed        Signal = "pcie.speed"
	PCIeSpeedMax     Signal = "pcie.speed_max"
	AERCorrectable   Signal = "pcie.aer_correctable"
	AERNonfatal      Signal = "pcie.aer_nonfatal"
	AERFatal         Signal = "pcie.aer_fatal"
	OpticRxPower     Signal = "optic.rx_power"
	OpticTxPower     Signal = "optic.tx_power"
	OpticBias        Signal = "optic.bias"
	OpticTemperature Signal = "optic.temperature"
	OpticVoltage     Signal = "optic.voltage"
	OpticTxFault     Signal = "optic.tx_fault"
	OpticRxLOS       Signal = "optic.rx_los"

	DiskPassed        Signal = "disk.smart_passed"
	DiskFailingNow    Signal = "disk.failing_now"
	DiskTemperature   Signal = "disk.temperature"
	DiskPowerOnHours  Signal = "disk.power_on_hours"
	DiskSolid         Signal = "disk.solid_state"
	DiskWearRemaining Signal = "disk.wear_remaining"
	DiskReadOnly      Signal = "disk.read_only"
	DiskSystemVolume  Signal = "disk.system_volume"
	DiskAwait         Signal = "disk.await"
	DiskFsync         Signal = "disk.fsync_p99"
	DiskTimeouts      Signal = "disk.timeouts"
	DiskIOErrors      Signal = "disk.io_errors"

	NVMeCriticalWarning Signal = "nvme.critical_warning"
	NVMeMediaErrors     Signal = "nvme.media_errors"
	NVMeSpare           Signal = "nvme.available_spare"
	NVMeSpareThreshold  Signal = "nvme.spare_threshold"
	NVMeUsed            Signal = "nvme.percentage_used"
	NVMeWarningTempTime Signal = "nvme.warning_temp_time"
	NVMeCritTempTime    Signal = "nvme.critical_temp_time"
	NVMeErrorLog        Signal = "nvme.error_log_entries"
	NVMeUnsafeShutdowns Signal = "nvme.unsafe_shutdowns"

	Temperature     Signal = "thermal.temperature"
	TempCritAlarm   Signal = "thermal.crit_alarm"
	ThermalTrip     Signal = "thermal.trip"
	ThrottleTime    Signal = "thermal.throttle_time"
	ThrottleCount   Signal = "thermal.throttle_count"
	CoolingState    Signal = "thermal.cooling_state"
	FanSpeed        Signal = "fan.speed"
	FanPWM          Signal = "fan.pwm"
	FanAlarm        Signal = "fan.alarm"
	FanFault        Signal = "fan.fault"
	PowerOK         Signal = "power.ok"
	PowerRail       Signal = "power.rail"
	PowerAlarm      Signal = "power.alarm"
	PowerCritAlarm  Signal = "power.crit_alarm"
	PowerOnBattery  Signal = "power.on_battery"
	PowerHoldUp     Signal = "power.hold_up"
	PowerCharge     Signal = "power.charge"
	PowerCMOS       Signal = "power.cmos_battery"
	MemoryCE        Signal = "memory.ce"
	MemoryUE        Signal = "memory.ue"
	MemoryRows      Signal = "memory.ce_rows"
	MemoryCorrupted Signal = "memory.hardware_corrupted"

	MCECorrected   Signal = "cpu.mce_corrected"
	MCEUncorrected Signal = "cpu.mce_uncorrected"
	CPUOffline     Signal = "cpu.offline"

	KernelIOError     Signal = "kernel.io_error"
	KernelFSError     Signal = "kernel.fs_error"
	KernelHungTask    Signal = "kernel.hung_task"
	KernelLockup      Signal = "kernel.lockup"
	KernelWatchdog    Signal = "kernel.watchdog"
	KernelHardware    Signal = "kernel.hardware_error"
	KernelReadOnly    Signal = "kernel.remount_read_only"
	KernelClockSource Signal = "kernel.clock_source_lost"

	PathLoss      Signal = "path.loss"
	PathRTT       Signal = "path.rtt"
	PathJitter    Signal = "path.jitter"
	PathBGPFlaps  Signal = "path.bgp_flaps"
	PathBFDFlaps  Signal = "path.bfd_flaps"
	PathComplaint Signal = "path.complaint"

	HostPowered      Signal = "host.powered"
	HostBoot         Signal = "host.boot"
	PressureCPU      Signal = "host.pressure_cpu"
	PressureMemory   Signal = "host.pressure_memory"
	PressureIO       Signal = "host.pressure_io"
	SoftnetDrops     Signal = "host.softnet_drops"
	SoftnetSqueezed  Signal = "host.softnet_squeezed"
	XfrmErrors       Signal = "host.xfrm_errors"
	DiskSpaceFree    Signal = "host.disk_free"
	ClockOffset      Signal = "host.clock_offset"
	ClockSynchronous Signal = "host.clock_synchronised"
)

// smartPrefix and the attribute's number make the signal of an ATA SMART
// attribute's raw value.
const smartPrefix = "disk.smart_"

// SignalSMART is the raw value of ATA SMART attribute id.
func SignalSMART(id int) Signal { return Signal(smartPrefix + strconv.Itoa(id)) }

// SMARTID is the inverse of SignalSMART.
func SMARTID(s Signal) (int, bool) {
	t, ok := strings.CutPrefix(string(s), smartPrefix)
	if !ok {
		return 0, false
	}
	id, err := strconv.Atoi(t)
	return id, err == nil && id > 0 && id < 256
}

// Signals is the table of all signals with a meaning. It is not changed after
// the start of the program.
var Signals = map[Signal]SignalInfo{
	Gone: {Level, Flag, "1: the device vanished from sysfs or the PCI bus"},

	LinkCarrier:          {Level, Flag, "/sys/class/net/IF/carrier"},
	LinkAdminUp:          {Level, Flag, "IFF_UP"},
	LinkDowns:            {Counter, Count, "carrier_down_count, or link_down_events of the PHY; from boot"},
	LinkCRCErrors:        {Counter, Count, "statistics/rx_crc_errors or rx_crc_errors_phy"},
	LinkRxPackets:        {Counter, Count, "statistics/rx_packets; the base of error ratios"},
	LinkSymbolErrors:     {Counter, Count, "rx_symbol_err_phy"},
	LinkFECCorrected:     {Counter, Count, "corrected FEC blocks; normal on PAM4"},
	LinkFECUncorrectable: {Counter, Count, "uncorrectable FEC blocks"},
	LinkRxMissed:         {Counter, Count, "rx_missed + fifo + over errors: load, never hardware"},
	LinkTxTimeouts:       {Counter, Count, "tx_timeout of the queues"},
	LinkDevlinkErrors:    {Counter, Count, "error_count of devlink health reporters"},
	LinkFirmwareFatal:    {Event, Count, "devlink fw_fatal, or the driver's own word in the kernel log"},
	LinkSpeed:            {Level, Mbps, "/sys/class/net/IF/speed"},
	LinkUplink:           {Level, Flag, "1 on interfaces that carry the VIP's traffic (configuration)"},

	PCIeWidth:        {Level, Lanes, "current_link_width"},
	PCIeWidthMax:     {Level, Lanes, "max_link_width"},
	PCIeSpeed:        {Level, GTps, "current_link_speed"},
	PCIeSpeedMax:     {Level, GTps, "max_link_speed"},
	AERCorrectable:   {Counter, Count, "aer_dev_correctable TOTAL_ERR_COR"},
	AERNonfatal:      {Counter, Count, "aer_dev_nonfatal TOTAL_ERR_NONFATAL"},
	AERFatal:         {Counter, Count, "aer_dev_fatal TOTAL_ERR_FATAL"},
	OpticRxPower:     {Level, DBm, "received power; -Inf is sent as -40"},
	OpticTxPower:     {Level, DBm, "transmitted power"},
	OpticBias:        {Level, MilliA, "laser bias"},
	OpticTemperature: {Level, Celsius, "module temperature"},
	OpticVoltage:     {Level, Volt, "module supply"},
	OpticTxFault:     {Level, Flag, "TX_FAULT pin or flag"},
	OpticRxLOS:       {Level, Flag, "RX_LOS pin or flag"},

	DiskPassed:        {Level, Flag, "smart_status.passed"},
	DiskFailingNow:    {Level, Count, "Pre-fail attributes with when_failed=now"},
	DiskTemperature:   {Level, Celsius, "drive temperature"},
	DiskPowerOnHours:  {Level, Hours, "power-on time"},
	DiskSolid:         {Level, Flag, "1: solid state (rotation_rate 0)"},
	DiskWearRemaining: {Level, Percent, "normalized 177/173/231/233, 100 is new"},
	DiskReadOnly:      {Level, Flag, "a volume on it is mounted read-only by an error"},
	DiskSystemVolume:  {Level, Flag, "1: holds / or state_dir"},
	DiskAwait:         {Level, Millis, "mean wait of operations in the interval, /sys/block/D/stat"},
	DiskFsync:         {Level, Millis, "p99 of the own 4 KiB O_DIRECT fsync probe"},
	DiskTimeouts:      {Event, Count, "command timeouts and resets in the kernel log"},
	DiskIOErrors:      {Event, Count, "I/O errors of this device in the kernel log, EIO of the own probe"},

	NVMeCriticalWarning: {Level, Bits, "critical_warning of log 02h"},
	NVMeMediaErrors:     {Counter, Count, "media_errors"},
	NVMeSpare:           {Level, Percent, "available_spare"},
	NVMeSpareThreshold:  {Level, Percent, "available_spare_threshold"},
	NVMeUsed:            {Level, Percent, "percentage_used; may pass 100"},
	NVMeWarningTempTime: {Counter, Minutes, "warning_temp_time"},
	NVMeCritTempTime:    {Counter, Minutes, "critical_comp_time"},
	NVMeErrorLog:        {Counter, Count, "num_err_log_entries; no signal, 40 % of healthy drives have some"},
	NVMeUnsafeShutdowns: {Counter, Count, "unsafe_shutdowns; no signal"},

	Temperature:     {Level, Celsius, "temp*_input with _max as HighWarn and _crit as HighCrit"},
	TempCritAlarm:   {Level, Flag, "temp*_crit_alarm, temp*_emergency_alarm"},
	ThermalTrip:     {Level, Count, "highest trip reached: 0 none, 1 active, 2 passive, 3 hot, 4 critical"},
	ThrottleTime:    {Counter, Millis, "core_ or package_throttle_total_time_ms"},
	ThrottleCount:   {Counter, Count, "core_ or package_throttle_count"},
	CoolingState:    {Level, Ratio, "cur_state / max_state of a cooling device"},
	FanSpeed:        {Level, RPM, "fan*_input with fan*_min as LowCrit"},
	FanPWM:          {Level, Ratio, "duty of the same fan, 0..1"},
	FanAlarm:        {Level, Flag, "fan*_alarm"},
	FanFault:        {Level, Flag, "fan*_fault"},
	PowerOK:         {Level, Flag, "the supply delivers: power_supply/*/online, PSU sensor"},
	PowerRail:       {Level, Volt, "in*_input with its limits; the nominal value is their middle"},
	PowerAlarm:      {Level, Flag, "in*_alarm, curr*_alarm, power*_alarm"},
	PowerCritAlarm:  {Level, Flag, "in*_lcrit_alarm, in*_crit_alarm and the like"},
	PowerOnBattery:  {Level, Flag, "the UPS runs on battery"},
	PowerHoldUp:     {Level, Minutes, "power_supply/*/time_to_empty_now: how long the battery lasts"},
	PowerCharge:     {Level, Percent, "power_supply/*/capacity, of a battery that does not tell its time"},
	PowerCMOS:       {Level, Volt, "real-time clock battery; reported, never acted on"},
	MemoryCE:        {Counter, Count, "corrected errors of one DIMM or controller"},
	MemoryUE:        {Counter, Count, "uncorrected errors of one DIMM or controller"},
	MemoryRows:      {Level, Count, "distinct rows of one DIMM with corrected errors, from EDAC's lines in the kernel log"},
	MemoryCorrupted: {Level, Bytes, "/proc/meminfo HardwareCorrupted"},

	MCECorrected:   {Counter, Count, "corrected machine checks"},
	MCEUncorrected: {Event, Count, "uncorrected machine check or PCC in the kernel log"},
	CPUOffline:     {Level, Count, "processors that are present but offline and were online before"},

	KernelIOError:     {Event, Count, "I/O error, dev"},
	KernelFSError:     {Event, Count, "EXT4-fs error, XFS ... corruption"},
	KernelHungTask:    {Event, Count, "blocked for more than N seconds"},
	KernelLockup:      {Event, Count, "soft lockup, hard LOCKUP, rcu stall"},
	KernelWatchdog:    {Event, Count, "watchdog pretimeout, NMI"},
	KernelHardware:    {Event, Count, "[Hardware Error]"},
	KernelReadOnly:    {Event, Count, "Remounting filesystem read-only"},
	KernelClockSource: {Event, Count, "clocksource marked unstable"},

	PathLoss:      {Level, Ratio, "lost probes to one peer or router"},
	PathRTT:       {Level, Millis, "round trip to it"},
	PathJitter:    {Level, Millis, "its variation"},
	PathBGPFlaps:  {Counter, Count, "BGP sessions lost"},
	PathBFDFlaps:  {Counter, Count, "BFD sessions lost"},
	PathComplaint: {Level, Ratio, "share of the other appliances that hear us badly"},

	HostPowered:      {Level, Flag, "0: the host of this sensor is off (IPMI); its other sensors mean nothing"},
	HostBoot:         {Event, Count, "the machine started"},
	PressureCPU:      {Level, Ratio, "/proc/pressure/cpu some avg60"},
	PressureMemory:   {Level, Ratio, "/proc/pressure/memory full avg60"},
	PressureIO:       {Level, Ratio, "/proc/pressure/io full avg60"},
	SoftnetDrops:     {Counter, Count, "/proc/net/softnet_stat dropped"},
	SoftnetSqueezed:  {Counter, Count, "/proc/net/softnet_stat time_squeeze"},
	XfrmErrors:       {Counter, Count, "/proc/net/xfrm_stat, sum of error counters"},
	DiskSpaceFree:    {Level, Ratio, "free share of state_dir's file system"},
	ClockOffset:      {Level, Millis, "offset of the clock by adjtimex"},
	ClockSynchronous: {Level, Flag, "adjtimex says synchronised"},
}

// Info is the table's entry for s; SMART attributes have one too.
func Info(s Signal) (SignalInfo, bool) {
	if i, ok := Signals[s]; ok {
		return i, true
	}
	if _, ok := SMARTID(s); ok {
		return SignalInfo{Counter, Count, "raw value of the SMART attribute"}, true
	}
	return SignalInfo{}, false
}
