package hwhealth

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"time"
)

// StateVersion is the format of the state file.
const StateVersion = 1

// stateFile is what survives a restart: evidence and latches by serial number,
// and the ladder, so that a restart is no recovery.
type stateFile struct {
	Version int       `json:"version"`
	Boot    string    `json:"boot"` // the kernel's boot id
	Booted  time.Time `json:"booted"`
	Devices []*device `json:"devices"`
	Latches []*Latch  `json:"latches"`
	Ladder  Ladder    `json:"ladder"`
}

// Encode writes the predictor's and the ladder's memory. boot names this life
// of the machine.
func Encode(p *Predictor, l Ladder, boot string) ([]byte, error) {
	f := stateFile{Version: StateVersion, Boot: boot, Booted: p.booted, Ladder: l}
	for _, k := range sortedKeys(p.devices) {
		f.Devices = append(f.Devices, p.devices[k])
	}
	for _, k := range sortedKeys(p.latches) {
		f.Latches = append(f.Latches, p.latches[k])
	}
	b, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("encode health state: %w", err)
	}
	return b, nil
}

// Decode reads what Encode wrote into a new predictor. After a reboot (another
// boot id) counters that start at boot have no past, evidence of the last boot
// stays, and limits of that boot are gone.
func Decode(b []byte, boot string) (*Predictor, Ladder, error) {
	var f stateFile
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&f); err != nil {
		return nil, Ladder{}, fmt.Errorf("read health state: %w", err)
	}
	if f.Version != StateVersion {
		return nil, Ladder{}, fmt.Errorf("health state: version is %d, this program reads %d", f.Version, StateVersion)
	}
	if len(f.Devices) > maxDevices {
		return nil, Ladder{}, fmt.Errorf("health state: %d devices, at most %d can be", len(f.Devices), maxDevices)
	}
	p := New()
	p.booted = f.Booted
	rebooted := f.Boot != boot
	for i, d := range f.Devices {
		if err := d.check(); err != nil {
			return nil, Ladder{}, fmt.Errorf("health state: devices[%d]: %w", i, err)
		}
		if rebooted {
			d.forgetBoot()
		}
		p.devices[d.Device.Key()] = d
	}
	for i, l := range f.Latches {
		if l == nil || l.Device.Class == "" || l.Device.Serial == "" || l.Limit == "" {
			return nil, Ladder{}, fmt.Errorf("health state: latches[%d]: device and limit must be set", i)
		}
		if !rebooted || !l.Boot {
			p.latches[l.Device.Key()+" "+l.Limit] = l
		}
	}
	if err := f.Ladder.check(); err != nil {
		return nil, Ladder{}, fmt.Errorf("health state: %w", err)
	}
	return p, f.Ladder, nil
}

// check refuses what Observe and Assess could not bear.
func (d *device) check() error {
	if d == nil || d.Device.Class == "" || d.Device.Serial == "" {
		return fmt.Errorf("class and serial must be set")
	}
	if d.Tracks == nil {
		d.Tracks = map[Signal]*track{}
	}
	if d.Rules == nil {
		d.Rules = map[string]*mark{}
	}
	for s, t := range d.Tracks {
		if t == nil || len(t.Recent) > recentEdges || t.Seen < 0 || t.Every < 0 {
			return fmt.Errorf("signal %s: broken", s)
		}
	}
	for id, m := range d.Rules {
		if m == nil || m.Hazard < 0 || m.Hazard > 100 {
			return fmt.Errorf("rule %s: broken", id)
		}
	}
	if h := d.Drive; h != nil {
		if math.Abs(h.At) > 1e10 {
			return fmt.Errorf("hour %g of the drive's history cannot be", h.At)
		}
	}
	return nil
}

// forgetBoot drops the counters that began anew: all but those that the part
// itself keeps.
func (d *device) forgetBoot() {
	switch d.Device.Class {
	case ClassDisk, ClassNVMe:
		return
	}
	maps.DeleteFunc(d.Tracks, func(_ Signal, t *track) bool { return t.Kind == Counter })
	d.CRC, d.Slope = window{}, 0
}

func (l Ladder) check() error {
	if l.State > Withdraw || l.Slow.State > Withdraw || l.Fast.State > Withdraw || l.Slow.Over > Withdraw || l.Fast.Over > Withdraw {
		return fmt.Errorf("ladder: a state is out of range 0..%d", Withdraw)
	}
	if !(l.Penalty >= 0 && l.Penalty <= 1e6) {
		return fmt.Errorf("ladder: penalty is %v", l.Penalty)
	}
	return nil
}
