package lab

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/shadowcast/shadowcast/api/v1"
	"github.com/shadowcast/shadowcast/configs"
)

func init() {
	Register(Scenario{Name: "unit-capabilities", Doc: "a fleet whose daemons have exactly the capabilities that the systemd unit lists",
		Need: fleetNeed, Options: fleetOptions(ConnSpec{Encap: true, DPD: "2s"}), Bench: true, Run: unitCapabilities})
}

// capabilityBits are the numbers of the capabilities that a unit of ours may name
// (capabilities(7)).
var capabilityBits = map[string]uint{
	"CAP_DAC_OVERRIDE": 1, "CAP_KILL": 5, "CAP_NET_BIND_SERVICE": 10, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_RAWIO": 17,
	"CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_SYSLOG": 34, "CAP_PERFMON": 38, "CAP_BPF": 39,
}

// unitBounds reads the capability bounding set of a unit.
func unitBounds(unit string) ([]string, uint64, error) {
	m := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.+)$`).FindStringSubmatch(unit)
	if m == nil {
		return nil, 0, fmt.Errorf("the unit has no CapabilityBoundingSet")
	}
	var mask uint64
	names := strings.Fields(m[1])
	for _, n := range names {
		bit, ok := capabilityBits[n]
		if !ok {
			return nil, 0, fmt.Errorf("the unit names %s; want one of %v", n, slices.Sorted(maps.Keys(capabilityBits)))
		}
		mask |= 1 << bit
	}
	return names, mask, nil
}

// bounded is a command line in front of the daemon's that leaves it as the unit does.
func bounded(names []string) []string {
	set := "-all"
	for _, n := range names {
		set += ",+" + strings.ToLower(strings.TrimPrefix(n, "CAP_"))
	}
	return []string{"setpriv", "--no-new-privs", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=" + set}
}

// unitCapabilities plays what needs privileges: setting up, feeding twins, a move, a
// charon that dies, a daemon that dies and adopts, a takeover.
func unitCapabilities(t *T, l *Lab) {
	names, mask, err := unitBounds(configs.Unit)
	t.Check(err)
	for _, a := range l.Appliances() {
		a.Wrap = bounded(names)
	}
	s, home := start(t, l)
	for _, a := range l.Appliances() {
		exactly(t, a, mask)
	}
	control(t, l, s)
	handover(t, l, s, "planned", other(l, home))
	t.Check(home.KillDaemon())
	t.Check(home.Start())
	t.Check(home.WaitStatus(t.Context(), "an answer", func(*v1.GetStatusResponse) bool { return true }))
	exactly(t, home, mask)
	allReady(t, l)
	cut, victim := powerCut(t, l, s, "power-cut")
	kept(t, cut)
	t.Check(s.Client.RekeyIKE(t.Context()))
	pause(t, time.Second)
	// What failed for want of a privilege would be an error event.
	for _, a := range l.Appliances() {
		if a == victim {
			continue
		}
		evs, err := a.Events(t.Context())
		t.Check(err)
		for _, e := range evs {
			if strings.Contains(e.Reason, "not permitted") || strings.Contains(e.Reason, "permission denied") {
				t.Errorf("%s: %s: %s", a.Name, e.Message, e.Reason)
			}
		}
	}
	t.Metric("capabilities", names)
}

// exactly checks the daemon's own capabilities and those that anything it starts may
// ever have.
func exactly(t *T, a *Appliance, want uint64) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(a.daemon.PID()), "status"))
	t.Check(err)
	for _, field := range []string{"CapPrm", "CapEff", "CapBnd"} {
		m := regexp.MustCompile(`(?m)^` + field + `:\s+([0-9a-f]+)$`).FindSubmatch(b)
		if m == nil {
			t.Fatalf("%s: no %s in /proc/PID/status", a.Name, field)
		}
		got, err := strconv.ParseUint(string(m[1]), 16, 64)
		t.Check(err)
		if got != want {
			t.Errorf("%s: %s is %x, want %x", a.Name, field, got, want)
		}
	}
}
