package config

import (
	"strings"
	"testing"
)

func withTiers(t *testing.T, section string) Tiers {
	t.Helper()
	c, err := Parse([]byte(strings.Replace(Example(), "  # probe:\n", section+"  # probe:\n", 1)))
	if err != nil {
		t.Fatal(err)
	}
	text, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Parse(text)
	if err != nil || !back.Fleet.Tiers.Equal(c.Fleet.Tiers) {
		t.Fatalf("written and read again: %+v, want %+v (%v)", back.Fleet.Tiers, c.Fleet.Tiers, err)
	}
	return c.Fleet.Tiers
}

func TestTiers(t *testing.T) {
	if none := withTiers(t, ""); none.Enabled() || none.Of("home", "alice") != "" {
		t.Errorf("without a section there are tiers: %+v", none)
	}
	plain := withTiers(t, "  tiers: {default: standard}\n")
	if plain.Of("home", "alice") != "standard" || plain.Shadows["basic"] != 1 || plain.Shadows["standard"] != 2 || plain.Shadows["premium"] != 3 {
		t.Errorf("a section without sizes gives %+v", plain)
	}
	x := withTiers(t, `  tiers:
    default: basic
    shadows: {premium: 2}
    rules:
      - {connection: "office-*", tier: premium}
      - {identity: "*@guests.example", tier: basic}
      - {connection: home, identity: "C=?? *", tier: standard}
`)
	for _, y := range []struct{ connection, identity, want string }{
		{"office-1", "a@guests.example", "premium"}, // the first counts
		{"home", "a@guests.example", "basic"},
		{"home", "C=CH O=x/y, CN=a", "standard"},
		{"home", "C=CHE O=x", "basic"},
		{"Xoffice-1", "", "basic"},
		{"home", "a@guests.example\n", "basic"},
	} {
		if got := x.Of(y.connection, y.identity); got != y.want {
			t.Errorf("connection %q, identity %q: tier %s, want %s", y.connection, y.identity, got, y.want)
		}
	}
	if x.Equal(plain) || !x.Equal(x) {
		t.Error("different tiers are equal, or equal ones are not")
	}
}
