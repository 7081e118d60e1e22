package node

import (
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm"
	"github.com/shadowcast/shadowcast/ssm/geoip"
)

// What was measured to the clients counts first, then where they are, then the way between
// appliances.
func TestSourcesOfLatency(t *testing.T) {
	f := &config.Fleet{ShadowSets: config.ShadowSets{Size: 2, Latency: 1}}
	for i, name := range []string{"ams", "fra", "lhr", "nyc"} {
		f.Appliances = append(f.Appliances, config.Appliance{Name: name, Site: name, Location: config.Location{Lat: 50, Lon: float64(-20 * i)}})
	}
	cfg := config.Slot{Number: 1, Home: "ams", Selected: true}
	s := ssm.SlotView{Slot: sa.Slot(1), Owner: "ams", Shadows: []ssm.ShadowView{{Node: "fra", RTT: 7 * time.Millisecond}}}
	v := ssm.View{Self: "ams"}
	known := measured{between: map[ssm.Node]time.Duration{"fra": time.Millisecond, "lhr": time.Millisecond, "nyc": time.Millisecond}}
	_, source := request(f, cfg, s, v, known)
	if source["fra"] != rttClients || source["lhr"] != rttOwner {
		t.Errorf("without places latencies come from %v", source)
	}
	known.clients = []geoip.Place{{Lat: 50, Lon: -60}} // in nyc
	r, source := request(f, cfg, s, v, known)
	if source["fra"] != rttClients || source["lhr"] != rttGeoIP || source["nyc"] != rttGeoIP {
		t.Errorf("with places latencies come from %v", source)
	}
	at := map[string]time.Duration{}
	for _, c := range r.Candidates {
		at[c.Name] = c.Latency
	}
	if at["fra"] != 7*time.Millisecond || at["nyc"] >= at["lhr"] || at["lhr"] < 5*time.Millisecond {
		t.Errorf("latencies are %v", at)
	}
}
