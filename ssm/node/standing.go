package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm"
)

// fitnessEvery paces the look at the load and at the fabric's tunnels.
const fitnessEvery = time.Second

// asked is a standing that an operator asked for. Maintenance lives in the state
// directory and so survives a reboot, the other in the run directory.
type asked struct {
	Standing ssm.Standing `json:"standing"`
	Reason   string       `json:"reason"`
	Since    time.Time    `json:"since"`
}

func (a *Appliance) standingFile(source string) string {
	if source == ssm.SourceMaintenance {
		return filepath.Join(a.cfg.StateDir, "maintenance.json")
	}
	return filepath.Join(a.cfg.RunDir, "standing.json")
}

// keepStanding stores what was asked for, before it is obeyed.
func (a *Appliance) keepStanding(source string, s asked) error {
	path := a.standingFile(source)
	if s.Standing == ssm.StandingNormal {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget the standing: %w", err)
		}
		return nil
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return writeFile(path, b, source == ssm.SourceMaintenance)
}

// restoreStandings tells the core what was asked for before the daemon started.
// A file that cannot be read counts as maintenance: a machine that was taken out
// of service must not come back by an accident of its disk.
func (a *Appliance) restoreStandings() error {
	var errs []error
	for _, source := range []string{ssm.SourceMaintenance, ssm.SourceOperator} {
		path := a.standingFile(source)
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var s asked
		if err == nil {
			err = json.Unmarshal(b, &s)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read %s: %w; 'shadowctl undrain' ends the drain", path, err))
			s = asked{Standing: ssm.StandingDraining, Reason: "what was asked for cannot be read"}
		}
		a.post(ssm.EvStanding{Source: source, Standing: s.Standing, Reason: s.Reason})
	}
	return errors.Join(errs...)
}

// watchFitness tells the core how busy this appliance is and which peers the
// fabric reaches.
func (a *Appliance) watchFitness(ctx context.Context) error {
	t := time.NewTicker(fitnessEvery)
	defer t.Stop()
	var cpu cpuMeter
	up := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		load, err := cpu.busy()
		if err != nil {
			a.log.Debug("read the processor's load", "err", err)
		}
		sessions := map[sa.Slot]int{}
		if v, err := a.view(ctx); err == nil {
			for _, s := range v.Slots {
				if r := a.places.at(s.Slot); r != nil && s.Role == ssm.RoleOwner {
					sessions[s.Slot] = int(r.sessions.Load())
				}
			}
		}
		a.post(ssm.EvLoad{Load: load, Sessions: sessions})
		for _, p := range a.fabric.Status() {
			if was, known := up[p.Peer]; !known || was != p.Up {
				up[p.Peer] = p.Up
				a.post(ssm.EvTunnel{Node: ssm.Node(p.Peer), Up: p.Up})
			}
		}
	}
}

// lookForEntry counts, while the core asks for it, the packets that enter here.
func (a *Appliance) lookForEntry() {
	if !a.core.WatchesEntry() {
		return
	}
	if n, ok := a.entries(); ok {
		a.step(ssm.EvEntry{Packets: n})
	}
}

// entries is how many packets have entered here so far.
func (a *Appliance) entries() (n uint64, ok bool) {
	for _, s := range a.cfg.Fleet.Slots {
		h, err := a.steer.SlotHits(s.Number)
		if err != nil {
			a.problem(s.Number, "read steering counters", err)
			return 0, false
		}
		n += h.LocalUplink + h.Remote
	}
	return n, true
}
