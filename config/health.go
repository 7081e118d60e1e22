package config

import "time"

// Health says what is read of the hardware and when it counts.
type Health struct {
	Enabled bool
	// Sys, Proc and Dev are where the machine is looked at: /sys, /proc, /dev.
	Sys, Proc, Dev string
	// Smartctl and Ipmitool are programs; Ipmitool may be empty: not asked.
	Smartctl, Ipmitool string
	// SmartDir holds smartctl's JSON documents of another agent instead.
	SmartDir string
	// Trace is a directory into which everything that is read is recorded, ""
	// for none.
	Trace string
	// Speed is how many times as often everything is read.
	Speed float64
	// Probabilities of a failure, 0 to 1, at which a state begins; 0 is never.
	Watch, Degraded, Draining, Withdraw Risk
	Hold                                Hold
}

// Risk is a probability within 30 days and one within an hour.
type Risk struct{ Month, Hour float64 }

// Hold is how long a risk must have been low before the state gets better.
type Hold struct{ Month, Hour time.Duration }

type rawHealth struct {
	Enabled  bool    `yaml:"enabled"`
	Sys      string  `yaml:"sys"`
	Proc     string  `yaml:"proc"`
	Dev      string  `yaml:"dev"`
	Smartctl string  `yaml:"smartctl,omitempty"`
	SmartDir string  `yaml:"smart_dir,omitempty"`
	Ipmitool string  `yaml:"ipmitool,omitempty"`
	Trace    string  `yaml:"trace,omitempty"`
	Speed    float64 `yaml:"speed"`
	Watch    rawRisk `yaml:"watch"`
	Degraded rawRisk `yaml:"degraded"`
	Draining rawRisk `yaml:"draining"`
	Withdraw rawRisk `yaml:"withdraw"`
	Hold     rawHold `yaml:"hold"`
}

// rawRisk is in per cent; pointers, because every section has its own default.
type rawRisk struct {
	Month *float64 `yaml:"month,omitempty"`
	Hour  *float64 `yaml:"hour,omitempty"`
}

type rawHold struct {
	Month duration `yaml:"month"`
	Hour  duration `yaml:"hour"`
}

// defaultRisk are the risks of the signal catalogue, in per cent.
var defaultRisk = map[string][2]float64{"watch": {.5, .5}, "degraded": {.9, 1}, "draining": {6, 5}, "withdraw": {0, 0}}

func (c *collector) health(r *rawHealth) Health {
	h := Health{Enabled: r.Enabled, Sys: c.file("health.sys", r.Sys), Proc: c.file("health.proc", r.Proc), Dev: c.file("health.dev", r.Dev),
		Smartctl: c.optionalFile("health.smartctl", r.Smartctl), Ipmitool: c.optionalFile("health.ipmitool", r.Ipmitool),
		SmartDir: c.optionalFile("health.smart_dir", r.SmartDir), Trace: c.optionalFile("health.trace", r.Trace), Speed: r.Speed,
		Watch: c.risk("watch", r.Watch), Degraded: c.risk("degraded", r.Degraded), Draining: c.risk("draining", r.Draining), Withdraw: c.risk("withdraw", r.Withdraw),
		Hold: Hold{Month: c.duration("health.hold.month", r.Hold.Month, time.Second, 60*24*time.Hour), Hour: c.duration("health.hold.hour", r.Hold.Hour, time.Second, 24*time.Hour)}}
	if !(h.Speed >= .1 && h.Speed <= 100) {
		c.addf("health.speed", "%v; want 0.1 to 100, 1 for the intervals of the catalogue", h.Speed)
	}
	ordered := func(name, worse string, a, b float64, kind string) {
		if a > 0 && b > 0 && a > b {
			c.addf("health."+worse+"."+kind, "%v; want at least %v, where %s begins", 100*b, 100*a, name)
		}
	}
	for _, x := range []struct {
		name, worse string
		a, b        Risk
	}{{"watch", "degraded", h.Watch, h.Degraded}, {"degraded", "draining", h.Degraded, h.Draining}, {"draining", "withdraw", h.Draining, h.Withdraw}} {
		ordered(x.name, x.worse, x.a.Month, x.b.Month, "month")
		ordered(x.name, x.worse, x.a.Hour, x.b.Hour, "hour")
	}
	return h
}

// risk turns per cent into a probability.
func (c *collector) risk(name string, r rawRisk) Risk {
	d := defaultRisk[name]
	get := func(kind string, p *float64, def float64) float64 {
		if p == nil {
			return def / 100
		}
		if !(*p >= 0 && *p <= 100) {
			c.addf("health."+name+"."+kind, "%v; want per cent, 0 to 100; 0 is never", *p)
			return def / 100
		}
		return *p / 100
	}
	return Risk{Month: get("month", r.Month, d[0]), Hour: get("hour", r.Hour, d[1])}
}

func (c *collector) optionalFile(path, s string) string {
	if s == "" {
		return ""
	}
	return c.file(path, s)
}

func (h Health) raw() rawHealth {
	risk := func(r Risk) rawRisk {
		m, o := percent(r.Month), percent(r.Hour)
		return rawRisk{Month: &m, Hour: &o}
	}
	return rawHealth{Enabled: h.Enabled, Sys: h.Sys, Proc: h.Proc, Dev: h.Dev, Smartctl: h.Smartctl, SmartDir: h.SmartDir, Ipmitool: h.Ipmitool, Trace: h.Trace, Speed: h.Speed,
		Watch: risk(h.Watch), Degraded: risk(h.Degraded), Draining: risk(h.Draining), Withdraw: risk(h.Withdraw),
		Hold: rawHold{Month: duration(short(h.Hold.Month)), Hour: duration(short(h.Hold.Hour))}}
}

// percent undoes the division by 100 without its rounding error.
func percent(p float64) float64 {
	for _, digits := range []float64{1e2, 1e4, 1e6, 1e9} {
		if v := float64(int64(p*100*digits+.5)) / digits; v/100 == p {
			return v
		}
	}
	return p * 100
}

// DefaultHealth is the section as it is when the text leaves it out.
func DefaultHealth() Health {
	risk := func(name string) Risk {
		d := defaultRisk[name]
		return Risk{Month: d[0] / 100, Hour: d[1] / 100}
	}
	return Health{Enabled: true, Sys: "/sys", Proc: "/proc", Dev: "/dev", Speed: 1, Watch: risk("watch"), Degraded: risk("degraded"), Draining: risk("draining"),
		Withdraw: risk("withdraw"), Hold: Hold{Month: 7 * 24 * time.Hour, Hour: 15 * time.Minute}}
}
