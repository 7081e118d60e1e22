package collect

import (
	"context"
	"fmt"
	"time"

	"github.com/shadowcast/shadowcast/hwhealth"
)

// Path is what is known of the way to one peer or router.
type Path struct {
	Name string
	// Router tells routers from other appliances.
	Router bool
	// Measured is false before the first round trip; Loss, RTT and Jitter then
	// mean nothing.
	Measured    bool
	Loss        float64 // share, the worse direction
	RTT, Jitter time.Duration
	// Complains: the other side says that it hears us badly.
	Complains bool
	// Session flaps; zero for appliances.
	BGPFlaps, BFDFlaps uint64
}

// paths turns what ssm/peer and bgp measure into samples.
type paths struct {
	list func() []Path
}

func (p *paths) read(_ context.Context, now time.Time) []hwhealth.Sample {
	b := newBatch("path", now)
	appliances, complaints := 0, 0
	for _, x := range p.list() {
		kind := "appliance"
		if x.Router {
			kind = "router"
		}
		d := hwhealth.Device{Class: hwhealth.ClassPath, Serial: kind + ":" + x.Name, Name: x.Name}
		if x.Router {
			b.put(d, hwhealth.PathBGPFlaps, float64(x.BGPFlaps))
			b.put(d, hwhealth.PathBFDFlaps, float64(x.BFDFlaps))
			continue
		}
		appliances++
		if x.Complains {
			complaints++
		}
		if !x.Measured {
			b.missing(d, hwhealth.PathLoss, "%s has not answered a probe yet", x.Name)
			continue
		}
		if !(x.Loss >= 0 && x.Loss <= 1) || x.RTT < 0 || x.Jitter < 0 {
			b.missing(d, hwhealth.PathLoss, "%s: loss %v, round trip %v, jitter %v cannot be true", x.Name, x.Loss, x.RTT, x.Jitter)
			continue
		}
		b.put(d, hwhealth.PathLoss, x.Loss)
		b.put(d, hwhealth.PathRTT, float64(x.RTT)/1e6)
		b.put(d, hwhealth.PathJitter, float64(x.Jitter)/1e6)
	}
	if appliances > 0 {
		self := hwhealth.Device{Class: hwhealth.ClassPath, Serial: "self", Name: "as the others hear us"}
		s := hwhealth.Of(b.source, self, hwhealth.PathComplaint, float64(complaints)/float64(appliances), now)
		s.Why = fmt.Sprintf("%d of %d appliances hear us badly", complaints, appliances)
		b.out = append(b.out, s)
	}
	return b.out
}
