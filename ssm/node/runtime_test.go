package node

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/shadowcast/shadowcast/config"
)

// Clients are told of the fleet's name servers, if it has any.
func TestClientDNS(t *testing.T) {
	cfg, err := config.Parse([]byte(config.Example()))
	if err != nil {
		t.Fatal(err)
	}
	r := &slotRuntime{a: &Appliance{cfg: cfg}, n: 1, cfg: cfg.Fleet.Slots[0], dir: "/run/x"}
	for want, servers := range map[string][]netip.Addr{
		"":                                nil,
		`dns = "10.99.0.53, fd00:99::53"`: {netip.MustParseAddr("10.99.0.53"), netip.MustParseAddr("fd00:99::53")},
	} {
		cfg.Fleet.ClientDNS = servers
		text, err := r.conf().Text()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(text, want) || strings.Contains(text, "attr {") != (want != "") {
			t.Errorf("with %v:\n%s", servers, text)
		}
	}
}
