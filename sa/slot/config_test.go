package slot

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/shadowcast/shadowcast/sa"
)

func TestConfigCheck(t *testing.T) {
	good := Config{PinDir: "/sys/fs/bpf/x"}
	for name, edit := range map[string]func(*Config){
		"":                     func(*Config) {},
		"ends in a digit":      func(c *Config) { c.NetnsPrefix = "sc1" },
		"is not a file name":   func(c *Config) { c.NetnsPrefix = "a/b" },
		"not an absolute path": func(c *Config) { c.PinDir = "pins" },
		"outside 1280..65535":  func(c *Config) { c.MTU = 576 },
		"tunnel source ::1":    func(c *Config) { c.TunnelLocal = netip.MustParseAddr("::1") },
	} {
		c := good
		edit(&c)
		c.defaults()
		err := c.check()
		if name == "" && err != nil || name != "" && (err == nil || !strings.Contains(err.Error(), name)) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestDesiredCheck(t *testing.T) {
	vip := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	pool := func(s ...string) (ps []netip.Prefix) {
		for _, x := range s {
			ps = append(ps, netip.MustParsePrefix(x))
		}
		return ps
	}
	for _, tt := range []struct {
		want  string
		slots []Slot
	}{
		{"", nil},
		{"", []Slot{{Number: 1, VIPs: vip, Pools: pool("10.0.0.0/24", "2001:db8::/64")}, {Number: 4095, Foreign: true, Pools: pool("10.0.1.0/24")}}},
		{"outside 1..4095", []Slot{{Number: 0, VIPs: vip}}},
		{"outside 1..4095", []Slot{{Number: 4096, VIPs: vip}}},
		{"slot 1 is named twice", []Slot{{Number: 1, VIPs: vip}, {Number: 1, VIPs: vip}}},
		{"slot 1 has no VIP", []Slot{{Number: 1}}},
		{"no plain unicast address", []Slot{{Number: 1, VIPs: []netip.Addr{netip.MustParseAddr("::ffff:1.2.3.4")}}}},
		{"no plain unicast address", []Slot{{Number: 1, VIPs: []netip.Addr{{}}}}},
		{"10.0.0.128/25 of slot 2 overlaps 10.0.0.0/24 of slot 1", []Slot{{Number: 1, VIPs: vip, Pools: pool("10.0.0.0/24")}, {Number: 2, VIPs: vip, Pools: pool("10.0.0.128/25")}}},
		{"overlaps", []Slot{{Number: 1, VIPs: vip, Pools: pool("10.0.0.0/24", "10.0.0.0/24")}}},
		{"host bits set, want 10.0.0.0/24", []Slot{{Number: 1, VIPs: vip, Pools: pool("10.0.0.1/24")}}},
		{"default route", []Slot{{Number: 1, VIPs: vip, Pools: pool("::/0")}}},
		{"is no prefix", []Slot{{Number: 1, VIPs: vip, Pools: []netip.Prefix{{}}}}},
	} {
		err := (&Desired{tt.slots}).check()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("want %q, got %v", tt.want, err)
		}
	}
}

func TestNumbered(t *testing.T) {
	for _, tt := range []struct {
		name string
		n    sa.Slot
	}{{"sc1", 1}, {"sc4095", 4095}, {"sc4096", 0}, {"sc0", 0}, {"sc01", 0}, {"sc", 0}, {"sc1x", 0}, {"x1", 0}, {"sc+1", 0}, {"sc70000", 0}} {
		n, ok := numbered(tt.name, "sc")
		if ok != (tt.n != 0) || ok && n != tt.n {
			t.Errorf("%s: %d, %v", tt.name, n, ok)
		}
	}
	if got := mac(4095, 1).String(); got != "02:53:43:01:0f:ff" {
		t.Error(got)
	}
}
