package node

import (
	"slices"
	"testing"
	"time"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/ssm"
)

func TestExplainSetUsesWhatIsMeasured(t *testing.T) {
	f := &config.Fleet{ShadowSets: config.ShadowSets{Size: 2, Dispersion: 1, Load: 1, Latency: 1, Margin: 0.2}}
	for i, n := range []string{"ams", "fra", "lhr", "par", "mad"} {
		f.Appliances = append(f.Appliances, config.Appliance{Name: n, Site: n, Location: config.Location{Lat: 50 - float64(i), Lon: float64(3 * i)}})
	}
	cfg := config.Slot{Number: 1, Home: "ams", Shadows: []string{"fra", "lhr"}, Selected: true}
	now := time.Now()
	v := ssm.View{Self: "ams", Peers: []ssm.PeerView{{Node: "fra", Heard: now, Standing: ssm.StandingDraining}, {Node: "lhr", Heard: now, Load: 0.25},
		{Node: "par", Heard: now, Suspect: true}, {Node: "mad", Heard: now}}}
	s := ssm.SlotView{Slot: 1, Owner: "ams", Shadows: []ssm.ShadowView{{Node: "fra"}, {Node: "lhr", RTT: 7 * time.Millisecond}}}
	x := explainSet(f, cfg, s, v, measured{between: map[ssm.Node]time.Duration{"lhr": 30 * time.Millisecond, "par": 5 * time.Millisecond}})
	if !slices.Equal(x.Choice, []string{"lhr", "mad"}) || !slices.Equal(x.Shadows, []string{"fra", "lhr"}) || x.Pinned {
		t.Fatalf("set %+v", x)
	}
	want := map[string][2]string{"lhr": {"", rttClients}, "mad": {"", rttEstimated}, "fra": {"is draining", rttEstimated}, "par": {"is silent", rttOwner}}
	if len(x.Candidates) != len(want) {
		t.Fatalf("candidates %+v", x.Candidates)
	}
	for _, c := range x.Candidates {
		if got := [2]string{c.Excluded, c.RttSource}; got != want[c.Name] {
			t.Errorf("%s: %q, want %q", c.Name, got, want[c.Name])
		}
		if c.Name == "lhr" && (c.Rtt.AsDuration() != 7*time.Millisecond || c.Load != 0.75 || !c.Member) {
			t.Errorf("lhr: %+v", c)
		}
	}
}
