package node

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/shadowcast/shadowcast/config"
	"github.com/shadowcast/shadowcast/dnsupdate"
	"github.com/shadowcast/shadowcast/sa"
	"github.com/shadowcast/shadowcast/ssm"
)

// TestNamesOf: a name follows the first home slot of its appliance, with the addresses
// of the appliance that owns it.
func TestNamesOf(t *testing.T) {
	anycast, east := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")
	cfg := &config.Config{Node: "fra", DNS: config.DNS{Names: []config.DNSName{
		{Name: "ams", Appliance: "ams", Addresses: []netip.Addr{anycast}}, {Name: "fra", Appliance: "fra", Addresses: []netip.Addr{east}}}},
		Fleet: config.Fleet{VIPs: []netip.Addr{anycast, east}, Slots: []config.Slot{{Number: 4, Home: "fra"}, {Number: 7, Home: "ams"}, {Number: 2, Home: "ams"}}}}
	view := func(ss ...ssm.SlotView) ssm.View { return ssm.View{Self: "fra", Slots: ss} }
	mine := func(n int, ticket sa.Ticket) ssm.SlotView {
		return ssm.SlotView{Slot: cfg.Fleet.Slots[n].Number, Owner: "fra", Role: ssm.RoleOwner, Ticket: ticket}
	}
	for name, tc := range map[string]struct {
		view ssm.View
		want map[string]dnsupdate.Record
	}{
		"nothing owned": {view(ssm.SlotView{Slot: 4, Owner: "ams", Role: ssm.RoleShadow}), map[string]dnsupdate.Record{}},
		"own slot":      {view(mine(0, 5)), map[string]dnsupdate.Record{"fra": {Addresses: []netip.Addr{east}, Owner: "fra", Ticket: 5}}},
		"taken over":    {view(mine(0, 5), mine(2, 9)), map[string]dnsupdate.Record{"fra": {Addresses: []netip.Addr{east}, Owner: "fra", Ticket: 5}, "ams": {Addresses: []netip.Addr{east}, Owner: "fra", Ticket: 9}}},
		"not the first": {view(mine(1, 9)), map[string]dnsupdate.Record{}},
		"draining":      {view(ssm.SlotView{Slot: 4, Owner: "ams", Role: ssm.RoleDraining}), map[string]dnsupdate.Record{}},
	} {
		if got := namesOf(cfg, tc.view); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
	cfg.DNS.Names = cfg.DNS.Names[:1]
	if got := namesOf(cfg, view(mine(2, 9)))["ams"].Addresses; !reflect.DeepEqual(got, cfg.Fleet.VIPs) {
		t.Errorf("an appliance without a name of its own has %v, want every VIP", got)
	}
}
