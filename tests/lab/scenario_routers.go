package lab

import "time"

// The story of `fleet` with other routers than BIRD, and with a client that has IPv6
// only. What is inside the tunnel is IPv4 throughout.
func init() {
	for _, x := range []struct {
		name      string
		frr, ipv6 bool
	}{{"routers-bird", false, false}, {"routers-frr", true, false}, {"routers-ipv6", false, true}, {"routers-frr-ipv6", true, true}} {
		o := fleetOptions(ConnSpec{Cert: true}).detecting()
		o.FRR, o.BFD = x.frr, thriftyBFD
		o.Clients = []ClientSpec{{IPv6: x.ipv6, Conn: o.Conn}}
		soft, family := "BIRD", "IPv4"
		if x.frr {
			soft = "FRR"
		}
		if x.ipv6 {
			family = "IPv6"
		}
		Register(Scenario{
			Name: x.name, Doc: "planned handover, power cut, return: " + soft + ", " + family + " VIP", Need: fleetNeed, Options: o,
			Bench: true, Timeout: 3 * time.Minute, Run: routersStory,
		})
	}
}

// thriftyBFD leaves the guest's one processor to others: these labs have up to 15 BFD
// sessions, both ends in it. What these stories break takes the carrier away, which
// routers see at once.
var thriftyBFD = BFD{Interval: 300 * time.Millisecond, Multiplier: 3}

// routersStory plays `fleet` and records what the takeover took.
func routersStory(t *T, l *Lab) {
	cut := fleetStory(t, l)
	t.Metric("outage_ms", cut.OutageMS)
	t.Metric("detection_ms", cut.DetectionMS)
}
