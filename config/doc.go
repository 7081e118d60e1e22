// Package config reads the appliance's YAML file into a typed, fully checked
// Config.
//
// It owns the file format, the defaults (one table, defaults.go) and every rule
// about which values go together. It never opens a socket, never reads the
// files that the configuration names unless asked to (CheckFiles), and keeps no
// state. cmd/shadowcastd, cmd/shadowctl and the lab call it.
//
// Data flows one way: text -> viper (strict: unknown keys are refused) -> raw
// structs that mirror the text -> Config with netip, time.Duration and sa.Slot.
// Each step adds to one list of problems, so that a person sees all mistakes at
// once, each with its path, its line, and what would be right. Marshal goes the
// other way.
//
// Lists carry a `name:` or `number:` instead of being maps keyed by it: viper
// lower-cases keys, and a list keeps its order.
package config
