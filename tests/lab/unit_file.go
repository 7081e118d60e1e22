package lab

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// unitFile is a unit of systemd: what stands in it by section and key, such as
// "Service.ExecStart", in order. An empty value takes back those before it.
type unitFile map[string][]string

// parseUnit reads a unit.
func parseUnit(text string) (unitFile, error) {
	u, section := unitFile{}, ""
	for i, line := range strings.Split(strings.ReplaceAll(text, "\\\n", ""), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if name, ok := strings.CutPrefix(line, "["); ok && strings.HasSuffix(name, "]") {
			section = strings.TrimSuffix(name, "]")
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || section == "" {
			return nil, fmt.Errorf("line %d of the unit is no setting of a section: %q", i+1, line)
		}
		at := section + "." + strings.TrimSpace(key)
		if value = strings.TrimSpace(value); value == "" {
			u[at] = nil
			continue
		}
		u[at] = append(u[at], value)
	}
	return u, nil
}

// one is the last value of a setting, or other.
func (u unitFile) one(key, other string) string {
	if v := u[key]; len(v) > 0 {
		return v[len(v)-1]
	}
	return other
}

// list are the words of a setting that may be given several times.
func (u unitFile) list(key string) []string { return strings.Fields(strings.Join(u[key], " ")) }

// command is one line of ExecStart and the like.
type unitCommand struct {
	argv []string
	may  bool // fail: the line begins with "-"
}

// commands returns the lines of a setting such as Service.ExecStart, with $MAINPID
// filled in. What this reader does not understand is an error.
func (u unitFile) commands(key, mainPID string) ([]unitCommand, error) {
	var out []unitCommand
	for _, line := range u[key] {
		c := unitCommand{}
		line, c.may = strings.CutPrefix(line, "-")
		c.argv = strings.Fields(line)
		for i, word := range c.argv {
			if c.argv[i] = strings.ReplaceAll(word, "$MAINPID", mainPID); strings.ContainsAny(c.argv[i], "$%\"'\\;") {
				return nil, fmt.Errorf("%s=%s: want plain words and $MAINPID", key, line)
			}
		}
		if len(c.argv) == 0 || c.argv[0] == "" || c.argv[0][0] != '/' {
			return nil, fmt.Errorf("%s=%s: want the path of a program", key, line)
		}
		out = append(out, c)
	}
	return out, nil
}

// confine is the command line that leaves a program what the unit leaves it, as far as
// that goes without systemd: limits, capabilities, the mask for new files. The sandbox
// (mounts, devices, system calls) is not played.
func (u unitFile) confine() ([]string, error) {
	argv := []string{"/usr/bin/prlimit"}
	for _, l := range []struct{ key, flag string }{{"MEMLOCK", "memlock"}, {"CORE", "core"}, {"NOFILE", "nofile"}} {
		if v := u.one("Service.Limit"+l.key, ""); v != "" {
			argv = append(argv, "--"+l.flag+"="+strings.ReplaceAll(v, "infinity", "unlimited"))
		}
	}
	if len(argv) == 1 {
		argv = nil
	}
	if names := u.list("Service.CapabilityBoundingSet"); len(names) > 0 {
		for _, n := range names {
			if _, ok := capabilityBits[n]; !ok {
				return nil, fmt.Errorf("the unit names the capability %s, which the lab does not know", n)
			}
		}
		set := bounded(names)
		if u.one("Service.NoNewPrivileges", "no") != "yes" {
			set = slices.DeleteFunc(set, func(s string) bool { return s == "--no-new-privs" })
		}
		argv = append(argv, set...)
	}
	return argv, nil
}

// unitTime reads a time span of a unit; a bare number is seconds.
func unitTime(s string) (time.Duration, error) {
	if n, err := strconv.Atoi(s); err == nil {
		return time.Duration(n) * time.Second, nil
	}
	d, err := time.ParseDuration(strings.NewReplacer("min", "m", " ", "").Replace(s))
	if err != nil {
		return 0, fmt.Errorf("want a time such as 10s or 2min: %w", err)
	}
	return d, nil
}
