// Package sensors writes the files of a small machine's hardware, which tests and the
// lab point the health collectors at and then make fail.
package sensors

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Tree is the hardware that health collectors are pointed at: a
// processor's temperature sensor in sysfs, an NVMe drive, and the documents that
// smartctl would print about it. Nothing else is there.
type Tree struct{ Dir string }

// Log is what the drive's health log says (NVMe base specification, log page 02h).
type Log struct {
	Serial  string
	Warning int // critical_warning
	Used    int // percentage_used
}

// Limits of the temperature sensor, in degrees: between them the risk grows, at the
// second the part's own limit is passed.
const (
	Max  = 80
	Crit = 100
	Cool = 45
)

// Serial is the temperature sensor's identity to the predictor.
const Serial = "coretemp@hwmon0/temp1"

// NewDrive is a drive without a fault.
var NewDrive = Log{Serial: "S1", Used: 40}

// New makes a tree below dir in which nothing is wrong.
func New(dir string) (*Tree, error) {
	s := &Tree{Dir: dir}
	for _, d := range []string{"sys/block", "sys/class/nvme/nvme0", "sys/class/hwmon/hwmon0", "proc", "dev", "smart"} {
		if err := os.MkdirAll(filepath.Join(s.Dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("make sensors: %w", err)
		}
	}
	for file, text := range map[string]string{
		"hwmon/hwmon0/name": "coretemp", "hwmon/hwmon0/temp1_label": "Package id 0",
		"hwmon/hwmon0/temp1_max": strconv.Itoa(Max * 1000), "hwmon/hwmon0/temp1_crit": strconv.Itoa(Crit * 1000),
		"nvme/nvme0/model": "LAB NVMe",
	} {
		if err := s.write("sys/class/"+file, text); err != nil {
			return nil, err
		}
	}
	if err := s.Heat(Cool, false); err != nil {
		return nil, err
	}
	return s, s.NVMe(NewDrive)
}

// Path is where a part of the tree lies: sys, proc, dev, smart.
func (s *Tree) Path(part string) string { return filepath.Join(s.Dir, part) }

// Heat sets the processor's temperature in degrees, and its critical alarm.
func (s *Tree) Heat(celsius int, alarm bool) error {
	flag := "0"
	if alarm {
		flag = "1"
	}
	if err := s.write("sys/class/hwmon/hwmon0/temp1_input", strconv.Itoa(celsius*1000)); err != nil {
		return err
	}
	return s.write("sys/class/hwmon/hwmon0/temp1_crit_alarm", flag)
}

// NVMe sets what the drive in the only slot says; another serial number is another
// drive.
func (s *Tree) NVMe(l Log) error {
	text, err := json.Marshal(map[string]any{
		"json_format_version": []int{1, 0}, "smartctl": map[string]any{"exit_status": 0},
		"device":     map[string]any{"name": "/dev/nvme0", "type": "nvme", "protocol": "NVMe"},
		"model_name": "LAB NVMe", "serial_number": l.Serial,
		"smart_status": map[string]any{"passed": l.Warning == 0},
		"temperature":  map[string]any{"current": 40},
		"nvme_smart_health_information_log": map[string]any{
			"critical_warning": l.Warning, "temperature": 40, "available_spare": 100, "available_spare_threshold": 10,
			"percentage_used": l.Used, "media_errors": 0, "num_err_log_entries": 0, "unsafe_shutdowns": 3, "power_on_hours": 12000,
			"warning_temp_time": 0, "critical_comp_time": 0,
		},
	})
	if err != nil {
		return fmt.Errorf("write sensor: %w", err)
	}
	// The document first: what a reader sees in between is the new drive's figures.
	if err := s.write("smart/nvme0.json", string(text)); err != nil {
		return err
	}
	return s.write("sys/class/nvme/nvme0/serial", l.Serial)
}

// write replaces a file at once: no reader sees half of it.
func (s *Tree) write(file, text string) error {
	path := filepath.Join(s.Dir, file)
	if err := os.WriteFile(path+".new", []byte(text+"\n"), 0o644); err != nil {
		return fmt.Errorf("write sensor: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write sensor: %w", err)
	}
	return nil
}
