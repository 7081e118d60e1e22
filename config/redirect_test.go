package config

import (
	"strings"
	"testing"
)

// Clients told to go to the one VIP that there is would come back.
func TestRedirectToTheOnlyVIP(t *testing.T) {
	one := strings.Replace(Example(), ", \"2001:db8:51::1\"", "", 1)
	text := strings.Replace(one, "node: ams\n", "node: ams\nredirect: {gateway: 198.51.100.1}\n", 1)
	_, err := Parse([]byte(text))
	if n := len(mustParse(t, one).Fleet.VIPs); n != 1 {
		t.Fatalf("the example without its second VIP has %d", n)
	}
	if err == nil || !strings.Contains(err.Error(), "redirect.gateway: 198.51.100.1 is the only VIP") {
		t.Errorf("Parse: %v", err)
	}
	if _, err := Parse([]byte(strings.Replace(text, "gateway: 198.51.100.1", "gateway: 203.0.113.1", 1))); err != nil {
		t.Errorf("another gateway: %v", err)
	}
}
