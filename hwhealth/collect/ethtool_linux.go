package collect

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"github.com/safchain/ethtool"
	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/hwhealth/collect/module"
)

// Numbers of linux/ethtool_netlink.h and linux/devlink.h that the libraries
// have no calls for.
const (
	ethtoolFamily, ethtoolVersion = "ethtool", 1
	msgFECGet, msgModuleEEPROMGet = 29, 31
	attrHeader                    = 1 // in every request
	attrHeaderName                = 2
	attrHeaderFlags               = 3
	flagStats                     = 1 << 2
	attrFECStats                  = 5
	attrFECCorrected              = 2
	attrFECUncorrectable          = 3
	attrEEPROMOffset              = 2
	attrEEPROMLength              = 3
	attrEEPROMPage                = 4
	attrEEPROMBank                = 5
	attrEEPROMI2C                 = 6
	attrEEPROMData                = 7

	devlinkFamily, devlinkVersion = "devlink", 1
	cmdHealthReporterGet          = 52
	attrBusName, attrDevName      = 1, 2
	attrReporter                  = 114
	attrReporterName              = 115
	attrReporterErrors            = 117
)

// wires asks the kernel by netlink and ioctl what sysfs does not tell: error
// correction, driver counters, devlink health reporters and module memory.
type wires struct {
	nics  *nics
	mu    sync.Mutex // counters and modules are read on schedules of their own
	conn  *genetlink.Conn
	tool  *ethtool.Ethtool
	fec   map[string]bool // interface: netlink gives FEC counters, so the driver's are left
	ether genetlink.Family
	dev   genetlink.Family
}

// netlinkTimeout bounds one answer; reading a slow module takes some 100 ms.
const netlinkTimeout = 2 * time.Second

// open connects on first use and after an error.
func (w *wires) open() error {
	if w.conn != nil {
		return w.conn.SetDeadline(time.Now().Add(netlinkTimeout))
	}
	conn, err := genetlink.Dial(nil)
	if err != nil {
		return fmt.Errorf("open generic netlink: %w", err)
	}
	if err := conn.SetDeadline(time.Now().Add(netlinkTimeout)); err != nil {
		conn.Close()
		return err
	}
	ether, err := conn.GetFamily(ethtoolFamily)
	if err != nil {
		conn.Close()
		return fmt.Errorf("ethtool netlink: %w", err)
	}
	dev, _ := conn.GetFamily(devlinkFamily) // not in every kernel
	tool, err := ethtool.NewEthtool()
	if err != nil {
		conn.Close()
		return fmt.Errorf("open ethtool socket: %w", err)
	}
	w.conn, w.tool, w.ether, w.dev, w.fec = conn, tool, ether, dev, map[string]bool{}
	return nil
}

func (w *wires) close() {
	if w.conn != nil {
		w.conn.Close()
		w.tool.Close()
		w.conn, w.tool = nil, nil
	}
}

// reopen leaves a connection on which a late answer may still arrive.
func (w *wires) reopen() bool {
	w.close()
	return w.open() == nil
}

// unsupported reports whether the driver or the kernel does not offer it.
func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT)
}

// header encodes the part that every ethtool request begins with.
func header(ae *netlink.AttributeEncoder, name string, flags uint32) {
	ae.Nested(unix.NLA_F_NESTED|attrHeader, func(n *netlink.AttributeEncoder) error {
		n.String(attrHeaderName, name)
		if flags != 0 {
			n.Uint32(attrHeaderFlags, flags)
		}
		return nil
	})
}

// ask sends one ethtool request and returns the attributes of the answer.
func (w *wires) ask(cmd uint8, encode func(*netlink.AttributeEncoder)) ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	encode(ae)
	b, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	msgs, err := w.conn.Execute(genetlink.Message{Header: genetlink.Header{Command: cmd, Version: ethtoolVersion}, Data: b},
		w.ether.ID, netlink.Request)
	if err != nil {
		return nil, err
	}
	if len(msgs) == 0 {
		return nil, errors.New("empty answer")
	}
	return msgs[0].Data, nil
}

