package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// UpTimeout bounds a fleet that somebody types at.
const UpTimeout = 12 * time.Hour

// Interrupt is a line of input that ends the command under way.
const Interrupt = "\x03"

// What the README has people type, typed: the reason of the last handover is there in one
// command.
func init() {
	Register(Scenario{
		Name: "typed", Doc: "what the README has people type at `shadowlab up`: a planned handover, its reason, a power cut, its reason",
		Need: fleetNeed, Options: upOptions(), Run: typed,
	})
}

func typed(t *T, l *Lab) {
	d := &story{t: t, l: l, c: &console{w: io.Discard, began: time.Now()}, rep: &Report{}}
	d.begin()
	var out strings.Builder
	k, err := newDesk(t, l, d.s, &out)
	t.Check(err)
	k.echo = true
	typing := func(lines ...string) string {
		out.Reset()
		t.Check(k.serve(strings.NewReader(strings.Join(lines, "\n"))))
		t.Logf("\n%s", out.String())
		return out.String()
	}
	said := func(text string, want ...string) {
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%q is not in:\n%s", w, text)
			}
		}
	}
	said(typing("shadowctl slot show 1"), "because", "nobody held the slot")
	said(typing("shadowctl handover 1 --to fra --yes --reason 'new line card'", "traffic", "on fra", "shadowctl slot show 1", "on lhr", "shadowctl slot show 1", "on ams", "shadowctl slot show 1 | grep because"),
		"lost 0,", "IKE: none; session kept", "planned move from ams: operator with uid 0 asked for it: new line card", "ams> shadowctl slot show 1 | grep because\nbecause   planned move from ams")
	said(typing("on nowhere", "cut r1", "boot ams", "shadowctl slot show", "r1 show protocols"),
		"no such machine", "want an appliance", "ams is on", "exit status 2", "fra_4")
	said(typing("shadowctl events --follow | cat", Interrupt, "shadowctl slot show 1 | grep because"), "interrupted", "\nbecause")
	allReady(t, l)
	typing("cut fra")
	owner := owned(t, l, d.s.slot, l.Appliance("fra"))
	said(typing("on "+owner.Name, "shadowctl slot show 1", "traffic", "boot fra"), "fra silent for", "session kept")
	allReady(t, l)
}

// Up is a fleet to type at: that of the demo, with a client under traffic.
type Up struct {
	Out     string    // artefacts
	BinDir  string    // see Options
	In      io.Reader // commands, a line each
	Console io.Writer
	Began   time.Time
	Live    bool // Console is a terminal
}

// Run brings the fleet up and does what is typed until the input ends or says so. It
// returns an error where the fleet did not come up.
func (u *Up) Run(ctx context.Context) error {
	c := &console{w: u.Console, live: u.Live, began: u.Began}
	r := Runner{Out: u.Out, BinDir: u.BinDir, Log: io.Discard}
	res, err := r.Run(ctx, Scenario{Name: "up", Need: fleetNeed, Options: upOptions(), Timeout: UpTimeout, Run: func(t *T, l *Lab) {
		d := &story{t: t, l: l, c: c, rep: &Report{}}
		d.begin()
		c.print(upHelp)
		k, err := newDesk(t, l, d.s, u.Console)
		t.Check(err)
		k.echo = !u.Live
		t.Check(k.serve(u.In))
	}})
	if err == nil && !res.Passed {
		err = fmt.Errorf("%s; see %s", strings.Join(append(res.Failures, res.Skipped), "; "), filepath.Join(u.Out, "up"))
	}
	return err
}

func upOptions() Options {
	o := fleetOptions(ConnSpec{Cert: true}).detecting()
	o.Clients = []ClientSpec{{Conn: ConnSpec{Cert: true, DPD: "2s", Reconnect: true}}}
	o.Homes = []string{entry}
	return o
}

const upHelp = `
Three appliances (ams, fra, lhr), two outside routers (r1, r2) and one inside (in) with
BIRD, and a client (c1) under traffic. Type:

  COMMAND...       at the present appliance, by sh: shadowctl status, shadowctl slot show 1
  on NAME          which is present from now on: an appliance, a router, c1, or srv
  r1 COMMAND...    birdc at a router: r1 show route all
  traffic          what the client's traffic lost since this was last asked, and IKE
  cut NAME         take an appliance's power
  boot NAME        give it back
  help, exit

Begin with: shadowctl slot show 1, then shadowctl handover 1 --to fra --yes, traffic, on fra,
shadowctl slot show 1: "because" is the reason of the last handover.`

// desk does what somebody types.
type desk struct {
	t   *T
	l   *Lab
	s   *attached
	w   io.Writer
	bin string // directory of shadowctl
	at  string
	obs *Observation
	// echo says that nobody sees what is typed.
	echo bool
}

