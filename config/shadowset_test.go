package config

import (
	"slices"
	"strings"
	"testing"

	"github.com/shadowcast/shadowcast/ssm/shadowset"
)

// unpinned is the example without the shadows of slots 1 to 3, and with a
// second appliance in Amsterdam.
func unpinned() string {
	text := strings.NewReplacer("      shadows: [fra, lhr]\n", "", "      shadows: [lhr, ams]\n", "", "      shadows: [ams, fra]\n", "").Replace(Example())
	return strings.Replace(text, "    - name: fra\n", `    - name: ams2
      site: amsterdam
      location: {lat: 52.30, lon: 4.90}
      labels: {rack: a8, power: feed-2}
      address: 192.0.2.21
    - name: fra
`, 1)
}

func TestShadowsAreSelectedWhereTheTextNamesNone(t *testing.T) {
	c := mustParse(t, unpinned())
	for _, s := range c.Fleet.Slots {
		if !s.Selected || len(s.Shadows) != 2 || slices.Contains(s.Shadows, s.Home) {
			t.Errorf("slot %d at %s: %+v", s.Number, s.Home, s)
		}
		var set []shadowset.Member
		for _, n := range s.Members() {
			a, _ := c.Fleet.Appliance(n)
			for _, o := range set {
				if d := shadowset.Shared(a.Member(), o); d != shadowset.DomainNone {
					t.Errorf("slot %d: %s and %s share %s, and there are three sites", s.Number, n, o.Name, d)
				}
			}
			set = append(set, a.Member())
		}
	}
	text, err := c.Marshal()
	if err != nil || strings.Contains(string(text), "shadows:") {
		t.Fatalf("a selected set was written as if it were named (%v):\n%s", err, text)
	}
	if again := mustParse(t, string(text)); again.Fleet.Digest() != c.Fleet.Digest() {
		t.Error("the same text chose other shadows")
	}
}

// Every appliance must come to the same sets, in whatever order it lists things.
func TestSelectionDoesNotDependOnTheOrder(t *testing.T) {
	a, b := mustParse(t, unpinned()).Fleet, mustParse(t, unpinned()).Fleet
	slices.Reverse(b.Appliances)
	slices.Reverse(b.Slots)
	for i := range b.Slots {
		b.Slots[i].Shadows = nil
	}
	b.selectShadows()
	if a.Digest() != b.Digest() {
		t.Errorf("sets differ:\n%+v\n%+v", a.Slots, b.Slots)
	}
}

func TestDefaultsOfSets(t *testing.T) {
	if got := mustParse(t, unpinned()).Fleet.ShadowSets; got != DefaultShadowSets() {
		t.Errorf("the defaults are %+v, DefaultShadowSets says %+v", got, DefaultShadowSets())
	}
	text := strings.Replace(unpinned(), "  # probe:\n", "  shadow_sets: {dynamic: false}\n  # probe:\n", 1)
	for i, f := range []Fleet{mustParse(t, unpinned()).Fleet, mustParse(t, text).Fleet, mustParse(t, Example()).Fleet} {
		if got, want := f.Changes(f.Slots[0]), i == 0; got != want {
			t.Errorf("fleet %d: the owner of slot 1 changes its set: %t, want %t", i, got, want)
		}
	}
}

func TestPinsAndSizeRule(t *testing.T) {
	text := strings.Replace(unpinned(), "      home: ams\n", "      home: ams\n      shadows: [ams2]\n", 1)
	text = strings.Replace(text, "      home: fra\n", "      home: fra\n      shadows: []\n", 1)
	text = strings.Replace(text, "  # probe:\n", "  shadow_sets: {size: 3}\n  # probe:\n", 1)
	c := mustParse(t, text)
	for n, want := range map[int]struct {
		shadows  int
		selected bool
	}{1: {1, false}, 2: {0, false}, 3: {3, true}} {
		s := c.Fleet.Slots[n-1]
		if len(s.Shadows) != want.shadows || s.Selected != want.selected {
			t.Errorf("slot %d: %+v, want %+v", n, s, want)
		}
	}
	if s := c.Fleet.Slots[0]; s.Shadows[0] != "ams2" {
		t.Errorf("a pin was overruled: %+v", s)
	}
	out, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if again := mustParse(t, string(out)); again.Fleet.Digest() != c.Fleet.Digest() {
		t.Errorf("read back differently:\n%s", out)
	}
}
