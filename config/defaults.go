package config

import (
	"maps"
	"path/filepath"
	"reflect"
)

// Files of the PKI that are not named explicitly are looked for in pkiDir, where
// `shadowctl pki` writes them.
const pkiDir = "/etc/shadowcast/pki"

// section is the value of a section of which every key may be left out.
type section = map[string]any

// defaults are the values of keys that the text leaves out, by the raw struct
// that holds them. It is the only place that knows them, but for the certificate
// and its key, whose names depend on the node (defaultCert).
var defaults = map[reflect.Type]section{
	reflect.TypeFor[rawConfig](): {
		"run_dir":        defaultPlaces.RunDir,
		"state_dir":      "/var/lib/shadowcast",
		"bpf_dir":        defaultPlaces.BPFDir,
		"netns_prefix":   defaultPlaces.NetnsPrefix,
		"swanctl_dir":    "/etc/swanctl",
		"fleet_key_file": pkiDir + "/fleet.key",
		"shadowing":      true,
		"log":            section{},
		"pki":            section{},
		"bgp":            section{},
		"fleet":          section{},
		"health":         section{},
	},
	reflect.TypeFor[rawLog]():        {"level": "info", "format": "text"},
	reflect.TypeFor[rawPKI]():        {"ca": pkiDir + "/ca.crt"},
	reflect.TypeFor[rawFleet]():      {"probe": section{}, "handover": section{}, "shadow_sets": section{}, "dead_man": "1s"},
	reflect.TypeFor[rawShadowSets](): {"size": 2, "dispersion": 1.0, "load": 1.0, "latency": 1.0, "margin": 0.2, "dynamic": true, "replace_after": "30s", "settle": "5m", "change_every": "30m"},
	reflect.TypeFor[rawTiers]():      {"default": "standard", "shadows": section{}},
	reflect.TypeFor[rawTierSizes]():  tierSizes,
	reflect.TypeFor[rawAppliance]():  {"replication_port": 4501, "probe_port": 4502, "registrar_port": 4503, "gossip_port": 4504},
	reflect.TypeFor[rawProbe]():      {"interval": "50ms", "lost": 3},
	reflect.TypeFor[rawHandover]():   {"hold_cap": "100ms", "drain_time": "1m", "drain_rate": 60, "stop_drain": "0s", "rekey_spread": "10m", "audit_interval": "1m", "shed_load": 85, "return_damping": "15m", "hold_down": "2m"},
	reflect.TypeFor[rawBGP]():        {"listen_port": 179, "med_base": 100, "change_window": "15m", "max_changes": 2, "dwell": "1m"},
	reflect.TypeFor[rawVIP]():        {"med_base": 100},
	reflect.TypeFor[rawDNS]():        {"ttl": "30s"},
	reflect.TypeFor[rawRedirect]():   {"drain": "never", "rate": 10},
	reflect.TypeFor[rawPeer]():       {"bfd": section{}, "ttl_security": false, "hold_time": "90s", "max_prefixes": 1000},
	reflect.TypeFor[rawHealth](): {"enabled": true, "sys": "/sys", "proc": "/proc", "dev": "/dev", "speed": 1.0,
		"watch": section{}, "degraded": section{}, "draining": section{}, "withdraw": section{}, "hold": section{}},
	reflect.TypeFor[rawHold](): {"month": "168h", "hour": "15m"},
	reflect.TypeFor[rawBFD]():  {"enabled": true, "interval": "100ms", "multiplier": 3},
}

// withDefaults returns the section of type t with the missing keys filled in.
func withDefaults(t reflect.Type, given section) section {
	d := defaults[t]
	if len(d) == 0 {
		return given
	}
	out := maps.Clone(d)
	maps.Copy(out, given)
	return out
}

// defaultCert and defaultKey are where `shadowctl pki issue` puts node's files.
func defaultCert(node string) string { return filepath.Join(pkiDir, node+".crt") }
func defaultKey(node string) string  { return filepath.Join(pkiDir, node+".key") }
