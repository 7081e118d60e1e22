package collect

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
)

func TestKernelMessages(t *testing.T) {
	for _, c := range []struct {
		text string
		want Finding
	}{
		{"EXT4-fs (nvme0n1p2): Remounting filesystem read-only", Finding{Signal: hwhealth.KernelReadOnly}},
		{"XFS (dm-0): Corruption of in-memory data detected.  Shutting down filesystem", Finding{Signal: hwhealth.KernelReadOnly}},
		{"blk_update_request: I/O error, dev sda, sector 12345 op 0x0:(READ)", Finding{Signal: hwhealth.DiskIOErrors, Disk: "sda"}},
		{"critical medium error, dev sdb, sector 99", Finding{Signal: hwhealth.DiskIOErrors, Disk: "sdb"}},
		{"EXT4-fs error (device sda1): ext4_find_entry:1455: inode #2", Finding{Signal: hwhealth.KernelFSError, Disk: "sda1"}},
		{"XFS (sdc1): Metadata corruption detected at xfs_agf_read", Finding{Signal: hwhealth.KernelFSError, Disk: "sdc1"}},
		{"nvme nvme0: I/O 12 QID 3 timeout, aborting", Finding{Signal: hwhealth.DiskTimeouts, Disk: "nvme0"}},
		{"nvme nvme1: I/O tag 5 (1005) QID 2 timeout, reset controller", Finding{Signal: hwhealth.DiskTimeouts, Disk: "nvme1"}},
		{"ata3.00: exception Emask 0x0 SAct 0x0 SErr 0x0 action 0x6 frozen", Finding{Signal: hwhealth.DiskTimeouts, Port: "ata3"}},
		{"ata1: hard resetting link", Finding{Signal: hwhealth.DiskTimeouts, Port: "ata1"}},
		{"INFO: task jbd2/sda1-8:274 blocked for more than 120 seconds.", Finding{Signal: hwhealth.KernelHungTask}},
		{"watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [kworker:1]", Finding{Signal: hwhealth.KernelLockup}},
		{"rcu: INFO: rcu_sched self-detected stall on CPU", Finding{Signal: hwhealth.KernelLockup}},
		{"watchdog: watchdog0: pretimeout event", Finding{Signal: hwhealth.KernelWatchdog}},
		{"mce: [Hardware Error]: CPU 2: Machine Check Exception: 5 Bank 4: b200000000070f0f PCC", Finding{Signal: hwhealth.MCEUncorrected, CPU: true}},
		{"{1}[Hardware Error]: Hardware error from APEI Generic Hardware Error Source: 4", Finding{Signal: hwhealth.KernelHardware}},
		{"clocksource: timekeeping watchdog on CPU1: Marking clocksource 'tsc' as unstable because the skew is too large:", Finding{Signal: hwhealth.KernelClockSource}},
		{"mlx5_core 0000:03:00.0: poll_health:830:(pid 0): device's health compromised - reached miss count", Finding{Signal: hwhealth.LinkFirmwareFatal, PCI: "0000:03:00.0"}},
	} {
		if got, ok := Match(c.text); !ok || got != c.want {
			t.Errorf("%q is %+v (%v), want %+v", c.text, got, ok, c.want)
		}
	}
	for _, text := range []string{
		"EXT4-fs (sda1): mounted filesystem with ordered data mode", "mce: [Hardware Error]: Machine check events logged",
		"{1}[Hardware Error]: event severity: corrected", "ata1: SATA link up 6.0 Gbps", "nvme nvme0: 8/0/0 default/read/poll queues", "",
	} {
		if got, ok := Match(text); ok {
			t.Errorf("%q is %+v, want nothing", text, got)
		}
	}
}

// The log is told once: what is there at the start, what comes, and after a
// restart of the daemon what came meanwhile; not what users write into it.
func TestFollowKernelLog(t *testing.T) {
	r := roots(t)
	nvmeTree(t, r)
	log := filepath.Join(r.Dev, "kmsg")
	run := t.TempDir()
	seq := 0
	say := func(facility int, text string) {
		t.Helper()
		if err := os.MkdirAll(r.Dev, 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := fmt.Fprintf(f, "%d,%d,%d,-;%s\n", facility<<3|4, seq, seq*1000, text); err != nil {
			t.Fatal(err)
		}
		seq++
	}
	start := func() (<-chan hwhealth.Sample, func()) {
		ctx, cancel := context.WithCancel(context.Background())
		out, done := make(chan hwhealth.Sample, 16), make(chan error, 1)
		k := &kernelLog{roots: r, disks: NewDisks(r), nics: &nics{roots: r}, runDir: run, now: time.Now}
		go func() { done <- k.follow(ctx, func(s hwhealth.Sample) { out <- s }) }()
		return out, func() {
			cancel()
			if err := <-done; err != context.Canceled {
				t.Errorf("follow ended with %v", err)
			}
		}
	}
	next := func(ch <-chan hwhealth.Sample, want string) {
		t.Helper()
		select {
		case s := <-ch:
			if err := s.Check(); err != nil {
				t.Error(err)
			}
			if key(s) != want || s.Why == "" {
				t.Errorf("told %s (%s), want %s", key(s), s.Why, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s is not told", want)
		}
	}
	say(0, "EXT4-fs (nvme0n1p2): Remounting filesystem read-only")
	say(3, "EXT4-fs (nvme0n1p2): Remounting filesystem read-only") // a user's
	say(0, "I/O error, dev nvme0n1, sector 8")
	say(0, "I/O error, dev loop0, sector 8")
	ch, stop := start()
	next(ch, "kernel/machine kernel.remount_read_only")
	next(ch, "nvme/S1 disk.io_errors")
	next(ch, "kernel/machine kernel.io_error")
	say(0, "nvme nvme0: I/O 12 QID 3 timeout, aborting")
	next(ch, "nvme/S1 disk.timeouts")
	saved := func() bool {
		b, err := os.ReadFile(filepath.Join(run, "kmsg.seq"))
		return err == nil && strings.TrimSpace(string(b)) == itoa(seq)
	}
	for deadline := time.Now().Add(20 * time.Second); !saved(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the position is not saved")
		}
	}
	stop()
	say(0, "INFO: task x:1 blocked for more than 120 seconds.")
	ch, stop = start()
	defer stop()
	next(ch, "kernel/machine kernel.hung_task")
	select {
	case s := <-ch:
		t.Errorf("%s is told again", key(s))
	default:
	}
}

func TestKernelLogThatIsNotThere(t *testing.T) {
	k := &kernelLog{roots: roots(t), now: time.Now}
	if err := k.follow(context.Background(), func(hwhealth.Sample) {}); err == nil || !strings.Contains(err.Error(), "kmsg") {
		t.Errorf("without a log: %v", err)
	}
}
