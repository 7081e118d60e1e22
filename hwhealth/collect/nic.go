package collect

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/hwhealth/collect/sysfs"
)

const (
	iffUp         = 0x1 // IFF_UP, /sys/class/net/IF/flags
	addrPermanent = "0" // NET_ADDR_PERM, addr_assign_type
)

// nics reads interfaces with hardware behind them, and the configured uplinks
// whatever they are.
type nics struct {
	roots   Roots
	uplinks []string
	roster  roster
}

// interfaces lists the interfaces that are watched.
func (n *nics) interfaces() ([]string, error) {
	all, err := n.roots.sys("class", "net").List()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(name string) bool {
		dir := n.roots.sys("class", "net", name)
		return !dir.Has("flags") || !dir.Has("device") && !slices.Contains(n.uplinks, name)
	}), nil
}

// device identifies an interface by its permanent hardware address, which
// stays when it becomes part of a bond or is renamed.
func (n *nics) device(name string) hwhealth.Device {
	dir := n.roots.sys("class", "net", name)
	d := hwhealth.Device{Class: hwhealth.ClassLink, Name: name, Vendor: driver(dir)}
	text := func(parts ...string) string { s, _ := dir.Text(parts...); return s }
	switch mac := text("bonding_slave", "perm_hwaddr"); {
	case mac != "":
		d.Serial = mac
	case text("addr_assign_type") == addrPermanent && usableMAC(text("address")):
		d.Serial = text("address")
	case dir.Link("device") != "":
		d.Serial = dir.Link("device")
	default:
		d.Serial = name
	}
	if bond := dir.Link("master"); bond != "" && n.roots.sys("class", "net", bond).Has("bonding") {
		d.Redundant = "bond:" + bond
	}
	return d
}

// usableMAC refuses what drivers show that have no address of their own.
func usableMAC(s string) bool {
	return s != "" && strings.Trim(s, "0:") != "" && strings.Trim(s, "f:") != ""
}

func driver(dir sysfs.Dir) string { return dir.Link("device", "driver") }

func (n *nics) read(_ context.Context, now time.Time) []hwhealth.Sample {
	b := newBatch("sysfs-net", now)
	names, err := n.interfaces()
	if err != nil {
		b.missing(hwhealth.Device{Class: hwhealth.ClassLink, Serial: "all"}, hwhealth.LinkCarrier, "list interfaces: %v", err)
		return b.out
	}
	present := map[string]hwhealth.Device{}
	for _, name := range names {
		d := n.device(name)
		present[d.Key()] = d
		n.readOne(b, name, d)
	}
	for _, name := range n.uplinks {
		if !slices.Contains(names, name) && !n.known(name) {
			b.missing(hwhealth.Device{Class: hwhealth.ClassLink, Serial: name, Name: name}, hwhealth.LinkCarrier,
				"uplink %s does not exist", name)
		}
	}
	n.roster.call(b, present)
	return b.out
}

// known reports whether an interface of that name was seen before: it is then
// gone, not missing.
func (n *nics) known(name string) bool {
	for _, d := range n.roster.seen {
		if d.Name == name {
			return true
		}
	}
	return false
}

func (n *nics) readOne(b *batch, name string, d hwhealth.Device) {
	dir := n.roots.sys("class", "net", name)
	b.put(d, hwhealth.LinkUplink, flag(slices.Contains(n.uplinks, name)))
	up := n.adminUp(b, d, dir)
	carrier := false
	switch v, err := dir.Int("carrier"); {
	case !up: // the kernel answers EINVAL
		b.put(d, hwhealth.LinkCarrier, 0)
	case err != nil:
		b.missing(d, hwhealth.LinkCarrier, "%v", err)
	case v != 0 && v != 1:
		b.missing(d, hwhealth.LinkCarrier, "carrier is %d", v)
	default:
		carrier = v == 1
		b.put(d, hwhealth.LinkCarrier, float64(v))
	}
	if dir.Has("carrier_down_count") {
		b.counter(d, hwhealth.LinkDowns, dir, "carrier_down_count")
	} else if v, err := dir.Uint("carrier_changes"); err == nil { // before Linux 4.16
		b.put(d, hwhealth.LinkDowns, float64(v/2))
	} else if !sysfs.Absent(err) {
		b.missing(d, hwhealth.LinkDowns, "%v", err)
	}
	stats := dir.Sub("statistics")
	b.counter(d, hwhealth.LinkRxPackets, stats, "rx_packets")
	b.counter(d, hwhealth.LinkCRCErrors, stats, "rx_crc_errors")
	b.sum(d, hwhealth.LinkRxMissed, stats, "rx_missed_errors", "rx_fifo_errors", "rx_over_errors")
	n.txTimeouts(b, d, dir)
	// speed is -1 or 65535 without a carrier and on devices without one; the
	// kernel may also refuse with EINVAL then.
	if v, err := dir.Int("speed"); err == nil && v > 0 && v < 1<<31 && v != 65535 {
		b.put(d, hwhealth.LinkSpeed, float64(v))
	} else if err != nil && carrier && !sysfs.Absent(err) && !invalid(err) {
		b.missing(d, hwhealth.LinkSpeed, "%v", err)
	}
}

// adminUp reads IFF_UP.
func (n *nics) adminUp(b *batch, d hwhealth.Device, dir sysfs.Dir) bool {
	s, err := dir.Text("flags")
	if err != nil {
		b.missing(d, hwhealth.LinkAdminUp, "%v", err)
		return true
	}
	v, err := strconv.ParseUint(s, 0, 32)
	if err != nil {
		b.missing(d, hwhealth.LinkAdminUp, "%s: %q are no flags", dir.Path("flags"), s)
		return true
	}
	b.put(d, hwhealth.LinkAdminUp, flag(v&iffUp != 0))
	return v&iffUp != 0
}

// txTimeouts sums the queues' counters.
func (n *nics) txTimeouts(b *batch, d hwhealth.Device, dir sysfs.Dir) {
	queues, err := dir.List("queues")
	if err != nil {
		return // no queues: not a real NIC
	}
	total, found := uint64(0), false
	for _, q := range queues {
		if !strings.HasPrefix(q, "tx-") {
			continue
		}
		v, err := dir.Uint("queues", q, "tx_timeout")
		switch {
		case err == nil:
			total, found = total+v, true
		case !sysfs.Absent(err):
			b.missing(d, hwhealth.LinkTxTimeouts, "%v", err)
			return
		}
	}
	if found {
		b.put(d, hwhealth.LinkTxTimeouts, float64(total))
	}
}

func flag(v bool) float64 {
	if v {
		return 1
	}
	return 0
}
