// Package module understands the memory of optical transceivers: SFF-8472
// (SFP), SFF-8636 (QSFP) and CMIS (QSFP-DD, OSFP). It is pure: Memory says how
// a page is obtained.
package module

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// Page addresses 128 octets of a module's memory, the way Linux does in
// ETHTOOL_MSG_MODULE_EEPROM_GET: lower memory is page 0, offset 0; the upper
// half of every page starts at offset 128. SFF-8472 diagnostics are at I2C
// address 0x51, everything else at 0x50.
type Page struct {
	I2C, Bank, Number uint8
	Upper             bool
}

// pageSize is the size of either half.
const pageSize = 128

// I2C addresses (INF-8074, SFF-8472).
const (
	addrA0 = 0x50
	addrA2 = 0x51
)

// Memory reads one half page, 128 octets.
type Memory func(Page) ([]byte, error)

// Reading is a measured value with the module's own limits.
type Reading struct {
	Value  float64
	Limits hwhealth.Limits
}

// Lane is one optical lane. Powers are in dBm, bias in mA.
type Lane struct{ Tx, Rx, Bias Reading }

// Module is what a transceiver says. Readings that it does not offer are NaN.
type Module struct {
	Standard             string // "SFF-8472", "SFF-8636", "CMIS"
	Vendor, Part, Serial string
	Temperature, Voltage Reading // Celsius, V
	Lanes                []Lane
	TxFault, RxLOS       float64 // 1, 0, NaN
	Diagnostics          bool    // it measures at all (passive cables do not)
	Flat                 bool    // without pages: a cable
}

// minDBm stands for no light at all.
const minDBm = -40

// SFF-8024 identifiers.
const (
	idSFP      = 0x03
	idQSFP     = 0x0c
	idQSFPPlus = 0x0d
	idQSFP28   = 0x11
	idQSFPDD   = 0x18
	idOSFP     = 0x19
	idQSFPCMIS = 0x1e
	idDSFP     = 0x1b
	idSFPDD    = 0x1a
	idOSFPXD   = 0x21
	idSFPCMIS  = 0x1f
)

// Read decodes a module.
func Read(mem Memory) (*Module, error) {
	low, err := page(mem, Page{I2C: addrA0})
	if err != nil {
		return nil, err
	}
	switch low[0] {
	case idSFP:
		return sfp(mem, low)
	case idQSFP, idQSFPPlus, idQSFP28:
		return qsfp(mem, low)
	case idQSFPDD, idOSFP, idQSFPCMIS, idDSFP, idSFPDD, idOSFPXD, idSFPCMIS:
		return cmis(mem, low)
	}
	return nil, fmt.Errorf("module memory: identifier %#02x is of no kind with diagnostics", low[0])
}

// page reads one half page and checks its size.
func page(mem Memory, p Page) ([]byte, error) {
	b, err := mem(p)
	if err != nil {
		return nil, fmt.Errorf("module memory: I2C %#x page %d upper %v: %w", p.I2C, p.Number, p.Upper, err)
	}
	if len(b) != pageSize {
		return nil, fmt.Errorf("module memory: I2C %#x page %d upper %v has %d octets, want %d", p.I2C, p.Number, p.Upper, len(b), pageSize)
	}
	return b, nil
}

func unknown() Reading { return Reading{math.NaN(), hwhealth.NoLimits()} }

// text is an ASCII field padded with spaces.
func text(b []byte) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(b)))
}

func u16(b []byte, at int) float64 { return float64(binary.BigEndian.Uint16(b[at:])) }

// celsius: signed, 1/256 degree.
func celsius(b []byte, at int) float64 { return float64(int16(binary.BigEndian.Uint16(b[at:]))) / 256 }

// volt: 100 uV.
func volt(b []byte, at int) float64 { return u16(b, at) * 1e-4 }

// milliamp: 2 uA.
func milliamp(b []byte, at int) float64 { return u16(b, at) * 2e-3 }

// power: 0.1 uW, shown in dBm.
func power(b []byte, at int) float64 { return DBm(u16(b, at) * 1e-4) }

// DBm of a power in mW; none is -40.
func DBm(mW float64) float64 {
	if !(mW > 1e-4) {
		return minDBm
	}
	return 10 * math.Log10(mW)
}

// limits reads the four thresholds in the order of SFF-8472 and SFF-8636:
// high alarm, low alarm, high warning, low warning.
func limits(b []byte, at int, f func([]byte, int) float64) hwhealth.Limits {
	l := hwhealth.Limits{HighCrit: f(b, at), LowCrit: f(b, at+2), HighWarn: f(b, at+4), LowWarn: f(b, at+6)}
	return sane(l)
}

// sane drops limits that were never programmed or contradict themselves.
func sane(l hwhealth.Limits) hwhealth.Limits {
	if !(l.LowCrit < l.HighCrit) || l.LowWarn < l.LowCrit || l.HighWarn > l.HighCrit || l.LowWarn > l.HighWarn {
		return hwhealth.NoLimits()
	}
	return l
}

// Readings lists what the module says under the names of package hwhealth. Of
// several lanes the worst counts: the least light, the most current.
func (m *Module) Readings() map[hwhealth.Signal]Reading {
	out := map[hwhealth.Signal]Reading{}
	put := func(sig hwhealth.Signal, r Reading, worse func(a, b float64) bool) {
		if math.IsNaN(r.Value) || math.IsInf(r.Value, 0) {
			return
		}
		if old, ok := out[sig]; !ok || worse(r.Value, old.Value) {
			out[sig] = r
		}
	}
	less := func(a, b float64) bool { return a < b }
	more := func(a, b float64) bool { return a > b }
	put(hwhealth.OpticTemperature, m.Temperature, more)
	put(hwhealth.OpticVoltage, m.Voltage, less)
	for _, l := range m.Lanes {
		put(hwhealth.OpticTxPower, l.Tx, less)
		put(hwhealth.OpticRxPower, l.Rx, less)
		put(hwhealth.OpticBias, l.Bias, more)
	}
	put(hwhealth.OpticTxFault, Reading{m.TxFault, hwhealth.NoLimits()}, more)
	put(hwhealth.OpticRxLOS, Reading{m.RxLOS, hwhealth.NoLimits()}, more)
	return out
}

func bit(b byte, n uint) float64 { return float64(b >> n & 1) }

// Flat finds a half page in what the older ioctl returns: SFF-8472 memory is
// A0h then A2h; SFF-8636 memory is page 0 then pages 1, 2 and 3, upper halves.
func Flat(b []byte, p Page) ([]byte, error) {
	at := 0
	switch {
	case p.I2C == addrA2:
		at = 2 * pageSize
	case p.Upper:
		at = pageSize * (1 + int(p.Number))
	}
	if p.I2C == addrA2 && p.Upper {
		at += pageSize
	}
	if p.Bank != 0 || at+pageSize > len(b) {
		return nil, fmt.Errorf("the driver gives %d octets of the module, not bank %d page %d", len(b), p.Bank, p.Number)
	}
	return b[at : at+pageSize], nil
}
