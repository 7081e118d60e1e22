package module

import (
	"math"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// cmis reads the Common Management Interface Specification 5.2.
//
//	lower: 2 memory model  14 temperature  16 supply
//	page 00h: 129-144 vendor  148-163 part  166-181 serial  212 media technology
//	page 01h: 145 supported lanes' monitors (160: 0 bias, 1 tx, 2 rx; 4-3 bias scale)
//	page 02h: 128 temperature  136 supply  176 tx  184 bias  192 rx thresholds
//	page 11h: 135 tx fault  147 rx LOS  154 tx  170 bias  186 rx, eight lanes
func cmis(mem Memory, low []byte) (*Module, error) {
	up, err := page(mem, Page{I2C: addrA0, Upper: true})
	if err != nil {
		return nil, err
	}
	at := func(i int) int { return i - pageSize }
	m := &Module{Standard: "CMIS", Vendor: text(up[at(129):at(145)]), Part: text(up[at(148):at(164)]), Serial: text(up[at(166):at(182)]),
		Temperature: Reading{celsius(low, 14), hwhealth.NoLimits()}, Voltage: Reading{volt(low, 16), hwhealth.NoLimits()},
		TxFault: math.NaN(), RxLOS: math.NaN()}
	const flat = 1 << 7
	m.Flat = low[2]&flat != 0
	if m.Flat {
		m.Temperature, m.Voltage = unknown(), unknown()
		return m, nil
	}
	adv, err := page(mem, Page{I2C: addrA0, Number: 1, Upper: true})
	if err != nil {
		return nil, err
	}
	th, err := page(mem, Page{I2C: addrA0, Number: 2, Upper: true})
	if err != nil {
		return nil, err
	}
	lanes, err := page(mem, Page{I2C: addrA0, Number: 0x11, Upper: true})
	if err != nil {
		return nil, err
	}
	m.Diagnostics = true
	monitors := adv[at(160)]
	scale := [4]float64{1, 2, 4, 1}[monitors>>3&3] // 8.4.11: multiplier of the bias
	bias := func(b []byte, i int) float64 { return milliamp(b, i) * scale }
	m.Temperature.Limits = limits(th, at(128), celsius)
	m.Voltage.Limits = limits(th, at(136), volt)
	for i := range 8 {
		l := Lane{unknown(), unknown(), unknown()}
		if monitors&(1<<1) != 0 {
			l.Tx = Reading{power(lanes, at(154)+2*i), limits(th, at(176), power)}
		}
		if monitors&(1<<0) != 0 {
			l.Bias = Reading{bias(lanes, at(170)+2*i), limits(th, at(184), bias)}
		}
		if monitors&(1<<2) != 0 {
			l.Rx = Reading{power(lanes, at(186)+2*i), limits(th, at(192), power)}
		}
		// A lane that is not in use shows neither light nor current.
		if l.Tx.Value == minDBm && l.Rx.Value == minDBm && !(l.Bias.Value > 0) && i > 0 {
			continue
		}
		m.Lanes = append(m.Lanes, l)
	}
	m.TxFault = flag(lanes[at(135)] != 0)
	m.RxLOS = flag(lanes[at(147)] == 0xff)
	return m, nil
}