func newDesk(t *T, l *Lab, s *attached, w io.Writer) (*desk, error) {
	d := &desk{t: t, l: l, s: s, w: w, at: entry}
	ctl, err := l.binary("shadowctl")
	if err != nil {
		return nil, err
	}
	d.bin = filepath.Dir(ctl)
	return d, d.watch()
}

// serve reads commands until the input ends or says exit. Interrupt ends the command
// under way and is heeded at once.
func (d *desk) serve(in io.Reader) error {
	lines, over := make(chan string), make(chan struct{})
	defer close(over)
	var readErr error
	go func() { // ends with the input, or when it has a line that nobody wants any more
		defer close(lines)
		sc := bufio.NewScanner(in)
		for sc.Scan() {
			select {
			case lines <- sc.Text():
			case <-over:
				return
			}
		}
		readErr = sc.Err()
	}()
	var waiting []string
	for {
		fmt.Fprintf(d.w, "%s> ", d.at)
		line, ok := "", true
		if len(waiting) > 0 {
			line, waiting = waiting[0], waiting[1:]
		} else if line, ok = <-lines; !ok {
			return readErr
		}
		if d.echo {
			fmt.Fprintln(d.w, line)
		}
		words := strings.Fields(line)
		if len(words) == 0 || line == Interrupt {
			continue
		}
		if words[0] == "exit" {
			return nil
		}
		ctx, cancel := context.WithCancel(d.t.Context())
		done := make(chan error, 1)
		go func() { done <- d.do(ctx, words, line) }()
		for busy := true; busy; {
			select {
			case err := <-done:
				if err != nil {
					fmt.Fprintf(d.w, "%v\n", err)
				}
				busy = false
			case next, more := <-lines:
				switch {
				case !more:
					if readErr != nil {
						fmt.Fprintf(d.w, "%v\n", readErr)
					}
					lines = nil
					waiting = append(waiting, "exit")
				case next == Interrupt:
					waiting = nil
					cancel()
				default:
					waiting = append(waiting, next)
				}
			}
		}
		cancel()
	}
}

// do carries out one line.
func (d *desk) do(ctx context.Context, words []string, line string) error {
	switch verb := words[0]; {
	case verb == "help":
		fmt.Fprintln(d.w, upHelp)
		return nil
	case verb == "traffic":
		return d.traffic()
	case verb == "on" || verb == "cut" || verb == "boot":
		if len(words) != 2 {
			return fmt.Errorf("%s: want one name: %s NAME", verb, verb)
		}
		return d.turn(verb, words[1])
	case d.l.router(verb) != nil:
		text, err := d.l.Router(verb, strings.Join(words[1:], " "))
		fmt.Fprintln(d.w, strings.TrimSpace(text))
		return err
	default:
		return d.sh(ctx, line)
	}
}

func (d *desk) turn(verb, name string) error {
	if verb == "on" {
		if d.l.Node(name) == nil {
			return fmt.Errorf("on %q: there is no such machine", name)
		}
		d.at = name
		return nil
	}
	i := slices.IndexFunc(d.l.Appliances(), func(a *Appliance) bool { return a.Name == name })
	if i < 0 {
		return fmt.Errorf("%s %q: want an appliance: %s", verb, name, names(d.l))
	}
	a := d.l.Appliances()[i]
	if verb == "boot" {
		if a.Daemon() != nil && a.Daemon().Alive() {
			return fmt.Errorf("%s is on", name)
		}
		return a.PowerOn()
	}
	if err := d.watch(); err != nil {
		return err
	}
	at, err := a.PowerCut()
	d.obs.Fault(at, "power cut of "+name)
	return err
}

// watch begins an account of the traffic where there is none.
func (d *desk) watch() (err error) {
	if d.obs == nil {
		d.obs, err = d.l.Observe(d.s.Client, d.s.Stream)
	}
	return err
}

// traffic tells what became of the client's packets since it was asked last.
func (d *desk) traffic() error {
	if err := d.watch(); err != nil {
		return err
	}
	sc, err := d.obs.End(d.t.Context(), "typed")
	if err != nil {
		return err
	}
	d.obs = nil
	fmt.Fprintf(d.w, "%.1f s: %s\n", sc.To.Sub(sc.From).Seconds(), newReportScene(sc, "", true, nil, nil).line())
	return d.watch()
}

// sh runs a line at the present machine. The line's input is empty.
func (d *desk) sh(ctx context.Context, line string) error {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", line)
	cmd.Env = append(os.Environ(), "PATH="+d.bin+":"+os.Getenv("PATH"))
	for _, a := range d.l.Appliances() {
		if a.Name == d.at {
			cmd.Env = append(cmd.Env, "SHADOWCTL_SOCKET="+a.Config.Socket())
		}
	}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = d.w, d.w, time.Second
	// The whole pipeline ends, not the shell alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err := inNamespace(d.l.Node(d.at).Name, cmd.Run)
	var status *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted")
	case errors.As(err, &status):
		return fmt.Errorf("exit status %d", status.ExitCode())
	}
	return err
}
