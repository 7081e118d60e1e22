package lab

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// idle measures what a fleet without clients costs: on the lab's one processor that
// is what is left for everything else.
func init() {
	Register(Scenario{
		Name: "idle-cost", Doc: "CPU and memory of a fleet at rest", Need: fleetNeed,
		Options: fleetOptions(ConnSpec{}).detecting(),
		Run: func(t *T, l *Lab) {
			fleetUp(t, l)
			const span = 5 * time.Second
			before := l.usages(t)
			idle0, all0 := cpuTicks(t)
			pause(t, span)
			after := l.usages(t)
			idle1, all1 := cpuTicks(t)
			for _, n := range sortedKeys(after) {
				share := float64(after[n].CPU-before[n].CPU) / float64(span) * 100
				wake := float64(after[n].Wakeups-before[n].Wakeups) / span.Seconds()
				t.Logf("%s: %.1f%% of one processor, %.0f wake-ups a second, %.1f MB", n, share, wake, float64(after[n].PSS)/1e6)
				t.Metric(n, map[string]any{"cpu_percent": share, "wakeups_per_second": wake, "pss_bytes": after[n].PSS})
			}
			busy := 100 - 100*float64(idle1-idle0)/float64(max(all1-all0, 1))
			t.Logf("whole machine: %.1f%% busy", busy)
			t.Metric("busy_percent", busy)
			if busy > 90 {
				t.Errorf("a fleet at rest keeps the machine %.0f%% busy: nothing measured on it means anything", busy)
			}
		},
	})
}

// usages sums up the processes of every node.
func (l *Lab) usages(t *T) map[string]Usage {
	out := map[string]Usage{}
	for _, a := range l.appliances {
		u, err := a.Usage()
		t.Check(err)
		out[a.Name] = u
		if u, err := a.daemon.Usage(); err == nil {
			out[a.Name+" shadowcastd"] = u
		}
	}
	for _, r := range l.routers {
		u, err := r.Usage()
		t.Check(err)
		out[r.name] = u
	}
	u, err := usage(os.Getpid())
	t.Check(err)
	out["lab"] = u
	return out
}

// cpuTicks reads the first line of /proc/stat: user nice system idle iowait ...
func cpuTicks(t *T) (idle, all uint64) {
	b, err := os.ReadFile("/proc/stat")
	t.Check(err)
	line, _, _ := strings.Cut(string(b), "\n")
	for i, f := range strings.Fields(line)[1:] {
		var v uint64
		_, err := fmt.Sscan(f, &v)
		t.Check(err)
		if i == 3 || i == 4 {
			idle += v
		}
		if i < 8 { // guest time is in user time
			all += v
		}
	}
	return idle, all
}
