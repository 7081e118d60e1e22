package node

import (
	"errors"
	"log/slog"
	"slices"
	"strings"

	"github.com/shadowcast/shadowcast/config"
)

// Reload applies what can be applied of the configuration in file and tells the rest.
// A wrong configuration changes nothing. level is that of the daemon's log.
func (a *Appliance) Reload(file string, level *slog.LevelVar) {
	next, err := config.Load(file)
	if err == nil {
		err = next.CheckFiles()
	}
	var wrong config.Problems
	switch {
	case errors.As(err, &wrong):
		for _, p := range wrong {
			a.events.Add(Entry{Kind: "reload", Warn: true, Text: "the configuration is kept: " + file + " is wrong", Reason: p.String()})
		}
		return
	case err != nil:
		a.events.Add(Entry{Kind: "reload", Warn: true, Text: "the configuration is kept: " + file + " cannot be read", Reason: err.Error()})
		return
	}
	paths, err := config.Changes(a.cfg, next)
	if err != nil {
		a.events.Add(Entry{Kind: "reload", Warn: true, Text: "the configuration is kept", Reason: err.Error()})
		return
	}
	var done []string
	// The log's level and tiers are compared with what is in use: an earlier reload
	// changed them.
	later := slices.DeleteFunc(paths, func(p string) bool {
		return p == "log.level" || p == "geoip_file" || p == "fleet.tiers" || strings.HasPrefix(p, "fleet.tiers.")
	})
	if t := next.Fleet.Tiers; !t.Equal(*a.tiers.Load()) {
		a.retier(t)
		done = append(done, "fleet.tiers")
	}
	if level.Level() != next.Log.Level {
		level.Set(next.Log.Level)
		done = append(done, "log.level")
	}
	// The file may be a newer one of the same name.
	if err := a.openGeoIP(next.GeoIPFile); err != nil {
		a.events.Add(Entry{Kind: "reload", Warn: true, Text: "the GeoIP database in use is kept", Reason: err.Error()})
	} else if next.GeoIPFile != "" {
		done = append(done, "geoip_file")
	}
	// Connections made from now on use the files as they are now.
	if err := a.identity.Reload(); err != nil {
		a.events.Add(Entry{Kind: "reload", Warn: true, Text: "the certificates in use are kept", Reason: err.Error()})
	} else {
		if a.fabric != nil {
			a.fabric.Reload()
		}
		done = append(done, "certificates until "+a.identity.NotAfter().Format("2006-01-02"))
	}
	a.events.Add(Entry{Kind: "reload", Text: "the configuration was read again", Reason: "applied: " + strings.Join(done, ", ")})
	if len(later) > 0 {
		a.events.Add(Entry{Kind: "reload", Warn: true, Text: "changes wait for a restart: " + strings.Join(later, ", "),
			Reason: "they cannot be applied to a running appliance; `shadowctl drain`, restart, `shadowctl undrain`"})
	}
}