// ParseFEC reads the corrected and uncorrectable block counters out of an
// answer; ok is false where the driver has none. Each is an array of 64-bit
// counters in host order: the total, then lanes.
func ParseFEC(b []byte) (corrected, uncorrectable float64, ok bool, err error) {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return 0, 0, false, fmt.Errorf("FEC answer: %w", err)
	}
	for ad.Next() {
		if ad.Type() != attrFECStats {
			continue
		}
		ad.Nested(func(n *netlink.AttributeDecoder) error {
			for n.Next() {
				v := n.Bytes()
				if n.Type() != attrFECCorrected && n.Type() != attrFECUncorrectable || len(v) < 8 {
					continue
				}
				if x := binary.NativeEndian.Uint64(v); n.Type() == attrFECCorrected {
					corrected, ok = float64(x), true
				} else {
					uncorrectable, ok = float64(x), true
				}
			}
			return n.Err()
		})
	}
	return corrected, uncorrectable, ok, ad.Err()
}

// counters reads error correction and the driver's own counters.
func (w *wires) counters(_ context.Context, now time.Time) []hwhealth.Sample {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := newBatch("ethtool", now)
	names, err := w.nics.interfaces()
	if err == nil {
		err = w.open()
	}
	if err != nil {
		b.missing(hwhealth.Device{Class: hwhealth.ClassLink, Serial: "all"}, hwhealth.LinkFECCorrected, "%v", err)
		return b.out
	}
	for _, name := range names {
		d := w.nics.device(name)
		answer, err := w.ask(msgFECGet, func(ae *netlink.AttributeEncoder) { header(ae, name, flagStats) })
		if err == nil {
			var c, u float64
			var ok bool
			if c, u, ok, err = ParseFEC(answer); ok {
				b.put(d, hwhealth.LinkFECCorrected, c)
				b.put(d, hwhealth.LinkFECUncorrectable, u)
				w.fec[name] = true
			}
		}
		if err != nil && !unsupported(err) {
			b.missing(d, hwhealth.LinkFECCorrected, "%v", err)
			if !w.reopen() {
				return b.out
			}
		}
		stats, err := w.tool.Stats(name)
		if err != nil {
			if !unsupported(err) {
				b.missing(d, hwhealth.LinkSymbolErrors, "%v", err)
			}
			continue
		}
		for sig, v := range DriverCounters(stats) {
			if w.fec[name] && (sig == hwhealth.LinkFECCorrected || sig == hwhealth.LinkFECUncorrectable) {
				continue // a second total would look like a reset
			}
			b.put(d, sig, v)
		}
	}
	w.reporters(b, names)
	return b.out
}

// DriverCounters picks the counters with a meaning out of ethtool -S. Drivers
// have their own names; the first that is there counts, so that totals stay
// the same counter.
func DriverCounters(stats map[string]uint64) map[hwhealth.Signal]float64 {
	out := map[hwhealth.Signal]float64{}
	for _, c := range []struct {
		sig   hwhealth.Signal
		names []string
	}{
		{hwhealth.LinkSymbolErrors, []string{"rx_symbol_err_phy", "rx_symbol_errors", "port.rx_symbol_errors", "symbol_error_count"}},
		{hwhealth.LinkFECCorrected, []string{"rx_corrected_bits_phy", "rx_fec_corrected_cws", "fec_corrected_blocks", "rx_fec_corr_cw"}},
		{hwhealth.LinkFECUncorrectable, []string{"rx_pcs_fec_uncorrected_blocks", "fec_uncorrectable_blocks", "rx_fec_uncorrectable_cws", "rx_fec_uncorr_cw"}},
	} {
		for _, n := range c.names {
			if v, ok := stats[n]; ok {
				out[c.sig] = float64(v)
				break
			}
		}
	}
	return out
}

// Reporter is one devlink health reporter.
type Reporter struct {
	Bus, Device, Name string
	Errors            uint64
}

// ParseReporter reads one message of a dump.
func ParseReporter(b []byte) (Reporter, error) {
	var r Reporter
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return r, fmt.Errorf("devlink health reporter: %w", err)
	}
	for ad.Next() {
		switch ad.Type() {
		case attrBusName:
			r.Bus = ad.String()
		case attrDevName:
			r.Device = ad.String()
		case attrReporter:
			ad.Nested(func(n *netlink.AttributeDecoder) error {
				for n.Next() {
					switch n.Type() {
					case attrReporterName:
						r.Name = n.String()
					case attrReporterErrors:
						r.Errors = n.Uint64()
					}
				}
				return n.Err()
			})
		}
	}
	return r, ad.Err()
}

