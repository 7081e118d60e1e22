package node

import (
	"fmt"
	"time"

	"github.com/prometheus/procfs"
)

// loadMemory is the time constant of the load average: short bursts are no load.
const loadMemory = 10 * time.Second

// cpuMeter measures which share of the processors is busy.
type cpuMeter struct {
	last        procfs.CPUStat
	at          time.Time
	share       float64
	initialised bool
}

// busy returns the smoothed share of processor time that was not idle, 0 to 1.
func (m *cpuMeter) busy() (float64, error) {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return m.share, fmt.Errorf("open procfs: %w", err)
	}
	st, err := fs.Stat()
	if err != nil {
		return m.share, fmt.Errorf("read /proc/stat: %w", err)
	}
	now, c := time.Now(), st.CPUTotal
	if m.initialised {
		m.note(c, now.Sub(m.at))
	}
	m.last, m.at, m.initialised = c, now, true
	return m.share, nil
}

// note takes the counters after another interval.
func (m *cpuMeter) note(c procfs.CPUStat, d time.Duration) {
	idle := c.Idle + c.Iowait - m.last.Idle - m.last.Iowait
	work := c.User + c.Nice + c.System + c.IRQ + c.SoftIRQ + c.Steal - m.last.User - m.last.Nice - m.last.System - m.last.IRQ - m.last.SoftIRQ - m.last.Steal
	if idle+work <= 0 {
		return
	}
	x := min(max(work/(idle+work), 0), 1)
	gain := min(1, d.Seconds()/loadMemory.Seconds())
	m.share += gain * (x - m.share)
}
