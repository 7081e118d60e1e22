// Package configs embeds the files that are shipped as examples, so that the
// binaries print the very text that lies in this directory. It holds no logic.
package configs

import _ "embed"

// Example is the annotated appliance configuration.
//
//go:embed shadowcast.example.yaml
var Example string

// Unit is the systemd unit of the daemon.
//
//go:embed systemd/shadowcastd.service
var Unit string

// Alerts are the Prometheus alert rules of a fleet.
//
//go:embed prometheus/alerts.yaml
var Alerts string
