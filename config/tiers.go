package config

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// Tiers say on how many of its slot's shadows a session is kept; the zero value: on
// all of them.
type Tiers struct {
	Default string         // tier of a session that no rule names
	Shadows map[string]int // by tier, 1 to 3
	Rules   []TierRule     // the first that fits counts
}

// TierRule names the tier of sessions whose connection or identity fits a pattern, in
// which * stands for any text and ? for one character. An empty pattern fits all.
type TierRule struct {
	Connection string // of swanctl.conf
	Identity   string // of the client: that of EAP, where it has one
	Tier       string

	connection, identity *regexp.Regexp
}

// Enabled reports whether sessions have tiers.
func (t Tiers) Enabled() bool { return t.Default != "" }

// Of returns the tier of a session, "" where there are none.
func (t Tiers) Of(connection, identity string) string {
	for _, r := range t.Rules {
		if r.connection.MatchString(connection) && r.identity.MatchString(identity) {
			return r.Tier
		}
	}
	return t.Default
}

// tierSizes are the tiers of a configuration that does not say how many shadows each has.
var tierSizes = map[string]any{"basic": 1, "standard": 2, "premium": 3}

type rawTiers struct {
	Default string        `yaml:"default"`
	Shadows rawTierSizes  `yaml:"shadows"`
	Rules   []rawTierRule `yaml:"rules,omitempty"`
}

type rawTierSizes struct {
	Basic    int `yaml:"basic"`
	Standard int `yaml:"standard"`
	Premium  int `yaml:"premium"`
}

type rawTierRule struct {
	Connection string `yaml:"connection,omitempty"`
	Identity   string `yaml:"identity,omitempty"`
	Tier       string `yaml:"tier"`
}

// IsZero tells the YAML encoder that there is no section to write.
func (r rawTiers) IsZero() bool { return r.Default == "" }

// Equal reports whether two configurations give the same tiers.
func (t Tiers) Equal(o Tiers) bool { return reflect.DeepEqual(t.raw(), o.raw()) }

func (t Tiers) raw() rawTiers {
	if !t.Enabled() {
		return rawTiers{}
	}
	r := rawTiers{Default: t.Default, Shadows: rawTierSizes{t.Shadows["basic"], t.Shadows["standard"], t.Shadows["premium"]}}
	for _, x := range t.Rules {
		r.Rules = append(r.Rules, rawTierRule{x.Connection, x.Identity, x.Tier})
	}
	return r
}

// maxTierRules bounds what is compared for each session.
const maxTierRules = 256

func (c *collector) tiers(r *rawTiers) (t Tiers) {
	const path = "fleet.tiers"
	if r.Default == "" && len(r.Rules) == 0 {
		return t
	}
	names := slices.Sorted(maps.Keys(tierSizes))
	known := func(path, name string) string {
		if !slices.Contains(names, name) {
			c.addf(path, "%q; want %s", name, oneOf(names))
		}
		return name
	}
	t.Default = known(path+".default", r.Default)
	t.Shadows = map[string]int{
		"basic":    c.within(path+".shadows.basic", r.Shadows.Basic, 1, maxShadows),
		"standard": c.within(path+".shadows.standard", r.Shadows.Standard, 1, maxShadows),
		"premium":  c.within(path+".shadows.premium", r.Shadows.Premium, 1, maxShadows),
	}
	if len(r.Rules) > maxTierRules {
		c.addf(path+".rules", "%d rules; want at most %d", len(r.Rules), maxTierRules)
		return t
	}
	for i, x := range r.Rules {
		at := at(path+".rules", i)
		rule := TierRule{Connection: x.Connection, Identity: x.Identity, Tier: known(at+".tier", x.Tier)}
		if x.Connection == "" && x.Identity == "" {
			c.addf(at, "names neither a connection nor an identity; want one of them, or the tier as %s.default", path)
		}
		rule.connection, rule.identity = glob(x.Connection), glob(x.Identity)
		t.Rules = append(t.Rules, rule)
	}
	return t
}

// glob makes a pattern of * and ? a regular expression for whole texts.
func glob(pattern string) *regexp.Regexp {
	if pattern == "" {
		pattern = "*"
	}
	s := strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(regexp.QuoteMeta(pattern))
	return regexp.MustCompile(`(?s)\A` + s + `\z`)
}
