package preflight

import (
	"fmt"
	"slices"
)

// Severity says what a finding means for the appliance.
type Severity int

// Fatal: the daemon cannot work. Warning: it works, but breaks or weakens a promise.
// Info: worth knowing.
const (
	Info Severity = iota
	Warning
	Fatal
)

func (s Severity) String() string {
	switch s {
	case Fatal:
		return "fatal"
	case Warning:
		return "warning"
	}
	return "info"
}

// MarshalText makes s a word in JSON.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Finding is one thing that should be different.
type Finding struct {
	// Check is a fixed word for the kind of finding, such as "pool-space".
	Check    string   `json:"check"`
	Severity Severity `json:"severity"`
	What     string   `json:"what"`
	Why      string   `json:"why"`
	// Fix is a command, or a change of a named file.
	Fix string `json:"fix"`
}

// findings collects.
type findings []Finding

func (fs *findings) add(s Severity, check, why, fix, what string, args ...any) {
	*fs = append(*fs, Finding{Check: check, Severity: s, What: fmt.Sprintf(what, args...), Why: why, Fix: fix})
}

// Check looks at facts and returns what should be different, the worst first.
func Check(f *Facts) []Finding {
	var out findings
	for _, check := range []func(*Facts, *findings){
		privileges, kernel, memory, directories, strongSwan, connections, ports,
		certificates, clock, interfaces, sysctls, offloads, routers, paths, space,
	} {
		check(f, &out)
	}
	slices.SortStableFunc(out, func(a, b Finding) int { return int(b.Severity) - int(a.Severity) })
	return out
}

// Worst is the highest severity of fs, Info for none.
func Worst(fs []Finding) Severity {
	worst := Info
	for _, f := range fs {
		worst = max(worst, f.Severity)
	}
	return worst
}
