package module

import (
	"encoding/binary"
	"math"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// sfp reads SFF-8472: A0h identity, A2h diagnostics.
//
//	A0h 20-35 vendor  40-55 part  68-83 serial  92 monitoring type
//	A2h 0-39 thresholds  56-91 external calibration  96-105 values  110 status
func sfp(mem Memory, low []byte) (*Module, error) {
	m := &Module{Standard: "SFF-8472", Vendor: text(low[20:36]), Part: text(low[40:56]), Serial: text(low[68:84]),
		Temperature: unknown(), Voltage: unknown(), TxFault: math.NaN(), RxLOS: math.NaN()}
	const implemented, external = 1 << 6, 1 << 4 // A0h 92
	if low[92]&implemented == 0 {
		return m, nil
	}
	d, err := page(mem, Page{I2C: addrA2})
	if err != nil {
		return nil, err
	}
	m.Diagnostics = true
	cal := internal()
	if low[92]&external != 0 {
		cal = externalCal(d)
	}
	lim := func(at int, f func([]byte, int) float64) hwhealth.Limits { return limits(d, at, f) }
	m.Temperature = Reading{cal.temp(d, 96), lim(0, cal.temp)}
	m.Voltage = Reading{cal.volt(d, 98), lim(8, cal.volt)}
	m.Lanes = []Lane{{
		Bias: Reading{cal.bias(d, 100), lim(16, cal.bias)},
		Tx:   Reading{cal.tx(d, 102), lim(24, cal.tx)},
		Rx:   Reading{cal.rx(d, 104), lim(32, cal.rx)},
	}}
	m.TxFault, m.RxLOS = bit(d[110], 2), bit(d[110], 1)
	return m, nil
}

// calibration converts raw values.
type calibration struct{ temp, volt, bias, tx, rx func([]byte, int) float64 }

func internal() calibration { return calibration{celsius, volt, milliamp, power, power} }

// externalCal applies the constants of A2h 56-91 (SFF-8472 9.3): slopes are
// unsigned 8.8 fixed point, offsets signed 16 bit, the received power is a
// polynomial with five single precision coefficients.
func externalCal(d []byte) calibration {
	slope := func(at int) float64 { return u16(d, at) / 256 }
	offset := func(at int) float64 { return float64(int16(binary.BigEndian.Uint16(d[at:]))) }
	linear := func(slopeAt, scaleless int, signed bool, unit float64) func([]byte, int) float64 {
		return func(b []byte, at int) float64 {
			raw := u16(b, at)
			if signed {
				raw = float64(int16(binary.BigEndian.Uint16(b[at:])))
			}
			return (slope(slopeAt)*raw + offset(scaleless)) * unit
		}
	}
	tx := linear(80, 82, false, 1e-4)
	return calibration{
		temp: linear(84, 86, true, 1.0/256),
		volt: linear(88, 90, false, 1e-4),
		bias: linear(76, 78, false, 2e-3),
		tx:   func(b []byte, at int) float64 { return DBm(tx(b, at)) },
		rx: func(b []byte, at int) float64 {
			raw, p := u16(b, at), 0.0
			for i := range 5 { // Rx_PWR(4) first
				p = p*raw + float64(math.Float32frombits(binary.BigEndian.Uint32(d[56+4*i:])))
			}
			return DBm(p * 1e-4)
		},
	}
}

// qsfp reads SFF-8636.
//
//	lower: 2 status  3 LOS flags  4 fault flags  22 temperature  26 supply
//	       34-41 rx power  42-49 bias  50-57 tx power
//	page 0: 129 extended id  148-163 vendor  168-183 part  196-211 serial  220 monitoring
//	page 3: 128 temperature  144 supply  176 rx  184 bias  192 tx
func qsfp(mem Memory, low []byte) (*Module, error) {
	up, err := page(mem, Page{I2C: addrA0, Upper: true})
	if err != nil {
		return nil, err
	}
	at := func(i int) int { return i - pageSize }
	m := &Module{Standard: "SFF-8636", Vendor: text(up[at(148):at(164)]), Part: text(up[at(168):at(184)]), Serial: text(up[at(196):at(212)]),
		Temperature: unknown(), Voltage: unknown(), TxFault: math.NaN(), RxLOS: math.NaN()}
	const flat, dataNotReady = 1 << 2, 1 << 0 // byte 2
	m.Flat = low[2]&flat != 0
	copper := up[at(147)]>>4 >= 0xa // transmitter technology: cable
	if m.Flat || copper || low[2]&dataNotReady != 0 {
		return m, nil
	}
	m.Diagnostics = true
	lim := func(int, func([]byte, int) float64) hwhealth.Limits { return hwhealth.NoLimits() }
	if th, err := page(mem, Page{I2C: addrA0, Number: 3, Upper: true}); err == nil {
		lim = func(i int, f func([]byte, int) float64) hwhealth.Limits { return limits(th, at(i), f) }
	}
	m.Temperature = Reading{celsius(low, 22), lim(128, celsius)}
	m.Voltage = Reading{volt(low, 26), lim(144, volt)}
	txPower := up[at(220)]&(1<<2) != 0
	for i := range 4 {
		l := Lane{Tx: unknown(), Rx: Reading{power(low, 34+2*i), lim(176, power)}, Bias: Reading{milliamp(low, 42+2*i), lim(184, milliamp)}}
		if txPower {
			l.Tx = Reading{power(low, 50+2*i), lim(192, power)}
		}
		m.Lanes = append(m.Lanes, l)
	}
	// A lane without light is a lane that is not lit at the other end; the module
	// has lost its signal when none is left.
	m.RxLOS = flag(low[3]&0x0f == 0x0f)
	m.TxFault = flag(low[4]&0x0f != 0)
	return m, nil
}

func flag(v bool) float64 {
	if v {
		return 1
	}
	return 0
}
