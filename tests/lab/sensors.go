package lab

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/tests/sensors"
)

// watchSensors gives an appliance that has not started a sensor tree without a fault,
// read speed times as often as usual. hold is how long a risk must have been low
// before the state gets better.
func watchSensors(a *Appliance, speed float64, hold time.Duration) (*sensors.Tree, error) {
	if err := a.Prepare(); err != nil {
		return nil, err
	}
	s, err := sensors.New(filepath.Join(a.dir(), "machine"))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.Name, err)
	}
	h := &a.Config.Health
	h.Enabled, h.Speed, h.Hold = true, speed, config.Hold{Month: hold, Hour: hold}
	h.Sys, h.Proc, h.Dev, h.SmartDir = s.Path("sys"), s.Path("proc"), s.Path("dev"), s.Path("smart")
	return s, nil
}
