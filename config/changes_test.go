package config

import (
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestChanges(t *testing.T) {
	for _, c := range []struct {
		edit func(*Config)
		want []string
	}{
		{func(*Config) {}, nil},
		{func(c *Config) { c.Log.Level = slog.LevelDebug }, []string{"log.level"}},
		{func(c *Config) { c.Metrics = netip.MustParseAddrPort("127.0.0.1:9501") }, []string{"metrics"}},
		{func(c *Config) { c.Operator = netip.MustParseAddrPort("192.0.2.11:4505") }, []string{"operator"}},
		{func(c *Config) { c.Fleet.Slots[1].Pools = c.Fleet.Slots[1].Pools[:1] }, []string{"fleet.slots[1].pools"}},
		{func(c *Config) { c.Fleet.Slots[2].Shadows = []string{"fra", "ams"} }, []string{"fleet.slots[2].shadows[0]", "fleet.slots[2].shadows[1]"}},
		{func(c *Config) { c.BGP.Peers = c.BGP.Peers[:1] }, []string{"bgp.peers"}},
		{func(c *Config) { c.Shadowing, c.Fleet.Probe.Interval = false, 70*time.Millisecond }, []string{"fleet.probe.interval", "shadowing"}},
	} {
		a, b := mustParse(t, Example()), mustParse(t, Example())
		c.edit(b)
		got, err := Changes(a, b)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("Changes: %v, %v; want %v", got, err, c.want)
		}
		if back, err := Changes(b, a); err != nil || !slices.Equal(back, c.want) {
			t.Errorf("Changes the other way: %v, %v; want %v", back, err, c.want)
		}
	}
}
