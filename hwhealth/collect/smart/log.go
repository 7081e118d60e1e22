package smart

import (
	"encoding/binary"
	"fmt"
	"math"
)

// LogSize is the size of the NVMe SMART / Health Information log page.
const LogSize = 512

// ParseLog reads log page 02h as the controller returns it (NVM Express Base
// Specification 2.0, figure 207), little endian:
//
//	0 critical warning   1-2 temperature K   3 available spare   4 its threshold
//	5 percentage used   128-143 power on hours   144-159 unsafe shutdowns
//	160-175 media errors   176-191 error log entries
//	192-195 warning temperature time   196-199 critical temperature time
func ParseLog(b []byte) (*Report, error) {
	if len(b) != LogSize {
		return nil, fmt.Errorf("NVMe health log has %d octets, want %d", len(b), LogSize)
	}
	r := newReport()
	r.Kind, r.Solid = NVMe, 1
	wide := func(at int) float64 {
		low, high := binary.LittleEndian.Uint64(b[at:]), binary.LittleEndian.Uint64(b[at+8:])
		return float64(high)*math.Exp2(64) + float64(low)
	}
	h := &Health{
		CriticalWarning: b[0], Temperature: float64(binary.LittleEndian.Uint16(b[1:])) - 273,
		Spare: float64(b[3]), SpareThreshold: float64(b[4]), Used: float64(b[5]),
		PowerOn: wide(128), UnsafeShutdowns: wide(144), MediaErrors: wide(160), ErrorLog: wide(176),
		WarningTempTime:  float64(binary.LittleEndian.Uint32(b[192:])),
		CriticalTempTime: float64(binary.LittleEndian.Uint32(b[196:])),
		hasThreshold:     true, hasWarning: true, hasCritical: true,
	}
	// A controller that has fallen off the bus answers with ones.
	if b[0] == 0xff && b[3] == 0xff && b[5] == 0xff {
		return nil, fmt.Errorf("NVMe health log is all ones: the controller does not answer")
	}
	if h.Spare > 100 {
		return nil, fmt.Errorf("NVMe health log: available spare %g %%", h.Spare)
	}
	r.Health, r.Temperature, r.PowerOn = h, h.Temperature, h.PowerOn
	r.Passed = flag(h.CriticalWarning == 0)
	return r, nil
}
