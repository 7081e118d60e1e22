package module

import (
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// pages is a module's memory in a test.
type pages map[Page][]byte

var errNoPage = errors.New("no such page")

func (p pages) read(at Page) ([]byte, error) {
	b, ok := p[at]
	if !ok {
		return nil, errNoPage
	}
	return b, nil
}

func half() []byte { return make([]byte, pageSize) }

func put(b []byte, at int, values ...int) {
	for i, v := range values {
		binary.BigEndian.PutUint16(b[at+2*i:], uint16(v))
	}
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.IsNaN(got) || math.Abs(got-want) > 0.01 {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// sfpModule: 10GBASE-LR; -5 dBm received is 0.3162 mW, 3162 units.
func sfpModule() pages {
	a0, a2 := half(), half()
	a0[0] = idSFP
	copy(a0[20:], "FINISAR CORP.   ")
	copy(a0[40:], "FTLX1471D3BCL   ")
	copy(a0[68:], "UK20NV6         ")
	a0[92] = 1<<6 | 1<<5
	put(a2, 0, 78<<8, -13<<8&0xffff, 73<<8, -8<<8&0xffff)
	put(a2, 8, 37000, 29000, 36000, 30000)
	put(a2, 16, 42500, 1000, 40000, 2500)
	put(a2, 24, 22387, 1514, 11220, 1905)
	put(a2, 32, 22387, 91, 11220, 363)
	put(a2, 96, 40<<8+128, 33000, 20000, 5012, 3162)
	a2[110] = 1 << 2
	return pages{{I2C: addrA0}: a0, {I2C: addrA2}: a2}
}

func TestSFP(t *testing.T) {
	m, err := Read(sfpModule().read)
	if err != nil {
		t.Fatal(err)
	}
	if m.Vendor != "FINISAR CORP." || m.Part != "FTLX1471D3BCL" || m.Serial != "UK20NV6" || !m.Diagnostics {
		t.Errorf("identity is %+v", m)
	}
	r := m.Readings()
	near(t, "temperature", r[hwhealth.OpticTemperature].Value, 40.5)
	near(t, "temperature high alarm", r[hwhealth.OpticTemperature].Limits.HighCrit, 78)
	near(t, "temperature low alarm", r[hwhealth.OpticTemperature].Limits.LowCrit, -13)
	near(t, "supply", r[hwhealth.OpticVoltage].Value, 3.3)
	near(t, "bias", r[hwhealth.OpticBias].Value, 40)
	near(t, "bias high warning", r[hwhealth.OpticBias].Limits.HighWarn, 80)
	near(t, "tx", r[hwhealth.OpticTxPower].Value, -3)
	near(t, "rx", r[hwhealth.OpticRxPower].Value, -5)
	near(t, "rx low alarm", r[hwhealth.OpticRxPower].Limits.LowCrit, -20.41)
	near(t, "rx low warning", r[hwhealth.OpticRxPower].Limits.LowWarn, -14.40)
	near(t, "fault", r[hwhealth.OpticTxFault].Value, 1)
	near(t, "LOS", r[hwhealth.OpticRxLOS].Value, 0)
}

// External calibration with the constants of an internally calibrated module
// gives the same figures; others do not.
func TestExternalCalibration(t *testing.T) {
	p := sfpModule()
	p[Page{I2C: addrA0}][92] = 1<<6 | 1<<4
	a2 := p[Page{I2C: addrA2}]
	binary.BigEndian.PutUint32(a2[68:], math.Float32bits(1)) // Rx_PWR(1)
	for _, at := range []int{76, 80, 84, 88} {
		put(a2, at, 1<<8)
	}
	m, err := Read(p.read)
	if err != nil {
		t.Fatal(err)
	}
	r := m.Readings()
	near(t, "temperature", r[hwhealth.OpticTemperature].Value, 40.5)
	near(t, "rx", r[hwhealth.OpticRxPower].Value, -5)
	near(t, "tx", r[hwhealth.OpticTxPower].Value, -3)
	put(a2, 80, 1<<9) // twice the slope: 3 dB
	put(a2, 86, -256&0xffff)
	m, err = Read(p.read)
	if err != nil {
		t.Fatal(err)
	}
	near(t, "tx", m.Readings()[hwhealth.OpticTxPower].Value, 0.01)
	near(t, "temperature", m.Readings()[hwhealth.OpticTemperature].Value, 39.5)
}

func TestQSFP(t *testing.T) {
	low, up, th := half(), half(), half()
	low[0] = idQSFP28
	put(low, 22, 35<<8, 32900)
	put(low, 34, 10000, 10000, 1000, 10000) // lane 3 is at -10 dBm
	put(low, 42, 18000, 18000, 18000, 18000)
	put(low, 50, 8000, 8000, 8000, 8000)
	copy(up[148-128:], "Mellanox        ")
	copy(up[196-128:], "MT1234X00001    ")
	up[220-128] = 1 << 2
	put(th, 176-128, 22387, 398, 17783, 794)
	p := pages{{I2C: addrA0}: low, {I2C: addrA0, Upper: true}: up, {I2C: addrA0, Number: 3, Upper: true}: th}
	m, err := Read(p.read)
	if err != nil {
		t.Fatal(err)
	}
	r := m.Readings()
	near(t, "worst lane's rx", r[hwhealth.OpticRxPower].Value, -10)
	near(t, "rx low warning", r[hwhealth.OpticRxPower].Limits.LowWarn, -11)
	near(t, "bias", r[hwhealth.OpticBias].Value, 36)
	near(t, "LOS", r[hwhealth.OpticRxLOS].Value, 0)
	low[3] = 0x0f
	if m, err = Read(p.read); err != nil || m.RxLOS != 1 {
		t.Errorf("no lane has light: %v, %v", m, err)
	}
	low[2] = 1 << 2 // flat: a cable
	if m, err = Read(p.read); err != nil || m.Diagnostics || len(m.Readings()) != 0 {
		t.Errorf("a cable has readings: %+v, %v", m, err)
	}
}

func TestCMIS(t *testing.T) {
	low, up, adv, th, lanes := half(), half(), half(), half(), half()
	low[0] = idQSFPDD
	put(low, 14, 51<<8, 33100)
	copy(up[129-128:], "Cloud Light     ")
	copy(up[166-128:], "CL0001          ")
	adv[160-128] = 0b00001111 // bias times 2
	put(th, 0, 75<<8, -5<<8&0xffff, 70<<8, 0)
	put(th, 192-128, 31623, 251, 25119, 501)
	for i := range 8 {
		put(lanes, 154-128+2*i, 10000)
		put(lanes, 170-128+2*i, 10000)
		put(lanes, 186-128+2*i, 10000)
	}
	put(lanes, 186-128, 0) // the first lane is dark
	p := pages{{I2C: addrA0}: low, {I2C: addrA0, Upper: true}: up, {I2C: addrA0, Number: 1, Upper: true}: adv,
		{I2C: addrA0, Number: 2, Upper: true}: th, {I2C: addrA0, Number: 0x11, Upper: true}: lanes}
	m, err := Read(p.read)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Lanes) != 8 || m.Serial != "CL0001" {
		t.Errorf("%d lanes of %q, want 8 of CL0001", len(m.Lanes), m.Serial)
	}
	r := m.Readings()
	near(t, "dark lane", r[hwhealth.OpticRxPower].Value, minDBm)
	near(t, "rx low alarm", r[hwhealth.OpticRxPower].Limits.LowCrit, -16)
	near(t, "bias", r[hwhealth.OpticBias].Value, 40)
	near(t, "temperature high warning", r[hwhealth.OpticTemperature].Limits.HighWarn, 70)
	delete(p, Page{I2C: addrA0, Number: 0x11, Upper: true})
	if _, err := Read(p.read); !errors.Is(err, errNoPage) {
		t.Errorf("without page 11h: %v, want the reader's error", err)
	}
}

func TestFlatLayout(t *testing.T) {
	b := make([]byte, 640)
	for i := range b {
		b[i] = byte(i / pageSize)
	}
	for p, want := range map[Page]byte{{I2C: addrA0}: 0, {I2C: addrA0, Upper: true}: 1, {I2C: addrA2}: 2, {I2C: addrA0, Number: 3, Upper: true}: 4} {
		if got, err := Flat(b, p); err != nil || got[0] != want {
			t.Errorf("%+v is half page %v, %v; want %d", p, got, err, want)
		}
	}
	if _, err := Flat(b, Page{I2C: addrA0, Number: 0x11, Upper: true}); err == nil {
		t.Error("a page beyond the end was found")
	}
}

func FuzzRead(f *testing.F) {
	for _, p := range []pages{sfpModule()} {
		f.Add(append(p[Page{I2C: addrA0}], p[Page{I2C: addrA2}]...))
	}
	f.Add(append([]byte{idQSFPDD}, make([]byte, 639)...))
	f.Add(append([]byte{idQSFP28}, make([]byte, 639)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Read(func(p Page) ([]byte, error) {
			if p.Number > 3 {
				p.Number = 0
			}
			return Flat(b, p)
		})
		if err != nil {
			return
		}
		for sig, r := range m.Readings() {
			if math.IsNaN(r.Value) || math.IsInf(r.Value, 0) {
				t.Errorf("%s is %v", sig, r.Value)
			}
		}
	})
}
