package bgp

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func goodConfig() Config {
	return Config{
		ASN: 64512, RouterID: netip.MustParseAddr("192.0.2.1"), Node: "ams",
		FleetLiveness: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		Peers: []Peer{
			{Name: "r1", Address: netip.MustParseAddr("10.0.0.1"), LocalAddress: netip.MustParseAddr("10.0.0.2"), ASN: 64500, Role: Outside, BFD: BFD{Enabled: true}},
			{Name: "r1-6", Address: netip.MustParseAddr("2001:db8::1"), LocalAddress: netip.MustParseAddr("2001:db8::2"), ASN: 64500, Role: Outside},
			{Name: "core", Address: netip.MustParseAddr("10.0.1.1"), LocalAddress: netip.MustParseAddr("10.0.1.2"), ASN: 64501, Role: Inside},
		},
	}
}

func TestValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		mod  func(*Config)
		want string
	}{
		"good":           {func(*Config) {}, ""},
		"asn":            {func(c *Config) { c.ASN = 0 }, "asn: 0 is reserved"},
		"as trans":       {func(c *Config) { c.ASN = 23456 }, "asn: 23456"},
		"router id":      {func(c *Config) { c.RouterID = netip.MustParseAddr("::1") }, "router_id: ::1, want an IPv4 address"},
		"port":           {func(c *Config) { c.ListenPort = 70000 }, "listen_port: 70000"},
		"node":           {func(c *Config) { c.Node = strings.Repeat("x", 64) }, "node:"},
		"window":         {func(c *Config) { c.ChangeWindow = time.Millisecond }, "change_window"},
		"fleet bits":     {func(c *Config) { c.FleetLiveness[0] = netip.MustParsePrefix("192.0.2.1/24") }, "fleet_liveness[0]"},
		"peer name":      {func(c *Config) { c.Peers[0].Name = "" }, "peers[0].name: empty"},
		"peer twice":     {func(c *Config) { c.Peers[1].Name = "r1" }, "used twice"},
		"address twice":  {func(c *Config) { c.Peers[2].Address = c.Peers[0].Address }, "10.0.0.1 used twice"},
		"own asn":        {func(c *Config) { c.Peers[0].ASN = 64512 }, "peers[0] (r1).asn: 64512 is our own"},
		"family":         {func(c *Config) { c.Peers[0].LocalAddress = netip.MustParseAddr("::2") }, "peers[0] (r1).local_address: ::2"},
		"same end":       {func(c *Config) { c.Peers[0].LocalAddress = c.Peers[0].Address }, "want ours"},
		"zone":           {func(c *Config) { c.Peers[1].Address = netip.MustParseAddr("fe80::1%eth0") }, "no zone"},
		"role":           {func(c *Config) { c.Peers[0].Role = "transit" }, `role: "transit"`},
		"bfd interval":   {func(c *Config) { c.Peers[0].BFD.Interval = time.Millisecond }, "bfd.interval: 1ms, want 10ms..10s"},
		"bfd multiplier": {func(c *Config) { c.Peers[0].BFD.Multiplier = 1 }, "bfd.multiplier: 1"},
		"hold":           {func(c *Config) { c.Peers[0].HoldTime = 1500 * time.Millisecond }, "hold_time: 1.5s"},
		"keepalive":      {func(c *Config) { c.Peers[0].Keepalive = 10 * time.Second }, "keepalive: 10s"},
		"password":       {func(c *Config) { c.Peers[0].Password = Password(strings.Repeat("k", 81)) }, "password: 81 bytes"},
		"prepend":        {func(c *Config) { c.Peers[0].DrainPrepend = 11 }, "drain_prepend: 11"},
	} {
		t.Run(name, func(t *testing.T) {
			c := goodConfig()
			tc.mod(&c)
			_, err := New(c, slog.New(slog.DiscardHandler))
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Fatalf("error %v, want one with %q", err, tc.want)
			}
		})
	}
}

func TestListenFamilies(t *testing.T) {
	c := goodConfig().withDefaults()
	if got := fmt.Sprint(c.ListenAddrs); got != "[0.0.0.0 ::]" {
		t.Errorf("listen on %s", got)
	}
	c = goodConfig()
	c.Peers = c.Peers[:1]
	if got := fmt.Sprint(c.withDefaults().ListenAddrs); got != "[0.0.0.0]" {
		t.Errorf("listen on %s with IPv4 peers only", got)
	}
}

func TestPasswordNeverShows(t *testing.T) {
	p := Peer{Name: "r1", Password: "hunter2"}
	j, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "peer", p, "password", p.Password)
	all := fmt.Sprintf("%v %+v %#v %s %q %x %d", p, p, p, p.Password, p.Password, p.Password, p.Password) + string(j) + b.String()
	if strings.Contains(all, "hunter2") || strings.Contains(all, "68756e74657232") {
		t.Errorf("password shows in %s", all)
	}
}
