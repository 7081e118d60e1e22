package collect

import (
	"context"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
	"github.com/shadowcast/shadowcast/hwhealth/collect/ipmi"
)

// bmc runs ipmitool, where the operator has named it.
type bmc struct{ binary string }

func (m *bmc) read(ctx context.Context, now time.Time) []hwhealth.Sample {
	b := newBatch("ipmi", now)
	out, err := run(ctx, slow, m.binary, "sdr", "elist", "all")
	var sensors []ipmi.Sensor
	if err == nil {
		sensors, _, err = ipmi.Parse(string(out))
	}
	switch {
	case err != nil:
		b.missing(Host(), hwhealth.HostPowered, "%v", err)
	case len(sensors) == 0:
		b.missing(Host(), hwhealth.HostPowered, "%s printed no sensor", m.binary)
	default:
		b.out = append(b.out, ipmi.Samples(sensors, Host().Serial, now)...)
	}
	return b.out
}
