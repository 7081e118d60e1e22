package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/shadowcast/shadowcast/tests/uml"
)

// DemoNeed is what the demo takes of the kernel.
const DemoNeed = fleetNeed

// Limits of the demo, for whoever waits for it.
const (
	demoTimeout = 5 * time.Minute // of the fleet with shadows
	plainLimit  = 2 * time.Minute // of the one without

	DemoTimeout = demoTimeout + plainLimit + time.Minute
)

// Demo plays a fleet in a box for somebody who watches: the planned and the
// unplanned loss of an appliance under a client's traffic, once with shadowing and
// once without, and reports what became of the session.
type Demo struct {
	Out     string    // report.html, report.json, and the artefacts of both labs
	BinDir  string    // see Options
	Command string    // what produced the report, as the report names it
	Console io.Writer // what happens, line by line
	Live    bool      // Console is a terminal: one line of it is rewritten
	Began   time.Time // elapsed time counts from here; now if zero
}

// Run plays the demo and writes the report. Guarantees that were not met are in the
// report; an error means that there is none.
func (d *Demo) Run(ctx context.Context) (*Report, error) {
	if d.Began.IsZero() {
		d.Began = time.Now()
	}
	c := &console{w: d.Console, live: d.Live, began: d.Began}
	rep := &Report{
		Command: d.Command, Began: d.Began, CPUs: runtime.NumCPU(), Mode: "native",
		Versions: Versions{Shadowcast: ownVersion(), Go: runtime.Version(), Kernel: kernelVersion()},
	}
	if uml.InGuest() {
		rep.Mode = "user-mode Linux"
	}
	c.print("shadowcast: a fleet in a box")
	c.print("  appliances ams, fra, lhr; two BIRD routers outside, one inside, all with BFD")
	c.print("  one strongSwan client with a certificate; 500 packets a second each way")
	c.print("  up: client to server, down: server to client; packets received/sent")
	c.print("  %s, %s, %d CPU", rep.Mode, rep.Versions.Kernel, rep.CPUs)
	r := Runner{Out: d.Out, BinDir: d.BinDir, Log: io.Discard}
	for _, s := range demoScenarios(rep, c) {
		res, err := r.Run(ctx, s)
		if err != nil {
			return nil, err
		}
		if res.Skipped != "" {
			res.Failures = append(res.Failures, res.Skipped)
		}
		if n := len(res.Takeovers) - demoTakeovers[s.Name]; n > 0 {
			rep.takeovers = append(rep.takeovers, fmt.Sprintf("%s: %d more takeovers than power cuts: the machine is so busy that appliances take each other for dead", s.Name, n))
		}
		for _, f := range res.Failures {
			rep.Failures = append(rep.Failures, s.Name+": "+clip(f))
		}
		if len(res.Failures) > 0 {
			c.say("the demo ends here, see %s", filepath.Join(d.Out, s.Name))
			break
		}
	}
	rep.Seconds = time.Since(d.Began).Seconds()
	rep.judge()
	c.print("")
	return rep, errors.Join(rep.WriteText(d.Console), d.write(rep))
}

// demoTakeovers are those that the demo brings about.
var demoTakeovers = map[string]int{"shadowed": 1}

// write puts the report's files into Out.
func (d *Demo) write(rep *Report) error {
	html, js := filepath.Join(d.Out, "report.html"), filepath.Join(d.Out, "report.json")
	if err := WriteJSON(js, rep); err != nil {
		return err
	}
	f, err := os.Create(html)
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	if err := errors.Join(rep.WriteHTML(f), f.Close()); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	_, err = fmt.Fprintf(d.Console, "\nreport: %s  %s\n", html, js)
	return err
}

// demoScenarios are the two labs of the demo. Their client is the same one, and so
// is the power cut.
func demoScenarios(rep *Report, c *console) []Scenario {
	// The client looks after its gateway, and starts again when it is gone: what
	// shadowing spares it.
	client := ConnSpec{Cert: true, DPD: "2s", Reconnect: true}
	o := fleetOptions(ConnSpec{Cert: true}).detecting()
	o.Clients = []ClientSpec{{Conn: client}}
	plain := o
	// One slot, wherever the client enters; without shadowing, another gateway to go to.
	o.Homes, plain.Appliances = []string{entry}, []string{"ams", "fra"}
	plain.Clients = []ClientSpec{{Conn: client}}
	plain.NoShadowing = true
	return []Scenario{
		{Name: "shadowed", Need: fleetNeed, Options: o, Timeout: demoTimeout, Run: func(t *T, l *Lab) {
			(&story{t: t, l: l, c: c, rep: rep}).shadowed()
		}},
		{Name: "unshadowed", Need: fleetNeed, Options: plain, Timeout: plainLimit, Run: func(t *T, l *Lab) {
			(&story{t: t, l: l, c: c, rep: rep}).unshadowed()
		}},
	}
}

func kernelVersion() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
}

// ownVersion is the commit this binary was built from.
func ownVersion() string {
	rev, dirty := "unknown", ""
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			switch {
			case s.Key == "vcs.revision":
				rev = s.Value[:min(12, len(s.Value))]
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = " with changes"
			}
		}
	}
	return rev + dirty
}