// reporters sums the errors of each interface's devlink health reporters.
func (w *wires) reporters(b *batch, names []string) {
	if w.dev.ID == 0 {
		return
	}
	msgs, err := w.conn.Execute(genetlink.Message{Header: genetlink.Header{Command: cmdHealthReporterGet, Version: devlinkVersion}},
		w.dev.ID, netlink.Request|netlink.Dump)
	if err != nil {
		return // kernels before 5.1, and those without the privilege
	}
	sum := map[string]float64{}
	for _, m := range msgs {
		if r, err := ParseReporter(m.Data); err == nil && r.Bus == "pci" {
			sum[r.Device] += float64(r.Errors)
		}
	}
	for _, name := range names {
		if v, ok := sum[w.nics.roots.sys("class", "net", name).Link("device")]; ok {
			b.put(w.nics.device(name), hwhealth.LinkDevlinkErrors, v)
		}
	}
}

// modules reads the transceivers.
func (w *wires) modules(ctx context.Context, now time.Time) []hwhealth.Sample {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := newBatch("module", now)
	names, err := w.nics.interfaces()
	if err == nil {
		err = w.open()
	}
	if err != nil {
		b.missing(hwhealth.Device{Class: hwhealth.ClassOptic, Serial: "all"}, hwhealth.OpticRxPower, "%v", err)
		return b.out
	}
	for _, name := range names {
		if ctx.Err() != nil {
			break
		}
		if err := w.conn.SetDeadline(time.Now().Add(netlinkTimeout)); err != nil {
			break
		}
		m, err := module.Read(w.memory(name))
		if unsupported(err) {
			continue // copper, virtual, or an empty cage
		}
		d := hwhealth.Device{Class: hwhealth.ClassOptic, Serial: "in " + w.nics.device(name).Serial, Name: name}
		if err != nil {
			b.missing(d, hwhealth.OpticRxPower, "%v", err)
			if !w.reopen() {
				return b.out
			}
			continue
		}
		putModule(b, d, m)
	}
	return b.out
}

// putModule adds the readings of a module.
func putModule(b *batch, d hwhealth.Device, m *module.Module) {
	if m.Serial != "" {
		d.Serial = m.Serial
	}
	d.Model, d.Vendor = m.Part, m.Vendor
	if !m.Diagnostics {
		return // a cable has nothing to say, and that is all right
	}
	for sig, r := range m.Readings() {
		switch {
		case sig == hwhealth.OpticTemperature && (r.Value < minCelsius || r.Value > maxCelsius):
			b.missing(d, sig, "%g degrees cannot be true", r.Value)
		default:
			b.limited(d, sig, r.Value, r.Limits)
		}
	}
}

// memory reads half pages by netlink (Linux 5.13), else the whole by ioctl.
func (w *wires) memory(name string) module.Memory {
	var flat []byte
	var fallback bool
	return func(p module.Page) ([]byte, error) {
		if !fallback {
			offset := uint32(0)
			if p.Upper {
				offset = 128
			}
			answer, err := w.ask(msgModuleEEPROMGet, func(ae *netlink.AttributeEncoder) {
				header(ae, name, 0)
				ae.Uint32(attrEEPROMOffset, offset)
				ae.Uint32(attrEEPROMLength, 128)
				ae.Uint8(attrEEPROMPage, p.Number)
				ae.Uint8(attrEEPROMBank, p.Bank)
				ae.Uint8(attrEEPROMI2C, p.I2C)
			})
			if err == nil {
				return eepromData(answer)
			}
			if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EINVAL) {
				return nil, err
			}
			fallback = true
		}
		if flat == nil {
			var err error
			if flat, err = w.tool.ModuleEeprom(name); err != nil {
				return nil, err
			}
		}
		return module.Flat(flat, p)
	}
}

func eepromData(b []byte) ([]byte, error) {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return nil, fmt.Errorf("module answer: %w", err)
	}
	for ad.Next() {
		if ad.Type() == attrEEPROMData {
			return ad.Bytes(), nil
		}
	}
	return nil, errors.Join(errors.New("module answer without data"), ad.Err())
}
